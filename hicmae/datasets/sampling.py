"""Which frames a clip is made of, and the views that turn a sample into tensors.

Index functions take the number of frames there are and, where chance is involved, `draw(high)`, which returns a whole
number from 0 to high - 1; so a recorded draw can be passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hicmae.datasets.draws import Draws
from hicmae.datasets.fbank import (
    WINDOW,
    SoundAugmentConfig,
    SoundConfig,
    clip_sound,
    span_by_relative_time,
    span_by_time,
)
from hicmae.datasets.samples import SampleError
from hicmae.datasets.transforms import AugmentConfig, augment_clip, multi_scale_crop, normalise, resize

__all__ = [
    "ClipData",
    "View",
    "eval_indices",
    "eval_views",
    "pretrain_indices",
    "pretrain_starts",
    "pretrain_view",
    "train_indices",
    "train_view",
]


@dataclass(frozen=True, kw_only=True)
class ClipData:
    """What recipes of both stages say of clips and of reading them."""

    frames: int = 16
    """Frames per clip."""
    stride: int = 4
    """Distance of successive frames, in frames of the video."""
    size: int = 160
    """Height and width of a clip, in pixels."""
    workers: int = 4
    """Loader processes per training process; 0 loads in the training process."""
    max_bad_share: float = 0.01
    """Share of unreadable samples above which a run stops."""

    def __post_init__(self) -> None:
        for name in ("clips", "frames", "stride", "size", "segments"):
            if getattr(self, name, 1) < 1:
                raise ValueError(f"data.{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"data.workers must not be negative, not {self.workers}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share must lie in [0, 1], not {self.max_bad_share}")


Draw = Callable[[int], int]


class Frames(Protocol):
    """Random access to decoded frames."""

    @property
    def times(self) -> np.ndarray:
        """(frames,) seconds since the first."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> Tensor:
        """Frames at `indices` -> (T, 3, H, W) uint8."""
        ...


class Sample(Protocol):
    """What views need of a sample."""

    @property
    def frames(self) -> Frames:
        """The video."""
        ...

    @property
    def audio(self) -> np.ndarray | None:
        """(S,) float32 at 16 kHz on the clock of `frames.times`, None without sound."""
        ...

    @property
    def label(self) -> int:
        """Position in the list of classes, -1 without."""
        ...

    @property
    def source(self) -> str:
        """The video it was cut from."""
        ...

    @property
    def turn(self) -> int:
        """How often it was taken before in this epoch."""
        ...


Look = Callable[[Any, list[int], Draws], Any]
View = Callable[[Any, torch.Generator], dict[str, Any]]
"""(sample, generator) -> named tensors and other values: frame choice and transforms of one clip."""


def _check(frames: int, clip: int, stride: int, count: int = 1) -> None:
    for name, value in (("frames there are", frames), ("frames per clip", clip), ("stride", stride), ("clips", count)):
        if value < 1:
            raise ValueError(f"the number of {name} must be at least 1, not {value}")


def pretrain_starts(frames: int, *, clip: int = 16, stride: int = 4, clips: int = 1, draw: Draw) -> list[int]:
    """First frames of `clips` clips (VideoMAE): one drawn in each of as many equal parts of a long video.

    A video of at most clip * stride frames starts at 0; where there are fewer possible starts than clips they are drawn
    freely and sorted.
    """
    _check(frames, clip, stride, clips)
    possible = frames - clip * stride + 1
    part = possible // clips
    if part > 0:
        return [k * part + draw(part) for k in range(clips)]
    if frames > max(clips, clip * stride):
        return sorted(draw(possible) for _ in range(clips))
    return [0] * clips


def pretrain_indices(start: int, frames: int, *, clip: int = 16, stride: int = 4) -> list[int]:
    """Every `stride`-th frame from `start`; at the end of a short video the last one reached is repeated.

    As published, a step is taken only while it stays before the last frame, which is therefore never reached.
    """
    _check(frames, clip, stride)
    last = max(start, start + (frames - 2 - start) // stride * stride)
    return [min(start + i * stride, last) for i in range(clip)]


def train_indices(frames: int, *, clip: int = 16, stride: int = 4, draw: Draw) -> list[int]:
    """Frames of a training clip (reference: MAE-DFER): `clip` frames spread evenly over a drawn span.

    The span has clip * stride frames, first and last included, so frames lie span / (clip - 1) apart. A video that is
    no longer than the span is run through once at about `stride`, and its last frame repeated.
    """
    _check(frames, clip, stride)
    span = clip * stride
    if frames <= span:
        run = np.linspace(0, frames, num=frames // stride)
        places = np.concatenate([run, np.full(clip - len(run), frames)])
        return np.clip(places, 0, frames - 1).astype(int).tolist()
    start = draw(frames - span)
    return np.clip(np.linspace(start, start + span, num=clip), start, start + span - 1).astype(int).tolist()


def eval_indices(frames: int, *, clip: int = 16, stride: int = 4, segments: int = 2) -> list[list[int]]:
    """Frames of `segments` test clips, spread evenly from the first to the last possible one; one is the middle clip.

    Every `stride`-th frame is a candidate, the last one repeated where there are too few.
    """
    _check(frames, clip, stride, segments)
    candidates = list(range(0, frames, stride))
    candidates += candidates[-1:] * (clip - len(candidates))
    room = len(candidates) - clip
    if segments == 1:
        return [candidates[room // 2 : room // 2 + clip]]
    starts = (int(k * (room / (segments - 1))) for k in range(segments))
    return [candidates[start : start + clip] for start in starts]


def pretrain_view(
    frames: int = 16,
    stride: int = 4,
    size: int = 160,
    sound: SoundConfig | None = None,
    sound_augment: SoundAugmentConfig | None = None,
    *,
    need_sound: bool = False,
    see: bool = True,
    clips: int = 1,
    look: Look | None = None,
) -> View:
    """View for pretraining: one clip at a drawn start, cropped at one of several scales.

    It gives `video` (3, T, size, size) uint8; with `sound` also `audio` (1, F, K), the sound of that very time,
    `has_audio` bool () and `source` int64 (), a number for the source video.

    Args:
        need_sound: a clip without sound is an error (`SampleError`, so that a stream skips it) instead of zeros, and
            `has_audio` is left out.
        see: without it no frame is decoded and there is no `video`.
        clips: clips that a sample gives in succession (`Stream(clips=)`), each from a part of its own of the video.
        look: what makes `video` of a sample's frames; None decodes and crops those that are wanted.
    """
    _check(1, frames, stride, clips)
    ear = _Ear(sound, sound_augment or SoundAugmentConfig(), need_sound)
    look = (look or partial(_cropped, size=size)) if see else None
    return partial(_pretrain, clip=frames, stride=stride, ear=ear, look=look, clips=clips)


def train_view(
    frames: int = 16,
    stride: int = 4,
    size: int = 160,
    augment: AugmentConfig | None = None,
    sound: SoundConfig | None = None,
    sound_augment: SoundAugmentConfig | None = None,
    *,
    need_sound: bool = False,
    see: bool = True,
) -> View:
    """View for supervised training: one clip of a drawn span, augmented (published settings by default).

    It gives `video` (3, T, size, size) float32, normalised, and `label`, int64 (); with `sound` also `audio` (1, F, K)
    and `has_audio` bool (). `need_sound` and `see` as for `pretrain_view`.
    """
    _check(1, frames, stride)
    ear = _Ear(sound, sound_augment or SoundAugmentConfig(), need_sound)
    return partial(_train, clip=frames, stride=stride, size=size, augment=augment or AugmentConfig(), ear=ear, see=see)


def eval_views(
    frames: int = 16,
    stride: int = 4,
    size: int = 160,
    segments: int = 2,
    sound: SoundConfig | None = None,
    *,
    need_sound: bool = False,
    see: bool = True,
) -> tuple[View, ...]:
    """Views for evaluation, one per segment: whole frames of fixed clips; a single one takes the middle clip.

    Each gives what `train_view` gives, without augmentation. Two segments give the published prediction (whose two
    spatial crops of a squared frame are identical) at half its cost; one is for validation.
    """
    _check(1, frames, stride, segments)
    ear = _Ear(sound, None, need_sound)
    one = partial(_evaluate, clip=frames, stride=stride, size=size, segments=segments, ear=ear, see=see)
    return tuple(partial(one, segment=k) for k in range(segments))


@dataclass(frozen=True)
class _Ear:
    """What a view hears."""

    sound: SoundConfig | None
    augment: SoundAugmentConfig | None
    needed: bool

    def __call__(self, sample: Sample, span: Callable[[int], tuple[int, int]], draws: Draws) -> dict[str, Tensor]:
        """`span` is given the samples there are; a clip without (enough) sound gives zeros and says so, or raises."""
        if self.sound is None:
            return {}
        if sample.audio is None or len(sample.audio) < WINDOW:
            if self.needed:
                raise SampleError("it has no sound, or less than 25 ms of it")
            silence = torch.zeros(1, self.sound.length, self.sound.bins)
            return {"audio": silence, "has_audio": torch.tensor(False)}
        picture = clip_sound(sample.audio, span(len(sample.audio)), self.sound, self.augment, draws)
        # said only where it could be otherwise: asking a batch on a GPU would make the host wait
        return {"audio": picture} if self.needed else {"audio": picture, "has_audio": torch.tensor(True)}


def _cropped(frames: Frames, indices: list[int], draws: Draws, *, size: int) -> Tensor:
    return multi_scale_crop(frames.take(indices), size, draws).transpose(0, 1).contiguous()


def _pretrain(
    sample: Sample, generator: torch.Generator, *, clip: int, stride: int, ear: _Ear, look: Look | None, clips: int
) -> dict[str, Any]:
    count, draws = len(sample.frames), Draws(generator)
    starts = pretrain_starts(count, clip=clip, stride=stride, clips=clips, draw=draws.integer)
    start = starts[sample.turn % clips]
    indices = pretrain_indices(start, count, clip=clip, stride=stride)
    seen = {} if look is None else {"video": look(sample.frames, indices, draws)}
    heard = ear(sample, lambda _: span_by_time(sample.frames.times, start, indices[-1], stride), draws)
    if heard:
        digest = hashlib.sha256(sample.source.encode()).digest()[:8]
        heard["source"] = torch.tensor(int.from_bytes(digest, "little", signed=True))
    return {**seen, **heard}


def _train(
    sample: Sample,
    generator: torch.Generator,
    *,
    clip: int,
    stride: int,
    size: int,
    augment: AugmentConfig,
    ear: _Ear,
    see: bool,
) -> dict[str, Any]:
    count, draws = len(sample.frames), Draws(generator)
    indices = train_indices(count, clip=clip, stride=stride, draw=draws.integer)
    seen = {"video": augment_clip(sample.frames.take(indices), size, augment, draws)} if see else {}
    end = indices[0] + clip * stride
    heard = ear(sample, lambda samples: span_by_relative_time(indices[0], end, count, samples), draws)
    return {**seen, "label": torch.tensor(sample.label), **heard}


def _evaluate(
    sample: Sample,
    generator: torch.Generator,
    *,
    clip: int,
    stride: int,
    size: int,
    segments: int,
    segment: int,
    ear: _Ear,
    see: bool,
) -> dict[str, Any]:
    count = len(sample.frames)
    indices = eval_indices(count, clip=clip, stride=stride, segments=segments)[segment]
    seen = {"video": normalise(resize(sample.frames.take(indices), size).transpose(0, 1))} if see else {}
    end = indices[-1] + stride
    heard = ear(sample, lambda samples: span_by_relative_time(indices[0], end, count, samples), Draws(generator))
    return {**seen, "label": torch.tensor(sample.label), **heard}
