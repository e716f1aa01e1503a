"""Several results as one: totals over folds, and whether two runs on the same clips differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hicmae.runtime.metrics import Estimate, confusion_figures, group_numbers

__all__ = ["Difference", "Total", "compare", "total"]


@dataclass(frozen=True, kw_only=True)
class Total:
    """One figure of several folds."""

    mean: float
    """Plain mean."""
    sd: float | None
    """Standard deviation over the folds (over their number less one); None of a single fold."""
    weighted: float
    """Mean weighted by the clips of each fold. Of the accuracy (WAR), that is the pooled one; where only a table of
    folds is known, it is the nearest to pooling."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first of two runs is in one figure."""

    first: float
    second: float
    difference: Estimate
    """First less second, with the interval of a paired bootstrap over groups."""
    p: float
    """Two-sided p of a permutation test: how often runs whose predictions are exchanged group by group, at random, lie
    at least as far apart."""


def total(values: Sequence[float], clips: Sequence[int]) -> Total:
    """A figure over folds, from its value in each and the clips of each.

    Published totals follow one of three rules: HiCMAE and SVFAP pool predictions, AVF-MAE++ takes the plain mean, and
    of a pooled UAR the table of folds does not tell.
    """
    if len(values) != len(clips) or not len(values):
        raise ValueError(f"{len(values)} figures of {len(clips)} folds")
    array = np.asarray(values, np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else None
    return Total(mean=float(array.mean()), sd=sd, weighted=float(np.average(array, weights=np.asarray(clips))))


def compare(
    truth: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    groups: Sequence[str] | NDArray[np.str_] | None,
    classes: int,
    *,
    samples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """uar, war, weighted_f1 and macro_f1 of two runs on the same clips, and what lies between them.

    Both tests take whole groups (persons), since clips of one person resemble each other; McNemar's test would count
    them as independent. With `groups=None` each clip is its own group.

    Args:
        truth, first, second: class numbers (N,) of the labels and of the predictions of the two runs.
        groups: names (N,) of the persons, sessions or source videos.
        samples: draws of each test. level: share of the draws inside the interval. seed: of the draws.
    """
    t, a, b = (np.asarray(column, dtype=np.int64) for column in (truth, first, second))
    if not (t.shape == a.shape == b.shape) or t.ndim != 1 or not len(t):
        raise ValueError(f"truth and two predictions must be lists of one length, not {t.shape}, {a.shape}, {b.shape}")
    number = group_numbers(groups, len(t)) if groups is not None else np.arange(len(t))
    if groups is None:  # clips with the same truth and predictions are interchangeable
        kinds = np.unique(np.stack([t, a, b]), axis=1, return_inverse=True)
        (t, a, b), counts = kinds[0], np.bincount(kinds[1].reshape(-1))
        number = np.arange(len(t))
    else:
        counts = np.ones(number.max() + 1, np.int64)
    cells = np.zeros((2, len(counts), classes * classes))
    for run, guess in enumerate((a, b)):
        np.add.at(cells[run], (number, t * classes + guess), 1)
    generator = np.random.default_rng(seed)

    def figures(weights: NDArray, run: int) -> dict[str, NDArray]:
        return confusion_figures((weights @ cells[run]).reshape(-1, classes, classes))

    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=samples)
    kept = generator.binomial(counts, 0.5, size=(samples, len(counts)))  # the others are exchanged
    found = [figures(counts[None], run) for run in (0, 1)]
    resampled = [figures(drawn, run) for run in (0, 1)]
    mixed = [kept @ cells[run] + (counts - kept) @ cells[1 - run] for run in (0, 1)]
    exchanged = [confusion_figures(matrix.reshape(-1, classes, classes)) for matrix in mixed]
    tail, result = 100 * (1 - level) / 2, {}
    for name in found[0]:
        one, two = (float(found[run][name][0]) for run in (0, 1))
        low, high = np.percentile(resampled[0][name] - resampled[1][name], [tail, 100 - tail]).tolist()
        chance = np.abs(exchanged[0][name] - exchanged[1][name])
        as_far = int((chance >= abs(one - two) - 1e-12).sum())
        result[name] = Difference(
            first=one, second=two, difference=Estimate(one - two, low, high), p=(as_far + 1) / (samples + 1)
        )
    return result
