"""From a video file to samples: frames thinned, cropped, scaled and coded, with the sound that belongs to them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hicmae.datasets.fingerprint import Gauge
from hicmae.datasets.images import is_image, read_image
from hicmae.datasets.listing import Item
from hicmae.datasets.media import SOUND_RATE, MediaError, VideoInfo, open_video, read_audio, read_frames
from hicmae.datasets.samples import pack

__all__ = ["SILENT", "ShardConfig", "crop_recipe", "samples_of", "scaled", "thinned"]

SILENT = 1e-4
"""Amplitude below which sound counts as silent: -80 dB of full scale, less than a quiet room."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What a sample is made of."""

    size: int = 224
    """Pixels of the square frames."""
    quality: int = 90
    """JPEG quality, 1 to 95."""
    per_shard: int = 100
    """Videos per tar; about 200 MB for videos of 8 s."""
    max_seconds: float = 30.0
    """Longer videos become several samples of equal length."""
    max_fps: float | None = 30.0
    """Frames per second above which frames are left out evenly; null keeps all."""
    box: tuple[int, int, int, int] | None = None
    """Square to cut out of every frame as shown: left, top, width, height in pixels; null is the centre square."""
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
            "quality": (1 <= self.quality <= 95, "lie in 1 … 95"),
            "per_shard": (self.per_shard >= 1, "be at least 1"),
            "max_seconds": (self.max_seconds >= 1, "be at least 1"),
            "max_fps": (self.max_fps is None or self.max_fps > 0, "be positive or null"),
            "labels": (self.labels in (None, "folder"), "be `folder` or null"),
            "classes": (self.classes is None or len(set(self.classes)) == len(self.classes) > 0, "name classes once"),
        }
        for name, (good, rule) in checks.items():
            if not good:
                raise ValueError(f"shard.{name} must {rule}, not {getattr(self, name)!r}")
        if self.list is not None and self.labels is not None:
            raise ValueError("shard.list and shard.labels exclude each other: a list brings its own labels")
        if self.box is not None:
            left, top, width, height = self.box
            if left < 0 or top < 0 or width < 1 or width != height:
                side = max(width, height, 1)
                nearest = (max(0, left - (side - width) // 2), max(0, top - (side - height) // 2), side, side)
                raise ValueError(f"shard.box must be a square inside the picture, not {self.box}; nearest: {nearest}")


def samples_of(item: Item, key: str, config: ShardConfig) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The samples of one video: its part of a tar, and the index's line about it.

    Raises:
        MediaError: the video cannot be used.
    """
    if item.trouble is not None:
        raise MediaError(item.path, *item.trouble)
    info, frames = _pictures(item.path, config)
    sound = _sound_of(item, info.has_audio)
    if config.max_fps is not None:
        frames = thinned(frames, info.fps, config.max_fps)
    recipe = crop_recipe(item.path, config, info.width, info.height)
    left, top, side = recipe["box"][:3]
    parts = math.ceil(info.seconds / config.max_seconds - 0.02) if info.seconds else 1
    length = info.seconds / parts if info.seconds and parts > 1 else config.max_seconds * 1.02
    times: list[float] = []
    jpegs: list[bytes] = []
    gauge = Gauge()
    number = 0

    def finish(end: float, name: str) -> tuple[bytes, dict[str, Any]]:
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else min(info.fps, config.max_fps or math.inf)
        wave, at = _cut(sound, times[0], end)
        meta: dict[str, Any] = {
            "key": name,
            "source": item.source,
            "start": round(times[0], 6),
            "frames": len(times),
            "times": [round(1000 * (time - times[0]), 3) for time in times],
            "fps": round(fps, 4),
            "size": config.size,
            **{word: value for word, value in (("label", item.label), ("group", item.group)) if value is not None},
            **({"extra": item.extra} if item.extra else {}),
            "audio": _describe_sound(wave, at),
            "crop": recipe,
        }
        said = ("key", "source", "frames", "fps", "label", "group", "extra")
        row: dict[str, Any] = {name: meta[name] for name in said if name in meta}
        silent = wave is not None and meta["audio"]["silent"]
        row |= {"seconds": round(end - times[0], 6), "sound": wave is not None, "silent": silent}
        row["measures"] = {**gauge.measures(wave), "side": side}
        return pack(meta, jpegs, wave), row

    for time, pixels in frames:
        # a hundredth of a frame: timestamps are rounded
        if times and time - times[0] >= length - 0.01 / info.fps:
            yield finish(time, f"{key}+{number}")
            number, times, jpegs, gauge = number + 1, [], [], Gauge()
        if left + side > pixels.shape[1] or top + side > pixels.shape[0]:
            raise MediaError(item.path, "changes its picture size midway", "convert it with ffmpeg")
        times.append(time)
        picture = scaled(pixels[top : top + side, left : left + side], config.size)
        gauge.look(np.asarray(picture))
        jpegs.append(_jpeg(picture, config))
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / min(info.fps, config.max_fps or math.inf)
    yield finish(times[-1] + step, f"{key}+{number}" if number else key)


def _pictures(path: Path, config: ShardConfig) -> tuple[VideoInfo, Iterator[tuple[float, np.ndarray]]]:
    """What a video or a picture is, and its frames with their times."""
    if not is_image(path):
        return open_video(path), read_frames(path, threads=1)
    if not config.images:
        remedy = "leave it out, or take pictures as clips of one frame: --images true"
        raise MediaError(path, "is not a video (it is a picture)", remedy)
    info, pixels = read_image(path)
    return info, iter([(0.0, pixels)])


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


def crop_recipe(path: str | Path, config: ShardConfig, width: int, height: int) -> dict[str, Any]:
    """What to cut out of a picture of that many pixels: `kind`, `box` [left, top, side, side], `picture` [w, h].

    Raises:
        MediaError: the box does not lie in the picture.
    """
    side = min(width, height)
    kind, box = "centre", ((width - side) // 2, (height - side) // 2, side, side)
    if config.box is not None:
        kind, box = "box", config.box
        if box[0] + box[2] > width or box[1] + box[3] > height:
            reason = f"is smaller than the box to cut out ({width} x {height} pixels)"
            raise MediaError(path, reason, "give a box inside the picture, or none")
    return {"kind": kind, "box": list(box), "picture": [width, height]}


def scaled(pixels: np.ndarray, size: int) -> Image.Image:
    """A square (side, side, 3) uint8 as a picture of `size` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _jpeg(picture: Image.Image, config: ShardConfig) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=config.quality)
    return buffer.getvalue()


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
