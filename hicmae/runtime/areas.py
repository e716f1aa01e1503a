"""The area under curves of classification figures, with intervals from the same draws for all levels and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hicmae.runtime.metrics import Estimate, confusion_figures, group_numbers

__all__ = ["FIGURES", "areas"]

FIGURES = ("uar", "war")


def areas(
    truth: NDArray[np.int64],
    guesses: Mapping[str, NDArray[np.int64]],
    x: Sequence[float],
    groups: Sequence[str] | None,
    classes: int,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Mean height of the curves of uar and war over `x` (trapezoids over the length of `x`), by run.

    Returns the areas, name -> figure -> estimate, and how much larger the first run's is than each other's. Intervals
    are percentiles under resampling of whole groups (`groups=None`: of clips), the same resamplings for every level and
    run: what makes all of them lower at once does not widen a difference.

    Args:
        truth: class numbers (N,).
        guesses: run -> class numbers (L, N), one row per level.
        x: places (L,) of the levels, in either direction.
        groups: names (N,) of persons or sessions.
        samples: draws. level: share of the draws inside the interval. seed: of the draws.
    """
    for guess in guesses.values():
        if guess.shape != (len(x), len(truth)) or len(x) < 2:
            raise ValueError(f"{len(x)} levels of {len(truth)} clips need guesses of that shape, not {guess.shape}")
    stacked = np.stack([truth, *(row for guess in guesses.values() for row in guess)])  # (1 + R L, N)
    if groups is None:  # clips with the same truth and guesses are interchangeable
        stacked, counts = np.unique(stacked, axis=1, return_counts=True)
        number = np.arange(stacked.shape[1])
    else:
        number = group_numbers(groups, len(truth))
        counts = np.ones(number.max() + 1, np.int64)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=samples)
    drawn = np.concatenate([counts[None], drawn])  # the clips as they are come first
    heights: dict[str, list[NDArray[np.float64]]] = {figure: [] for figure in FIGURES}
    for guess in stacked[1:]:
        cells = np.zeros((len(counts), classes * classes))
        np.add.at(cells, (number, stacked[0] * classes + guess), 1)
        found = confusion_figures((drawn @ cells).reshape(-1, classes, classes))
        for figure in FIGURES:
            heights[figure].append(found[figure])
    widths = np.abs(np.diff(np.asarray(x, np.float64)))
    means: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in guesses}
    for figure, rows in heights.items():
        for run, name in enumerate(guesses):
            curve = np.stack(rows[run * len(x) : (run + 1) * len(x)])  # (L, S + 1)
            means[name][figure] = ((curve[1:] + curve[:-1]) / 2 * widths[:, None]).sum(0) / widths.sum()
    first, tail = means[next(iter(guesses))], 100 * (1 - level) / 2

    def estimate(values: NDArray[np.float64]) -> Estimate:
        return Estimate(float(values[0]), *np.percentile(values[1:], [tail, 100 - tail]).tolist())

    found_areas = {name: {f: estimate(v) for f, v in own.items()} for name, own in means.items()}
    gaps = {name: {f: estimate(first[f] - v) for f, v in own.items()} for name, own in list(means.items())[1:]}
    return found_areas, gaps
