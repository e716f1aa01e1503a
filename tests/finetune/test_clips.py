"""Own clips in one command: a folder per class, and what is said where that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets import Index
from hicmae.datasets.divisions import part_of
from hicmae.finetune import FinetuneConfig, run
from hicmae.finetune.clips import from_clips
from hicmae.finetune.cost import trained
from hicmae.runtime.log import RunLog
from tests.finetune.conftest import FREE_DATA, TINY, changed, tinted
from tests.finetune.test_evaluation import HERE


def clips(root: Path, *names: str) -> str:
    """Videos called CLASS/…; their colour goes by class."""
    for n, name in enumerate(names):
        tinted(root / name, "red" if name.startswith("a") else "blue", seed=n)
    return str(root)


def test_one_command_trains_and_tests_on_a_folder_per_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clips(tmp_path / "mine", *(f"{kind}/{n}.mp4" for kind in ("angry", "big") for n in range(6)))
    (tmp_path / "mine" / "big" / "notes.txt").write_text("no video")
    options = [f"--data.{name}={value}" for name, value in FREE_DATA.items()]
    small = [f"--args.{name}={value}" for name, value in TINY.items()]
    run_of = ["finetune", "own_clips", "--data.train", folder, "--out", str(tmp_path / "run"), "--loop.epochs", "3"]
    assert main([*run_of, *options, *small, "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    assert "4 of 12 clips are kept out of training and tested on (drawn class by class" in told
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert sorted(row["truth"] for row in found["predictions"]) == ["angry", "angry", "big", "big"]
    assert {row["columns"]["split"] for row in found["predictions"]} == {"test"}
    assert found["cost"]["training, hours"] >= 0 and "CPU" in found["cost"]["training on"]
    trained_on = Index.load(f"{tmp_path / 'run' / 'clips'}@split=train")
    assert not set(trained_on.sources) & {row["source"] for row in found["predictions"]}
    html = (tmp_path / "run" / "evaluation" / "evaluation.html").read_text()
    assert all(word in html for word in ("Calibration", "Map of the clips", "Cost", "multiply-accumulates"))
    assert html.count("data:image/jpeg") == sum(row["truth"] != row["prediction"] for row in found["predictions"])
    assert main([*run_of, *options, *small, "--device", "cpu"]) == 0  # done: continued, not made again


def test_whole_persons_are_kept_out_where_folders_name_them(recipe: FinetuneConfig, tmp_path: Path) -> None:
    names = [f"{kind}/{who}/{n}.mp4" for kind in ("a", "b") for who in ("ann", "bob", "cem", "dora") for n in range(2)]
    config = changed(recipe, data__train=[clips(tmp_path / "mine", *names)], data__test=[])
    made = from_clips(config, HERE, show=False)
    train, test = (Index.load(folder[0]) for folder in (made.data.train, made.data.test))
    assert len(set(test.groups)) == 1 and len(test) == 4 and not set(test.groups) & set(train.groups)
    assert made.clips == config.clips and Path(made.data.train[0].split("@")[0]).parent == Path(recipe.out)
    assert from_clips(made, HERE, show=False) == made  # shards are taken as they are


def test_a_list_brings_labels_and_groups_and_a_small_set_a_small_batch(recipe: FinetuneConfig, tmp_path: Path) -> None:
    clips(tmp_path, "a1.mp4", "a2.mp4", "b1.mp4", "b2.mp4", "b3.mp4")
    lines = [f"{name}.mp4,{name[0]}" for name in ("a1", "a2", "b1", "b2", "b3")]
    (tmp_path / "mine.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    config = changed(recipe, data__train=[str(tmp_path / "mine.csv")], data__test=[])
    made = from_clips(config, HERE, show=False)
    assert made.loop.batch_size == len(Index.load(made.data.train[0])) == 3
    assert sorted(Index.load(made.data.test[0]).labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no shards and no videos; put the clips of each class into a folder"),
        (["a1.mp4", "b1.mp4"], "2 of its videos lie in no folder of a class, as a1.mp4; put the clips"),
        (["a/1.mp4", "a/2.mp4"], "all 2 clips are of one class, a; put the clips"),
        (["a/1.mp4", "b/1.mp4", "b/2.mp4"], "there is 1 clip of a; two are needed"),
        (["a/x/1.mp4", "a/x/2.mp4", "b/y/1.mp4", "b/y/2.mp4"], "of 2 groups cannot be divided into parts to train"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_remedy(
    recipe: FinetuneConfig, tmp_path: Path, names: list[str], message: str
) -> None:
    (tmp_path / "mine").mkdir()
    config = changed(recipe, data__train=[clips(tmp_path / "mine", *names)], data__test=[])
    with pytest.raises(UserError, match=message):
        run(config, show=False)
    assert not (Path(recipe.out) / "config.yaml").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_kept_out_part_never_takes_the_last_clips_of_a_class(known: bool) -> None:
    generator = np.random.default_rng(0)
    for seed in range(20):
        units = generator.integers(0, 6, 30).astype(str)
        labels = np.minimum(generator.integers(0, 9, 30), 3)
        mask = part_of(units, labels, 0.4, seed, known=known)
        assert set(labels[~mask]) == set(labels) and not set(units[mask]) & set(units[~mask])


def test_elapsed_time_adds_up_over_continuations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def go(resume: int, steps: list[int], device: str) -> None:
        with RunLog(tmp_path, resume_step=resume, device=device) as log:
            for step in steps:
                clock[0] += 1800
                log.scalars(step, {"loss": 1.0})

    go(0, [1, 2, 3], "1 x CPU")
    clock[0] += 1e6  # the machine was off
    go(2, [3, 4], "1 x GPU")  # step 3 was lost
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["elapsed"] for line in lines] == [1800, 3600, 5400, 7200]
    assert trained(tmp_path / "log.jsonl") == {"training, hours": 2, "training on": "1 x CPU, then 1 x GPU", "steps": 4}
    assert trained(None) == {}
