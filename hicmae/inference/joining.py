"""Which of the faces that were followed belong to one person: those that come back at once and look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hicmae.inference.people import Boxes, Person, WindowPrediction
from hicmae.inference.windows import Stretch

__all__ = ["people_of"]

_NAMES = {"centre": "centre square", "box": "box", "none": "whole picture"}
_ALIKE = 0.75  # least correlation of two squares, 16 x 16 pixels, of one face; other faces of a clip reach 0.6


def people_of(faces: Sequence[tuple[Stretch, Sequence[WindowPrediction]]], *, gap: float) -> tuple[Person, ...]:
    """Followed faces, in order of time, and their windows -> people in order of appearance.

    A face continues the person who was seen up to `gap` seconds before at its place, in its size and with its looks,
    as after a cut within a take. Of several the most alike is taken.
    """
    people: list[list[tuple[Stretch, Sequence[WindowPrediction]]]] = []
    for face, windows in sorted(faces, key=lambda each: each[0].times[0]):
        fits = [(_likeness(those[-1][0], face, gap), n) for n, those in enumerate(people)]
        best, n = max(fits, default=(0.0, 0))
        if best >= _ALIKE:
            people[n].append((face, windows))
        else:
            people.append([(face, windows)])
    return tuple(_person(n, those) for n, those in enumerate(people, 1))


def _person(number: int, those: Sequence[tuple[Stretch, Sequence[WindowPrediction]]]) -> Person:
    faces = [face for face, _ in those]
    corners = [face.run.corners(len(face.times)) for face in faces]
    times = [np.array(face.times)[: len(rows)] for face, rows in zip(faces, corners, strict=True)]
    spans = tuple((face.times[0], face.end) for face in faces)
    name = _NAMES.get(faces[0].run.kind, f"person {number}")
    windows = tuple(window for _, found in those for window in found)
    longest = max(faces, key=lambda face: len(face.times))
    return Person(name, windows, Boxes(np.concatenate(times), np.concatenate(corners), spans), longest.look)


def _likeness(before: Stretch, after: Stretch, gap: float) -> float:
    """Correlation of the last square of one face with the first of another, 0 where they are not in one place."""
    if not 0 <= after.times[0] - before.times[-1] <= gap or not before.marks or not after.marks:
        return 0.0
    one, two = before.run.corners(len(before.times))[-1], after.run.corners(1)[0]
    sizes = [float(np.linalg.norm(corners[1] - corners[0])) for corners in (one, two)]
    apart = float(np.linalg.norm(one.mean(0) - two.mean(0)))
    if apart > 0.35 * max(sizes) or max(sizes) > 1.5 * min(sizes):
        return 0.0
    last, first = (marks - marks.mean((0, 1)) for marks in (before.marks[1], after.marks[0]))
    strength = float(np.linalg.norm(last) * np.linalg.norm(first))
    return float((last * first).sum()) / strength if strength > 0 else 0.0
