"""Which features of a model are read: of a layer or the learnt mix of all, of what is seen, heard, or both.

Every layer is read after the norm that closes its tower; a classifier of frames alone (MAE-DFER, SVFAP, VideoMAE) has
none there, so that its token means pass the norm before its head, whichever layer they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.finetune.inputs import Inputs
from hicmae.models.base import Model
from hicmae.models.features import TowerFeatures
from hicmae.models.heads import Classifier, weighted
from hicmae.models.mae import SUFFIX
from hicmae.models.readout import pool

__all__ = ["LEVELS", "MODALITIES", "POOLING", "Asked", "Level", "Modality", "Reader"]

Level = Literal["clip", "window", "frame"]
Modality = Literal["video", "audio", "fused"]
LEVELS: tuple[Level, ...] = ("clip", "window", "frame")
MODALITIES: tuple[Modality, ...] = ("video", "audio", "fused")

POOLING = """How features are pooled. window: the mean over all tokens of the layer, after the tower's closing norm (a
classifier of frames alone has none there: the mean passes the norm before its head). LGI classifiers (MAE-DFER) give
the mean over their region tokens, layers inside an SVFAP bottleneck over bottleneck tokens; an attentive readout is
used in place of the mean for layer last. clip: the mean over the clip's windows, which overlap by half. frame: one row
per time step of the layer (usually two frames of a window), the mean over the step's tokens; windows follow each other
then, and of the last one, which ends with the video, only steps that end after those before are kept. fused: video
features, then audio features, side by side; steps of sound are interpolated linearly in time to those of the frames.
mix: the means of all layers weighted by the softmax of the learnt layer weights; fused and mix: what the head of an
audio-visual classifier sees, (mixed video, mixed audio, fused video, fused audio) through its norm."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which features are wanted."""

    level: Level = "clip"
    """One row per clip, per window, or per time step."""
    layer: int | Literal["last", "mix"] = "last"
    """A block by its number from 1 (fusion layers are counted on), the last one, or the learnt mix of all."""
    modality: Modality | None = None
    """What is seen, what is heard, or both after fusion; None is all that the model takes."""

    def __post_init__(self) -> None:
        for name, known in (("level", LEVELS), ("modality", (*MODALITIES, None))):
            if getattr(self, name) not in known:
                told = ", ".join(str(word) for word in known if word)
                raise UserError(f"{name} {getattr(self, name)!r}: it is one of {told}")
        if not (isinstance(self.layer, int) or self.layer in ("last", "mix")):
            raise UserError(f"layer {self.layer!r}: it is last, mix, or the number of a block from 1")


class Reader:
    """Reads features of a model in one of its forms, fine-tuned or pretrained (its encoder, without a mask).

    Args:
        model: any model of the library.
        asked: which features.

    Raises:
        UserError: the model has no such layer, no learnt mix, or does not take that modality.
    """

    def __init__(self, model: Model, asked: Asked) -> None:
        takes = tuple(getattr(model, "modalities", ("video",)))
        name = model.name or type(model).__name__
        modality = asked.modality or ("fused" if len(takes) == 2 else takes[0])
        if modality not in (*takes, *(("fused",) if len(takes) == 2 else ())):
            told = "video, audio or fused" if len(takes) == 2 else f"{takes[0]} only"
            raise UserError(f"modality {modality}: {name} gives features of {told}")
        self.model, self.asked, self.modality = model, asked, modality
        self.shown: tuple[str, ...] = takes if modality == "fused" else (modality,)
        self.towers: dict[str, Any] = {m: _tower(model, m) for m in takes}
        self.fusion: Any = getattr(model, "encoder_fusion", None)
        self.by_frame = asked.level == "frame"
        self._check_layer(name)

    @property
    def inputs(self) -> Inputs:
        """What the model is given."""
        return Inputs(
            video="video" in self.shown, audio="audio" in self.shown, both=len(self.towers) == 2, missing=False
        )

    @property
    def top(self) -> int:
        """Blocks of the deepest tower; layers of fusion are numbered from here on."""
        return max(tower.depth for tower in self.towers.values())

    def _check_layer(self, name: str) -> None:
        layer, fused = self.asked.layer, self.modality == "fused"
        if layer == "mix":
            if getattr(self.model, "layers", None) != "weighted":
                raise UserError(
                    f"layer mix: {name} ({self.model.stage or 'finetune'}) has learnt no mix of its layers, as "
                    "HiCMAE's fine-tuning form and models made with layers: weighted do; take --layer last, or a number"
                )
        elif isinstance(layer, int):
            most = min(self.towers[m].depth for m in self.shown)
            known = list(range(1, most + 1))
            if fused:
                known += range(self.top + 1, self.top + len(self.fusion.blocks) + 1)
            if layer not in known:
                fusing = f", and of fusion {self.top + 1} to {known[-1]}" if fused else ""
                raise UserError(f"layer {layer}: {name} has layers 1 to {most} for {self.modality}{fusing}")

    @torch.inference_mode()
    def __call__(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """Features of windows.

        Shapes:
            video: (B, 3, T, H, W) normalised, audio: (B, 1, F, K) -> (B, 1, D), or (B, steps, D) at frame level
        """
        given = {"video": video, "audio": audio}
        read = self._mixed if self.asked.layer == "mix" else self._of_layer
        found = read({m: x for m, x in given.items() if m in self.shown and x is not None})
        return found.float()

    def steps(self, modality: str) -> int:
        """Time steps that the layer resolves at frame level."""
        tower, layer = self.towers[modality], self.asked.layer
        if layer == "mix":
            return max(tower.level_slots)
        if isinstance(layer, int) and layer <= tower.depth:
            return int(tower.level_slots[layer - 1])
        return int(tower.slots)

    def _of_layer(self, given: dict[str, Tensor]) -> Tensor:
        layer = self.asked.layer
        inside = isinstance(layer, int) and layer <= self.top
        levels = (int(layer) - 1,) if inside else ()
        encoded = {m: self.towers[m](x, None, levels) for m, x in given.items()}
        tokens = {m: each.levels[0] if inside else each.tokens for m, each in encoded.items()}
        if self.modality == "fused" and not inside:
            fused = self._fused(tokens, None if layer == "last" else int(layer) - self.top)
            tokens = dict(zip(("video", "audio"), fused, strict=True))
        return self._joined(
            {m: self._normed(self._pooled(m, x, self.steps(m), self._readout(m))) for m, x in tokens.items()}
        )

    def _fused(self, tokens: dict[str, Tensor], layers: int | None) -> tuple[Tensor, Tensor]:
        """Both modalities' tokens after so many layers of fusion, normed."""
        video, audio = tokens["video"], tokens["audio"]
        for block, block_audio in list(zip(self.fusion.blocks, self.fusion.blocks_audio, strict=True))[:layers]:
            video, audio = block(video, audio), block_audio(audio, video)
        return self.fusion.norm(video), self.fusion.norm_audio(audio)

    def _mixed(self, given: dict[str, Tensor]) -> Tensor:
        mixed, last = {}, {}
        for m, x in given.items():
            tower = self.towers[m]
            encoded = tower(x, None, range(tower.depth))
            pooled = [self._pooled(m, level, n) for level, n in zip(encoded.levels, tower.level_slots, strict=True)]
            weights = getattr(self.model, f"{m}_layer_weights", None)
            mixed[m] = weighted(pooled, self.model.layer_weights if weights is None else weights)  # type: ignore[arg-type]
            last[m] = encoded.tokens
        if self.modality != "fused":
            return self._normed(self._joined(mixed))
        fused = dict(zip(("video", "audio"), self._fused(last, None), strict=True))
        ends = {m: self._pooled(m, x, self.towers[m].slots, self._readout(m)) for m, x in fused.items()}
        model: Any = self.model
        return model.standard(model.fc_norm(torch.cat([self._joined(mixed), self._joined(ends)], dim=-1)))

    def _normed(self, x: Tensor) -> Tensor:
        """A single encoder's classifier norms after pooling; towers have done so before."""
        model: Any = self.model
        return model.standard(model.fc_norm(x)) if isinstance(model, Classifier) else x

    def _readout(self, modality: str) -> Any:
        """What a fine-tuned model reads its last tokens with, where that is no mean."""
        model: Any = self.model
        if self.asked.layer == "last" and isinstance(model, Classifier):
            return model.readout
        # a tower's own query reads what fusion, where there is one, has left of its tokens
        last = self.asked.layer in ("last", "mix") and (self.fusion is None or self.modality == "fused")
        return model.readout[modality] if last and isinstance(model, TowerFeatures) and model.attentive else None

    def _pooled(
        self, modality: str, tokens: Tensor, slots: int, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """(B, N, D) -> (B, 1, D), or (B, steps, D) at frame level."""
        if not self.by_frame:
            return pool(tokens, slots, None, reduce)[:, None]  # type: ignore[arg-type]
        return pool(tokens, slots, self.steps(modality), reduce)  # type: ignore[arg-type]

    def _joined(self, parts: dict[str, Tensor]) -> Tensor:
        """Modalities side by side, (B, S, D) each -> (B, S, sum of D), steps of sound brought to those of frames."""
        if len(parts) == 1:
            return next(iter(parts.values()))
        audio = self._to_frames(parts["audio"]) if self.by_frame else parts["audio"]
        return torch.cat([parts["video"], audio], dim=-1)

    def _to_frames(self, audio: Tensor) -> Tensor:
        """Steps of sound (B, S, E) at the middles of the video's steps, (B, S', E); both begin together.

        The picture of sound is usually longer than the frames' stretch: it ends in padding, which is not read.
        """
        count, patch = audio.shape[1], self.towers["audio"].patch[0] * self.towers["audio"].grid[0] / audio.shape[1]
        length = self.seconds / self.steps("video")
        middles = (torch.arange(self.steps("video"), device=audio.device) + 0.5) * length
        place = (middles / (patch * 0.01) - 0.5).clamp(0, count - 1)  # in steps of sound
        low = place.floor().long().clamp(max=max(count - 2, 0))
        share = (place - low)[None, :, None].to(audio.dtype)
        return torch.lerp(audio[:, low], audio[:, (low + 1).clamp(max=count - 1)], share)

    seconds: float = 2.56
    """How long a window of frames lasts; set by whoever shows them."""


def _tower(model: Model, modality: str) -> Any:
    if isinstance(model, TowerFeatures):
        return model.tower(modality)
    return getattr(model, f"encoder{SUFFIX[modality]}" if hasattr(model, "modalities") else "encoder")
