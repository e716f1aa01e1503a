"""A real face without a download, put into scenes of one's choice."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from hicmae.datasets.faces.crop import Geometry, from_crop, to_crop

__all__ = ["EYES", "Place", "agreement", "astronaut", "back", "scene", "sway"]

EYES = np.array([[203.5, 101.0], [247.0, 103.0]])
"""Where the astronaut's are, to 3 pixels."""

Place = tuple[float, float, float, float]
"""x and y of the point between the eyes, scale, degrees clockwise."""


@functools.cache
def astronaut() -> np.ndarray:
    import skimage.data

    return skimage.data.astronaut()


@functools.cache
def _head() -> tuple[Image.Image, Image.Image]:
    """The head and shoulders, and a mask with soft edges that leaves the rocket and the flag out."""
    rows, columns = np.mgrid[:512, :512]
    inside = 1.15 - np.hypot((columns - 225) / 105, (rows - 110) / 125)
    return Image.fromarray(astronaut()), Image.fromarray((255 * np.clip(8 * inside, 0, 1)).astype(np.uint8))


def scene(places: Sequence[Place], width: int = 320, height: int = 240, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: the head at each of the places, before a blurred coloured ground."""
    ground = np.random.default_rng(seed).integers(40, 200, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)
    for place in places:
        matrix, shift = _map(place)
        step = 1 / place[2]
        head, mask = _head()
        if step > 1:  # antialiased
            size = round(512 / step)
            head, mask = head.resize((size, size)), mask.resize((size, size))
            matrix = matrix * (512 / size)
        inverse = np.linalg.inv(matrix)
        rows = np.column_stack([inverse, -inverse @ shift]).ravel().tolist()
        head, mask = (each.transform(picture.size, Image.Transform.AFFINE, rows, 2) for each in (head, mask))
        picture.paste(head, (0, 0), mask)
    return np.asarray(picture)


def sway(frames: int, place: Place, by: float = 20.0) -> Callable[[int], Place]:
    """A head that moves around a place by so many pixels, and leans by 3 degrees, once in `frames`."""
    x, y, scale, degrees = place

    def at(n: int) -> Place:
        turn = 2 * math.pi * n / frames
        return x + by * math.sin(turn), y + by / 2 * math.cos(turn), scale, degrees + 3 * math.sin(turn)

    return at


def back(points: np.ndarray, place: Place) -> np.ndarray:
    """Points of a scene -> of the astronaut's picture."""
    matrix, shift = _map(place)
    return (points - shift) @ np.linalg.inv(matrix).T


def agreement(pose: np.ndarray, place: Place, other: np.ndarray, there: Place, geometry: Geometry) -> float:
    """How far two crops differ in what they show at their worst corner, in pixels of a crop of 160."""
    corners = np.array([[0, 0], [160, 0], [0, 160], [160, 160]], np.float64)
    matrix, shift = _map(there)
    same = back(from_crop(corners, pose, geometry, 160), place) @ matrix.T + shift
    return float(np.linalg.norm(to_crop(same, other, geometry, 160) - corners, axis=1).max())


def _map(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """scene = matrix @ picture + shift."""
    x, y, scale, degrees = place
    turn = math.radians(degrees)
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return matrix, np.array([x, y]) - matrix @ EYES.mean(0)
