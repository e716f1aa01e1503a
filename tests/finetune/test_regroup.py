"""Figures by a column of the shards, and predictions averaged over one."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets import Index
from hicmae.finetune import FinetuneConfig, Report, evaluate, run
from hicmae.finetune.building import report_of_classes, report_of_numbers
from hicmae.finetune.regroup import merged, with_parts
from hicmae.finetune.summary import Fold, summarise
from hicmae.runtime.metrics import confusion_matrix, scores
from tests.finetune.conftest import changed
from tests.finetune.test_report import report


def over(index: Index, found: Report, **columns: list[str]) -> Index:
    """`index` as if it held the clips of `found`, with these columns."""
    extra = {name: np.array(values, object) for name, values in columns.items()}
    sources, keys = (np.array(values, object) for values in (found.sources, found.keys))
    return dataclasses.replace(index, extra=extra, sources=sources, keys=keys)


def test_every_part_is_measured_on_its_own_clips(test_shards: str) -> None:
    found = report(wrong=8, groups=[f"p{n % 6}" for n in range(30)])
    sexes = ["female" if n % 6 < 2 else "male" for n in range(30)]
    shown = with_parts(found, over(Index.load(test_shards), found, sex=sexes), "sex")
    assert [(part.name, part.clips, part.groups) for part in shown.parts] == [("female", 10, 2), ("male", 20, 4)]
    for part in shown.parts:
        of = np.array(sexes) == part.name
        own = scores(confusion_matrix(found.truth[of], found.guess[of], 3))
        assert part.intervals["war"].value == pytest.approx(own.war)
        assert part.intervals["uar"].value == pytest.approx(own.uar)
        assert part.absent == tuple(found.labels[k] for k in own.absent)
    assert shown.scores == found.scores
    assert json.loads(json.dumps(shown.to_dict()["by"]))["sex"]["male"]["clips"] == 20
    assert "female" in str(shown) and "By sex" in shown.page().html()


def test_predictions_are_averaged_over_a_column_before_they_are_scored(test_shards: str) -> None:
    found = report(wrong=12)
    tasks = [f"t{n % 6}" for n in range(30)]  # five clips of one class each
    by_task = merged(found, over(Index.load(test_shards), found, task=tasks), "task")
    wanted = [found.probabilities[[n for n in range(30) if n % 6 == k]].mean(0) for k in range(6)]
    np.testing.assert_allclose(by_task.probabilities, wanted)
    assert by_task.truth.tolist() == [0, 1, 2, 0, 1, 2]
    assert by_task.guess.tolist() == [int(row.argmax()) for row in wanted]
    assert by_task.scores == scores(confusion_matrix(by_task.truth, by_task.guess, 3))
    assert by_task.protocol["merged by"] == "task: 30 clips averaged to 6"
    assert "Scored per task" in str(by_task)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("take", [], "no column take; there are group, task"),
        ("task", ["a"] * 30, "clips with task a have several labels"),
        ("task", ["", *(f"t{n}" for n in range(29))], "1 clips have no task"),
    ],
)
def test_what_cannot_be_merged_is_refused(test_shards: str, column: str, values: list[str], message: str) -> None:
    found = report()
    index = over(Index.load(test_shards), found, task=values or ["x"] * 30)
    with pytest.raises(UserError, match=message):
        merged(found, index, column)


def test_parts_and_merging_from_the_command_line(
    recipe: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(changed(recipe, loop__epochs=1), show=False)
    assert main(["evaluate", recipe.out, "--by", "group", "--out", str(tmp_path / "o"), "--device", "cpu"]) == 0
    assert all(f"test{n}" in capsys.readouterr().out or n for n in range(1))
    stored: dict[str, Any] = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert sorted(stored["by"]["group"]) == [f"test{n}" for n in range(5)]
    with pytest.raises(UserError, match="several labels"):
        evaluate(recipe.out, merge="group", device="cpu", show=False)
    assert main(["evaluate", recipe.out, "--by", "sex", "--device", "cpu"]) == 2
    assert "no column sex; there are group" in capsys.readouterr().err


@functools.cache
def joint(clips: int = 24) -> Report:
    """A report on classes and valence of clips of six tasks."""
    generator = np.random.default_rng(0)
    task = np.arange(clips) % 6
    chances = generator.dirichlet(np.ones(3), clips)
    valence = generator.normal(size=6)[task, None]
    common: dict[str, Any] = {
        "title": "m",
        "keys": [f"k{n}" for n in range(clips)],
        "sources": [f"v{n}.mp4" for n in range(clips)],
        "groups": [f"p{n % 6}" for n in range(clips)],
        "seconds": [1.0] * clips,
        "columns": {"task": [f"t{n}" for n in task], "sex": ["fm"[n % 2] for n in range(clips)]},
        "protocol": {"samples": clips, "clips": clips},
        "notes": [],
    }
    values = report_of_numbers(("valence",), valence, valence + generator.normal(size=(clips, 1)), common)
    return report_of_classes(("x", "y", "z"), task % 3, chances, common, values)


def test_numbers_are_averaged_and_parted_as_classes_are(test_shards: str) -> None:
    found = joint()
    tasks = found.columns["task"]
    index = over(Index.load(test_shards), found, task=tasks)
    by_task = merged(found, index, "task")
    wanted = [found.values.predicted[[n for n in range(24) if n % 6 == k]].mean() for k in range(6)]
    np.testing.assert_allclose(by_task.values.predicted[:, 0], wanted)
    mse = float(((np.array(wanted) - by_task.values.truth[:, 0]) ** 2).mean())
    f1 = scores(confusion_matrix(by_task.truth, by_task.guess, 3)).weighted_f1
    assert by_task.intervals["mer_multi"].value == pytest.approx(f1 - 0.25 * mse)
    assert by_task.seconds == [4.0] * 6 and by_task.columns == {
        "task": [f"t{k}" for k in range(6)],
        "sex": list("fmfmfm"),
    }
    alone = merged(found.values, index, "task")
    np.testing.assert_allclose(alone.predicted[:, 0], wanted)
    parted = with_parts(found.values, over(index, found, sex=found.columns["sex"]), "sex")
    assert [part.clips for part in parted.parts] == [12, 12]
    error = np.abs(found.values.predicted - found.values.truth)[::2]
    assert parted.parts[0].intervals["mae"].value == pytest.approx(float(error.mean()))
    assert "By sex" in parted.page().html() and "\nm " in str(parted)


def test_mer_multi_is_shown_with_an_interval_over_groups_and_pooled_over_folds() -> None:
    found = joint()
    low, high = found.intervals["mer_multi"][1:]
    assert low < found.intervals["mer_multi"].value < high
    assert "MER-MULTI" in str(found) and "MER-MULTI" in found.page().html()
    stored = json.loads(json.dumps(found.to_dict()))
    summary = summarise([Fold(name="1", seed=0, found=stored)], by="sex")
    assert summary.headline["mer_multi"] == pytest.approx(found.intervals["mer_multi"].value, abs=1e-5)
    assert summary.headline["ccc"] == pytest.approx(found.values.intervals["ccc"].value, abs=1e-5)
    assert summary.calibration is not None and summary.calibration.ece == pytest.approx(found.calibration.ece)
    assert [part.clips for part in summary.parts[0]] == [12, 12] and "By sex" in summary.page().html()
    assert "MER-MULTI" in str(summary) and summary.to_dict()["by"]["sex"]["0"]["m"]["clips"] == 12
    with pytest.raises(UserError, match="have no column age; there are group, task, sex"):
        summarise([Fold(name="1", seed=0, found=stored)], by="age")


def test_stored_folds_are_summed_up_by_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = joint().to_dict()
    joint().write(tmp_path / "alone")
    for fold in ("1", "2", "10"):
        home = tmp_path / f"fold{fold}"
        (home / "evaluation").mkdir(parents=True)
        (home / "evaluation" / "evaluation.json").write_text(json.dumps(found))
        (home / "done.json").write_text(json.dumps({"fold": fold, "seed": 0}))
    assert main(["evaluate", str(tmp_path), "--by", "sex"]) == 0
    assert "\nm " in capsys.readouterr().out
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert [fold["fold"] for fold in stored["folds"]] == ["1", "2", "10"]
    assert stored["by"]["sex"]["0"]["m"]["clips"] == 36
    with (tmp_path / "alone" / "predictions.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["seconds"], row["task"], row["truth"]) == ("1.0", "t0", "x")
    assert {"p(x)", "truth(valence)", "prediction(valence)"} <= row.keys()
