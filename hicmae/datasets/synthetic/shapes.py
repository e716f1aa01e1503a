"""Anti-aliased shapes on a stack of frames: signed distances to coverage, vectorised over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "Canvas", "Pose", "Window", "column", "ellipse", "rounded_box", "smoothstep", "stroke"]

Array = NDArray[np.floating[Any]]


def column(values: ArrayLike) -> Array:
    """Values per frame as (T, 1, 1), to be combined with pixel grids (T, h, w)."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a head is, per frame: centre in the picture ([-1, 1] across), size of one face unit, and rotation.

    Shapes:
        x, y, roll, yaw, nod: (T,); roll in radians, yaw and nod in face units of parallax at depth 1
    """

    x: Array
    y: Array
    roll: Array
    yaw: Array
    nod: Array
    unit: float


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas with the face coordinates of its pixels, u to the right and v downwards (T, h, w)."""

    where: tuple[slice, slice]
    u: Array
    v: Array


class Canvas:
    """Frames (3, T, H, W) painted on in face coordinates: origin between nose and eyes, chin at v = 1.

    Coverage is a signed distance in pixels clipped to one pixel: smooth edges without supersampling.
    """

    def __init__(self, background: Array, pose: Pose) -> None:
        """`background` (3, T, H, W) in [0, 1] is painted over in place."""
        self.rgb = background
        self.pose = pose
        _, self.frames, self.size, _ = background.shape
        self.pixels = pose.unit * self.size / 2  # per face unit
        axis = (np.arange(self.size, dtype=np.float32) + 0.5) * (2 / self.size) - 1
        x = (axis[None, None, :] - column(pose.x)) / pose.unit
        y = (axis[None, :, None] - column(pose.y)) / pose.unit
        cos, sin = column(np.cos(pose.roll)), column(np.sin(pose.roll))
        self.u: Array = cos * x + sin * y
        self.v: Array = cos * y - sin * x

    def window(self, left: float, top: float, right: float, bottom: float, depth: float = 0.0) -> Window:
        """The pixels that this rectangle of face coordinates covers in any frame.

        `depth` moves the shape with yaw and nod: 1 at the tip of the nose, 0 at the outline, negative behind it.
        """
        pose, margin = self.pose, 1.5 / self.pixels
        xs, ys = [], []
        for u in (left - margin, right + margin):
            for v in (top - margin, bottom + margin):
                u_moved, v_moved = u + depth * pose.yaw, v + depth * pose.nod
                xs.append(pose.x + pose.unit * (np.cos(pose.roll) * u_moved - np.sin(pose.roll) * v_moved))
                ys.append(pose.y + pose.unit * (np.sin(pose.roll) * u_moved + np.cos(pose.roll) * v_moved))
        spans = []
        for values in (ys, xs):
            low, high = (float(np.min(values)) + 1) / 2 * self.size, (float(np.max(values)) + 1) / 2 * self.size
            start = min(max(int(np.floor(low)), 0), self.size - 1)
            spans.append(slice(start, max(min(int(np.ceil(high)), self.size), start + 1)))
        where = (spans[0], spans[1])
        u_grid, v_grid = self.u[:, where[0], where[1]], self.v[:, where[0], where[1]]
        if depth:
            u_grid, v_grid = u_grid - column(depth * pose.yaw), v_grid - column(depth * pose.nod)
        return Window(where, u_grid, v_grid)

    def cover(self, distance: Array, soft: float = 1.0) -> Array:
        """Coverage in [0, 1] of a signed distance in face units (negative inside); the edge is `soft` pixels wide."""
        return np.clip(0.5 - distance * (self.pixels / soft), 0, 1)

    def paint(self, window: Window, alpha: Array, colour: ArrayLike) -> None:
        """Blend `colour`, (3,) or (3, T|1, h, w), over the window with `alpha` (T, h, w)."""
        paint = np.asarray(colour, np.float32)
        paint = paint.reshape(3, 1, 1, 1) if paint.ndim == 1 else paint
        target = self.rgb[:, :, window.where[0], window.where[1]]
        target += alpha * (paint - target)


def smoothstep(value: Array) -> Array:
    """0 below 0, 1 above 1, smooth between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def ellipse(u: Array, v: Array, width: ArrayLike, height: ArrayLike) -> Array:
    """Signed distance (first order) to the ellipse of these half-axes around the origin."""
    a, b = np.asarray(width, np.float32), np.asarray(height, np.float32)
    q = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
    return (q - 1) * q / (np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + 1e-6)


def rounded_box(u: Array, v: Array, width: float, height: float, radius: float) -> Array:
    """Signed distance to a box of these half-sizes with rounded corners."""
    x, y = np.abs(u) - (width - radius), np.abs(v) - (height - radius)
    return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - radius


def stroke(u: Array, v: Array, curve: Array, width: ArrayLike, thickness: ArrayLike) -> Array:
    """Signed distance to a line along v = curve(u) for |u| < width, `thickness` being half of it."""
    return np.maximum(np.abs(v - curve) - np.asarray(thickness, np.float32), np.abs(u) - np.asarray(width, np.float32))
