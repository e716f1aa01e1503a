"""Any video file as the sliding windows a model was trained on, decoded as a stream: memory does not grow with length.

Frames are decoded, turned upright, thinned and cropped by the functions that write training shards, scaled to the
shards' size and then to the model's. The one difference from training is that frames do not pass through JPEG.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.fingerprint import Gauge
from hicmae.datasets.media import MediaError, open_video, read_frames
from hicmae.datasets.strips import ShardConfig, crop_recipe, thinned
from hicmae.datasets.transforms import resize
from hicmae.finetune.inputs import sound_of
from hicmae.models.base import Model

__all__ = ["Preprocessing", "Window", "middle_window", "windows"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a clip becomes a model's input."""

    frames: int = 16
    """Frames per window."""
    stride: int = 4
    """Distance of successive frames, in frames of the (thinned) video."""
    size: int = 160
    """Height and width of the model's input, in pixels."""
    stored: int = 224
    """Height and width of the frames in training shards, in pixels."""
    box: tuple[int, int, int, int] | None = None
    """Square cut out of every frame (left, top, width, height); None is the centre square."""
    max_fps: float | None = 30.0
    """Frames per second above which frames are left out evenly."""
    sound: SoundConfig | None = None
    """The picture of a window's sound; None for models that only see."""

    @classmethod
    def of(cls, model: Model, meta: Mapping[str, Any]) -> Preprocessing:
        """What `model`'s shape and its checkpoint's `preprocessing` say; the defaults where they are silent.

        Raises:
            UserError: a crop that this version does not know.
        """
        stated = dict(meta.get("preprocessing") or {})
        crop = stated.get("crop") or {"kind": "centre"}
        if crop.get("kind") not in ("centre", "box"):
            raise UserError(
                f"{meta.get('file', 'the checkpoint')}: its clips were cropped by {crop.get('kind')!r}, which this "
                "version cannot do; install the version it was made with"
            )
        # a model that only hears has windows of time too: those that its training clips were
        frames, height = int(stated.get("frames", cls.frames)), int(stated.get("size", cls.stored))
        if model.grid is not None and model.patch is not None:
            frames, height, _ = (n * p for n, p in zip(model.grid, model.patch, strict=True))
        return cls(
            frames=frames,
            stride=int(stated.get("stride", cls.stride)),
            size=height,
            stored=int(stated.get("size", cls.stored)),
            box=tuple(crop["box"]) if crop["kind"] == "box" else None,
            max_fps=stated.get("max_fps", cls.max_fps),
            sound=sound_of(model, stated.get("sound")),
        )

    def rate(self, fps: float) -> float:
        """Frames per second that are left of a video's `fps`."""
        if self.max_fps is None or fps <= self.max_fps * 1.01:
            return fps
        return fps / math.ceil(fps / self.max_fps - 0.01)


@dataclass(frozen=True)
class Window:
    """A stretch of a video as a model sees it."""

    start: float
    """Seconds on the file's clock at which the first frame is shown."""
    end: float
    """Seconds at which the stretch ends: when the frame after it is shown, or the video ends."""
    frames: Tensor
    """(3, T, H, W) uint8; a video shorter than the window repeats its last frame."""
    times: tuple[float, ...]
    """Seconds of each of the T frames."""


def windows(
    path: str | Path,
    how: Preprocessing,
    *,
    hop: int | None = None,
    start: float | None = None,
    gauge: Gauge | None = None,
) -> Iterator[Window]:
    """Successive windows of a video; the last one ends with the video, whatever its distance from the one before.

    Args:
        hop: distance of successive windows in frames of a window (T of which make a window, `how.stride` video frames
            each); None is half a window.
        start: seconds at which to begin.
        gauge: is shown the frames of the windows, as they are before they are scaled to the model's size.

    Raises:
        MediaError: the file is missing, cut off, no video, damaged, or smaller than the box to cut out.
    """
    hop = max(1, how.frames // 2) if hop is None else hop
    info = open_video(path)
    config = ShardConfig(size=how.stored, max_fps=how.max_fps, box=how.box)
    left, top, side = crop_recipe(path, config, info.width, info.height)["box"][:3]
    frames = read_frames(path, start=start, threads=0)
    if how.max_fps is not None:
        frames = thinned(frames, info.fps, how.max_fps)
    recent: deque[tuple[float, Tensor]] = deque(maxlen=how.frames)
    taken = 0
    last, step = -math.inf, 1 / how.rate(info.fps)
    for count, (time, pixels) in enumerate(frames):
        step = time - last if count else step
        last = time
        if count % how.stride:
            continue
        if left + side > pixels.shape[1] or top + side > pixels.shape[0]:
            raise MediaError(path, "changes its picture size midway", "convert it with ffmpeg")
        if taken >= how.frames and (taken - how.frames) % hop == 0:
            yield _window(recent, how.frames, end=time)
        recent.append((time, _square(pixels[top : top + side, left : left + side], how, gauge)))
        taken += 1
    if recent:
        yield _window(recent, how.frames, end=last + step)


def middle_window(path: str | Path, how: Preprocessing, *, start: float | None = None) -> Window:
    """One window from the middle of a video, or from `start` seconds on; only that stretch is decoded.

    Raises:
        MediaError: as `windows`.
    """
    if start is None:
        info = open_video(path)
        span = how.frames * how.stride / how.rate(info.fps)
        start = max(0.0, ((info.seconds or 0.0) - span) / 2)
    # a file that declares a wrong length, or a start behind its end, has nothing there
    found = next(windows(path, how, start=start), None) if start > 0 else None
    return found or next(windows(path, how))


def _window(recent: deque[tuple[float, Tensor]], length: int, end: float) -> Window:
    times, frames = zip(*recent, strict=True)
    padding = length - len(frames)
    stack = torch.stack([*frames, *frames[-1:] * padding], 1)
    return Window(times[0], end, stack, times + times[-1:] * padding)


def _square(pixels: np.ndarray, how: Preprocessing, gauge: Gauge | None) -> Tensor:
    """(side, side, 3) uint8 -> (3, size, size) uint8, by way of the size in the shards."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.size != (how.stored, how.stored):
        picture = picture.resize((how.stored, how.stored), Image.Resampling.BICUBIC, reducing_gap=3.0)
    crop = np.array(picture)
    if gauge is not None:
        gauge.look(crop)
    frame = torch.from_numpy(crop).permute(2, 0, 1)  # (3, H, W)
    return resize(frame[None], how.size)[0].contiguous()
