"""Training on clips that lack a modality, or stretches of one, so that a model can do without it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hicmae.configs.errors import ConfigError
from hicmae.datasets.draws import Draws
from hicmae.finetune.inputs import Inputs

__all__ = ["Gaps", "MissingConfig", "hidden_steps", "hide"]


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
    attract: float = 0.0
    """Weight of the attraction between a clip's features and those of what is left of it (EMT-DLFR, Sun et al. 2023):
    each clip is then seen twice, whole and incomplete, and both are learnt."""
    restore: float = 0.0
    """Weight of restoring, likewise, the features of what was lost from what is left."""

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

        for name in ("attract", "restore"):
            if getattr(self, name) < 0:
                raise ValueError(f"missing.{name} must not be negative, not {getattr(self, name)}")
            if getattr(self, name) and not (self.video or self.audio or self.spans):
                raise ValueError(
                    f"missing.{name} compares whole clips with incomplete ones: set missing.video, missing.audio or "
                    "missing.spans"
                )

    @property
    def views(self) -> bool:
        """Each clip is seen twice, complete and incomplete."""
        return bool(self.attract or self.restore)

    def check(self, inputs: Inputs, model: str) -> None:
        """Raise ConfigError where the model cannot be told what a clip has lost, or has nothing to restore it from."""
        if not (self.video or self.audio or self.restore):
            return
        keys = "missing.restore" if not (self.video or self.audio) else "missing.video, missing.audio"
        if not inputs.both:
            raise ConfigError(f"{keys}: {model} has one modality only; missing.spans and missing.attract are for it")
        if not inputs.missing:
            raise ConfigError(
                f"{keys}: the model has nothing to put in place of what a clip has lost: set args.missing=true, which "
                "adds learnt vectors for a missing modality"
            )

    def draw(self, words: str, keys: Sequence[str], shown: Sequence[Tensor | None]) -> Gaps:
        """What clips of these keys lose of `shown`, frames and sound; drawn for each from (words, key)."""
        chances = [Draws.keyed(f"{words}/{key}") for key in keys]
        drawn = [draws.uniform() for draws in chances]
        lost = (
            torch.tensor([[d < self.video, d >= 1 - self.audio] for d in drawn]) if self.video or self.audio else None
        )
        hidden: list[Tensor | None] = [None, None]
        for i, x in enumerate(shown if self.spans else ()):
            if x is not None:
                shares = [draws.uniform(0, self.spans) for draws in chances]
                rows = zip(shares, chances, strict=True)
                steps = [hidden_steps(x.shape[2], share, draws, self.span_count) for share, draws in rows]
                hidden[i] = torch.stack(steps).to(x.device, non_blocking=True)
        device = next(x.device for x in shown if x is not None)
        return Gaps(lost=None if lost is None else lost.to(device, non_blocking=True), hidden=tuple(hidden))


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """What the clips of a batch lose."""

    lost: Tensor | None
    """bool (B, 2): rows without frames, without sound; None where no clip loses either."""
    hidden: tuple[Tensor | None, ...]
    """bool (B, T) and (B, F): blank steps of frames and sound; None where there are none."""

    def of(self, shown: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Frames (B, 3, T, H, W) and sound (B, 1, F, K) with what is hidden blank."""
        pairs = zip(shown, self.hidden, strict=True)
        return [x if x is None or hidden is None else hide(x, hidden) for x, hidden in pairs]


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
    """Frames (B, 3, T, H, W) or a filter bank (B, 1, F, K) with 0 where `hidden` (B, T) or (B, F)."""
    shape = (hidden.shape[0], 1, hidden.shape[1], *(1,) * (x.dim() - 3))
    return x.masked_fill(hidden.view(shape), 0.0)
