"""From a video file to samples: frames thinned, cropped, scaled and coded, with the sound that belongs to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hicmae.datasets.coding import Coder, pack
from hicmae.datasets.conversion import Stored, recoded
from hicmae.datasets.crops import Frames, Run, crop_detector, preprocessing_crop, runs_of
from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.fingerprint import Gauge
from hicmae.datasets.frames import Format
from hicmae.datasets.images import is_image, read_folder, read_image
from hicmae.datasets.listing import Item
from hicmae.datasets.media import SOUND_RATE, MediaError, VideoInfo, open_video, read_audio, read_frames

__all__ = ["SILENT", "ShardConfig", "samples_of", "shown", "thinned"]

SILENT = 1e-4
"""Amplitude below which sound counts as silent: -80 dB of full scale, less than a quiet room."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What a sample is made of."""

    size: int = 224
    """Pixels of the square frames."""
    format: Format = "jpeg"
    """How frames are stored: a strip of JPEGs; mp4 (H.264), a tenth of the bytes and slower to read; or raw, 15 times
    the bytes and faster. `hicmae check SHARDS --probe` says which one feeds a model. Shards of one format given in
    place of videos are converted to another, with their keys, labels and crop; to jpeg and mp4 that loses a little."""
    quality: int = 90
    """JPEG quality, 1 to 95."""
    per_shard: int = 100
    """Videos per tar; about 200 MB for videos of 8 s."""
    max_seconds: float = 30.0
    """Longer videos become several samples of equal length."""
    max_fps: float | None = 30.0
    """Frames per second above which frames are left out evenly; null keeps all."""
    faces: Literal["centre", "mtcnn", "boxes", "none"] = "centre"
    """What is cut out: the centre square; the face, found by mtcnn (pip install "hicmae[face]") or told by track files
    (boxes, crop.tracks); or all of a picture that is cropped already (none)."""
    crop: CropConfig = CropConfig()
    """How faces are followed and cut out."""
    box: tuple[int, int, int, int] | None = None
    """Square to cut out of every frame as shown: left, top, width, height in pixels; null leaves it to `faces`."""
    eyes: bool = False
    """Measure where the eyes lie also where faces are not followed, in a few frames of every sample: the index and
    checkpoints then say it of their data (pip install "hicmae[face]")."""
    images: bool = False
    """Take PNG and JPEG pictures too, each as a clip of one frame."""
    list: str | None = None
    """File with a line per video: a csv with the columns path, label, group, …, or `path label` without header."""
    labels: str | None = None
    """`folder` takes the uppermost folder of each video as its label."""
    classes: tuple[str, ...] | None = None
    """Label names in order; null sorts those that occur. A label that is a number counts from 0 in this order."""
    protocol: str | None = None
    """What the labels say and how the clips are split, as `crema_d/6class-intended/subject-5fold`; a card sets it."""

    def __post_init__(self) -> None:
        checks = {
            "size": (16 <= self.size <= 4096, "lie in 16 … 4096"),
            "format": (self.format in ("jpeg", "mp4", "raw"), "be jpeg, mp4 or raw"),
            "quality": (1 <= self.quality <= 95, "lie in 1 … 95"),
            "per_shard": (self.per_shard >= 1, "be at least 1"),
            "max_seconds": (self.max_seconds >= 1, "be at least 1"),
            "max_fps": (self.max_fps is None or self.max_fps > 0, "be positive or null"),
            "faces": (self.faces in ("centre", "mtcnn", "boxes", "none"), "be centre, mtcnn, boxes or none"),
            "labels": (self.labels in (None, "folder"), "be `folder` or null"),
            "classes": (self.classes is None or len(set(self.classes)) == len(self.classes) > 0, "name classes once"),
        }
        for name, (good, rule) in checks.items():
            if not good:
                raise ValueError(f"shard.{name} must {rule}, not {getattr(self, name)!r}")
        if self.list is not None and self.labels is not None:
            raise ValueError("shard.list and shard.labels exclude each other: a list brings its own labels")
        if self.box is not None and self.faces != "centre":
            raise ValueError(f"shard.box and shard.faces={self.faces} exclude each other; leave one of them out")
        if self.faces == "boxes" and self.crop.tracks is None:
            raise ValueError("shard.faces=boxes needs crop.tracks, a track file or a folder of them")
        if self.box is not None:
            left, top, width, height = self.box
            if left < 0 or top < 0 or width < 1 or width != height:
                side = max(width, height, 1)
                nearest = (max(0, left - (side - width) // 2), max(0, top - (side - height) // 2), side, side)
                raise ValueError(f"shard.box must be a square inside the picture, not {self.box}; nearest: {nearest}")

    def preprocessing(self) -> dict[str, Any]:
        """What decides how samples look, as the index and checkpoints state it."""
        return {
            "crop": preprocessing_crop(self),
            "size": self.size,
            "max_fps": self.max_fps,
            "sound_rate": SOUND_RATE,
        }


def samples_of(item: Item, key: str, config: ShardConfig) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The samples of one video: its part of a tar, and the index's line about it.

    The only one has the key `key`; parts of a longer one, or faces, are counted: `key+0`, `key+1`; and the parts of a
    face `key+1+0`, `key+1+1`.

    Raises:
        MediaError: the video cannot be used.
        UserError: faces are asked for and there is no detector, or there are no track files.
    """
    if item.trouble is not None:
        raise MediaError(item.path, *item.trouble)
    if isinstance(item, Stored):
        yield from recoded(item, config)
        return
    info, frames, sound = _opened(item, config)
    runs = runs_of(item.path, config, info, frames, source=item.source)
    strips = [
        _Strip(run, f"{key}+{n}" if len(runs) > 1 else key, item, info, sound, config) for n, run in enumerate(runs)
    ]
    waiting, going = strips[::-1], list[_Strip]()
    for number, (time, pixels) in enumerate(frames()):
        while waiting and waiting[-1].run.first == number:
            going.append(waiting.pop())
        for strip in list(going):
            if strip.run.end == number:
                yield strip.finished(time, last=True)
                going.remove(strip)
                continue
            if strip.full(time):
                yield strip.finished(time)
            strip.add(number, time, pixels)
    for strip in going:
        yield strip.finished(last=True)


class _Strip:
    """A sample, and another after it, while frames are added."""

    def __init__(
        self,
        run: Run,
        key: str,
        item: Item,
        info: VideoInfo,
        sound: tuple[np.ndarray, float] | None,
        config: ShardConfig,
    ) -> None:
        self.run, self.key, self.item, self.info, self.sound, self.config = run, key, item, info, sound, config
        seconds = info.seconds if run.seconds is None else run.seconds
        parts = math.ceil(seconds / config.max_seconds - 0.02) if seconds else 1
        self.length = seconds / parts if seconds and parts > 1 else config.max_seconds * 1.02
        self.part, self.first = 0, run.first
        self._begin()

    def _begin(self) -> None:
        self.times: list[float] = []
        self.coder = Coder(self.config.format, self.config.quality)
        looked_for = self.config.eyes and self.run.path is None
        self.gauge = Gauge(crop_detector() if looked_for else None)

    def full(self, time: float) -> bool:
        """Whether the frame at `time` belongs to the next sample."""
        # a hundredth of a frame: timestamps are rounded
        return bool(self.times) and time - self.times[0] >= self.length - 0.01 / self.info.fps

    def add(self, number: int, time: float, pixels: np.ndarray) -> None:
        """The next frame."""
        if not self.times:
            self.first = number
        crop, eyes = self.run.square(pixels, number, self.config.size)
        self.times.append(time)
        self.gauge.look(crop, eyes)
        self.coder.add(crop)

    def finished(self, end: float | None = None, *, last: bool = False) -> tuple[bytes, dict[str, Any]]:
        """The sample, which ends at `end` seconds; what is added from now on is the next one's."""
        times, item, config = self.times, self.item, self.config
        most = min(self.info.fps, config.max_fps or math.inf)
        if end is None:
            end = times[-1] + (float(np.median(np.diff(times))) if len(times) > 1 else 1 / most)
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else most
        wave, at = _cut(self.sound, times[0], end)
        stretch = self.first, self.first + len(times)
        meta: dict[str, Any] = {
            "key": self.key if last and not self.part else f"{self.key}+{self.part}",
            "source": item.source,
            "start": round(times[0], 6),
            "frames": len(times),
            "times": [round(1000 * (time - times[0]), 3) for time in times],
            "fps": round(fps, 4),
            "size": config.size,
            **{word: value for word, value in (("label", item.label), ("group", item.group)) if value is not None},
            **({"extra": item.extra} if item.extra else {}),
            "audio": _describe_sound(wave, at),
            "crop": self.run.recipe(*stretch),
        }
        said = ("key", "source", "frames", "fps", "label", "group", "extra")
        row: dict[str, Any] = {name: meta[name] for name in said if name in meta}
        silent = wave is not None and meta["audio"]["silent"]
        row |= {"seconds": round(end - times[0], 6), "sound": wave is not None, "silent": silent}
        row["measures"] = {**self.gauge.measures(wave), "side": self.run.side(*stretch)}
        packed = pack(meta, self.coder.finish(fps), wave)
        self.part += 1
        self._begin()
        return packed, row


def _opened(item: Item, config: ShardConfig) -> tuple[VideoInfo, Frames, tuple[np.ndarray, float] | None]:
    """What a video, a folder of frames or a picture is, its frames with their times, as often as they are asked for,
    and its sound."""
    path = item.path
    if path.is_dir():
        sound = _sound_of(item, False)
        info, read = read_folder(path, len(sound[0]) / SOUND_RATE if sound else None)
        return info, lambda: shown(path, info, read(), config.max_fps), sound
    if not is_image(path):
        info = open_video(path)
        sound = _sound_of(item, info.has_audio)
        return info, lambda: shown(path, info, read_frames(path, threads=1), config.max_fps), sound
    if not config.images:
        remedy = "leave it out, or take pictures as clips of one frame: --images true"
        raise MediaError(path, "is not a video (it is a picture)", remedy)
    info, pixels = read_image(path)
    return info, lambda: iter([(0.0, pixels)]), None


def shown(
    path: str | Path, info: VideoInfo, frames: Iterator[tuple[float, np.ndarray]], max_fps: float | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Of a video's frames, as `read_frames` gives them, those that are kept at `max_fps` frames per second.

    Raises:
        MediaError: as `read_frames`; or the size of the picture changes.
    """
    for time, pixels in frames if max_fps is None else thinned(frames, info.fps, max_fps):
        if pixels.shape[:2] != (info.height, info.width):
            raise MediaError(path, "changes its picture size midway", "convert it with ffmpeg")
        yield time, pixels


def thinned(frames: Iterator[tuple[float, np.ndarray]], fps: float, limit: float) -> Iterator[tuple[float, np.ndarray]]:
    """Leave out frames evenly: every k-th of a steady rate is kept, the nearest ones of a variable one."""
    every = max(1, math.ceil(fps / limit - 0.01)) / fps if fps > limit * 1.01 else 1 / limit
    slack = every / 4
    due: float | None = None
    for time, pixels in frames:
        due = time if due is None else due
        if time >= due - slack:
            due = max(due, time - slack) + every
            yield time, pixels


def _sound_of(item: Item, inside: bool) -> tuple[np.ndarray, float] | None:
    if item.sound is None:
        return read_audio(item.path) if inside else None
    try:
        return read_audio(item.sound)
    except MediaError as error:
        raise MediaError(
            item.path, f"has sound that cannot be used ({item.sound.name} {error.reason})", error.remedy
        ) from None


def _cut(sound: tuple[np.ndarray, float] | None, start: float, end: float) -> tuple[np.ndarray | None, float]:
    """The sound between two times, and how long after `start` it begins."""
    if sound is None:
        return None, 0.0
    wave, begin = sound
    first, last = round((start - begin) * SOUND_RATE), round((end - begin) * SOUND_RATE)
    piece = wave[max(0, first) : max(0, last)]
    return (piece, max(0, -first) / SOUND_RATE) if len(piece) else (None, 0.0)


def _describe_sound(wave: np.ndarray | None, offset: float) -> dict[str, Any] | None:
    if wave is None:
        return None
    silent = bool(np.abs(wave).max() < SILENT)
    return {"seconds": len(wave) / SOUND_RATE, "offset": offset, "silent": silent}
