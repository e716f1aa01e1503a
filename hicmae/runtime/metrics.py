"""Figures of merit of classes, all from one confusion matrix, and of numbers, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

__all__ = [
    "Estimate",
    "Regression",
    "Scores",
    "bootstrap",
    "bootstrap_mer_multi",
    "bootstrap_regression",
    "confusion_figures",
    "confusion_matrix",
    "group_numbers",
    "mer_multi",
    "regression",
    "scores",
]


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


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How far D predicted values lie from the truth; each figure is D numbers, one per value."""

    mae: tuple[float, ...]
    """Mean absolute error."""
    acc: tuple[float, ...]
    """1 - MAE (ChaLearn; for values in [0, 1])."""
    mse: tuple[float, ...]
    """Mean squared error."""
    rmse: tuple[float, ...]
    """Its root."""
    pcc: tuple[float, ...]
    """Pearson's correlation coefficient; 0 where truth or prediction is constant."""
    ccc: tuple[float, ...]
    """Lin's concordance correlation coefficient with moments over N (ddof 0); 0 likewise."""
    ccc_unbiased: tuple[float, ...]
    """The same with variances and covariance over N - 1 (ddof 1), as the published evaluation of Werewolf-XL has it."""
    notes: tuple[str, ...]
    """Values whose correlations are not defined, and why."""

    @property
    def mean(self) -> dict[str, float]:
        """Every figure averaged over the values."""
        return {name: float(np.mean(getattr(self, name))) for name in _REGRESSION}


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
        **{name: float(value) for name, value in confusion_figures(confusion).items()},
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
        number = group_numbers(groups, len(truth))
        matrices = np.zeros((number.max() + 1, classes * classes))
        np.add.at(matrices, (number, truth * classes + predicted), 1)
        kinds, counts = np.unique(matrices, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=samples)  # (S, kinds)
    figures = confusion_figures((drawn @ kinds).reshape(samples, classes, classes))
    found = confusion_figures((counts @ kinds).reshape(classes, classes))
    tail = 100 * (1 - level) / 2
    return {
        name: Estimate(float(found[name]), *np.percentile(values, [tail, 100 - tail]).tolist())
        for name, values in figures.items()
    }


def regression(
    truth: NDArray[np.floating], predicted: NDArray[np.floating], names: Sequence[str] | None = None
) -> Regression:
    """Figures of N predictions of D values, from (N, D) and (N, D), or (N,) and (N,) for one value.

    Raises ValueError for other shapes, for no predictions and for numbers that are not finite. `names` (D,) are used in
    the notes.
    """
    t, p = _values(truth, predicted)
    figures = {name: tuple(values.tolist()) for name, values in _distances(_moments(t, p).sum(0), _shift(t, p)).items()}
    notes = []
    for d, name in enumerate(names or [f"value {d + 1}" for d in range(t.shape[1])]):
        flat = [word for word, column in (("truth", t[:, d]), ("prediction", p[:, d])) if np.ptp(column) == 0]
        if flat:
            why = "there is one sample" if len(t) == 1 else f"no variation in its {' and '.join(flat)}"
            notes.append(f"{name}: {why}, so that PCC and CCC are not defined; they are given as 0.")
    return Regression(**figures, notes=tuple(notes))


def bootstrap_regression(
    truth: NDArray[np.floating],
    predicted: NDArray[np.floating],
    groups: Sequence[str] | NDArray[np.str_] | None,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures of `Regression.mean` with percentile intervals under resampling of whole groups, as `bootstrap`."""
    t, p = _values(truth, predicted)
    moments = _moments(t, p)
    if groups is not None:  # the figures of any resampling follow from sums over its groups
        number = group_numbers(groups, len(t))
        sums = np.zeros((number.max() + 1, *moments.shape[1:]))
        np.add.at(sums, number, moments)
        moments = sums
    shift, drawn = _shift(t, p), np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in _REGRESSION}
    for _ in range(samples):
        picked = np.bincount(drawn.integers(0, len(moments), len(moments)), minlength=len(moments))
        for name, value in _distances(np.tensordot(picked, moments, 1), shift).items():
            values[name].append(float(value.mean()))
    found, tail = _distances(moments.sum(0), shift), 100 * (1 - level) / 2
    return {
        name: Estimate(float(found[name].mean()), *np.percentile(values[name], [tail, 100 - tail]).tolist())
        for name in _REGRESSION
    }


def mer_multi(weighted_f1: float, mse: float) -> float:
    """MER-MULTI's combined figure: weighted F1 of the emotions less a quarter of the mean squared error of valence."""
    return weighted_f1 - 0.25 * mse


def bootstrap_mer_multi(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    values: NDArray[np.floating],
    found: NDArray[np.floating],
    groups: Sequence[str] | NDArray[np.str_] | None,
    classes: int,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`mer_multi` of classes (N,) and numbers (N, D), whose squared errors are averaged, with an interval as above.

    A draw takes the classes and the numbers of the same clips.
    """
    t, p = _values(values, found)
    truth, predicted = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    number = group_numbers(groups, len(t)) if groups is not None else np.arange(len(t))
    count = int(number.max()) + 1
    # per group: clips and squared error, and which cells of the matrix its clips fall into
    clips, error = (np.bincount(number, weight, count) for weight in (None, ((t - p) ** 2).mean(1)))
    cell, drawn = truth * classes + predicted, np.random.default_rng(seed)

    def figure(picked: NDArray) -> float:
        matrix = np.bincount(cell, picked[number], classes * classes).reshape(classes, classes)
        return mer_multi(float(confusion_figures(matrix)["weighted_f1"]), float((picked @ error) / (picked @ clips)))

    draws = [figure(np.bincount(drawn.integers(0, count, count), minlength=count)) for _ in range(samples)]
    tail = 100 * (1 - level) / 2
    return Estimate(figure(np.ones(count)), *np.percentile(draws, [tail, 100 - tail]).tolist())


_REGRESSION = ("mae", "acc", "mse", "rmse", "pcc", "ccc", "ccc_unbiased")


def _values(truth: NDArray, predicted: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    t, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if t.shape != p.shape or t.ndim not in (1, 2):
        raise ValueError(f"truth and predictions must have one shape, (N,) or (N, D), not {t.shape} and {p.shape}")
    if not t.size:
        raise ValueError("no predictions to score")
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("truth and predictions must be finite numbers")
    return t.reshape(len(t), -1), p.reshape(len(p), -1)


def _shift(t: NDArray, p: NDArray) -> NDArray:
    """What the values are measured from, (2, D): near them, or the variances would drown in rounding."""
    return np.stack([t[0], p[0]])


def _moments(t: NDArray, p: NDArray) -> NDArray:
    """Summands of all figures, (N, 8, D): one, truth, prediction, squares, product, absolute and squared error."""
    st, sp = _shift(t, p)
    a, b, error = t - st, p - sp, t - p
    return np.stack([np.ones_like(a), a, b, a * a, b * b, a * b, np.abs(error), error**2], 1)


def group_numbers(groups: Sequence[str] | NDArray[np.str_], count: int) -> NDArray[np.int64]:
    """Names of groups as numbers from 0, (N,); raises ValueError where there are not `count` of them."""
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups for {count} predictions")
    return np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1]


def _distances(sums: NDArray, shift: NDArray) -> dict[str, NDArray]:
    """The figures of `Regression`, (D,) each, from summed moments (8, D)."""
    n, *_ = sums
    _, a, b, aa, bb, ab, error, mse = sums / n
    gap = (shift[0] + a) - (shift[1] + b)
    tiny = 1e-12  # of the mean square: below, a variance is rounding
    var_t, var_p = (np.where(v > tiny * sq, v, 0) for v, sq in ((aa - a * a, aa), (bb - b * b, bb)))
    cov = np.where((var_t > 0) & (var_p > 0), ab - a * b, 0)
    unbiased = n / np.maximum(n - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        pcc, ccc, ccc_unbiased = (
            np.where(cov != 0, top / bottom, 0.0)
            for top, bottom in (
                (cov, np.sqrt(var_t * var_p)),
                (2 * cov, var_t + var_p + gap**2),
                (2 * cov * unbiased, (var_t + var_p) * unbiased + gap**2),
            )
        )
    return {
        "mae": error,
        "acc": 1 - error,
        "mse": mse,
        "rmse": np.sqrt(mse),
        "pcc": pcc,
        "ccc": ccc,
        "ccc_unbiased": ccc_unbiased,
    }


def _per_class(confusion: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Recall, precision and F1, (..., K) each, from (..., K, K); 0 where they are not defined."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    truth, claimed = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * hits / np.maximum(truth + claimed, 1)
    return hits / np.maximum(truth, 1), hits / np.maximum(claimed, 1), f1


def confusion_figures(confusion: NDArray) -> dict[str, NDArray]:
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
