"""Videos that are in order, videos that are odd, and files that are no videos, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hicmae.datasets.media import write_video

FPS = 25.0


def picture(i: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Frame i: a gradient whose brightness tells the frame's number, with a square that moves."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([y * 255 // height, x * 255 // width, np.full_like(x, (7 * i) % 200)], -1).astype(np.uint8)
    left = (5 * i) % (width - 24)
    frame[20:44, left : left + 24] = 250 - i % 100
    return frame


def video(path: Path, count: int = 40, fps: float = FPS, height: int = 96, width: int = 128, **extra: object) -> Path:
    """`count` frames, without sound unless `audio` is given."""
    return write_video(path, (picture(i, height, width) for i in range(count)), fps, **extra)  # type: ignore[arg-type]


def tone(seconds: float) -> np.ndarray:
    return (0.2 * np.sin(np.arange(int(16_000 * seconds)) * 0.1)).astype(np.float32)


def rotated(path: Path) -> Path:
    """Stored lying, to be shown upright, as telephones do: the matrix of the mp4's track header says so."""
    data = bytearray(video(path).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turn = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    path.write_bytes(data)
    return path


def uneven(path: Path) -> Path:
    """A variable frame rate."""
    gaps = np.random.default_rng(0).uniform(0.02, 0.09, 39)
    return video(path, times=np.concatenate([[0.0], np.cumsum(gaps)]).tolist())


def cut(path: Path, share: float = 0.6) -> Path:
    """The first part of a video."""
    data = video(path).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def folder(path: Path) -> Path:
    path.mkdir()
    return path


GOOD: dict[str, Callable[[Path], Path]] = {
    "plain.mp4": video,
    "with_sound.mp4": lambda path: video(path, audio=tone(1.6)),
    "matroska.mkv": video,
    "web.webm": video,
    "quicktime.mov": video,
    "old.avi": video,
    "no_suffix": lambda path: video(path.with_suffix(".mp4")).rename(path),
    "one_frame.mp4": lambda path: video(path, 1),
    "short.mp4": lambda path: video(path, 5),
    "rotated.mp4": rotated,
    "uneven.mp4": uneven,
    "odd_sizes.mp4": lambda path: video(path, 20, height=97, width=61),
    "fast.mp4": lambda path: video(path, 120, 60.0),
    "tiny.mp4": lambda path: video(path, 20, height=46, width=48),
}
BAD: dict[str, Callable[[Path], Path]] = {
    "missing.mp4": lambda path: path,
    "empty.mp4": written(b""),
    "text.mp4": written(b"this is not a video\n" * 50),
    "noise.mp4": written(np.random.default_rng(0).bytes(5000)),
    "cut.mp4": cut,
    "cut.mkv": cut,
    "cut.avi": cut,
    "picture.mp4": written(b"\x89PNG\r\n\x1a\n" + bytes(200)),
    "folder.mp4": folder,
}
