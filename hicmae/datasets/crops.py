"""What is cut out of a video: one run of squares, or one for each face that is followed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hicmae.configs.errors import UserError
from hicmae.datasets.faces.crop import Geometry, cropped, squares, to_crop
from hicmae.datasets.faces.detect import Detector
from hicmae.datasets.media import MediaError, VideoInfo

if TYPE_CHECKING:
    from pathlib import Path as File

    from hicmae.datasets.faces.path import Path
    from hicmae.datasets.strips import ShardConfig

__all__ = ["Run", "crop_detector", "detectors", "preprocessing_crop", "runs_of", "scaled"]

Frames = Callable[[], Iterator[tuple[float, np.ndarray]]]


@dataclass(frozen=True)
class Run:
    """Squares from successive frames of a video, by a box that stays (`box`) or one that follows a face (`path`)."""

    kind: str
    """`centre`, `box`, `none`, `mtcnn` or `boxes`."""
    picture: tuple[int, int]
    """Width and height of the frames."""
    first: int = 0
    """Number of the first frame."""
    end: int | None = None
    """The first frame after; None: to the end of the video."""
    seconds: float | None = None
    """Between these two; None: as long as the video."""
    box: tuple[int, int, int] = (0, 0, 0)
    """Left, top, side."""
    path: Path | None = None
    geometry: Geometry | None = None
    chosen: bool = True
    """Whether the recipe would take it of faces seen at the same time (`crop.several`)."""

    def square(self, pixels: np.ndarray, number: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Frame `number` -> (size, size, 3) uint8, and where the eyes are in it, (2, 2), if it is known."""
        if self.path is None or self.geometry is None:
            left, top, side = self.box
            return np.asarray(scaled(pixels[top : top + side, left : left + side], size)), None
        pose, eyes = self.path.poses[number - self.first], self.path.eyes[number - self.first]
        told = None if np.isnan(eyes).any() else to_crop(eyes, pose, self.geometry, size)
        return cropped(pixels, pose, self.geometry, size), told

    def recipe(self, first: int, end: int) -> dict[str, Any]:
        """What was cut from frames `first` to `end`, for whoever wants to do it again.

        `path` has a row per frame: x and y of the point between the eyes, roll in degrees, width of the crop; pixels
        of the picture. It lies in the middle of the crop, at the height that the index's preprocessing states.
        """
        stated: dict[str, Any] = {"kind": self.kind, "picture": list(self.picture)}
        if self.path is None or self.geometry is None:
            return {**stated, "box": [*self.box, self.box[2]]}
        poses = self.path.poses[first - self.first : end - self.first]
        widths = poses[:, 3] / self.geometry.eye_distance
        rows = np.column_stack([poses[:, :2], np.degrees(poses[:, 2]), widths]).round(2).tolist()
        return {**stated, "path": rows}

    def corners(self, count: int) -> np.ndarray:
        """Where the square lies in the first `count` frames: (F, 4, 2) float32, x and y in pixels of the picture of its
        upper left, upper right, lower right and lower left corner; F is 1 for a box that stays."""
        if self.path is None or self.geometry is None:
            left, top, side = self.box
            ends = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
            return np.array([ends], np.float32)
        return squares(self.path.poses[:count], self.geometry).astype(np.float32)

    def side(self, first: int, end: int) -> int:
        """Typical width of the crop in frames `first` to `end`, in pixels of the picture."""
        if self.path is None or self.geometry is None:
            return self.box[2]
        return round(
            float(np.median(self.path.poses[first - self.first : end - self.first, 3])) / self.geometry.eye_distance
        )


def preprocessing_crop(config: ShardConfig) -> dict[str, Any]:
    """How crops are made, as every index, checkpoint and prediction has it."""
    if config.faces in ("mtcnn", "boxes"):
        return {"kind": config.faces, **config.crop.recipe()}
    return {"kind": "box", "box": list(config.box)} if config.box is not None else {"kind": config.faces}


def runs_of(
    path: File, config: ShardConfig, info: VideoInfo, frames: Frames, *, source: str, everyone: bool = False
) -> list[Run]:
    """What is to be cut from a video, in order of time; faces are followed through all of it first.

    Args:
        frames: gives the video's frames from the beginning, as often as it is called.
        source: the video's path as track files know it.
        everyone: every face that was followed, whatever `config.crop.several` chooses (`Run.chosen` tells).

    Raises:
        MediaError: the box does not lie in the picture, a picture said to be cropped is no square, no face is shown.
        UserError: there is no detector, or there are no track files.
    """
    picture = (info.width, info.height)
    if config.faces in ("mtcnn", "boxes"):
        paths = _followed(path, config, picture, frames, source, everyone)
        geometry = Geometry(config.crop.eye_distance, config.crop.eye_height)
        if paths:
            return [
                Run(config.faces, picture, p.first, p.end, p.seconds, path=p, geometry=geometry, chosen=taken)
                for p, taken in paths
            ]
        if config.crop.missing == "skip":
            where = "in its track files" if config.faces == "boxes" else "by mtcnn"
            remedy = "leave it out, or take its centre square: crop.missing=centre"
            raise MediaError(path, f"shows no face that was found ({where})", remedy)
    side = min(picture)
    if config.box is not None:
        left, top, side, _ = config.box
        if left + side > info.width or top + side > info.height:
            reason = f"is smaller than the box to cut out ({info.width} x {info.height} pixels)"
            raise MediaError(path, reason, "give a box inside the picture, or none")
        return [Run("box", picture, box=(left, top, side))]
    if config.faces == "none" and info.width != info.height:
        reason = f"is not square, as cropped faces are ({info.width} x {info.height} pixels)"
        raise MediaError(path, reason, "crop it: faces=mtcnn or faces=centre")
    kind = "none" if config.faces == "none" else "centre"
    return [Run(kind, picture, box=((info.width - side) // 2, (info.height - side) // 2, side))]


def scaled(pixels: np.ndarray, size: int) -> Image.Image:
    """A square (side, side, 3) uint8 as a picture of `size` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.size == (size, size):
        return picture
    return picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _followed(
    path: File, config: ShardConfig, picture: tuple[int, int], frames: Frames, source: str, everyone: bool
) -> list[tuple[Path, bool]]:
    # imported here because it brings torch
    from hicmae.datasets.faces.boxes import read_tracks, track_files
    from hicmae.datasets.faces.path import paths_of
    from hicmae.datasets.faces.tracks import chosen, find_tracks

    crop, detector = config.crop, None
    if config.faces == "boxes":
        files = track_files(crop.tracks or "", source)
        times = np.array([time for time, _ in frames()])
        try:
            tracks = read_tracks(files, times, picture, crop)
        except UserError as error:
            reason, _, remedy = str(error).replace(f"{crop.tracks}/", "").rpartition("; ")
            raise MediaError(path, f"has a track file that cannot be used ({reason})", remedy) from None
    else:
        first, closer = detectors(crop.smallest, crop.device)
        times, tracks = find_tracks(frames(), first, crop, closer)
        detector = closer if crop.second_pass else None
    taken = chosen(tracks, crop.several)
    tracks = tracks if everyone else taken
    paths = paths_of(tracks, times, crop) if detector is None else paths_of(tracks, times, crop, frames, detector)
    return [(each, any(track is one for one in taken)) for each, track in zip(paths, tracks, strict=True)]


@functools.lru_cache(maxsize=2)
def detectors(smallest: float, device: str) -> tuple[Detector, Detector]:
    """One for whole frames, one for crops that a face fills, where less is enough if need be."""
    from hicmae.datasets.faces.mtcnn import Mtcnn

    return Mtcnn(smallest, device=device), Mtcnn(0.35, retry=0.3, device=device)


@functools.cache
def crop_detector() -> Detector:
    """The one that measures where the eyes lie in crops that were made otherwise.

    Raises:
        UserError: it is not installed.
    """
    from hicmae.datasets.faces.mtcnn import Mtcnn

    return Mtcnn(0.15)
