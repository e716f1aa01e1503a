"""Figures of merit of a classification, all from one confusion matrix, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

__all__ = ["Estimate", "Scores", "bootstrap", "confusion_matrix", "scores"]


class Estimate(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a confusion matrix says; shares lie in [0, 1].

    `uar` and `macro_f1` are means over the classes that occur in the truth; the others are listed in `absent` and have
    recall None (the published code divides by zero there).
    """

    uar: float
    """Unweighted average recall: the mean of the recalls."""
    war: float
    """Weighted average recall: the accuracy."""
    weighted_f1: float
    """F1 averaged by support."""
    macro_f1: float
    """F1 averaged over classes."""
    recall: tuple[float | None, ...]
    """Per class, share of its samples found."""
    precision: tuple[float | None, ...]
    """Per class, share of its predictions that are right; None where it is never predicted."""
    f1: tuple[float | None, ...]
    """Per class, harmonic mean of precision and recall."""
    support: tuple[int, ...]
    """Per class, samples in the truth."""
    absent: tuple[int, ...]
    """Classes without a sample in the truth."""


def confusion_matrix(
    truth: NDArray[np.int64] | Sequence[int], predicted: NDArray[np.int64] | Sequence[int], classes: int
) -> NDArray[np.int64]:
    """Counts (K, K), rows = truth, columns = prediction, from class numbers (N,) and (N,).

    Raises ValueError for unequal lengths and for numbers outside 0 … classes-1.
    """
    t, p = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if t.shape != p.shape or t.ndim != 1:
        raise ValueError(f"truth and predictions must be two lists of one length, not {t.shape} and {p.shape}")
    for name, values in (("truth", t), ("predictions", p)):
        if len(values) and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(f"{name} must lie in 0 … {classes - 1}, but reach from {values.min()} to {values.max()}")
    if not len(t):
        return np.zeros((classes, classes), dtype=np.int64)
    return multiclass_confusion_matrix(torch.from_numpy(p), torch.from_numpy(t), num_classes=classes).numpy()


def scores(confusion: NDArray[np.int64]) -> Scores:
    """All figures of a confusion matrix (K, K), rows = truth. Raises ValueError when it is empty."""
    confusion = np.asarray(confusion)
    if not confusion.sum():
        raise ValueError("no predictions to score: the confusion matrix is empty")
    recall, precision, f1 = _per_class(confusion)
    support = confusion.sum(1)
    present = support > 0
    return Scores(
        **{name: float(value) for name, value in _figures(confusion).items()},
        recall=_optional(recall, present),
        precision=_optional(precision, confusion.sum(0) > 0),
        f1=_optional(f1, present),
        support=tuple(int(n) for n in support),
        absent=tuple(int(k) for k in np.flatnonzero(~present)),
    )


def bootstrap(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    groups: Sequence[str] | NDArray[np.str_] | None,
    classes: int,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """uar, war, weighted_f1 and macro_f1 with percentile intervals under resampling of whole groups.

    Clips of one person resemble each other, so persons are drawn, not clips; with `groups=None` each clip is its own
    group, which makes intervals too narrow where persons recur. A class missing from a drawn sample is left out of that
    sample's means.

    Args:
        truth, predicted: class numbers (N,).
        groups: names (N,) of the persons, sessions or source videos.
        samples: draws. level: share of the draws inside the interval. seed: of the draws.
    """
    truth, predicted = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if not len(truth):
        raise ValueError("no predictions to resample")
    if groups is None:
        # one cell per clip: clips in the same cell are interchangeable
        confusion = confusion_matrix(truth, predicted, classes)
        rows, columns = np.nonzero(confusion)
        kinds = np.zeros((len(rows), classes * classes))
        kinds[np.arange(len(rows)), rows * classes + columns] = 1
        counts = confusion[rows, columns]
    else:
        if len(groups) != len(truth):
            raise ValueError(f"{len(groups)} groups for {len(truth)} predictions")
        _, number = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
        matrices = np.zeros((number.max() + 1, classes * classes))
        np.add.at(matrices, (number, truth * classes + predicted), 1)
        kinds, counts = np.unique(matrices, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=samples)  # (S, kinds)
    figures = _figures((drawn @ kinds).reshape(samples, classes, classes))
    found = _figures((counts @ kinds).reshape(classes, classes))
    tail = 100 * (1 - level) / 2
    return {
        name: Estimate(float(found[name]), *np.percentile(values, [tail, 100 - tail]).tolist())
        for name, values in figures.items()
    }


def _per_class(confusion: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Recall, precision and F1, (..., K) each, from (..., K, K); 0 where they are not defined."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth, claimed = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * hits / np.maximum(truth + claimed, 1)
    return hits / np.maximum(truth, 1), hits / np.maximum(claimed, 1), f1


def _figures(confusion: NDArray) -> dict[str, NDArray]:
    """The four headline figures, (...) each, of matrices (..., K, K)."""
    recall, _, f1 = _per_class(confusion)
    support = confusion.sum(-1)
    total, present = support.sum(-1), support > 0
    return {
        "uar": (recall * present).sum(-1) / present.sum(-1),
        "war": (recall * support).sum(-1) / total,
        "weighted_f1": (f1 * support).sum(-1) / total,
        "macro_f1": (f1 * present).sum(-1) / present.sum(-1),
    }


def _optional(values: NDArray, defined: NDArray) -> tuple[float | None, ...]:
    return tuple(float(v) if ok else None for v, ok in zip(values, defined, strict=True))
