"""How faces are found, followed and cut out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CropConfig"]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The crop by faces; only eye_distance, eye_height and the treatment of several and of missing faces are tastes."""

    eye_distance: float = 0.28
    """Distance of the eyes, seen from the front, as a share of the crop's width; smaller leaves more margin."""
    eye_height: float = 0.4
    """Distance of the eye line from the crop's upper edge, as a share of its height."""
    several: Literal["largest", "longest", "all"] = "largest"
    """Of faces seen at the same time: the largest, the one followed longest, or all as samples of their own."""
    missing: Literal["skip", "centre"] = "skip"
    """A video without a face is skipped and listed, or cut to its centre square."""
    smallest: float = 0.05
    """Height of the smallest face looked for, as a share of the picture's shorter side (never under 20 pixels)."""
    every: int = 2
    """The whole of every n-th frame is searched; between them a face is only looked for where it must be."""
    second_pass: bool = True
    """Look for the eyes again on the levelled crop: more exact, above all where a face is tilted."""
    shortest: float = 0.5
    """Seconds for which a face must be followed, unless its shot is as short."""
    gap: float = 2.0
    """Seconds for which a face may be lost (turned away, covered) within a shot and still be the same, if it comes back
    near its place in about its size; its path is drawn straight from one side to the other."""
    hold: float = 0.2
    """Seconds before a face is first found, and after it is lost for good, for which the crop stays at its place."""
    smooth: float = 0.025
    """Seconds (standard deviation) over which place and roll are smoothed."""
    steady: float = 0.4
    """Seconds (standard deviation) over which size is smoothed; it changes by at most 1 % from frame to frame."""
    tracks: str | None = None
    """For boxes: a track file, or a folder with `A.csv`, `A.txt` or a folder `A` of such files for each video `A.mp4`,
    in sub-folders like the videos'. Read are csv files with the columns frame (from 0) or time, left, top, width,
    height in pixels and perhaps person; those of OpenFace; and the txt files of VoxCeleb."""
    device: str = "cpu"
    """Where the detector runs: cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        checks = {
            "eye_distance": (0.05 <= self.eye_distance <= 0.8, "lie in 0.05 … 0.8"),
            "eye_height": (0 < self.eye_height < 1, "lie between 0 and 1"),
            "smallest": (0 < self.smallest <= 1, "lie between 0 and 1"),
            "every": (self.every >= 1, "be at least 1"),
            "shortest": (self.shortest >= 0, "not be negative"),
            "gap": (self.gap >= 0, "not be negative"),
            "hold": (self.hold >= 0, "not be negative"),
            "smooth": (self.smooth >= 0, "not be negative"),
            "steady": (self.steady >= 0, "not be negative"),
            "several": (self.several in ("largest", "longest", "all"), "be largest, longest or all"),
            "missing": (self.missing in ("skip", "centre"), "be skip or centre"),
        }
        for name, (good, rule) in checks.items():
            if not good:
                raise ValueError(f"crop.{name} must {rule}, not {getattr(self, name)!r}")

    def recipe(self) -> dict[str, Any]:
        """What decides how crops look, as plain values; not where it was computed."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("tracks", "device")}
