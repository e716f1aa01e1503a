"""Any video file as the sliding windows a model was trained on, decoded as a stream: memory does not grow with length.

Frames are decoded, turned upright, thinned and cropped by the functions that write training shards, scaled to the
shards' size and then to the model's. The one difference from training is that frames do not pass through JPEG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import Run, runs_of
from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.fingerprint import Gauge
from hicmae.datasets.media import MediaError, open_video, read_frames
from hicmae.datasets.strips import ShardConfig, shown
from hicmae.datasets.transforms import resize
from hicmae.finetune.inputs import sound_of
from hicmae.models.base import Model
from hicmae.runtime.log import progress

__all__ = ["Preprocessing", "Stretch", "Window", "middle_window", "stretches", "windows"]


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
    """Square cut out of every frame (left, top, width, height); None leaves it to `faces`."""
    faces: Literal["centre", "mtcnn", "none"] = "centre"
    """What is cut out: the centre square, the face, or all of a picture that is cropped already."""
    crop: CropConfig = CropConfig()
    """How faces are followed and cut out."""
    max_fps: float | None = 30.0
    """Frames per second above which frames are left out evenly."""
    sound: SoundConfig | None = None
    """The picture of a window's sound; None for models that only see."""
    note: str = ""
    """What differs from how the model's training clips were made."""

    @classmethod
    def of(cls, model: Model, meta: Mapping[str, Any]) -> Preprocessing:
        """What `model`'s shape and its checkpoint's `preprocessing` say; the defaults where they are silent.

        Raises:
            UserError: a crop that this version does not know.
        """
        stated = dict(meta.get("preprocessing") or {})
        crop = stated.get("crop") or {"kind": "centre"}
        if crop.get("kind") not in ("centre", "box", "mtcnn", "boxes", "none"):
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
            faces=_FACES[crop["kind"]],
            crop=_crop(model, crop),
            note=_NOTE if crop["kind"] == "boxes" else "",
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


class Stretch:
    """A face (or the square that stays) from its first frame to its last: its windows while the video passes by."""

    def __init__(self, run: Run, how: Preprocessing, hop: int, step: float, gauge: Gauge | None = None) -> None:
        self.run, self.how, self.hop = run, how, hop
        self.gauge = gauge if run.chosen else None
        self.times = array("d")
        """Seconds of its frames."""
        self.look = b""
        """The square as it was cut out, about the middle of its time: a JPEG of at most 128 pixels."""
        self.marks: list[np.ndarray] = []
        """The first and the last square, very small, once it has ended."""
        self._crops: dict[str, np.ndarray] = {}
        self._step = step  # the usual time between frames
        self._recent: deque[tuple[float, Tensor]] = deque(maxlen=how.frames)
        self._taken = 0

    @property
    def end(self) -> float:
        """Seconds at which its last frame so far is no longer shown."""
        return self.times[-1] + self._step

    def add(self, number: int, time: float, pixels: np.ndarray) -> Window | None:
        """The next frame; returns the window that ends before it, if one is due."""
        count = len(self.times)
        self._step = time - self.times[-1] if count else self._step
        self.times.append(time)
        if count % self.how.stride:
            return None
        due = self._taken >= self.how.frames and (self._taken - self.how.frames) % self.hop == 0
        window = _window(self._recent, self.how.frames, end=time) if due else None
        crop, eyes = self.run.square(pixels, number, self.how.stored)
        if self.gauge is not None:
            self.gauge.look(crop, eyes)
        self._see(crop, count)
        frame = torch.from_numpy(crop.copy()).permute(2, 0, 1)  # (3, H, W)
        self._recent.append((time, resize(frame[None], self.how.size)[0].contiguous()))
        self._taken += 1
        return window

    def finish(self) -> Window | None:
        """The last window, which ends with the face; None if there was no frame."""
        if self._crops:  # videos may hold thousands of faces
            self.look = _jpeg(self._crops["middle"])
            self.marks = [_small(self._crops[name]) for name in ("first", "last")]
            self._crops.clear()
        return _window(self._recent, self.how.frames, end=self.end) if self._recent else None

    def _see(self, crop: np.ndarray, count: int) -> None:
        self._crops.setdefault("first", crop)
        self._crops["last"] = crop
        half = None if self.run.end is None else (self.run.end - self.run.first) // 2
        # of unknown length: one that lies in the second half until now
        if count <= half if half is not None else not self._taken & (self._taken - 1):
            self._crops["middle"] = crop


def stretches(
    path: str | Path,
    how: Preprocessing,
    *,
    hop: int | None = None,
    start: float | None = None,
    stop: float | None = None,
    gauge: Gauge | None = None,
    everyone: bool = True,
    show: bool = False,
) -> tuple[list[Stretch], Iterator[tuple[Stretch, Window]]]:
    """All faces of a video in order of time, and their windows as they end, in one pass over the frames.

    Args, Raises: as `windows`. `everyone` follows all faces, otherwise those that the recipe takes of several. `show`
    draws a progress bar for each pass.
    """
    hop = max(1, how.frames // 2) if hop is None else hop
    info = open_video(path)
    config = ShardConfig(size=how.stored, max_fps=how.max_fps, box=how.box, faces=how.faces, crop=how.crop)

    before = ["find faces", *["look closer"] * how.crop.second_pass] if how.faces == "mtcnn" else []
    passes = iter(before)

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        found = read_frames(path, start=start, stop=stop, threads=0)
        if show:
            words = f"{next(passes, 'recognise')} {Path(path).name}"
            found = iter(progress(found, total=info.frames, desc=words, unit="frame"))
        return shown(path, info, found, how.max_fps)

    runs = runs_of(Path(path), config, info, frames, source=Path(path).name, everyone=everyone)
    found = [Stretch(run, how, hop, 1 / how.rate(info.fps), gauge) for run in runs]
    return found, _streamed(found, frames)


def windows(
    path: str | Path,
    how: Preprocessing,
    *,
    hop: int | None = None,
    start: float | None = None,
    stop: float | None = None,
    gauge: Gauge | None = None,
) -> Iterator[Window]:
    """Successive windows of a video; the last one ends with the video, whatever its distance from the one before.

    Where faces are cropped, the video is gone through before to find them, and windows begin and end with each face.

    Args:
        hop: distance of successive windows in frames of a window (T of which make a window, `how.stride` video frames
            each); None is half a window.
        start, stop: seconds at which to begin and to end; None is the whole.
        gauge: is shown the frames of the windows, as they are before they are scaled to the model's size.

    Raises:
        MediaError: the file is missing, cut off, no video, damaged, smaller than the box to cut out, or shows
            no face.
        UserError: faces are to be cropped and there is no detector.
    """
    _, found = stretches(path, how, hop=hop, start=start, stop=stop, gauge=gauge, everyone=False)
    for _, window in found:
        yield window


def _streamed(
    found: list[Stretch], frames: Callable[[], Iterator[tuple[float, np.ndarray]]]
) -> Iterator[tuple[Stretch, Window]]:
    waiting, going = sorted(found, key=lambda each: -each.run.first), list[Stretch]()
    for number, (time, pixels) in enumerate(frames()):
        while waiting and waiting[-1].run.first <= number:
            going.append(waiting.pop())
        for each in list(going):
            window = each.add(number, time, pixels)
            if window is not None:
                yield each, window
            if number + 1 == each.run.end:
                going.remove(each)
                window = each.finish()
                if window is not None:
                    yield each, window
        if not going and not waiting:
            break
    for each in going:
        window = each.finish()
        if window is not None:
            yield each, window


def middle_window(path: str | Path, how: Preprocessing, *, start: float | None = None) -> Window:
    """One window from the middle of a video, or from `start` seconds on; only that stretch is decoded.

    Where faces are cropped and none is shown there, it is the first window of the first face.

    Raises:
        MediaError, UserError: as `windows`.
    """
    info = open_video(path)
    span = how.frames * how.stride / how.rate(info.fps)
    if start is None:
        start = max(0.0, ((info.seconds or 0.0) - span) / 2)
    found = None
    if how.faces == "mtcnn":
        with contextlib.suppress(MediaError):
            found = next(windows(path, how, start=start, stop=start + span + 1), None)
    elif start > 0:
        found = next(windows(path, how, start=start), None)
    # a file that declares a wrong length, or a start behind its end, has nothing there
    return found or next(windows(path, how))


def _window(recent: deque[tuple[float, Tensor]], length: int, end: float) -> Window:
    times, frames = zip(*recent, strict=True)
    padding = length - len(frames)
    stack = torch.stack([*frames, *frames[-1:] * padding], 1)
    return Window(times[0], end, stack, times + times[-1:] * padding)


def _jpeg(crop: np.ndarray) -> bytes:
    picture, buffer = Image.fromarray(crop), io.BytesIO()
    picture.thumbnail((128, 128))
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _small(crop: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(crop).resize((16, 16), Image.Resampling.BOX), np.float32)


_FACES: dict[str, Literal["centre", "mtcnn", "none"]] = {
    "centre": "centre",
    "box": "centre",
    "mtcnn": "mtcnn",
    "boxes": "mtcnn",
    "none": "none",
}
_NOTE = "the face was found by mtcnn, where the training clips were cropped by boxes from files"


def _crop(model: Model, recipe: Mapping[str, Any]) -> CropConfig:
    """The checkpoint's recipe, carried out where the model is; of several faces at a time one is taken."""
    known = {field.name for field in dataclasses.fields(CropConfig)}
    stated = {name: value for name, value in recipe.items() if name in known}
    if stated.get("several") == "all":
        stated["several"] = "largest"
    return CropConfig(**{**stated, "device": str(next(model.parameters()).device)})
