"""Figures of predicted numbers: by hand and by other libraries, constants and single samples, and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torchmetrics.functional.regression import concordance_corrcoef

from hicmae.runtime.metrics import bootstrap_regression, mer_multi, regression


def concordance(t: np.ndarray, p: np.ndarray, ddof: int) -> float:
    cov = ((t - t.mean()) * (p - p.mean())).sum() / (len(t) - ddof)
    return 2 * cov / (t.var(ddof=ddof) + p.var(ddof=ddof) + (t.mean() - p.mean()) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_numbers_equal_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.normal(1000 * seed, 2, (int(generator.integers(2, 60)), 3))  # far from 0: no digits are lost
    predicted = truth + generator.normal(0.3, 1, truth.shape)
    found = regression(truth, predicted)
    for d in range(3):
        t, p = truth[:, d], predicted[:, d]
        assert found.mae[d] == pytest.approx(np.mean([abs(a - b) for a, b in zip(t, p, strict=True)]))
        assert found.acc[d] == pytest.approx(np.mean(1 - np.abs(t - p)))
        assert found.mse[d] == pytest.approx(np.mean((t - p) ** 2))
        assert found.rmse[d] == pytest.approx(math.sqrt(np.mean((t - p) ** 2)))
        assert found.pcc[d] == pytest.approx(pearsonr(t, p).statistic, abs=1e-9)
        assert found.ccc[d] == pytest.approx(concordance(t, p, 0), abs=1e-9)
        assert found.ccc_unbiased[d] == pytest.approx(concordance(t, p, 1), abs=1e-9)
        theirs = concordance_corrcoef(torch.from_numpy(p), torch.from_numpy(t))  # torchmetrics takes ddof 1
        assert found.ccc_unbiased[d] == pytest.approx(float(theirs), abs=1e-5)
    assert found.mean["ccc"] == pytest.approx(np.mean(found.ccc)) and found.notes == ()


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 1e6])
def test_a_constant_has_no_correlation_and_is_named(level: float) -> None:
    moving, flat = np.linspace(0, 1, 7), np.full(7, level)
    for truth, predicted, words in (
        (flat, moving, "no variation in its truth"),
        (moving, flat, "no variation in its prediction"),
        (flat, flat, "no variation in its truth and prediction"),
    ):
        found = regression(truth, predicted, ["valence"])
        assert found.pcc == found.ccc == found.ccc_unbiased == (0.0,)
        (note,) = found.notes
        assert note.startswith("valence: ") and words in note
        assert found.mae[0] == pytest.approx(np.abs(truth - predicted).mean())


def test_a_single_sample_has_errors_but_no_correlation() -> None:
    found = regression(np.array([[0.5, 1.0]]), np.array([[0.25, 1.0]]), ["valence", "arousal"])
    assert found.mae == (0.25, 0.0) and found.rmse == (0.25, 0.0)
    assert found.pcc == found.ccc == found.ccc_unbiased == (0.0, 0.0)
    assert all("there is one sample" in note for note in found.notes) and len(found.notes) == 2


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([1.0, 2.0], [1.0], "one shape"),
        ([], [], "no predictions"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
        ([1.0, 2.0], [1.0, math.inf], "finite"),
    ],
)
def test_numbers_that_cannot_be_compared_are_refused(truth: list[float], predicted: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression(np.array(truth), np.array(predicted))


def test_intervals_of_numbers_equal_resampling_by_hand_and_widen_with_groups() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 10)
    truth = generator.normal(0, 1, (120, 2))
    predicted = truth + generator.normal(0, 1, (12, 2))[groups] + generator.normal(0, 0.2, (120, 2))
    persons = bootstrap_regression(truth, predicted, groups.astype(str))
    clips = bootstrap_regression(truth, predicted, None)
    hand = np.random.default_rng(1)
    values = []
    for _ in range(1500):
        picked = np.concatenate([np.flatnonzero(groups == g) for g in hand.integers(0, 12, 12)])
        values.append(regression(truth[picked], predicted[picked]).mean)
    for name in ("mae", "pcc", "ccc", "ccc_unbiased", "rmse"):
        low, high = np.percentile([value[name] for value in values], [2.5, 97.5])
        assert persons[name].value == pytest.approx(regression(truth, predicted).mean[name])
        assert (persons[name].low, persons[name].high) == pytest.approx((low, high), abs=0.04)
        assert persons[name].high - persons[name].low > 1.5 * (clips[name].high - clips[name].low)
    assert persons == bootstrap_regression(truth, predicted, groups.astype(str))


def test_the_combined_figure_of_mer_multi() -> None:
    assert mer_multi(0.7, 0.6) == pytest.approx(0.55)
