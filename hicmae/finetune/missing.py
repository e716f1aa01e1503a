"""Training on clips that lack a modality, or stretches of one, so that a model can do without it later."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hicmae.configs.errors import ConfigError
from hicmae.datasets.draws import Draws
from hicmae.finetune.inputs import Inputs

__all__ = ["MissingConfig", "hidden_steps", "hide"]


@dataclass(frozen=True, kw_only=True)
class MissingConfig:
    """What training clips lose; each loss is a function of (seed, epoch, clip). Evaluation shows whole clips."""

    video: float = 0.0
    """Probability that a clip loses its frames. One draw decides among no frames, no sound and a whole clip, so that
    no clip loses both, and both probabilities hold exactly; a clip that has no sound keeps its frames."""
    audio: float = 0.0
    """Probability that a clip loses its sound."""
    spans: float = 0.0
    """Greatest share of the time that is blanked (0 in normalised frames and filter banks, their mean); for each clip
    and each modality by itself, as sensors fail, a share from 0 to this is drawn."""
    span_count: int = 1
    """Into how many spans it is divided: one in each of as many equal parts of the clip."""

    def __post_init__(self) -> None:
        for name in ("video", "audio", "spans"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"missing.{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.video + self.audio > 1:
            raise ValueError(
                f"missing.video + missing.audio must be at most 1, not {self.video + self.audio:g}: no clip loses both"
            )
        if self.span_count < 1:
            raise ValueError(f"missing.span_count must be at least 1, not {self.span_count}")

    @property
    def whole(self) -> bool:
        """Clips lose no modality."""
        return not (self.video or self.audio)

    def check(self, inputs: Inputs, model: str) -> None:
        """Raise ConfigError where the model cannot be told what a clip has lost."""
        if not self.whole and not inputs.both:
            raise ConfigError(f"missing.video, missing.audio: {model} has one modality only; missing.spans is for it")
        if not self.whole and not inputs.missing:
            raise ConfigError(
                "missing.video, missing.audio: the model has nothing to put in place of what a clip has lost: set "
                "args.missing=true, which adds learnt vectors for a missing modality"
            )

    def lost(self, draws: Draws) -> list[bool]:
        """Whether a clip loses (frames, sound)."""
        drawn = draws.uniform()
        return [drawn < self.video, drawn >= 1 - self.audio]


def hidden_steps(length: int, share: float, draws: Draws, count: int = 1) -> Tensor:
    """`share` of `length` steps in `count` spans, one in each of as many equal parts, to a step: bool (length,).

    From the same draws, a greater share hides what a smaller one hides.
    """
    hidden = torch.zeros(length, dtype=torch.bool)
    for part in range(count):
        first, end = length * part // count, length * (part + 1) // count
        size = round(share * (end - first))
        start = first + int(draws.uniform() * (end - first - size))
        hidden[start : start + size] = True
    return hidden


def hide(x: Tensor, hidden: Tensor) -> Tensor:
    """Frames (B, 3, T, H, W) or a filter bank (B, 1, F, K) with 0 where `hidden` (B, T) or (B, F), on any device."""
    shape = (hidden.shape[0], 1, hidden.shape[1], *(1,) * (x.dim() - 3))
    return x.masked_fill(hidden.to(x.device, non_blocking=True).view(shape), 0.0)
