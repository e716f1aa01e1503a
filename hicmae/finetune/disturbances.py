"""What clips can lack or suffer in evaluation, in levels: a lost modality, blank spans, noise, blur, occlusion, lost
frames. Each is a function of (seed, clip) alone, and a worse level holds what a milder one holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from hicmae.datasets.draws import Draws
from hicmae.datasets.fbank import WINDOW
from hicmae.datasets.index import Index
from hicmae.datasets.sampling import View
from hicmae.datasets.store import ClipStore
from hicmae.finetune.missing import hidden_steps, hide

__all__ = ["KINDS", "Disturbed", "Kind", "Voices", "level_word", "losing"]

VOICES = 4  # of which babble is made
RATES = tuple(round(0.1 * i, 1) for i in range(11))
SNR = (math.inf, 20.0, 10.0, 5.0, 0.0, -5.0)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way in which clips can be incomplete or spoilt."""

    name: str
    title: str
    family: Literal["missing", "noise"]
    modality: Literal["video", "audio"]
    axis: str
    """What a level is, in words."""
    levels: tuple[float, ...]
    """From clean to worst; the first leaves clips as they are."""

    @property
    def x(self) -> tuple[float, ...]:
        """Places on the axis that the area is taken over: a clean clip has no SNR."""
        return tuple(level for level in self.levels if math.isfinite(level))


def _kinds() -> dict[str, Kind]:
    rates, spans = RATES, RATES[::2]
    rows: list[tuple[str, str, Any, Any, str, tuple[float, ...]]] = [
        ("missing-video", "No frames", "missing", "video", "share of the clips", rates),
        ("missing-audio", "No sound", "missing", "audio", "share of the clips", rates),
        ("spans-video", "Blank frames", "missing", "video", "share of each clip's time", spans),
        ("spans-audio", "Blank sound", "missing", "audio", "share of each clip's time", spans),
        ("babble", "Babble", "noise", "audio", "signal-to-noise ratio in dB", SNR),
        ("white", "White noise", "noise", "audio", "signal-to-noise ratio in dB", SNR),
        ("blur", "Blur", "noise", "video", "sigma, share of the picture's height", (0.0, 0.01, 0.02, 0.04, 0.08)),
        ("occlusion", "Occlusion", "noise", "video", "share of the picture", (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)),
        ("frame-drop", "Lost frames", "noise", "video", "share replaced by the frame before", spans),
    ]
    names = [field.name for field in dataclasses.fields(Kind)]
    return {row[0]: Kind(**dict(zip(names, row, strict=True))) for row in rows}


KINDS = _kinds()


def level_word(level: float) -> str:
    """A level as it is written.

    >>> level_word(math.inf), level_word(0.30000000000000004), level_word(-5.0)
    ('clean', '0.3', '-5')
    """
    return f"{level:.6g}" if math.isfinite(level) else "clean"


def losing(keys: NDArray[Any], kind: str, rate: float, seed: int = 0) -> NDArray[np.bool_]:
    """The samples (N,) of these keys that lack a modality: `rate` of them to a sample, and all that lack it at a lower
    rate."""
    order = np.argsort([Draws.keyed(f"{seed}/{kind}/{key}").uniform() for key in keys], kind="stable")
    lost = np.zeros(len(keys), bool)
    lost[order[: round(rate * len(keys))]] = True
    return lost


class Voices:
    """The sound of other clips of an index, to be talked over."""

    def __init__(self, index: Index) -> None:
        self.store, self.numbers = ClipStore(index), np.flatnonzero(index.audible)

    def __call__(self, clip: Any, draws: Draws) -> NDArray[np.float32]:
        """As many samples as `clip` has: the sum of `VOICES` clips of other videos, equally loud; silence without."""
        index, mixed = self.store.index, np.zeros(len(clip.audio), np.float32)
        order = np.random.default_rng(draws.integer(2**63 - 1)).permutation(self.numbers)
        others = [int(n) for n in order if index.sources[n] != index.sources[clip.number]][:VOICES]
        for number in others:
            voice = self.store[number].audio
            if voice is not None and len(voice):
                at = draws.integer(len(voice)) + np.arange(len(mixed))
                mixed += _scaled(voice[at % len(voice)], 1.0)
        return mixed


@dataclass(frozen=True)
class Disturbed:
    """A view of clips that suffer from a kind at a level; to be put around each view."""

    view: View
    kind: str
    level: float
    seed: int = 0
    voices: Voices | None = None

    def __call__(self, clip: Any, generator: torch.Generator) -> dict[str, Any]:
        """What the view gives."""
        draws = Draws.keyed(f"{self.seed}/{self.kind}/{clip.key}")
        if self.kind in ("babble", "white"):
            return self.view(self._noisy(clip, draws), generator)
        seen = self.view(clip, generator)
        modality = KINDS[self.kind].modality
        if modality not in seen:
            return seen
        change: Callable[[Tensor, float, Draws], Tensor] = _CHANGES[self.kind]
        return {**seen, modality: change(seen[modality], self.level, draws)}

    def _noisy(self, clip: Any, draws: Draws) -> Any:
        if clip.audio is None or len(clip.audio) < WINDOW or math.isinf(self.level):
            return clip
        if self.kind == "babble":
            assert self.voices is not None
            noise = self.voices(clip, draws)
        else:
            noise = torch.randn(len(clip.audio), generator=draws.generator).numpy()
        loud = math.sqrt(float(np.mean(np.square(clip.audio, dtype=np.float64))))
        return dataclasses.replace(clip, audio=clip.audio + _scaled(noise, loud * 10 ** (-self.level / 20)))


def _scaled(wave: NDArray[np.float32], loudness: float) -> NDArray[np.float32]:
    """`wave` with this root mean square; silence stays silent."""
    own = math.sqrt(float(np.mean(np.square(wave, dtype=np.float64))))
    return (wave * np.float32(loudness / own if own else 0.0)).astype(np.float32)


def _blank_span(x: Tensor, share: float, draws: Draws) -> Tensor:
    """One span of the time of (3, T, H, W) or (1, F, K) set to 0, the mean."""
    return hide(x[None], hidden_steps(x.shape[1], share, draws)[None])[0]


def _blurred(video: Tensor, sigma: float, _: Draws) -> Tensor:
    if not sigma:
        return video
    pixels = sigma * video.shape[-2]
    reach = min(math.ceil(3 * pixels), min(video.shape[-2:]) - 1)
    return V.gaussian_blur(video.transpose(0, 1), [2 * reach + 1] * 2, [pixels] * 2).transpose(0, 1).contiguous()


def _occluded(video: Tensor, share: float, draws: Draws) -> Tensor:
    """The same rectangle of every frame set to 0."""
    rows, columns = (hidden_steps(size, math.sqrt(share), draws) for size in video.shape[-2:])
    return video.masked_fill(rows[:, None] & columns, 0.0)


def _frames_dropped(video: Tensor, share: float, draws: Draws) -> Tensor:
    """Frames replaced by the one before, never the first."""
    frames = video.shape[1]
    order = torch.randperm(frames - 1, generator=draws.generator) + 1
    kept = torch.arange(frames)
    kept[order[: round(share * (frames - 1))]] = 0
    return video[:, kept.cummax(0).values]


_CHANGES = {
    "spans-video": _blank_span,
    "spans-audio": _blank_span,
    "blur": _blurred,
    "occlusion": _occluded,
    "frame-drop": _frames_dropped,
}
