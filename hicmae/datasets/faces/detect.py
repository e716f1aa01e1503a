"""What a face detector gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Detector", "Faces"]


@dataclass(frozen=True)
class Faces:
    """The n faces found in one frame."""

    boxes: np.ndarray
    """(n, 4) float32: left, top, right, bottom in pixels of the frame."""
    points: np.ndarray
    """(n, 5, 2) float32, x and y: the eyes, the nose, the corners of the mouth; what is left in the picture first."""
    scores: np.ndarray
    """(n,) float32 in [0, 1]."""

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Anything that finds faces."""

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        """Frames, each (H, W, 3) uint8 RGB, of one size -> what is found in each."""
        ...
