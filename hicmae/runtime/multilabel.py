"""Figures of merit of classes that are independent of each other: each is there or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hicmae.runtime.metrics import Estimate, group_numbers

__all__ = ["MultiLabel", "multilabel"]


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """What N decisions on K classes are worth; shares lie in [0, 1]."""

    intervals: dict[str, Estimate]
    """`uar`, mean over classes of the mean recall of present and absent; `macro_f1`, mean F1 of the classes that occur;
    `exact`, share of clips with every decision right. With percentile intervals under resampling of whole groups."""
    recall: tuple[float | None, ...]
    """Per class, share of its clips found; None where it never occurs."""
    precision: tuple[float | None, ...]
    """Per class, share of its predictions that are right; None where it is never predicted."""
    f1: tuple[float | None, ...]
    """Per class, harmonic mean of both; None where it never occurs."""
    support: tuple[int, ...]
    """Per class, clips that have it."""


def multilabel(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    groups: Sequence[str] | None,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> MultiLabel:
    """Figures of decisions (N, K), True where a class is there. Raises ValueError for other shapes and for none.

    `groups` (N,) names the persons or sessions that are drawn in place of clips.
    """
    t, p = np.asarray(truth, bool), np.asarray(predicted, bool)
    if t.shape != p.shape or t.ndim != 2 or not t.size:
        raise ValueError(
            f"truth and predictions must have one shape (N, K) and hold something, not {t.shape}, {p.shape}"
        )
    right = np.broadcast_to((t == p).all(1)[:, None], t.shape)
    counts = np.stack([t & p, t & ~p, ~t & p, ~t & ~p, right], 1).astype(np.float64)  # (N, 5, K)
    if groups is not None:
        number = group_numbers(groups, len(t))
        sums = np.zeros((number.max() + 1, *counts.shape[1:]))
        np.add.at(sums, number, counts)
        counts = sums
    drawn = np.random.default_rng(seed).multinomial(len(counts), [1 / len(counts)] * len(counts), size=samples)
    found, values = _figures(counts.sum(0)), _figures(np.tensordot(drawn, counts, 1))
    hits, missed, false, *_ = counts.sum(0)
    tail = 100 * (1 - level) / 2

    def share(part: NDArray, whole: NDArray, there: NDArray) -> tuple[float | None, ...]:
        return tuple(float(a / b) if ok else None for a, b, ok in zip(part, whole, there, strict=True))

    occurs = hits + missed > 0
    return MultiLabel(
        intervals={
            name: Estimate(float(found[name]), *np.percentile(values[name], [tail, 100 - tail]).tolist())
            for name in found
        },
        recall=share(hits, hits + missed, occurs),
        precision=share(hits, hits + false, hits + false > 0),
        f1=share(2 * hits, 2 * hits + missed + false, occurs),
        support=tuple(int(n) for n in hits + missed),
    )


def _figures(counts: NDArray) -> dict[str, NDArray]:
    """The headline figures, (...) each, from hits, misses, false alarms, right silences, clips right: (..., 5, K)."""
    hits, missed, false, silent, right = np.moveaxis(counts, -2, 0)
    there, absent = hits + missed, false + silent
    recalls = np.stack([hits / np.maximum(there, 1), silent / np.maximum(absent, 1)])
    sides = np.stack([there > 0, absent > 0])
    f1, occurs = 2 * hits / np.maximum(2 * hits + missed + false, 1), there > 0
    return {
        "uar": ((recalls * sides).sum(0) / sides.sum(0)).mean(-1),
        "macro_f1": (f1 * occurs).sum(-1) / np.maximum(occurs.sum(-1), 1),
        "exact": (right / (there + absent)).mean(-1),
    }
