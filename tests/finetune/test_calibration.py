"""Calibration against brute force, its drawing, and the map of features."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from hicmae.datasets import ClipStore, Index
from hicmae.datasets.sampling import eval_views
from hicmae.finetune.calibration import calibration, pooled_calibration
from hicmae.finetune.embedding import Features, Tapped, map_of
from hicmae.finetune.predictions import predict_index
from hicmae.runtime import diagrams
from tests.finetune.test_evaluation import HERE, VIEWS


def guesses(clips: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(classes, 0.4), clips), generator.integers(0, classes, clips)


@pytest.mark.parametrize(("clips", "classes", "bins"), [(1, 2, 15), (40, 2, 15), (300, 7, 15), (300, 43, 10)])
def test_calibration_equals_brute_force_and_torchmetrics(clips: int, classes: int, bins: int) -> None:
    chances, truth = guesses(clips, classes, seed=clips)
    found = calibration(chances, truth, bins)
    ece = nll = brier = 0.0
    for b in range(bins):
        inside = [n for n in range(clips) if b / bins < max(chances[n]) <= (b + 1) / bins]
        if inside:
            sure = sum(max(chances[n]) for n in inside) / len(inside)
            right = sum(int(np.argmax(chances[n])) == truth[n] for n in inside) / len(inside)
            ece += len(inside) / clips * abs(sure - right)
            assert (found.bins[b].clips, found.bins[b].confidence) == (len(inside), pytest.approx(sure))
    for n in range(clips):
        nll -= np.log(chances[n, truth[n]]) / clips
        brier += sum((chances[n, k] - (k == truth[n])) ** 2 for k in range(classes)) / clips
    assert (found.ece, found.nll, found.brier) == pytest.approx((ece, nll, brier))
    other = multiclass_calibration_error(torch.from_numpy(chances), torch.from_numpy(truth), classes, n_bins=bins)
    assert found.ece == pytest.approx(float(other), abs=1e-6)
    assert found.clips == clips and found.accuracy == pytest.approx((chances.argmax(1) == truth).mean())


def test_a_certain_mistake_and_an_edge_of_a_bin_stay_finite_and_counted() -> None:
    found = calibration(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]))
    assert found.ece == 0.5 and found.bins[-1].clips == 2
    assert np.isfinite(found.nll) and found.brier == 1.0
    with pytest.raises(ValueError, match="are needed"):
        calibration(np.empty((0, 3)), np.empty(0, np.int64))


def test_pooled_calibration_is_that_of_all_clips_together() -> None:
    chances, truth = guesses(90, 5, seed=1)
    parts = [calibration(chances[a:b], truth[a:b]).to_dict() for a, b in ((0, 20), (20, 21), (21, 90))]
    pooled, whole = pooled_calibration(parts), calibration(chances, truth)
    assert (pooled.ece, pooled.nll, pooled.brier) == pytest.approx((whole.ece, whole.nll, whole.brier))
    assert [b.clips for b in pooled.bins] == [b.clips for b in whole.bins]
    with pytest.raises(ValueError, match="equally many bins"):
        pooled_calibration([parts[0], calibration(chances, truth, 10).to_dict()])


def test_bars_of_a_reliability_diagram_are_as_high_as_what_is_right() -> None:
    first, second = diagrams.reliability([(0.0, 0.5, 0, 0.0, 0.0), (0.5, 1.0, 4, 0.75, 0.5)])
    assert 'height="150.0"' in first and "4 clips, 75.0 % sure, 50.0 % right" in first
    assert first.count("<rect") == 2 and second.count("<rect") == 1
    assert "sure 75.0 %" in second and "right 50.0 %" in second


class Mean(nn.Module):
    """A head on the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.shown = nn.Linear(3, 2), 0

    def forward(self, video: Tensor) -> Tensor:
        self.shown += len(video)
        return self.head(video.mean((2, 3, 4)))


def test_features_are_gathered_in_the_pass_that_predicts_and_change_nothing(test_shards: str) -> None:
    index, model = Index.load(test_shards), Mean()
    _, plain, _ = predict_index(model, index, HERE, **VIEWS, show=False)
    features = Features(np.arange(15) % 2 == 0)
    number, chances, _ = predict_index(model, index, HERE, **VIEWS, features=features, batch_size=4, show=False)
    np.testing.assert_allclose(chances, plain, rtol=1e-6)
    assert model.shown == 60 and sorted(features.found) == list(range(0, 15, 2)) and not model.head._forward_pre_hooks
    store, views = ClipStore(index), eval_views(**VIEWS)
    wanted = torch.stack([view(store[4], torch.Generator())["video"].mean((1, 2, 3)) for view in views]).mean(0)
    np.testing.assert_allclose(features.found[4], wanted.numpy(), rtol=1e-5)
    by_clip = features.by_clip(np.arange(15) // 5, number)
    np.testing.assert_allclose(by_clip[1], np.mean([features.found[n] for n in (6, 8)], 0))


def test_a_model_whose_head_is_given_something_else_is_left_alone() -> None:
    net = nn.Module()
    net.head = nn.Linear(3, 2)
    net.forward = lambda x: net.head(x).mean(1)  # tokens (B, N, D), pooled afterwards
    with Tapped(net) as tapped:
        out, seen = tapped.split(tapped(torch.ones(4, 5, 3)))
    assert out.shape == (4, 2) and seen is None


def test_a_map_is_always_the_same_and_keeps_what_is_alike_together() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(0, 1, (40, 80)).astype(np.float32)
    rows[:20] += 4
    drawn = map_of(rows)
    assert drawn is not None and drawn.how == "t-SNE, perplexity 13, seed 0"
    again = map_of(rows)
    assert again is not None and np.array_equal(drawn.points, again.points)
    centres = drawn.points[:20].mean(0), drawn.points[20:].mean(0)
    near = [
        np.linalg.norm(p - centres[n >= 20]) < np.linalg.norm(p - centres[n < 20]) for n, p in enumerate(drawn.points)
    ]
    assert all(near)
    few = map_of(rows[15:25])
    assert few is not None and "10 clips are too few" in few.how and (few.points[:5, 0] * few.points[5:, 0] < 0).all()
    assert map_of(rows[:2]) is None and map_of(np.ones((9, 3), np.float32)) is None


def test_without_scikit_learn_the_map_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    drawn = map_of(np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    assert drawn is not None and 'pip install "hicmae[report]"' in drawn.how


def test_of_many_clips_a_drawn_part_is_kept_whole() -> None:
    clip = np.repeat(np.arange(1500), 2)  # two samples each
    wanted = Features.of_clips(clip).wanted
    assert wanted.sum() == 2000 and (wanted[::2] == wanted[1::2]).all()
    assert np.array_equal(wanted, Features.of_clips(clip).wanted)


@pytest.mark.parametrize("classes", [2, 7, 43])
def test_points_of_a_map_lie_inside_the_picture_with_every_class_named(classes: int) -> None:
    generator = np.random.default_rng(0)
    names = [f"a class with a long name, number {k}" if k % 3 else f"k{k}" for k in range(classes)]
    points = [(*generator.normal(size=2).tolist(), n % classes, n % 4 > 0, f"clip {n}") for n in range(86)]
    drawn = diagrams.scatter(points, names, "map")
    assert drawn.count("<title>") == 86 and "clip 85" in drawn
    assert drawn.count("<text") == classes
    height = float(drawn.split('height="')[1].split('"')[0])
    for piece in drawn.split("<circle ")[1:]:
        x, y = (float(piece.split(f'{name}="')[1].split('"')[0]) for name in ("cx", "cy"))
        assert 0 < x < 640 and 0 < y < height
