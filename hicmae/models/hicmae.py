"""HiCMAE (Sun et al., Information Fusion 108, 2024): two towers, fusion, hierarchical skips, contrast and features."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.models.encoder import Encoded, Encoder
from hicmae.models.features import TowerFeatures
from hicmae.models.fusion import Fusion
from hicmae.models.heads import Layers
from hicmae.models.mae import SUFFIX, MaskedAutoencoder, Reconstruction
from hicmae.models.readout import Readout

__all__ = ["HiCMAE", "HiCMAEPretraining", "skip_levels"]


def skip_levels(depth: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced blocks of `depth`, the last block included; (3, 6, 9) for 10 and 3 as published.

    >>> skip_levels(10, 3)
    (3, 6, 9)
    """
    step = (depth - 1) // max(count, 1)
    if count and step < 1:
        raise ValueError(f"{count} skip connections need an encoder of more than {count} blocks, not {depth}")
    return tuple(depth - 1 - step * (count - 1 - i) for i in range(count))


class HiCMAEPretraining(MaskedAutoencoder):
    """Audio-visual masked autoencoder with hierarchical skip connections and contrast (section 3.3).

    Args:
        encoders: `"video"` and `"audio"`.
        fusion: the cross-modal encoder.
        projection: width of one linear projection head per level and modality; None, as published: no heads.
        learn_temperature: a learnt contrastive temperature, from 0.07; otherwise the objective fixes it.
        skips: decoders read encoder levels (section 3.3); without, their blocks are plain and the levels are contrasted
            only (the paper's ablation; a contrast weight of 0 leaves out the other part).
        others: as for `MaskedAutoencoder`; there are `decoder_depth - 1` levels.

    Shapes:
        video: (B, 3, T, H, W), audio: (B, 1, F, K), masks: (B, N) and (B, M) -> `Reconstruction`
    """

    encoder: Encoder
    encoder_audio: Encoder

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion,
        *,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int | None = None,
        decoder_mlp_ratio: float = 4.0,
        projection: int | None = None,
        learn_temperature: bool = False,
        skips: bool = True,
    ) -> None:
        super().__init__(
            encoders,
            decoder_dim=decoder_dim,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            decoder_mlp_ratio=decoder_mlp_ratio,
            skips=skips,
        )
        self.encoder_fusion = fusion
        fusion.init_weights()
        count = decoder_depth - 1
        self.taps = {modality: skip_levels(encoder.depth, count) for modality, encoder in encoders.items()}
        if projection is not None:
            for modality, encoder in encoders.items():
                heads = nn.ModuleList(nn.Linear(encoder.dim, projection) for _ in range(count))
                setattr(self, f"projection{SUFFIX[modality]}", heads)
        elif encoders["video"].dim != encoders["audio"].dim:
            raise ValueError("towers of different width can only be contrasted through heads: give projection=<width>")
        self.skips = skips
        self.projects = projection is not None
        self.log_temperature = nn.Parameter(torch.tensor([log(0.07)])) if learn_temperature else None

    def forward(  # type: ignore[override]
        self,
        video: Tensor,
        audio: Tensor,
        video_mask: Tensor,
        audio_mask: Tensor,
        *,
        video_decode: Tensor | None = None,
        audio_decode: Tensor | None = None,
        video_hidden: int | None = None,
        audio_hidden: int | None = None,
        video_asked: int | None = None,
        audio_asked: int | None = None,
    ) -> Reconstruction:
        """Predict the hidden patches of both modalities; see `MaskedAutoencoder.forward` for the optional arguments."""
        seen = self.parts("video", video_mask, video_decode, video_hidden, video_asked)
        heard = self.parts("audio", audio_mask, audio_decode, audio_hidden, audio_asked)
        v = self.encoder(video, seen.visible, self.taps["video"])  # tokens and levels (B, V, D)
        a = self.encoder_audio(audio, heard.visible, self.taps["audio"])  # tokens and levels (B, A, D)
        fused_v, fused_a = self.encoder_fusion(v.tokens, a.tokens)  # (B, V, D), (B, A, D)
        return Reconstruction(
            video=self.reconstruct("video", fused_v, seen, v.levels if self.skips else ()),
            audio=self.reconstruct("audio", fused_a, heard, a.levels if self.skips else ()),
            levels=list(zip(self._pooled("video", v), self._pooled("audio", a), strict=True)),
            temperature=None if self.log_temperature is None else self.log_temperature.exp()[0],
        )

    def _pooled(self, modality: str, encoded: Encoded) -> list[Tensor]:
        """Token mean of each level, (B, D), projected where there are heads."""
        means = [level.mean(dim=1) for level in encoded.levels]
        if not self.projects:
            return means
        return [head(mean) for head, mean in zip(self.part("projection", modality), means, strict=True)]


class HiCMAE(TowerFeatures):
    """HiCMAE's fine-tuning form (section 3.4): layer-weighted and fused features of two towers, one head.

    Args:
        towers: `"video"` and `"audio"`.
        fusion: the cross-modal encoder.
        missing: learnt vectors that stand for a missing modality (not published, and not in the published count).
            Without them an absent modality's features are zeros and fusion is skipped.
        others: as for `TowerFeatures`.

    Shapes:
        video: (B, 3, T, H, W), audio: (B, 1, F, K) -> (B, classes) or (B, T, classes)
    """

    def __init__(
        self,
        towers: Mapping[str, Any],
        fusion: Fusion,
        *,
        num_classes: int = 6,
        layers: Layers = "weighted",
        readout: Readout = "mean",
        missing: bool = False,
        keep_temporal: bool = False,
        init_scale: float | None = None,
    ) -> None:
        head: dict[str, Any] = {"num_classes": num_classes, "init_scale": init_scale, "keep_temporal": keep_temporal}
        super().__init__(towers, fusion, layers=layers, readout=readout, **head)
        self.missing = missing
        if missing:
            for modality, tower in towers.items():
                setattr(self, f"missing_{modality}", nn.Parameter(torch.randn(tower.dim) * 0.02))

    def forward(
        self, video: Tensor | None = None, audio: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Logits (B, classes) or (B, T, classes).

        Args:
            video: None when the whole batch lacks it.
            audio: None when the whole batch lacks it.
            present: (B, 2) bool, False where a sample lacks video (column 0) or audio (column 1) whatever its input
                holds; needs `missing`.

        Raises:
            ValueError: nothing to look at, for the batch or for a sample.
        """
        return self.head(self.forward_features(video, audio, present))

    def forward_features(self, video: Tensor | None, audio: Tensor | None, present: Tensor | None = None) -> Tensor:
        """The features before the head, normed: (B, 2 (C + E)) or (B, T, 2 (C + E)); half where `layers` is last."""
        batch = self._check(video, audio, present)
        v = self._encode("video", video, batch, None if present is None else present[:, 0])
        a = self._encode("audio", audio, batch, None if present is None else present[:, 1])
        fused_v, fused_a = self._fuse(v, a)
        features = [
            self._or_zeros("video", batch, None if fused_v is None else self.read("video", fused_v)),
            self._or_zeros("audio", batch, None if fused_a is None else self.read("audio", fused_a)),
        ]
        if self.layers == "weighted":
            layered = [
                self._or_zeros("video", batch, None if v is None else self.weighted("video", v.levels)),
                self._or_zeros("audio", batch, None if a is None else self.weighted("audio", a.levels)),
            ]
            features = layered + features
        return self.standard(self.fc_norm(torch.cat(features, dim=-1)))

    def _fuse(self, v: Encoded | None, a: Encoded | None) -> tuple[Tensor | None, Tensor | None]:
        """Both modalities through fusion; one alone through its norm only."""
        if v is not None and a is not None:
            return self.encoder_fusion(v.tokens, a.tokens)
        if v is not None:
            return self.encoder_fusion.norm(v.tokens), None
        return None, None if a is None else self.encoder_fusion.norm_audio(a.tokens)

    def _encode(self, modality: str, x: Tensor | None, batch: Tensor, present: Tensor | None) -> Encoded | None:
        """Tokens and levels of a tower, with the learnt vector where the modality is missing."""
        if not self.missing:
            return None if x is None else self.encode(modality, x)
        vector: Tensor = getattr(self, f"missing_{modality}")  # (D,)
        tower = self.tower(modality)
        if not self.training and (x is None or (present is not None and not bool(present.any()))):
            token = vector.expand(batch.shape[0], 1, -1)  # all tokens would be alike: one says as much
            return Encoded(token, (token,) * tower.depth)
        # in training both towers run, and both vectors take part: every parameter has a gradient on every rank
        if x is None:
            if not hasattr(tower, "patch_embed"):
                raise ValueError(f"in training a foreign tower needs an input: give {modality} zeros and `present`")
            x = batch.new_zeros(batch.shape[0], tower.patch_embed.channels, *tower.patch_embed.shape)
            present = torch.zeros(batch.shape[0], dtype=torch.bool, device=batch.device)
        elif present is None:
            present = torch.ones(batch.shape[0], dtype=torch.bool, device=batch.device)
        encoded = self.encode(modality, x)
        here = present[:, None, None]  # (B, 1, 1)
        tokens, *levels = (
            torch.where(here, tokens, vector.to(tokens.dtype)) for tokens in (encoded.tokens, *encoded.levels)
        )
        return Encoded(tokens, tuple(levels))

    def _or_zeros(self, modality: str, batch: Tensor, feature: Tensor | None) -> Tensor:
        """The feature, or zeros of its shape for a modality that is not there."""
        if feature is not None:
            return feature
        return batch.new_zeros(
            batch.shape[0], *(() if self.frames is None else (self.frames,)), self.tower(modality).dim
        )

    def _check(self, video: Tensor | None, audio: Tensor | None, present: Tensor | None) -> Tensor:
        """Any input: it tells batch size, dtype and device."""
        batch = audio if video is None else video
        if batch is None:
            raise ValueError("video and audio are both None: at least one must be given")
        if present is None:
            return batch
        if not self.missing:
            raise ValueError("`present` needs a model created with missing=True")
        if tuple(present.shape) != (batch.shape[0], 2):
            raise ValueError(f"present must have shape {(batch.shape[0], 2)}, not {tuple(present.shape)}")
        if not bool(present.any(dim=1).all()):
            raise ValueError("a sample without any modality: `present` must hold at least one True per row")
        return batch
