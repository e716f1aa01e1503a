"""Videos whose frames tell which they are."""

from __future__ import annotations

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
    """`count` frames, 96 x 128 by default, without sound."""
    return write_video(path, (picture(i, height, width) for i in range(count)), fps, **extra)  # type: ignore[arg-type]
