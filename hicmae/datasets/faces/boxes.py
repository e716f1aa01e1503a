"""Tracks that somebody already has: boxes in csv files, OpenFace's csv files, VoxCeleb's txt files.

* csv: a header with `frame` (from 0) or `time` (seconds), `left`, `top`, `width`, `height` in pixels of the picture as
  shown, and perhaps `person`.
* OpenFace: `frame`, `timestamp`, `success`, `x_0` … `x_67`, `y_0` … `y_67`, and perhaps `face_id`, among others.
* VoxCeleb: lines of names and values, then `FRAME X Y W H` and a row per frame; frames count at 25 per second, the
  rest are shares of the picture's width and height (VoxCeleb2) or pixels (VoxCeleb1).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.tracks import Track

__all__ = ["read_tracks", "track_files"]

_PLAIN = ("left", "top", "width", "height")
_VOXCELEB_FPS = 25.0
_POINTS = np.array([(0.3, 0.385), (0.7, 0.385), (0.5, 0.6), (0.33, 0.76), (0.67, 0.76)])
"""Where eyes, nose and mouth lie in a box from brows to chin: what MTCNN finds on average, made symmetric."""

Row = tuple[float, str, np.ndarray, np.ndarray]  # seconds or frame, person, box (4,), points (5, 2)


def track_files(tracks: str | Path, source: str) -> list[Path]:
    """The files about the video `source` (a relative path): `tracks` itself if it is a file, else those named so."""
    base = Path(tracks)
    if base.is_file():
        return [base]
    if not base.is_dir():
        raise UserError(f"crop.tracks: {tracks} does not exist; name a track file, or a folder of them")
    stem = base / Path(source).with_suffix("")
    single = [path for suffix in (".csv", ".txt") if (path := stem.with_name(stem.name + suffix)).is_file()]
    return single or sorted(path for path in stem.glob("*") if path.suffix in (".csv", ".txt"))


def read_tracks(files: Sequence[Path], times: np.ndarray, picture: tuple[int, int], config: CropConfig) -> list[Track]:
    """The tracks in files about one video, in order of time.

    Args:
        times: (N,) seconds of the video's frames.
        picture: its width and height in pixels.
        config: says after how long without a row a track ends.

    Raises:
        UserError: a file is not of the three forms; the message names file, line and column.
    """
    tracks: list[Track] = []
    for path in files:
        people: dict[str, Track] = {}
        counted, rows = _rows(path, picture)
        rate = _VOXCELEB_FPS if counted == "voxceleb" else None
        for place, person, box, points in sorted(rows, key=lambda row: row[0]):
            if counted == "frame":
                number = round(place)
            else:
                seconds = place / rate + times[0] if rate else place
                number = int(np.abs(times - seconds).argmin())
                if abs(times[number] - seconds) > 0.1:
                    continue
            if not 0 <= number < len(times):
                raise UserError(f"{path}: frame {number} is not in the video, which has {len(times)}; is it another's?")
            track = people.get(person)
            if track is None or times[number] - times[track.frames[-1]] > config.gap + 1e-6:
                track = people[person] = Track(0, len(times))
                tracks.append(track)
            if number not in track.frames[-1:]:
                track.add(number, box, points, 1.0)
    return sorted(tracks, key=lambda track: (track.frames[0], -track.size))


def _rows(path: Path, picture: tuple[int, int]) -> tuple[str, list[Row]]:
    """What the places count (`frame`, `time`, `voxceleb`), and the rows."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); give csv or VoxCeleb's txt") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    heads = [n for n, line in enumerate(lines) if line.split() == ["FRAME", "X", "Y", "W", "H"]]
    if heads:
        cells: list[tuple[int, Mapping[str, str]]] = [
            (n, dict(zip(("frame", *_PLAIN), line.split(), strict=False)))
            for n, line in enumerate(lines[heads[0] + 1 :], heads[0] + 2)
            if line.strip()
        ]
        return "voxceleb", _boxes(path, cells, "frame", picture)
    header = [name.strip() for name in next(csv.reader(lines[:1]), [])]
    cells = [
        (n, dict(zip(header, (cell.strip() for cell in row), strict=False)))
        for n, row in enumerate(csv.reader(lines[1:]), 2)
        if row
    ]
    if {"x_0", "y_67", "timestamp"} <= set(header):
        return "time", _openface(path, cells)
    counted = next((name for name in ("frame", "time") if name in header), None)
    if counted is None or not set(_PLAIN) <= set(header):
        lacking = [name for name in ("frame or time", *_PLAIN) if not set(name.split(" or ")) & set(header)]
        raise UserError(
            f"{path}:1: has no column {', '.join(lacking)} (there are {', '.join(header[:10]) or 'none'}); "
            "give boxes as csv, OpenFace's csv, or VoxCeleb's txt"
        )
    return counted, _boxes(path, cells, counted, None)


def _boxes(
    path: Path, cells: Sequence[tuple[int, Mapping[str, str]]], counted: str, picture: tuple[int, int] | None
) -> list[Row]:
    """Rows of boxes; where `picture` is given, values up to 2 are taken for shares of it."""
    read = [
        (n, row.get("person", ""), [_number(path, n, row, name) for name in (counted, *_PLAIN)]) for n, row in cells
    ]
    shares = picture is not None and all(max(values[1:]) <= 2 for _, _, values in read)
    unit = np.array(picture if shares and picture else (1, 1), np.float64)
    rows = []
    for line, person, (place, left, top, width, height) in read:
        if width <= 0 or height <= 0:
            raise UserError(f"{path}:{line}: the box is {width:g} wide and {height:g} high; both must be positive")
        corner, size = np.array([left, top]) * unit, np.array([width, height]) * unit
        box = np.concatenate([corner, corner + size]).astype(np.float32)
        # the face's proportions are those of a box that is higher than wide, whatever the box's own
        inner = np.minimum(size, size[::-1] * [1 / 1.35, 1.35])
        points = corner + (size - inner) / 2 + _POINTS * inner
        rows.append((place, person, box, points.astype(np.float32)))
    return rows


def _openface(path: Path, cells: Sequence[tuple[int, Mapping[str, str]]]) -> list[Row]:
    rows = []
    for line, row in cells:
        if _number(path, line, row, "success") < 0.5 if "success" in row else False:
            continue
        marks = np.array([[_number(path, line, row, f"{axis}_{k}") for axis in "xy"] for k in range(68)])
        eyes = [marks[36:42].mean(0), marks[42:48].mean(0)]
        points = np.stack([*eyes, marks[30], marks[48], marks[54]]).astype(np.float32)
        box = np.concatenate([marks.min(0), marks.max(0)]).astype(np.float32)
        rows.append((_number(path, line, row, "timestamp"), row.get("face_id", ""), box, points))
    return rows


def _number(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    text = row.get(column, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        said = repr(text) if text else "nothing"
        raise UserError(f"{path}:{line}: column {column} holds {said}, not a number; correct or leave out the line")
    return value
