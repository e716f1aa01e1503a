"""A second look at faces, on crops that are levelled and scaled by what is known of them already.

What a detector finds depends on how a face is tilted and how large it is; on levelled crops all look alike to it. There
it may also be less sure than in a whole frame: what lies where a face is expected is seldom something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hicmae.datasets.faces.crop import Geometry, cropped, from_crop, pose_of
from hicmae.datasets.faces.detect import Detector

__all__ = ["LOOSE", "SIDE", "looked_at"]

SIDE = 160
"""Pixels of the crops."""
LOOSE = Geometry(0.25, 0.42)
"""Where the eyes are expected."""


def looked_at(
    frames: Sequence[np.ndarray], poses: np.ndarray, detector: Detector, views: Sequence[Geometry] = (LOOSE,)
) -> tuple[np.ndarray, np.ndarray]:
    """Points (B, 5, 2) and highest scores (B,) of the faces that poses (B, 4) are about; NaN where none shows.

    Points are the mean of what is found in each of the `views` and on its mirror image: what leans to one side there
    leans to the other here, and what single looks are off by averages out.
    """
    total, scores = np.zeros((len(frames), 5, 2)), np.full(len(frames), np.nan)
    looks = np.zeros((len(frames), 1, 1))
    for view in views:
        crops = [cropped(frame, pose, view, SIDE) for frame, pose in zip(frames, poses, strict=True)]
        for look, faces in enumerate(detector([*crops, *(crop[:, ::-1] for crop in crops)])):
            mirrored, n = divmod(look, len(crops))
            best = _expected(faces.points, view)
            if best is None:
                continue
            points = faces.points[best].astype(np.float64)
            if mirrored:
                points = np.stack([SIDE - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]
            total[n] += from_crop(points, poses[n], view, SIDE)
            looks[n] += 1
            scores[n] = np.fmax(scores[n], faces.scores[best])
    return np.where(looks > 0, total / np.maximum(looks, 1), np.nan), scores


def _expected(points: np.ndarray, view: Geometry) -> int | None:
    """Which of the faces (n, 5, 2) on a levelled crop is the one it was made for."""
    x, y, roll, span = pose_of(points).T
    aim = SIDE * view.eye_distance
    off = np.hypot(x - SIDE / 2, y - SIDE * view.eye_height) / aim
    off[(np.abs(roll) > 0.6) | (span < 0.6 * aim) | (span > 1.6 * aim)] = np.inf
    return int(off.argmin()) if len(off) and off.min() < 0.7 else None
