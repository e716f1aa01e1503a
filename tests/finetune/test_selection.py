"""Choosing an epoch: on clips kept out of training by person, repeatably, and on the test clips only with a stamp."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.datasets import Index
from hicmae.datasets.divisions import few, validation_part
from hicmae.finetune import FinetuneConfig, evaluate, run
from hicmae.runtime.checkpoint import folder_of, read_weights, weights_file
from hicmae.runtime.log import UserError
from tests.finetune.conftest import changed

STAMP = "CHOSEN ON THE TEST CLIPS"


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_whole_persons_are_kept_out_of_training(train_shards: str, share: float) -> None:
    index = Index.load(train_shards)
    mask, unit = validation_part(index, share, seed=0)
    kept, trained = set(index.groups[mask]), set(index.groups[~mask])
    assert kept and trained and not kept & trained
    assert len(kept) == max(1, round(8 * share))
    assert f"{len(kept)} of 8 groups" in unit
    assert (mask == validation_part(index, share, seed=0)[0]).all()
    assert any((mask != validation_part(index, share, seed=seed)[0]).any() for seed in range(1, 5))


def test_without_groups_videos_are_drawn_class_by_class_and_that_is_said(train_shards: str) -> None:
    index = Index.load(train_shards)
    index = dataclasses.replace(index, groups=np.full(len(index), None, object))
    mask, unit = validation_part(index, 0.25, seed=0)
    assert np.bincount(index.labels[mask]).tolist() == [2, 2, 2]
    assert "clip-level (groups unknown)" in unit
    twins = dataclasses.replace(index, sources=index.sources[np.arange(len(index)) // 6 * 6])  # six samples of a video
    mask, _ = validation_part(twins, 0.25, seed=0)
    assert not set(twins.sources[mask]) & set(twins.sources[~mask])


def test_a_class_is_never_left_without_training_clips(train_shards: str) -> None:
    index = Index.load(train_shards)
    alone = dataclasses.replace(index, groups=np.array([f"p{label}" for label in index.labels], object))
    with pytest.raises(UserError, match=r"24 clips of 3 groups cannot be divided .*data\.val"):
        validation_part(alone, 0.3, seed=0)


def scores_of(config: FinetuneConfig) -> dict[str, float]:
    return json.loads((Path(config.out) / "chosen" / "scores.json").read_text())


def test_the_epoch_that_is_best_on_the_validation_part_is_measured(recipe: FinetuneConfig) -> None:
    config = changed(recipe, select="val", val_share=0.3, loop__epochs=5, loop__keep=5)
    run(config, show=False)
    scores = scores_of(config)
    assert list(scores) == ["0", "1", "2", "3", "4"]
    best = max(scores, key=lambda epoch: (scores[epoch], -int(epoch)))  # the first of equals
    weights, meta = read_weights(weights_file(config.out))
    assert meta["selected"]["epoch"] == int(best) + 1 and meta["selected"]["score"] == scores[best]
    same = read_weights(folder_of(Path(config.out), meta["step"]) / "weights.safetensors")[0]
    assert all(torch.equal(weights[name], same[name]) for name in same)
    found = json.loads((Path(config.out) / "evaluation" / "evaluation.json").read_text())
    assert f"epoch {int(best) + 1} of 5, best UAR on 9 of 24 training clips" in found["protocol"]["selection"]
    assert STAMP not in json.dumps(found)
    logged = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    assert [line["val_uar"] for line in logged if "val_uar" in line] == list(scores.values())


def test_every_n_epochs_are_measured_and_the_last_always(recipe: FinetuneConfig) -> None:
    config = changed(recipe, select="val", val_every=2, loop__epochs=3, data__val=list(recipe.data.test))
    run(config, show=False)
    assert list(scores_of(config)) == ["1", "2"]
    before = (Path(config.out) / "evaluation" / "evaluation.json").stat().st_mtime_ns
    assert "data.val" in evaluate(config.out, device="cpu", show=False).protocol["selection"]
    assert (Path(config.out) / "evaluation" / "evaluation.json").stat().st_mtime_ns > before


def test_an_epoch_chosen_on_the_test_clips_is_stamped_wherever_a_figure_stands(
    recipe: FinetuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(recipe, select="test", loop__epochs=2)
    run(config)
    printed = [line for line in capsys.readouterr().err.splitlines() if "UAR" in line and "clips" in line]
    assert printed and all(STAMP in line for line in printed)
    folder = Path(config.out) / "evaluation"
    assert STAMP in json.loads((folder / "evaluation.json").read_text())["title"]
    html = (folder / "evaluation.html").read_text()
    assert STAMP in html[html.index("<title>") : html.index("</title>")]
    assert STAMP in (folder / "predictions.csv").read_text().splitlines()[1]
    text = str(evaluate(config.out, device="cpu", show=False)).splitlines()
    assert all(STAMP in line for line in text if line.startswith(("UAR", "WAR", "macro", "weighted")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_share": 1.0}, r"val_share must lie in \(0, 1\)"),
        ({"val_every": 0}, "val_every must be at least 1"),
        ({"select": "val", "loop__ema": 0.9}, "leave out loop.ema"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(recipe: FinetuneConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(recipe, **change)


def test_choosing_on_test_clips_needs_some(recipe: FinetuneConfig) -> None:
    with pytest.raises(UserError, match=r"select: test needs data\.test"):
        run(changed(recipe, select="test", data__test=[]), show=False)


def test_a_run_that_redoes_epochs_after_a_kill_chooses_the_same(
    recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(recipe, select="val", val_share=0.3, loop__epochs=4)
    run(config, show=False)
    wanted = (weights_file(config.out).read_bytes(), scores_of(config))
    again = changed(config, out=config.out + "-killed", loop__save_every=1000)
    from hicmae.finetune import selection

    measure = selection.report_on
    seen: list[int] = []

    def fall(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:  # no checkpoint was written: all epochs are done again, over what was chosen before
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(selection, "report_on", fall)
    with pytest.raises(KeyboardInterrupt):
        run(again, show=False)
    assert (Path(again.out) / "chosen" / "weights.safetensors").is_file()
    run(again, show=False)
    found = read_weights(weights_file(again.out))
    there = read_weights(weights_file(config.out))
    assert scores_of(again) == wanted[1] and found[1]["selected"] == there[1]["selected"]
    assert all(torch.equal(found[0][name], there[0][name]) for name in there[0])


def test_a_share_of_the_clips_has_every_class_and_a_smaller_one_is_part_of_it(train_shards: str) -> None:
    index = Index.load(train_shards)  # 8 clips of each of 3 classes
    shares = {share: few(index, share, seed=0) for share in (0.01, 0.25, 0.5, 1.0)}
    counts = [np.bincount(index.labels[mask], minlength=3).tolist() for mask in shares.values()]
    assert counts == [[1] * 3, [2] * 3, [4] * 3, [8] * 3]
    masks = list(shares.values())
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))
    assert any((few(index, 0.25, seed=seed) != shares[0.25]).any() for seed in range(1, 4))
    turned = index.select(np.arange(len(index))[::-1])  # other numbers, same clips
    assert set(turned.keys[few(turned, 0.25, seed=0)]) == set(index.keys[shares[0.25]])


def test_without_labels_a_share_is_drawn_from_all_clips(train_shards: str) -> None:
    index = Index.load(train_shards)
    index = dataclasses.replace(index, labels=np.full(len(index), -1))
    assert few(index, 0.25, seed=0).sum() == 6 and few(index, 1e-6, seed=0).sum() == 1


def test_a_run_on_a_share_of_the_clips_says_so_and_its_report_too(
    recipe: FinetuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(recipe, data__fraction=0.34, loop__epochs=1)
    run(config)
    assert "9 clips (34 % of 24) of 3 classes, 1 steps per epoch" in capsys.readouterr().err
    found = json.loads((Path(config.out) / "evaluation" / "evaluation.json").read_text())
    assert found["protocol"]["trained on"] == "34 % of the training clips"
    assert read_weights(weights_file(config.out))[1]["config"]["data"]["fraction"] == 0.34
