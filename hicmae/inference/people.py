"""What a model makes of the people in a video: windows of each, and where their faces are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["Averaged", "Boxes", "Person", "WindowPrediction", "mean", "plain", "shortly"]


@dataclass(frozen=True, repr=False)
class WindowPrediction:
    """What a model makes of one stretch of a video."""

    start: float
    """Seconds on the file's clock."""
    end: float
    probabilities: dict[str, float]
    """By label, in the checkpoint's order; they sum to 1, unless the labels are independent of each other. Empty for a
    model that gives numbers alone."""
    values: dict[str, float] = field(default_factory=dict)
    """Numbers by name, as valence, of models that give them."""

    @property
    def label(self) -> str | None:
        """The most probable label; None without any."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)

    def __repr__(self) -> str:
        return f"<{self.start:.2f}-{self.end:.2f} s: {shortly(self.probabilities, self.values, 1)}>"


@dataclass(frozen=True, eq=False, repr=False)
class Boxes:
    """Where the square lies that the model was shown, frame by frame.

    >>> still = Boxes(np.array([0.0]), np.array([[[0, 0], [9, 0], [9, 9], [0, 9]]], np.float32), ((0.0, 2.0),))
    >>> still.at(1.5)[2].tolist(), still.at(2.5)
    ([9.0, 9.0], None)
    """

    times: np.ndarray
    """(F,) seconds on the file's clock, rising; one row stands for all of its stretch where the square stays."""
    corners: np.ndarray
    """(F, 4, 2) float32, x and y in pixels of the picture as shown: upper left, upper right, lower right and lower left
    corner of a square that is levelled by the eyes, so it may be turned and may reach beyond the picture."""
    spans: tuple[tuple[float, float], ...]
    """Stretches of time (start, end) in which the face is there."""

    def at(self, time: float) -> np.ndarray | None:
        """The corners (4, 2) at a moment, between frames interpolated; None where the face is not there."""
        span = next((span for span in self.spans if span[0] <= time < span[1]), None)
        if span is None:
            return None
        place = int(np.searchsorted(self.times, time, "right")) - 1
        here = self.corners[max(place, 0)]
        if not 0 <= place < len(self.times) - 1 or self.times[place + 1] >= span[1]:
            return here
        share = (time - self.times[place]) / (self.times[place + 1] - self.times[place])
        return here + np.float32(share) * (self.corners[place + 1] - here)

    def __repr__(self) -> str:
        return f"<Boxes of {len(self.times)} frames in {len(self.spans)} stretch{'es' * (len(self.spans) != 1)}>"


class Averaged:
    """What windows say as a whole."""

    windows: tuple[WindowPrediction, ...]

    @property
    def probabilities(self) -> dict[str, float]:
        """Mean over the windows, by label in the checkpoint's order."""
        return mean([window.probabilities for window in self.windows])

    @property
    def values(self) -> dict[str, float]:
        """Mean over the windows of the numbers by name."""
        return mean([window.values for window in self.windows])

    @property
    def label(self) -> str | None:
        """The most probable label of all the time; None for a model that gives numbers alone."""
        probabilities = self.probabilities
        return max(probabilities, key=probabilities.__getitem__, default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Person(Averaged):
    """One face that was followed, and what the model makes of it over time.

    A face that comes back within 2 s at its place, in its size and with its looks is the same person. Nothing
    recognises who somebody is: who leaves the picture and returns later, or in another shot, is a new person.
    """

    name: str
    """`person 1`, `person 2`, … in the order in which they appear."""
    windows: tuple[WindowPrediction, ...]
    """In order of time; they overlap, and where the face is not seen there are none."""
    boxes: Boxes
    look: bytes = b""
    """The square as it was cut out, about the middle of the time: a JPEG of at most 128 x 128 pixels."""

    @property
    def seconds(self) -> float:
        """For how long the face is there."""
        return sum(end - start for start, end in self.boxes.spans)

    def at(self, time: float) -> WindowPrediction | None:
        """What is said of a moment: the mean of the windows that contain it; None where there is none."""
        place = bisect_right(self.parts, time, key=lambda part: part.start) - 1
        return self.parts[place] if place >= 0 and time < self.parts[place].end else None

    @cached_property
    def parts(self) -> tuple[WindowPrediction, ...]:
        """The windows as stretches that do not overlap: each the mean of the windows that contain all of it."""
        ends = sorted({moment for window in self.windows for moment in (window.start, window.end)})
        found = []
        waiting, going = list(self.windows[::-1]), list[WindowPrediction]()
        for start, end in pairwise(ends):
            while waiting and waiting[-1].start <= start:
                going.append(waiting.pop())
            going = [window for window in going if window.end > start]
            if going:
                chances = mean([window.probabilities for window in going])
                found.append(WindowPrediction(start, end, chances, mean([window.values for window in going])))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; of the boxes five a second."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            **plain(self),
            "spans": [[round(start, 3), round(end, 3)] for start, end in self.boxes.spans],
            "windows": [
                {"start": round(window.start, 3), "end": round(window.end, 3), **plain(window)}
                for window in self.windows
            ],
            "boxes": [
                {"time": round(float(self.boxes.times[row]), 3), "corners": self.boxes.corners[row].round(1).tolist()}
                for row in _sparse(self.boxes.times)
            ],
        }

    def __repr__(self) -> str:
        told, count = shortly(self.probabilities, self.values, 3), len(self.windows)
        return f"<{self.name}: {told}; {self.seconds:.2f} s in {count} window{'s' * (count != 1)}>"


def mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of named numbers, name by name; every part has the same names."""
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def plain(found: Any) -> dict[str, Any]:
    """What was found of a clip, a person or a window, ready for JSON; what a model does not give is left out."""
    named = {"probabilities": found.probabilities, "values": found.values}
    rounded = {key: {name: round(x, 6) for name, x in part.items()} for key, part in named.items() if part}
    return {"label": found.label, **rounded} if found.probabilities else rounded


def shortly(probabilities: dict[str, float], values: dict[str, float], top: int) -> str:
    """The `top` most probable labels and all numbers, in a few words."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])[:top]
    return ", ".join(
        [*(f"{n} {value:.0%}" for n, value in ranked), *(f"{n} {value:+.2f}" for n, value in values.items())]
    )


def _sparse(times: np.ndarray, every: float = 0.2) -> list[int]:
    """Rows at least so many seconds apart."""
    rows: list[int] = []
    for row, time in enumerate(times):
        if not rows or time - times[rows[-1]] >= every - 1e-6:
            rows.append(row)
    return rows
