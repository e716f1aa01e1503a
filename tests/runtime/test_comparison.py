"""Totals over folds, the published ones among them, and the difference of two runs."""

from __future__ import annotations

import numpy as np
import pytest

from hicmae.runtime.comparison import compare, total
from hicmae.runtime.metrics import confusion_matrix, scores

# UAR and WAR of the folds, their clips, and the published totals with the rule they follow
PUBLISHED = {
    "MAE-DFER on DFEW": (
        [(62.59, 74.88), (61.96, 72.49), (64.00, 74.91), (63.07, 74.05), (65.42, 75.81)],
        [2341, 2341, 2340, 2339, 2336],
        {"uar": {"mean": 63.41, "weighted": 63.41}, "war": {"mean": 74.43, "weighted": 74.43}},  # rounding hides it
    ),
    "HiCMAE on CREMA-D": (
        [(86.66, 86.67), (83.27, 83.20), (87.23, 87.19), (83.70, 83.79), (83.88, 83.79)],
        [1463, 1470, 1475, 1474, 1555],
        {"uar": {"weighted": 84.94}, "war": {"weighted": 84.91}},  # the plain mean of WAR would be 84.93
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_follow_from_their_folds(name: str) -> None:
    folds, clips, wanted = PUBLISHED[name]
    for figure, values in zip(("uar", "war"), zip(*folds, strict=True), strict=True):
        found = total(values, clips)
        for rule, value in wanted[figure].items():
            # folds are printed with two digits, so that a total is known to half a digit and no better
            assert abs(getattr(found, rule) - value) <= 0.0051, (figure, rule, found)
    assert round(total([war for _, war in folds], clips).weighted, 2) == wanted["war"]["weighted"]


def test_the_plain_mean_of_hicmae_on_crema_d_is_not_what_was_published() -> None:
    folds, clips, _ = PUBLISHED["HiCMAE on CREMA-D"]
    found = total([war for _, war in folds], clips)
    assert (round(found.mean, 3), round(found.weighted, 3)) == (84.928, 84.914)


def test_the_weighted_accuracy_is_the_pooled_one() -> None:
    generator = np.random.default_rng(0)
    parts = [(generator.integers(0, 3, n), generator.integers(0, 3, n)) for n in (5, 17, 40)]
    wars = [scores(confusion_matrix(t, p, 3)).war for t, p in parts]
    pooled = scores(sum(confusion_matrix(t, p, 3) for t, p in parts))
    found = total(wars, [5, 17, 40])
    assert found.weighted == pytest.approx(pooled.war)
    assert found.mean == pytest.approx(np.mean(wars)) and found.sd == pytest.approx(np.std(wars, ddof=1))


def test_one_fold_has_no_spread_and_none_is_refused() -> None:
    assert total([0.5], [9]).sd is None
    with pytest.raises(ValueError, match="0 figures of 0 folds"):
        total([], [])


def runs(gain: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, two runs of which the first is right more often by `gain`, and persons."""
    generator = np.random.default_rng(seed)
    truth, groups = generator.integers(0, 4, 400), np.arange(400) // 10
    second = np.where(generator.random(400) < 0.5, truth, generator.integers(0, 4, 400))
    first = np.where(generator.random(400) < gain, truth, second)
    return truth, first, second, groups.astype(str)


def test_a_clear_difference_is_found_and_its_figures_are_those_of_the_runs() -> None:
    truth, first, second, groups = runs(0.4)
    for unit in (groups, None):
        for name, found in compare(truth, first, second, unit, 4).items():
            assert found.first == pytest.approx(getattr(scores(confusion_matrix(truth, first, 4)), name))
            assert found.second == pytest.approx(getattr(scores(confusion_matrix(truth, second, 4)), name))
            assert found.difference.value == pytest.approx(found.first - found.second)
            assert 0 < found.difference.low < found.difference.value < found.difference.high
            assert found.p < 0.001
    swapped = compare(truth, second, first, groups, 4)["uar"]
    assert swapped.difference.value == pytest.approx(-compare(truth, first, second, groups, 4)["uar"].difference.value)


def test_a_run_does_not_differ_from_itself() -> None:
    truth, _, second, groups = runs(0)
    for found in compare(truth, second, second, groups, 4).values():
        assert found.difference == (0, 0, 0) and found.p == 1


def test_equally_good_runs_are_called_different_as_rarely_as_the_level_says() -> None:
    generator, called = np.random.default_rng(0), 0
    for seed in range(200):
        truth, groups = generator.integers(0, 3, 60), (np.arange(60) // 5).astype(str)
        one, two = (np.where(generator.random(60) < 0.5, truth, (truth + 1) % 3) for _ in range(2))
        called += compare(truth, one, two, groups, 3, samples=200, seed=seed)["war"].p <= 0.05
    assert called <= 20  # 10 expected


def test_persons_who_differ_as_a_whole_are_counted_as_persons_not_as_clips() -> None:
    truth, groups = np.zeros(60, int), np.repeat(np.arange(6), 10)
    truth[::2] = 1
    first = np.where(groups < 5, truth, 1 - truth)  # better in five persons of six, worse in one
    second = np.where(groups < 5, 1 - truth, truth)
    by_person = compare(truth, first, second, groups.astype(str), 2)["war"].p
    by_clip = compare(truth, first, second, None, 2)["war"].p
    assert by_person == pytest.approx(14 / 64, abs=0.03)  # of 2^6 exchanges, 14 leave at most one person apart
    assert by_clip < 0.001


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lists of one length"):
        compare(np.array([0, 1]), np.array([0]), np.array([0, 1]), None, 2)
