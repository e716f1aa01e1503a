"""Makes the video files people have: good ones, odd ones that must work, and bad ones that must be refused in words."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hicmae.datasets.media import write_video

__all__ = ["BAD", "ODD", "corner", "moving", "pulses", "video"]


def moving(frames: int = 12, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(frames, height, width, 3) uint8: a bright bar that moves over a coloured ground."""
    ground = np.random.default_rng(seed).integers(20, 120, 3)
    pixels = np.empty((frames, height, width, 3), np.uint8)
    pixels[:] = ground
    for i in range(frames):
        left = i * max(1, width // (frames + 1))
        pixels[i, :, left : left + max(2, width // 8)] = 230
    return pixels


def corner(frames: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """(frames, height, width, 3) uint8: black, with a red square in the upper left corner."""
    pixels = np.zeros((frames, height, width, 3), np.uint8)
    pixels[:, : height // 3, : height // 3, 0] = 255
    return pixels


def pulses(seconds: float = 1.0, rate: int = 16_000, every: float = 0.25) -> np.ndarray:
    """(S,) float32: silence with 5 ms bursts at `every`, 2 * `every`, …"""
    wave = np.zeros(round(seconds * rate), np.float32)
    for k in range(1, int(seconds / every)):
        wave[round(k * every * rate) : round((k * every + 0.005) * rate)] = 0.8
    return wave


def video(path: Path, *, frames: int = 12, fps: float = 25, sound: bool = True, seed: int = 0, **how: object) -> Path:
    """A small good video at `path`, its kind told by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = pulses(frames / fps, every=0.1) if sound else None
    return write_video(path, moving(frames, seed=seed), fps, wave, **how)  # type: ignore[arg-type]


def turned(path: Path, degrees: int = 90, **how: object) -> Path:
    """A phone's video: stored lying, with a display matrix that turns it clockwise by `degrees` to be shown."""
    write_video(path, np.rot90(corner(), degrees // 90, axes=(1, 2)), 25, **how)  # type: ignore[arg-type]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    fixed = 1 << 16
    data[at : at + 36] = struct.pack(">9i", cos * fixed, sin * fixed, 0, -sin * fixed, cos * fixed, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def uneven_times(frames: int = 12) -> np.ndarray:
    """Seconds of frames at a variable rate, 12 to 40 per second."""
    steps = np.random.default_rng(5).uniform(1 / 40, 1 / 12, frames)
    return np.round(np.cumsum(steps) - steps[0], 3)


def _cut(path: Path, share: float = 0.6) -> Path:
    whole = video(path.with_name("whole" + path.suffix), frames=25).read_bytes()
    path.with_name("whole" + path.suffix).unlink()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _broken_link(path: Path) -> Path:
    path.symlink_to(path.with_name("gone.mp4"))
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _no_index(path: Path) -> Path:
    """The index and nothing after it: the structure is whole, the pictures are noise."""
    data = bytearray(video(path).read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start : start + size] = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    return _write(path, bytes(data))


Maker = Callable[[Path], Path]

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "missing.mp4", "does not exist"),
    "empty": (lambda folder: _write(folder / "empty.mp4", b""), "is empty"),
    "text": (lambda folder: _write(folder / "text.mp4", b"this is not a video\n" * 20), "is not a video"),
    "playlist": (lambda folder: _write(folder / "list.mp4", b"#EXTM3U\n/etc/hostname\n"), "is not a video"),
    "png": (lambda folder: _write(folder / "picture.mp4", b"\x89PNG\r\n\x1a\n" + bytes(64)), "is not a video"),
    "noise": (
        lambda folder: _write(folder / "noise.mkv", np.random.default_rng(0).bytes(4096)),
        "is not a video",
    ),
    "cut mp4": (lambda folder: _cut(folder / "cut.mp4"), "is cut off"),
    "cut mkv": (lambda folder: _cut(folder / "cut.mkv"), "is cut off"),
    "cut webm": (lambda folder: _cut(folder / "cut.webm"), "is cut off"),
    "cut avi": (lambda folder: _cut(folder / "cut.avi"), "is cut off"),
    "cut flv": (lambda folder: _cut(folder / "cut.flv"), "is cut off"),
    "cut mov": (lambda folder: _cut(folder / "cut.mov", 0.95), "is cut off"),
    "pictures of noise": (lambda folder: _no_index(folder / "scrambled.mp4"), "is damaged"),
    "folder": (lambda folder: _folder(folder / "folder.mp4"), "is a folder"),
    "broken link": (lambda folder: _broken_link(folder / "link.mp4"), "does not exist"),
    "pipe": (lambda folder: _pipe(folder / "pipe.mp4"), "is not a file"),
}
"""Name -> (maker of the file in a folder, how the reason for refusing it begins)."""

ODD: dict[str, Callable[[Path], Path]] = {
    "mp4": lambda folder: video(folder / "plain.mp4"),
    "mov": lambda folder: video(folder / "plain.mov"),
    "mkv": lambda folder: video(folder / "plain.mkv"),
    "webm": lambda folder: video(folder / "plain.webm"),
    "avi": lambda folder: video(folder / "plain.avi"),
    "flv": lambda folder: video(folder / "plain.flv"),
    "flash codecs": lambda folder: write_video(
        folder / "old.flv", moving(12), 25, pulses(0.5, 22_050), 22_050, codec="flv", audio_codec="libmp3lame"
    ),
    "mpeg4": lambda folder: video(folder / "mpeg4.mp4", codec="mpeg4"),
    "no sound": lambda folder: video(folder / "silent.mp4", sound=False),
    "one frame": lambda folder: video(folder / "one.mp4", frames=1, sound=False),
    "turned by 90": lambda folder: turned(folder / "phone90.mp4", 90),
    "turned by 180": lambda folder: turned(folder / "phone180.mp4", 180),
    "turned by 270": lambda folder: turned(folder / "phone270.mp4", 270),
    "variable rate": lambda folder: video(folder / "vfr.mp4", times=uneven_times()),
    "variable rate mkv": lambda folder: video(folder / "vfr.mkv", times=uneven_times()),
    "odd size": lambda folder: write_video(folder / "odd.mp4", moving(5, 93, 161), 25),
    "odd size avi": lambda folder: write_video(folder / "odd.avi", moving(5, 93, 161), 25),
    "tiny": lambda folder: write_video(folder / "tiny.mp4", moving(3, 16, 16), 25),
    "stereo": lambda folder: write_video(
        folder / "stereo.mp4", moving(12), 25, np.stack([pulses(0.5, 48_000)] * 2, 1), 48_000
    ),
    "late sound": lambda folder: video(folder / "late.mp4", audio_start=0.2),
    "blank and quote": lambda folder: video(folder / 'it\'s a "name", or not.mp4'),
    "unicode": lambda folder: video(folder / "лицо 顔 é.mp4"),
    "no suffix": lambda folder: video(folder / "named.mkv").rename(folder / "clip"),
    "wrong suffix": lambda folder: video(folder / "really.mkv").rename(folder / "said.mp4"),
    "link": lambda folder: _link(folder),
}
"""Name -> maker of a video that must work although it is not what one first thinks of."""


def _link(folder: Path) -> Path:
    target = video(folder / "elsewhere" / "target.mp4")
    (folder / "link.mp4").symlink_to(target)
    return folder / "link.mp4"
