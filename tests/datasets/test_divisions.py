"""Four parts of a corpus without folds: whole groups, alike in classes, the same wherever the clips lie."""

from __future__ import annotations

import numpy as np
import pytest

from hicmae.datasets.divisions import quarters


def corpus(people: int, each: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups = np.repeat(np.array([f"p{n}" for n in range(people)], object), each)
    return (
        groups,
        np.array([f"{n}.mp4" for n in range(people * each)], object),
        np.tile(np.arange(3), people * each // 3),
    )


def test_groups_stay_whole_and_parts_are_equal() -> None:
    groups, sources, labels = corpus(12)
    part = quarters(groups, sources, labels)
    assert set(part) == {"1", "2", "3", "4"}
    assert all(len(set(part[groups == group])) == 1 for group in groups)
    table = [[int(((part == q) & (labels == k)).sum()) for k in range(3)] for q in "1234"]
    assert table == [[6, 6, 6]] * 4


def test_without_groups_every_class_is_divided() -> None:
    groups, sources, _ = corpus(10, 10)
    groups[:] = None
    labels = np.array([0] * 80 + [1] * 12 + [2] * 8)
    part = quarters(groups, sources, labels)
    assert all(((part == q) & (labels == k)).sum() == (labels == k).sum() / 4 for q in "1234" for k in range(3))


@pytest.mark.parametrize("known", [True, False])
def test_order_and_further_shards_of_the_same_clips_change_nothing(known: bool) -> None:
    groups, sources, labels = corpus(9)
    if not known:
        groups[:] = None
    part = quarters(groups, sources, labels)
    order = np.random.default_rng(0).permutation(len(groups))
    assert (quarters(groups[order], sources[order], labels[order]) == part[order]).all()
