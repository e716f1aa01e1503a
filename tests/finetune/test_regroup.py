"""Figures by a column of the shards, and predictions averaged over one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets import Index
from hicmae.finetune import FinetuneConfig, Report, evaluate, run
from hicmae.finetune.regroup import merged, with_parts
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
