"""The crop: a square of a frame, levelled and scaled by the eyes, at a fixed place.

A pose is four numbers: x and y of the point between the eyes, the roll of the eye line (radians, positive where the
right end in the picture is the lower one), and the span: the distance of the eyes as seen from the front, in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["Geometry", "cropped", "from_crop", "pose_of", "squares", "to_crop"]

_TALL = 0.75
"""Eye distance over the distance from eyes to mouth below which a face counts as turned aside; 0.75 to 1.1 from the
front, on four people and what MTCNN finds of them."""


@dataclass(frozen=True)
class Geometry:
    """Where the eyes come to lie in a crop."""

    eye_distance: float
    """As a share of the crop's width."""
    eye_height: float
    """Distance of the eye line from the upper edge, as a share of the crop's height."""


def pose_of(points: np.ndarray) -> np.ndarray:
    """Five points (..., 5, 2) -> poses (..., 4).

    The eyes of a face that is turned aside come together, down to one place in profile. There the distance from eyes
    to mouth gives the span, and the line across it the roll.
    """
    eyes = points[..., 1, :] - points[..., 0, :]
    middle = points[..., :2, :].mean(-2)
    down = points[..., 3:, :].mean(-2) - middle
    across = np.stack([down[..., 1], -down[..., 0]], -1)  # `down`, turned to where the eye line points
    distance = np.linalg.norm(eyes, axis=-1)
    span = np.maximum(distance, _TALL * np.linalg.norm(down, axis=-1))
    turned = np.clip(2 - 2 * distance / np.maximum(span, 1e-6), 0, 1)[..., None]  # 1 from half the span on
    line = eyes + turned * across
    return np.stack([middle[..., 0], middle[..., 1], np.arctan2(line[..., 1], line[..., 0]), span], -1)


def cropped(frame: np.ndarray, pose: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """The crop of a frame (H, W, 3) uint8 as (size, size, 3) uint8; black where it reaches beyond the frame."""
    turn, corner = _placed(pose, geometry)
    step = pose[3] / geometry.eye_distance / size  # pixels of the frame per pixel of the crop
    picture, origin, scale = Image.fromarray(np.ascontiguousarray(frame)), np.zeros(2), np.ones(2)
    if step > 1:  # brought to the crop's scale first, without aliasing
        side = step * size
        ends = corner + side * np.array([[0, 0], turn[:, 0], turn[:, 1], turn[:, 0] + turn[:, 1]])
        low = np.clip(np.floor(ends.min(0)) - 2 * step, 0, picture.size).astype(int)
        high = np.clip(np.ceil(ends.max(0)) + 2 * step, 0, picture.size).astype(int)
        if (high <= low).any():
            return np.zeros((size, size, 3), np.uint8)
        small = np.maximum(1, np.round((high - low) / step)).astype(int)
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        wide, tall = int(small[0]), int(small[1])
        picture = picture.resize((wide, tall), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
        origin, scale = low.astype(float), (high - low) / small
    matrix, shift = step * turn / scale[:, None], (corner - origin) / scale
    rows = (matrix[0, 0], matrix[0, 1], shift[0], matrix[1, 0], matrix[1, 1], shift[1])
    return np.asarray(picture.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC))


def to_crop(points: np.ndarray, pose: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """Points (..., 2) of a frame -> where they lie in its crop of `size` pixels."""
    turn, corner = _placed(pose, geometry)
    return (points - corner) @ turn * (size * geometry.eye_distance / pose[3])


def from_crop(points: np.ndarray, pose: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """Points (..., 2) of a crop of `size` pixels -> where they lie in the frame."""
    turn, corner = _placed(pose, geometry)
    return corner + points @ turn.T * (pose[3] / geometry.eye_distance / size)


def squares(poses: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Where the crops of poses (F, 4) lie: (F, 4, 2), the corners from the upper left one on, clockwise."""
    ends = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return np.stack([from_crop(ends, pose, geometry, 1) for pose in poses]) if len(poses) else np.zeros((0, 4, 2))


def _placed(pose: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The crop's axes in the frame as columns (2, 2), and its upper left corner (2,)."""
    x, y, roll, span = pose
    turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    return turn, np.array([x, y]) - span / geometry.eye_distance * turn @ np.array([0.5, geometry.eye_height])
