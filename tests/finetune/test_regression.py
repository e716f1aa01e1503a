"""Tasks other than one class per clip, from recipe to report, on clips whose colour tells the answer."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.configs import ConfigError, load
from hicmae.datasets import Index, ShardConfig, write_shards
from hicmae.finetune import (
    FinetuneConfig,
    Report,
    TaskConfig,
    ValueReport,
    build_model,
    evaluate,
    run,
)
from hicmae.inference import predict_clip
from hicmae.runtime.checkpoint import newest, read_weights
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import Fit
from tests.finetune.conftest import COLOURS, Killed, Life, changed, tinted

ANSWERS = {  # what the list says of a clip of each colour
    "red": {"valence": "1.0", "arousal": "0.5", "warm": "1", "bright": "0", "votes": "0 1 7"},
    "green": {"valence": "0.0", "arousal": "-0.5", "warm": "0", "bright": "1", "votes": "2 6 0"},
    "blue": {"valence": "-1", "arousal": "0.5", "warm": "0", "bright": "0", "votes": "8 0 0"},
}


def told_shards(
    root: Path, per_colour: int, *, seed: int = 0, labels: bool = True, wrong: Mapping[str, str] | None = None
) -> str:
    """Shards of clips whose list has the columns of `ANSWERS`; those of clip 0 replaced by `wrong`."""
    table = []
    for number in range(per_colour * len(COLOURS)):
        colour = COLOURS[number % len(COLOURS)]
        tinted(root / "clips" / f"{number}.mp4", colour, seed=seed + number)
        answers = {**ANSWERS[colour], **((wrong or {}) if number == 0 else {})}
        named = {"label": colour} if labels else {}
        table.append({"path": f"clips/{number}.mp4", **named, "group": f"p{number // len(COLOURS)}", **answers})
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    config = ShardConfig(size=32, per_shard=8, list=str(root / "list.csv"))
    write_shards([], root / "shards", config=config, progress=False)
    return str(root / "shards")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> str:
    return told_shards(tmp_path_factory.mktemp("train"), 8)


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> str:
    return told_shards(tmp_path_factory.mktemp("test"), 4, seed=500)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    return told_shards(tmp_path_factory.mktemp("unlabelled"), 3, labels=False)


def learning(
    recipe: FinetuneConfig, train: str, test: str | None, task: dict[str, Any], **changes: Any
) -> FinetuneConfig:
    data = {"data__train": [train], "data__test": [test] if test else []}
    return changed(recipe, **{**data, "task": TaskConfig(**task), **changes})


VALUES = {"kind": "regression", "columns": ["valence", "arousal"]}


@pytest.mark.parametrize("loss", ["mse", "l1", "smooth_l1", "ccc", "pcc"])
def test_numbers_are_learnt_with_every_loss(recipe: FinetuneConfig, train: str, test: str, loss: str) -> None:
    config = learning(recipe, train, test, {**VALUES, "loss": loss}, loop__epochs=12)
    run(config, show=False)
    found = json.loads((Path(config.out) / "evaluation" / "evaluation.json").read_text())
    assert found["numbers"]["pcc"]["value"] > 0.9
    if loss != "pcc":  # which does not know the scale
        assert found["numbers"]["mae"]["value"] < 0.25 and found["numbers"]["ccc"]["value"] > 0.85
    assert found["outputs"] == ["valence", "arousal"] == list(found["per_output"])


@pytest.mark.parametrize("name", ["hicmae_tiny_video", "videomae_base"])
def test_outputs_per_frame_learn_the_clips_numbers_on_other_encoders(
    recipe: FinetuneConfig, train: str, test: str, name: str
) -> None:
    args = {"dim": 16, "depth": 2, "heads": 2, "patch": [2, 8, 8], "init_scale": 1.0}
    config = learning(recipe, train, test, {**VALUES, "per_frame": True}, model=name, args=args, loop__epochs=12)
    last = run(config, show=False)
    assert read_weights(last / "weights.safetensors")[1]["args"]["keep_temporal"] is True
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, ValueReport) and report.intervals["mae"].value < 0.25


def test_per_frame_outputs_of_a_region_encoder_learn_classes(recipe: FinetuneConfig) -> None:
    config = changed(recipe, task=TaskConfig(per_frame=True))
    run(config, show=False)
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, Report) and report.scores.uar > 0.9


def test_a_label_and_numbers_are_learnt_together(recipe: FinetuneConfig, train: str, test: str) -> None:
    config = learning(recipe, train, test, {**VALUES, "kind": "joint", "loss_weight": 2.0}, loop__epochs=12)
    run(config, show=False)
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, Report) and report.values is not None
    assert report.scores.uar > 0.9 and report.values.intervals["mae"].value < 0.25
    assert report.labels == COLOURS and report.values.names == ("valence", "arousal")
    stored = report.to_dict()
    assert set(stored["values"]["per_output"]) == {"valence", "arousal"} and "valence" in str(report)
    log = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    last = [line for line in log if "value_loss" in line][-1]
    assert last["loss"] == pytest.approx(last["label_loss"] + 2 * last["value_loss"], rel=1e-4)


def test_raters_votes_are_learnt_as_shares(recipe: FinetuneConfig, train: str, test: str) -> None:
    config = learning(recipe, train, test, {"kind": "soft"}, loop__epochs=20)
    assert config.task.columns == ["votes"] and config.augment.smoothing == 0
    run(config, show=False)
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, Report) and report.scores.uar > 0.9
    green = report.probabilities[report.truth == 1].mean(0)
    assert np.abs(green - [0.25, 0.75, 0]).max() < 0.12  # as 2 and 6 of 8 raters


def test_independent_classes_are_learnt_without_labels(recipe: FinetuneConfig, train: str, test: str) -> None:
    config = learning(recipe, train, test, {"kind": "multi", "columns": ["warm", "bright"]}, loop__epochs=12)
    run(config, show=False)
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, ValueReport)
    assert ((report.predicted > 0.5) == report.truth).mean() > 0.9
    assert report.predicted.min() >= 0 and report.predicted.max() <= 1


def test_numbers_need_no_labels_and_pass_through_the_activation(recipe: FinetuneConfig, unlabelled: str) -> None:
    task = {"kind": "regression", "columns": ["arousal"], "activation": "sigmoid"}
    config = learning(recipe, unlabelled, unlabelled, task, loop__epochs=1)
    run(config, show=False)
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, ValueReport) and 0 < report.predicted.min() <= report.predicted.max() < 1
    assert report.protocol["clips"] == 9 and report.groups is not None


def test_a_report_of_numbers_is_written_as_text_table_and_page(recipe: FinetuneConfig, train: str, test: str) -> None:
    config = learning(recipe, train, test, VALUES, loop__epochs=1)
    run(config, show=False)
    folder = Path(config.out) / "evaluation"
    with (folder / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    report = evaluate(config.out, device="cpu", show=False)
    assert isinstance(report, ValueReport) and len(lines) == len(report.keys) == 12
    assert float(lines[0]["prediction(valence)"]) == pytest.approx(report.predicted[0, 0], abs=1e-5)
    assert float(lines[0]["truth(valence)"]) == report.truth[0, 0]
    assert report.intervals["mae"].value == pytest.approx(np.abs(report.predicted - report.truth).mean())
    page = (folder / "evaluation.html").read_text()
    assert "valence" in page and "CCC, n - 1" in page and "Mean absolute error" in page and "arousal" in str(report)


def test_a_model_of_numbers_predicts_them_by_name(recipe: FinetuneConfig, train: str, tmp_path: Path) -> None:
    config = learning(recipe, train, None, {**VALUES, "loss": "l1"}, loop__epochs=12)
    run(config, show=False)
    clip = tinted(tmp_path / "new.mp4", "red", seed=77)
    found = predict_clip(clip, config.out, device="cpu")
    assert found.probabilities == {} and found.label is None
    assert found.values["valence"] == pytest.approx(1, abs=0.4) and list(found.values) == ["valence", "arousal"]
    assert found.to_dict()["values"]["valence"] == round(found.values["valence"], 6)
    assert "probabilities" not in found.to_dict() and "valence" in found.table() and "valence" in str(found)


def test_a_joint_model_predicts_both(recipe: FinetuneConfig, train: str, tmp_path: Path) -> None:
    config = learning(recipe, train, None, {**VALUES, "kind": "joint"}, loop__epochs=1)
    run(config, show=False)
    found = predict_clip(tinted(tmp_path / "new.mp4", "red", seed=77), config.out, device="cpu")
    assert set(found.probabilities) == set(COLOURS) and set(found.values) == {"valence", "arousal"}
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert "valence" in found.table() and found.label in found.table()


# -- continuing, and starting from other heads -----------------------------------------------------------------------


def test_a_regression_killed_and_continued_equals_an_undisturbed_one_bit_for_bit(
    recipe: FinetuneConfig, mortal: Life, train: str
) -> None:
    config = learning(recipe, train, None, {**VALUES, "loss": "ccc"}, loop__epochs=2, loop__save_every=2)
    ends = []
    for out, left in ((recipe.out + "-a", 10**9), (recipe.out + "-b", 4)):
        mortal.left = left
        if left == 4:
            with pytest.raises(Killed):
                run(changed(config, out=out), show=False)
            mortal.left = 10**9
        folder = newest(Path(run(changed(config, out=out), show=False)).parents[1])
        assert folder is not None
        ends.append(read_weights(folder / "weights.safetensors")[0])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_head_is_taken_over_only_where_its_outputs_mean_the_same(recipe: FinetuneConfig, train: str) -> None:
    first = learning(recipe, train, None, VALUES, loop__epochs=1)
    last = run(first, show=False)
    names = tuple(VALUES["columns"])
    for task, kept in (
        (VALUES, True),
        ({**VALUES, "activation": "tanh"}, False),
        ({**VALUES, "kind": "multi"}, False),
    ):
        config = changed(first, task=TaskConfig(**task), init=str(last), out=recipe.out + "2")
        loaded = build_model(config, names)[1]
        assert loaded is not None and ("head.weight" in loaded.loaded) is kept


# -- what the columns say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "task", "message"),
    [
        ({"valence": "high"}, VALUES, r"column valence of sample \S+ is 'high', which is no number; correct the list"),
        ({"valence": ""}, VALUES, r"column valence of sample \S+ is empty"),
        ({"arousal": "nan"}, VALUES, r"column arousal .* is 'nan', which is no number"),
        ({"arousal": "-inf"}, VALUES, r"column arousal .* is '-inf', which is no number"),
        ({"valence": "3"}, {**VALUES, "ranges": {"valence": (-1, 1)}}, r"is 3, outside -1 … 1; .*task.ranges.valence"),
        ({}, {"kind": "regression", "columns": ["dominance"]}, r"no column dominance .*columns are: arousal, bright"),
        ({"warm": "0.5"}, {"kind": "multi", "columns": ["warm"]}, r"column warm .* is 0.5, not 0 or 1"),
        ({"votes": "1 2"}, {"kind": "soft"}, r"has 2 numbers for the 3 classes blue, green, red"),
        ({"votes": "1 2 x"}, {"kind": "soft"}, r"is 'x', which is no number"),
        ({"votes": "0 0 0"}, {"kind": "soft"}, r"is '0 0 0': votes are not negative, and there is one at least"),
        ({"votes": "2 -1 0"}, {"kind": "soft"}, r"votes are not negative"),
    ],
)
def test_a_target_that_is_missing_or_wrong_is_named_before_training(
    recipe: FinetuneConfig, tmp_path: Path, train: str, wrong: dict[str, str], task: dict[str, Any], message: str
) -> None:
    folder = told_shards(tmp_path / "wrong", 1, wrong=wrong)
    with pytest.raises(UserError, match=message) as caught:
        run(learning(recipe, folder, None, task), show=False)
    assert folder in str(caught.value) and not Path(recipe.out).exists()
    if task["kind"] != "soft" and wrong:  # and in the test clips
        with pytest.raises(UserError, match=message):
            run(learning(recipe, train, folder, task), show=False)
        assert not Path(recipe.out).exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "regresion"}, r"task\.kind"),
        ({"kind": "regression"}, r"task\.columns: 'regression' takes one or more, each once, not \[\]"),
        ({"columns": ["a"]}, r"task\.columns: 'single' takes none"),
        ({"kind": "soft", "columns": ["a", "b"]}, r"task\.columns: 'soft' takes one"),
        ({**VALUES, "columns": ["a", "a"]}, r"each once"),
        ({**VALUES, "loss": "huber"}, r"task\.loss"),
        ({**VALUES, "ranges": {"dominance": [0, 1]}}, r"task\.ranges: dominance is no number .* valence"),
        ({**VALUES, "ranges": {"valence": [1, -1]}}, r"task\.ranges\.valence must hold the least number first"),
        ({**VALUES, "balanced": True}, r"task\.balanced does nothing where task\.kind is regression"),
        ({"loss": "ccc"}, r"task\.loss does nothing where task\.kind is single"),
        ({**VALUES, "loss_weight": 2.0}, r"task\.loss_weight does nothing"),
        ({**VALUES, "kind": "joint", "loss_weight": -1.0}, r"task\.loss_weight must be at least 0"),
        ({"logit_adjustment": float("nan")}, r"task\.logit_adjustment must be at least 0"),
        ({"balanced": True, "logit_adjustment": 1.0}, r"both make up for rare classes: choose one"),
    ],
)
def test_a_contradiction_in_a_task_is_refused_when_the_recipe_is_read(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(FinetuneConfig, {"model": "mae_dfer_base", "task": task})


def test_where_numbers_are_learnt_the_resolved_recipe_says_that_nothing_is_mixed() -> None:
    config = load(FinetuneConfig, {"model": "mae_dfer_base", "task": VALUES})
    assert (config.augment.mix, config.augment.smoothing) == (0, 0)
    joint = load(FinetuneConfig, {"model": "mae_dfer_base", "task": {**VALUES, "kind": "joint"}})
    assert (joint.augment.mix, joint.augment.smoothing) == (0, 0.1)


# -- rare classes ----------------------------------------------------------------------------------------------------


def test_balanced_sampling_takes_every_class_equally_often_and_all_clips_in_turn(
    recipe: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hicmae.finetune import engine

    root = tmp_path / "rare"
    lines = ["path,label"]
    for number, colour in enumerate(["red"] * 8 + ["green"] * 3 + ["blue"]):
        lines.append(f"{tinted(root / f'{number}.mp4', colour, number).name},{colour}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    write_shards([], root / "s", config=ShardConfig(size=32, list=str(root / "list.csv")), progress=False)
    streams: list[Any] = []

    class Noted(Fit):
        def run(self) -> Path:
            streams.append(self.stream)
            return Path("unused")

    monkeypatch.setattr(engine, "Fit", Noted)
    balanced = changed(recipe, data__train=[str(root / "s")], data__test=[], task=TaskConfig(balanced=True))
    run(changed(balanced, loop__batch_size=6), show=False)
    run(changed(balanced, task=TaskConfig(), loop__batch_size=6, out=recipe.out + "2"), show=False)
    index = Index.load(root / "s")
    even, plain = ([b for e in range(2) for step in s.epoch(e) for b in step] for s in streams)
    for batches, wanted in ((even, [8, 8, 8]), (plain, [2, 6, 16])):  # of 2 epochs x 12 clips
        assert np.bincount(np.concatenate([b["label"] for b in batches])).tolist() == wanted
    taken = np.bincount(np.concatenate([b["number"] for b in even]) % len(index), minlength=len(index))
    red = taken[index.labels == index.classes.index("red")]
    assert red.tolist() == [1] * 8  # 8 of 2 x 4: each once before any comes twice
