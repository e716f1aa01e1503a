"""HiCMAE (Sun et al., Information Fusion 108, 2024): two towers, fusion, hierarchical skips, contrast and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.models.base import Model
from hicmae.models.blocks import LayerNorm
from hicmae.models.encoder import Encoded, Encoder
from hicmae.models.fusion import Fusion
from hicmae.models.heads import pool
from hicmae.models.mae import SUFFIX, MaskedAutoencoder, Reconstruction

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
    ) -> None:
        super().__init__(
            encoders,
            decoder_dim=decoder_dim,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            decoder_mlp_ratio=decoder_mlp_ratio,
            skips=True,
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
    ) -> Reconstruction:
        """Predict the hidden patches of both modalities; see `MaskedAutoencoder.forward` for the optional arguments."""
        seen = self.parts("video", video_mask, video_decode, video_hidden)
        heard = self.parts("audio", audio_mask, audio_decode, audio_hidden)
        v = self.encoder(video, seen.visible, self.taps["video"])  # tokens and levels (B, V, D)
        a = self.encoder_audio(audio, heard.visible, self.taps["audio"])  # tokens and levels (B, A, D)
        fused_v, fused_a = self.encoder_fusion(v.tokens, a.tokens)  # (B, V, D), (B, A, D)
        return Reconstruction(
            video=self.reconstruct("video", fused_v, seen, v.levels),
            audio=self.reconstruct("audio", fused_a, heard, a.levels),
            levels=list(zip(self._pooled("video", v), self._pooled("audio", a), strict=True)),
            temperature=None if self.log_temperature is None else self.log_temperature.exp()[0],
        )

    def _pooled(self, modality: str, encoded: Encoded) -> list[Tensor]:
        """Token mean of each level, (B, D), projected where there are heads."""
        means = [level.mean(dim=1) for level in encoded.levels]
        if not self.projects:
            return means
        return [head(mean) for head, mean in zip(self.part("projection", modality), means, strict=True)]


class HiCMAE(Model):
    """HiCMAE's fine-tuning form (section 3.4): layer-weighted and fused features of one or two towers, one head.

    Args:
        towers: `"video"`, `"audio"` or both; encoders that end in a norm, or `Tower`.
        fusion: the cross-modal encoder, with both towers.
        num_classes: outputs; 0 gives the concatenated, normed features.
        missing: learnt vectors that stand for a missing modality, chosen per sample by `present` (not published).
            Without them an absent modality's features are zeros and fusion is skipped.
        keep_temporal: one output per video frame (per filter-bank frame without video).
        init_scale: scales the fresh head; None keeps PyTorch's initialisation, as published.

    Shapes:
        video: (B, 3, T, H, W), audio: (B, 1, F, K) -> (B, classes) or (B, T, classes)
    """

    def __init__(
        self,
        towers: Mapping[str, Any],
        fusion: Fusion | None = None,
        *,
        num_classes: int = 6,
        missing: bool = False,
        keep_temporal: bool = False,
        init_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(towers)
        self.num_classes, self.keep_temporal = num_classes, keep_temporal
        self.depths = {modality: tower.depth for modality, tower in towers.items()}
        for modality, depth in self.depths.items():
            setattr(self, f"{modality}_layer_weights", nn.Parameter(torch.full((depth,), 1.0 / depth)))
        for modality, tower in towers.items():
            setattr(self, f"encoder{SUFFIX[modality]}", tower)
            self.describe(modality, tower)
            tower.init_weights("finetune")
        if fusion is not None:
            self.encoder_fusion = fusion
            fusion.init_weights()
        self.fused = fusion is not None
        self.missing = missing
        if missing:
            for modality, tower in towers.items():
                setattr(self, f"missing_{modality}", nn.Parameter(torch.randn(tower.dim) * 0.02))
        width = 2 * sum(tower.dim for tower in towers.values())
        self.fc_norm = LayerNorm(width)
        self.head: nn.Module = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        if init_scale is not None:
            with torch.no_grad():
                for parameter in self.head.parameters():
                    parameter.mul_(init_scale)
        self.top = max(self.depths.values())
        self.num_layers = self.top + (len(fusion.blocks) if fusion is not None else 0)

    def forward(self, *inputs: Tensor | None, present: Tensor | None = None) -> Tensor:
        """Logits of `m(video, audio)`, or `m(x)` with one tower.

        Args:
            inputs: one per tower; None for a modality that the whole batch lacks.
            present: (B, towers) bool, False where a sample lacks a modality whatever its input holds; needs `missing`.
        """
        return self.head(self.forward_features(*inputs, present=present))

    def forward_features(self, *inputs: Tensor | None, present: Tensor | None = None) -> Tensor:
        """The normed features before the head: (B, 2 * widths), or (B, T, 2 * widths) with `keep_temporal`."""
        batch, given = self._check(inputs, present)
        seen = {m: self._encode(m, x, batch, given.get(m)) for m, x in zip(self.modalities, inputs, strict=True)}
        last = {m: None if e is None else e.tokens for m, e in seen.items()}  # (B, N, D)
        if self.fused:
            last = self._fuse(last)
        frames = self._frames()
        weighted = [self._weighted(m, e, batch, frames) for m, e in seen.items()]  # (B, D) each
        fused = [self._mean(m, tokens, batch, frames) for m, tokens in last.items()]  # (B, D) each
        return self.fc_norm(torch.cat(weighted + fused, dim=-1))

    def _check(self, inputs: Sequence[Tensor | None], present: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """A tensor that tells batch size, dtype and device, and the columns of `present`."""
        if len(inputs) != len(self.modalities):
            raise ValueError(f"this model takes {' and '.join(self.modalities)}, not {len(inputs)} inputs")
        given = [x for x in inputs if x is not None]
        if not given:
            raise ValueError("every modality is None: at least one must be given")
        if present is None:
            return given[0], {}
        if not self.missing:
            raise ValueError("`present` needs a model created with missing=True")
        if tuple(present.shape) != (len(given[0]), len(self.modalities)):
            raise ValueError(
                f"present must have shape {(len(given[0]), len(self.modalities))}, not {tuple(present.shape)}"
            )
        if not bool(present.any(dim=1).all()):
            raise ValueError("a sample without any modality: `present` must hold at least one True per row")
        return given[0], dict(zip(self.modalities, present.unbind(dim=1), strict=True))

    def _encode(self, modality: str, x: Tensor | None, batch: Tensor, present: Tensor | None) -> Encoded | None:
        """Tokens and all levels of a tower, with the learnt vector where the modality is missing."""
        tower: Any = getattr(self, f"encoder{SUFFIX[modality]}")
        levels = range(self.depths[modality])
        if not self.missing:
            return None if x is None else tower(x, None, levels)
        vector = getattr(self, f"missing_{modality}")  # (D,)
        if not self.training and (x is None or (present is not None and not bool(present.any()))):
            token = vector.expand(len(batch), 1, -1)  # all tokens would be alike: one gives the same means and messages
            return Encoded(token, (token,) * len(levels))
        if x is None:  # in training both towers run, so that every parameter has a gradient on every rank
            x = batch.new_zeros(len(batch), tower.patch_embed.channels, *tower.patch_embed.shape)
            present = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        encoded = tower(x, None, levels)
        if present is None:
            return encoded
        here = present[:, None, None]  # (B, 1, 1)
        return Encoded(
            torch.where(here, encoded.tokens, vector.to(encoded.tokens.dtype)),
            tuple(torch.where(here, level, vector.to(level.dtype)) for level in encoded.levels),
        )

    def _fuse(self, last: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Both modalities through fusion; one alone only through its norm."""
        video, audio = last["video"], last["audio"]
        if video is not None and audio is not None:
            video, audio = self.encoder_fusion(video, audio)
        elif video is not None:
            video = self.encoder_fusion.norm(video)
        else:
            audio = self.encoder_fusion.norm_audio(audio)
        return {"video": video, "audio": audio}

    def _weighted(self, modality: str, encoded: Encoded | None, batch: Tensor, frames: int | None) -> Tensor:
        """Mean over the tokens of every level, weighted by the learnt layer weights; (B, D) or (B, T, D)."""
        if encoded is None:
            return self._mean(modality, None, batch, frames)
        means = torch.stack([self._mean(modality, level, batch, frames) for level in encoded.levels], dim=-1)
        return means @ getattr(self, f"{modality}_layer_weights").softmax(dim=0).to(means.dtype)  # (.., D, L) @ (L,)

    def _mean(self, modality: str, tokens: Tensor | None, batch: Tensor, frames: int | None) -> Tensor:
        """Mean over tokens, (B, D) or (B, T, D); zeros for a modality that is not there."""
        tower: Any = getattr(self, f"encoder{SUFFIX[modality]}")
        if tokens is None:
            return batch.new_zeros(len(batch), *(() if frames is None else (frames,)), tower.dim)
        slots = tokens.shape[1] if tower.slots is None else min(tower.slots, tokens.shape[1])
        return pool(tokens, slots, frames)

    def _frames(self) -> int | None:
        """Outputs per clip with `keep_temporal`: the frames of the first tower that knows its input's length."""
        if not self.keep_temporal:
            return None
        towers = [getattr(self, f"encoder{SUFFIX[modality]}") for modality in self.modalities]
        return next(tower.patch_embed.shape[0] for tower in towers if hasattr(tower, "patch_embed"))

    def no_weight_decay(self, published: bool = False) -> set[str]:
        """Full names, as the towers say."""
        ends = [SUFFIX[modality] for modality in self.modalities]
        return {f"encoder{end}.{name}" for end in ends for name in getattr(self, f"encoder{end}").no_weight_decay()}

    def layer_of(self, name: str, published: bool = False) -> int:
        """0 embeddings, k + 1 block k of either tower, then the fusion layers, then norms, layer weights and head."""
        first, _, rest = name.partition(".")
        layer: int | None = None
        if first == "encoder_fusion" and rest.startswith("blocks"):
            layer = self.top + int(rest.split(".")[1]) + 1
        elif first in ("encoder", "encoder_audio"):
            layer = getattr(self, first).layer_of(rest, published)
        return self.num_layers + 1 if layer is None else layer
