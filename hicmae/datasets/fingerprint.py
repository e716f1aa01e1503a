"""Data measured, so that clips made elsewhere can be compared with those a model was trained on.

How faces were cropped is seldom written down and decides what a model is worth. What can be measured on a finished clip
tells most of it: where the eyes lie and how level, how sharp the picture is, how fast the frames follow, how loud the
sound is. A corpus is summed up by median and 5-95 % of its samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hicmae.configs.errors import UserError

if TYPE_CHECKING:
    from hicmae.datasets.faces.detect import Detector, Faces

__all__ = ["QUANTITIES", "Fingerprint", "Gauge", "Quantity", "differences", "matching", "rows", "sum_up"]

Fingerprint = Mapping[str, Sequence[float] | None]
"""Name of each quantity -> [5 %, median, 95 %] over the samples; None where it is not known of any."""

EYES = ("eye_distance", "eye_height", "roll")
MOST = 8  # frames of a clip that are measured
SCALE = 160  # pixels of the picture whose sharpness is measured: what most models see


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of every sample."""

    words: str
    unit: str
    slack: float
    """How far outside the 5-95 % of other data a median may lie before it is named: what no model notices."""
    less: str
    """What a smaller value means."""
    more: str
    digits: int = 1

    def show(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{self.digits}f}{self.unit}"


QUANTITIES = {
    "eye_distance": Quantity(
        "eye distance / crop width", "", 0.02, "faces are smaller in the crop", "faces are larger in the crop", 3
    ),
    "eye_height": Quantity(
        "eye line / crop height", "", 0.02, "faces lie higher in the crop", "faces lie lower in the crop", 3
    ),
    "roll": Quantity("roll of the eye line", "°", 3.0, "faces lean to the right side", "faces lean to the left side"),
    "sharpness": Quantity("sharpness", " dB", 3.0, "pictures are more blurred", "pictures are sharper or noisier"),
    "fps": Quantity("frame rate", " fps", 1.0, "the same frames span more time", "the same frames span less time"),
    "loudness": Quantity("loudness", " dBFS", 3.0, "sound is quieter", "sound is louder"),
}
"""eye_distance, eye_height: shares of the crop's width and height, from its upper edge. roll: degrees, positive where
the right eye in the picture is the lower one. sharpness: power of the Laplacian over the variance of grey levels, at
160 x 160 pixels. fps: frames per second. loudness: root mean square of the sound below full scale, silence left out."""


class Gauge:
    """Measures one sample while its frames pass by; no more than eight of them are kept and looked at.

    `detector` finds the eyes where `look` is not told them; without either nothing is known of them.
    """

    def __init__(self, detector: Detector | None = None) -> None:
        self.detector = detector
        self._kept: list[tuple[np.ndarray, np.ndarray | None]] = []
        self._seen, self._step = 0, 1

    def look(self, crop: np.ndarray, eyes: np.ndarray | None = None) -> None:
        """The next frame, (size, size, 3) uint8; `eyes` (2, 2) are x and y of the left and the right in its pixels."""
        if self._seen % self._step == 0:
            self._kept.append((crop, eyes))
            if len(self._kept) > MOST:  # every other one, as if the step had been twice as long from the beginning
                self._kept, self._step = self._kept[::2], 2 * self._step
        self._seen += 1

    def measures(self, sound: np.ndarray | None = None) -> dict[str, float]:
        """What is known of the sample; medians over its frames. `sound` is (S,) float32 in [-1, 1)."""
        crops = [crop for crop, _ in self._kept]
        eyes = [told for _, told in self._kept if told is not None]
        if not eyes and self.detector is not None and crops:
            eyes = [_eyes(found) for found in self.detector(crops) if len(found)]
        values: dict[str, float] = {}
        if eyes:
            height, width = crops[0].shape[:2]
            across = np.array([right - left for left, right in eyes])
            values["eye_distance"] = float(np.median(np.linalg.norm(across, axis=1))) / width
            values["eye_height"] = float(np.median([pair[:, 1].mean() for pair in eyes])) / height
            values["roll"] = float(np.median(np.degrees(np.arctan2(across[:, 1], across[:, 0]))))
        sharp = [value for crop in crops if (value := _sharpness(crop)) is not None]
        if sharp:
            values["sharpness"] = float(np.median(sharp))
        power = float(np.mean(np.square(sound, dtype=np.float64))) if sound is not None and len(sound) else 0.0
        if power > 1e-8:  # the silent samples' -80 dB
            values["loudness"] = 10 * float(np.log10(power))
        # rounded, so that another processor's last bits do not show
        return {
            name: round(value, 3 if name in ("sharpness", "loudness", "roll") else 4) for name, value in values.items()
        }


def _eyes(faces: Faces) -> np.ndarray:
    """(2, 2) of the largest face."""
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    return faces.points[sides.prod(1).argmax(), :2]


def _sharpness(crop: np.ndarray) -> float | None:
    """In dB; None of a picture without structure."""
    picture = Image.fromarray(crop).convert("L").resize((SCALE, SCALE), Image.Resampling.BILINEAR)
    grey = np.asarray(picture, np.float32)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    variance, power = float(grey.var(dtype=np.float64)), float(np.square(edges).mean(dtype=np.float64))
    return 10 * float(np.log10(power / variance)) if variance > 1 and power > 0 else None


def sum_up(columns: Mapping[str, np.ndarray]) -> dict[str, list[float] | None]:
    """Name -> (N,) values, NaN where not known, as a fingerprint; names that are no quantity are left out."""
    found: dict[str, list[float] | None] = {}
    for name in QUANTITIES:
        values = np.asarray(columns.get(name, ()), float)
        values = values[np.isfinite(values)]
        found[name] = [round(float(x), 4) for x in np.percentile(values, (5, 50, 95))] if len(values) else None
    return found


def differences(here: Fingerprint, there: Fingerprint) -> list[str]:
    """The quantities whose median here lies outside the 5-95 % there by more than the quantity's slack, in words.

    What is not known of either side is not compared.
    """
    told = []
    for name, quantity in QUANTITIES.items():
        mine, theirs = here.get(name), there.get(name)
        if not mine or not theirs:
            continue
        (_, middle, _), (low, _, high) = mine, theirs
        if low - quantity.slack <= middle <= high + quantity.slack:
            continue
        meaning = quantity.less if middle < low else quantity.more
        span = " to ".join(dict.fromkeys((quantity.show(low), quantity.show(high))))
        told.append(f"{quantity.words} {quantity.show(middle)} here, {span} there ({meaning})")
    return told


def rows(**sides: Fingerprint) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: a quantity per row; median and, in brackets, 5-95 % of each side in the columns."""

    def cell(quantity: Quantity, values: Sequence[float] | None) -> str:
        if not values:
            return "–"
        low, middle, high = (f"{value:.{quantity.digits}f}" for value in values)
        return f"{middle}{quantity.unit} ({low} to {high})"

    lines = [[q.words, *(cell(q, side.get(name)) for side in sides.values())] for name, q in QUANTITIES.items()]
    return ["median (5 to 95 %)", *sides], lines


def matching(here: Fingerprint, there: Fingerprint, crop: Mapping[str, Any]) -> str:
    """The options of `hicmae shard` that put the eyes where they are in the other data.

    `crop` is the recipe that these shards were made by. A box is moved and scaled; any other crop is replaced by one
    that follows the faces.

    Raises:
        UserError: the eyes of one side are not known.
    """
    for side, whose in ((here, "these shards"), (there, "the data to be matched")):
        if not side.get("eye_distance") or not side.get("eye_height"):
            raise UserError(
                f"the eyes of {whose} were not measured, and without them no crop can be matched; they are where a "
                'face detector is installed: pip install "hicmae[face]"'
            )
    (mine, height), (wanted, level) = (
        [float(side[name][1]) for name in ("eye_distance", "eye_height")]  # type: ignore[index]
        for side in (here, there)
    )
    if crop["kind"] == "box":
        left, top, side, _ = crop["box"]
        new = round(side * mine / wanted)
        box = (left + (side - new) // 2, round(top + height * side - level * new), new, new)
        return f"--box [{','.join(map(str, box))}]"
    # what is asked for and what is measured differ a little, by the same here and there
    distance, place = crop.get("eye_distance", mine), crop.get("eye_height", height)
    kind = crop["kind"] if "eye_distance" in crop else "mtcnn"
    options = f"--crop.eye_distance {distance * wanted / mine:.3f} --crop.eye_height {place + level - height:.3f}"
    return f"--faces {kind} {options}"
