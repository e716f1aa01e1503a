"""From a track to one pose per frame: outliers mended, gaps bridged, smoothed without delay."""

from __future__ import annotations

import numpy as np

from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.crop import pose_of
from hicmae.datasets.faces.tracks import Track

__all__ = ["path_of"]

_GROWTH = 0.0095  # of the logarithm of size, per frame: under 1 %


def path_of(track: Track, times: np.ndarray, config: CropConfig) -> np.ndarray:
    """Poses (F, 4) of all frames from the track's first to its last; `times` (N,) are those of the whole video."""
    found = pose_of(np.stack(track.points).astype(np.float64))
    found[:, 2], found[:, 3] = np.unwrap(found[:, 2]), np.log(np.maximum(found[:, 3], 1.0))
    found = _mended(found)
    clock = times[track.frames[0] : track.frames[-1] + 1]
    whole = np.stack([np.interp(clock, times[track.frames], column) for column in found.T], 1)
    place, size = _smoothed(whole[:, :3], clock, config.smooth), _smoothed(whole[:, 3:], clock, config.steady)
    # rounded, so that a detector's last bits (another processor, say) do not show in the stored bytes
    return np.round(np.concatenate([place, np.exp(_slow(size))], 1), 3)


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
    return (second * products - first * slopes) / (zeroth * second - first**2)


def _slow(logs: np.ndarray) -> np.ndarray:
    """The middle of the tightest band around (F, 1) values that moves by at most `_GROWTH` per frame."""
    ramp = _GROWTH * np.arange(len(logs))[:, None]
    above = np.maximum(
        np.maximum.accumulate(logs + ramp) - ramp, np.maximum.accumulate((logs - ramp)[::-1])[::-1] + ramp
    )
    below = np.minimum(
        np.minimum.accumulate(logs - ramp) + ramp, np.minimum.accumulate((logs + ramp)[::-1])[::-1] - ramp
    )
    return (above + below) / 2
