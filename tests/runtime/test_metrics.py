"""Figures of merit: the published ones, brute force, absent classes, and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from hicmae.runtime.metrics import bootstrap, confusion_matrix, scores

PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures/confusion_matrices.json").read_text())
CASES = [name for name in PUBLISHED if name != "meta"]


def labels_of(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and predictions that give `confusion`."""
    rows, columns = np.indices(confusion.shape)
    return np.repeat(rows.ravel(), confusion.ravel()), np.repeat(columns.ravel(), confusion.ravel())


@pytest.mark.parametrize("name", CASES)
def test_the_published_figures_follow_from_the_published_matrices(name: str) -> None:
    case = PUBLISHED[name]
    result = scores(np.array(case["confusion"]))
    assert round(100 * result.uar, 2) == case["uar"]
    assert round(100 * result.war, 2) == case["war"]
    assert round(result.weighted_f1, 4) == case["weighted_f1"]
    assert round(result.macro_f1, 4) == case["macro_f1"]
    assert round(result.war, 4) == case["micro_f1"]
    assert result.absent == ()


@pytest.mark.parametrize("name", CASES)
def test_rows_of_the_confusion_matrix_are_the_truth(name: str) -> None:
    matrix = np.array(PUBLISHED[name]["confusion"])
    truth, predicted = labels_of(matrix)
    order = np.random.default_rng(0).permutation(len(truth))
    np.testing.assert_array_equal(confusion_matrix(truth[order], predicted[order], len(matrix)), matrix)


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_brute_force_on_random_predictions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(2, 9))
    truth = np.concatenate([np.arange(classes), generator.integers(0, classes, 50)])
    predicted = generator.integers(0, classes, len(truth))
    result = scores(confusion_matrix(truth, predicted, classes))
    recalls = [np.mean(predicted[truth == k] == k) for k in range(classes)]
    assert result.recall == pytest.approx(recalls)
    assert result.uar == pytest.approx(np.mean(recalls))
    assert result.war == pytest.approx(np.mean(truth == predicted))
    assert result.weighted_f1 == pytest.approx(f1_score(truth, predicted, average="weighted"))
    assert result.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert result.uar == pytest.approx(recall_score(truth, predicted, average="macro"))
    precision = precision_score(truth, predicted, average=None, zero_division=0)
    assert [p or 0 for p in result.precision] == pytest.approx(precision)
    assert result.support == tuple(np.bincount(truth))


def test_a_class_absent_from_the_truth_is_left_out_of_the_means_and_named() -> None:
    result = scores(confusion_matrix([0, 0, 1, 1], [0, 2, 1, 1], 4))
    assert result.absent == (2, 3)
    assert result.recall == (0.5, 1.0, None, None)
    assert result.precision == (1.0, 1.0, 0.0, None)
    assert result.uar == 0.75
    assert result.macro_f1 == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [([0, 1], [0], "two lists of one length"), ([0, 3], [0, 0], "truth must lie in 0 … 2"), ([0], [-1], "predictions")],
)
def test_impossible_labels_are_refused(truth: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(truth, predicted, 3)


def test_scoring_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no predictions to score"):
        scores(confusion_matrix([], [], 3))


def draws_by_hand(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """UAR of 2000 resamplings of groups, one at a time."""
    generator = np.random.default_rng(1)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    values = []
    for _ in range(2000):
        picked = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        values.append(scores(confusion_matrix(truth[picked], predicted[picked], classes)).uar)
    return np.array(values)


@pytest.mark.parametrize("per_group", [1, 10])
def test_intervals_equal_resampling_by_hand(per_group: int) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 120)
    groups = np.arange(120) // per_group
    good = np.repeat(generator.random(120 // per_group) < 0.6, per_group)  # whole persons are easy or hard
    predicted = np.where(good, truth, generator.integers(0, 3, 120))
    value, low, high = bootstrap(truth, predicted, None if per_group == 1 else groups.astype(str), 3)["uar"]
    assert value == pytest.approx(scores(confusion_matrix(truth, predicted, 3)).uar)
    expected = np.percentile(draws_by_hand(truth, predicted, groups, 3), [2.5, 97.5])
    assert (low, high) == pytest.approx(expected, abs=0.012)


def test_clip_level_intervals_do_not_depend_on_how_singletons_are_named() -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 4, 300), generator.integers(0, 4, 300)
    named = bootstrap(truth, predicted, [str(i) for i in range(300)], 4, samples=20000)
    plain = bootstrap(truth, predicted, None, 4, samples=20000)
    for name in plain:
        assert named[name] == pytest.approx(plain[name], abs=0.004)


def test_intervals_are_repeatable_widen_with_groups_and_hold_the_figure() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 200)
    groups = np.repeat(np.arange(10), 20).astype(str)
    predicted = np.where(np.repeat(np.arange(10) % 2 == 0, 20), truth, (truth + 1) % 3)
    clips, persons = bootstrap(truth, predicted, None, 3), bootstrap(truth, predicted, groups, 3)
    assert persons == bootstrap(truth, predicted, groups, 3)
    assert persons != bootstrap(truth, predicted, groups, 3, seed=1)
    for name in ("uar", "war", "weighted_f1", "macro_f1"):
        assert clips[name].low < getattr(scores(confusion_matrix(truth, predicted, 3)), name) < clips[name].high
        assert persons[name].high - persons[name].low > 2 * (clips[name].high - clips[name].low)
