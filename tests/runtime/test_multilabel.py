"""Figures of independent classes against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest

from hicmae.runtime.multilabel import multilabel


def brute(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    recalls, f1s = [], []
    for k in range(truth.shape[1]):
        t, g = truth[:, k], guess[:, k]
        sides = [float((g[t == side] == side).mean()) for side in (True, False) if (t == side).any()]
        recalls.append(np.mean(sides))
        if t.any():
            f1s.append(2 * (t & g).sum() / (t.sum() + g.sum()))
    exact = np.mean([list(a) == list(b) for a, b in zip(truth, guess, strict=True)])
    return {"uar": float(np.mean(recalls)), "macro_f1": float(np.mean(f1s)), "exact": float(exact)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grouped", [False, True])
def test_the_figures_equal_those_counted_one_by_one(seed: int, grouped: bool) -> None:
    drawn = np.random.default_rng(seed)
    truth, guess = drawn.random((40, 3)) < 0.3, drawn.random((40, 3)) < 0.4
    truth[:, 2] &= seed != 0  # a class that never occurs
    found = multilabel(truth, guess, [f"p{n % 7}" for n in range(40)] if grouped else None, samples=200)
    for name, value in brute(truth, guess).items():
        estimate = found.intervals[name]
        assert estimate.value == pytest.approx(value) and estimate.low <= value <= estimate.high
    assert found.support == tuple(truth.sum(0)) and (found.recall[2] is None) is not truth[:, 2].any()
    assert found.precision[0] == pytest.approx((truth & guess)[:, 0].sum() / guess[:, 0].sum())


def test_all_right_is_one_and_a_class_never_predicted_has_no_precision() -> None:
    truth = np.array([[True, False], [False, False], [True, False]])
    found = multilabel(truth, truth, None, samples=50)
    assert [e.value for e in found.intervals.values()] == [1, 1, 1]
    assert found.precision == (1.0, None) and found.f1 == (1.0, None)


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1)), ((0, 2), (0, 2)), ((3,), (3,))])
def test_what_cannot_be_compared_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        multilabel(np.zeros(shapes[0], bool), np.zeros(shapes[1], bool), None)
