"""From tracks to one pose per frame: looked at again on levelled crops, outliers mended, gaps bridged, smoothed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.crop import Geometry, pose_of
from hicmae.datasets.faces.detect import Detector
from hicmae.datasets.faces.levelled import LOOSE, looked_at
from hicmae.datasets.faces.tracks import Track

__all__ = ["Path", "paths_of"]

_REACH = 1.0  # seconds to either side
_GROWTH = 0.0095  # of the logarithm of size, per frame: under 1 %
# what is looked at in each round of the second pass; the last one says where the eyes are
_ROUNDS = ((LOOSE,), (LOOSE, Geometry(0.29, 0.44), Geometry(0.22, 0.4)))
_BATCH = 8  # crops at a time; fixed, so that results do not depend on who asks


@dataclass(frozen=True)
class Path:
    """Where a face is in each of F successive frames."""

    first: int
    """Number of the first of them in the video."""
    poses: np.ndarray
    """(F, 4), smooth; as in `crop`."""
    eyes: np.ndarray
    """(F, 2, 2), the eyes as found, left in the picture first; NaN where they were not."""
    seconds: float
    """From the first of the frames to the last."""

    @property
    def end(self) -> int:
        """The first frame after."""
        return self.first + len(self.poses)


def paths_of(
    tracks: Sequence[Track],
    times: np.ndarray,
    config: CropConfig,
    frames: Callable[[], Iterable[tuple[float, np.ndarray]]] = tuple,
    detector: Detector | None = None,
) -> list[Path]:
    """One path per track; `times` (N,) are those of all frames.

    With `detector` the eyes are looked for anew on levelled crops of `frames()`, the same video once more. These crops
    are placed by what the neighbourhood in time says, so that single frames gone wrong do no harm.
    """
    firsts, rough, points = [], [], []
    for track in tracks:
        # frames that were not searched: the face may be there already, or still
        beyond = config.every - 1 if detector is not None else 0
        held = np.searchsorted(
            times, times[[track.frames[0], track.frames[-1]]] + [-track.hold - 1e-6, track.hold + 1e-6]
        )
        first = max(track.shot, min(int(held[0]), track.frames[0] - beyond))
        end = min(track.end, max(int(held[1]), track.frames[-1] + beyond + 1))
        firsts.append(first)
        rough.append(_rough(track, times, first, end))
        points.append(np.full((end - first, 5, 2), np.nan))
        if detector is None:
            points[-1][np.array(track.frames) - first] = np.stack(track.points)
    if detector is not None:
        places = _places(frames(), firsts, [len(poses) for poses in rough]) if tracks else iter(())
        while batch := list(islice(places, _BATCH)):
            poses = np.stack([rough[n][place] for n, place, _ in batch])
            for views in _ROUNDS:
                found, _ = looked_at([frame for *_, frame in batch], poses, detector, views)
                poses = np.where(np.isnan(found[:, 0, :1]), poses, pose_of(found))
                for (n, place, _), here in zip(batch, found, strict=True):
                    points[n][place] = np.where(np.isnan(here), points[n][place], here)
    return [_path(*each, times, config) for each in zip(firsts, rough, points, strict=True)]


def _rough(track: Track, times: np.ndarray, first: int, end: int) -> np.ndarray:
    """Poses (F, 4) of frames `first` to `end`: roll and size are medians over 2 s, place is followed closely."""
    found, clock = pose_of(np.stack(track.points).astype(np.float64)), times[track.frames]
    near = [_around(clock, time, _REACH) for time in clock]
    close = [slice(max(0, k - 1), k + 2) for k in range(len(clock))]
    usual = [np.r_[np.median(found[c, :2], 0), np.median(found[n, 2:], 0)] for c, n in zip(close, near, strict=True)]
    return np.stack([np.interp(times[first:end], clock, column) for column in np.stack(usual).T], 1)


def _around(clock: np.ndarray, time: float, reach: float) -> slice:
    return slice(int(np.searchsorted(clock, time - reach)), int(np.searchsorted(clock, time + reach, "right")))


def _places(
    frames: Iterable[tuple[float, np.ndarray]], firsts: Sequence[int], lengths: Sequence[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Number of the path, place in it, and frame, for all frames of all paths."""
    waiting, going = sorted(range(len(firsts)), key=lambda n: -firsts[n]), list[int]()
    for number, (_, frame) in enumerate(frames):
        while waiting and firsts[waiting[-1]] <= number:
            going.append(waiting.pop())
        going = [n for n in going if number < firsts[n] + lengths[n]]
        for n in going:
            yield n, number - firsts[n], frame


def _path(first: int, rough: np.ndarray, points: np.ndarray, times: np.ndarray, config: CropConfig) -> Path:
    """The smooth path from what was found; where nothing was, it keeps its distance from the rough one."""
    clock, known = times[first : first + len(rough)], ~np.isnan(points[:, 0, 0])
    rough = np.column_stack([rough[:, :3], np.log(np.maximum(rough[:, 3], 1.0))])
    whole = rough.copy()
    if known.any():
        found = pose_of(points[known])
        found[:, 3] = np.log(np.maximum(found[:, 3], 1.0))
        off = _mended(found) - rough[known]
        whole += np.stack([np.interp(clock, clock[known], column) for column in off.T], 1)
    place, size = _smoothed(whole[:, :3], clock, config.smooth), _smoothed(whole[:, 3:], clock, config.steady)
    # rounded, so that a detector's last bits (another processor, say) seldom show in the stored bytes
    poses = np.round(np.concatenate([place, np.exp(_slow(size))], 1), 3)
    seconds = float(clock[-1] - clock[0]) * len(clock) / max(1, len(clock) - 1)  # the last frame is shown as well
    return Path(first, poses, points[:, :2], seconds)


def _mended(poses: np.ndarray) -> np.ndarray:
    """Poses (F, 4), size as logarithm, where any far from its neighbours is replaced by their median."""
    padded = np.pad(poses, ((2, 2), (0, 0)), "edge")
    usual = np.median(np.stack([padded[k : k + len(poses)] for k in range(5)]), 0)
    off = np.abs(poses - usual)
    wrong = (off[:, :2].max(1) > 0.35 * np.exp(usual[:, 3])) | (off[:, 2] > 0.3) | (off[:, 3] > 0.3)
    return np.where(wrong[:, None], usual, poses)


def _smoothed(values: np.ndarray, times: np.ndarray, width: float) -> np.ndarray:
    """Local lines through (F, C) values, weighted by a Gaussian in time: a steady motion stays as it is."""
    count = len(times)
    if width <= 0 or count < 3:
        return values
    here = np.arange(count)
    reach = int((np.searchsorted(times, times + 3 * width, "right") - here).max())
    weights, products, slopes = np.zeros((3, count)), np.zeros_like(values), np.zeros_like(values)
    for step in range(-reach, reach + 1):
        there = np.clip(here + step, 0, count - 1)
        offsets = times[there] - times
        weight = np.exp(-0.5 * (offsets / width) ** 2) * (there == here + step)
        weights += weight * np.stack([np.ones(count), offsets, offsets**2])
        products += weight[:, None] * values[there]
        slopes += (weight * offsets)[:, None] * values[there]
    zeroth, first, second = weights[:, :, None]
    spread = zeroth * second - first**2
    # a frame far from all others keeps its own value
    return np.where(spread > 1e-12, (second * products - first * slopes) / np.maximum(spread, 1e-12), values)


def _slow(logs: np.ndarray) -> np.ndarray:
    """The middle of the tightest band around (F, 1) values that moves by at most `_GROWTH` per frame."""
    ramp = _GROWTH * np.arange(len(logs))[:, None]
    ahead, behind = np.maximum.accumulate(logs + ramp) - ramp, np.maximum.accumulate((logs - ramp)[::-1])[::-1] + ramp
    above = np.maximum(ahead, behind)
    ahead, behind = np.minimum.accumulate(logs - ramp) + ramp, np.minimum.accumulate((logs + ramp)[::-1])[::-1] - ramp
    return (above + np.minimum(ahead, behind)) / 2
