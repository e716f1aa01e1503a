"""Evaluation: every clip once, labels by name, views averaged, and the same numbers from several processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hicmae.configs import as_dict
from hicmae.datasets import ClipStore, Index, ShardConfig, write_shards
from hicmae.datasets.sampling import eval_views
from hicmae.finetune import FinetuneConfig, evaluate, run
from hicmae.finetune.evaluation import open_test
from hicmae.finetune.predictions import clips_of, predict_index
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError
from hicmae.runtime.metrics import confusion_matrix, scores
from tests.finetune.conftest import COLOURS, changed, make_shards, rows, tinted

HERE = Place(device=torch.device("cpu"))
VIEWS: dict[str, Any] = {"frames": 4, "stride": 2, "size": 32, "segments": 2}


class Tint(nn.Module):
    """Logits from the mean of each colour, in the order of `COLOURS`; counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, video: Tensor) -> Tensor:
        self.shown += len(video)
        return video.mean((2, 3, 4))[:, [2, 1, 0]]


@pytest.fixture
def trained(recipe: FinetuneConfig) -> Path:
    """A run that has learnt the colours a little."""
    run(changed(recipe, loop__epochs=2, data__workers=0), show=False)
    return Path(recipe.out)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_clip_is_predicted_once_and_its_views_are_averaged(test_shards: str, batch_size: int) -> None:
    index, model = Index.load(test_shards), Tint()
    number, chances, skipped = predict_index(model, index, HERE, **VIEWS, batch_size=batch_size, show=False)
    assert number.tolist() == list(range(15)) and skipped == []
    assert model.shown == 30
    store, views = ClipStore(index), eval_views(**VIEWS)
    for n in (0, 7, 14):
        by_hand = [view(store[n], torch.Generator())["video"] for view in views]
        assert not torch.equal(*by_hand)
        wanted = torch.stack([Tint()(video[None])[0].double().softmax(-1) for video in by_hand]).mean(0)
        np.testing.assert_allclose(chances[n], wanted.numpy(), rtol=1e-6)


@pytest.mark.parametrize("classes", [COLOURS, ("red", "blue", "green")])
def test_labels_are_matched_by_name_not_by_number(trained: Path, tmp_path: Path, classes: tuple[str, ...]) -> None:
    folder = make_shards(tmp_path / "other", rows(3, "q"), classes=classes)
    report = evaluate(trained, [folder], out=tmp_path / "out", device="cpu", show=False)
    assert report.labels == COLOURS
    by_key = dict(zip(report.keys, report.truth, strict=True))
    assert len(by_key) == 9
    assert all(COLOURS[label] in key for key, label in by_key.items())


def test_labels_the_model_does_not_know_are_an_error_that_lists_both(trained: Path, tmp_path: Path) -> None:
    tinted(tmp_path / "clips" / "a.mp4", "red", 0)
    (tmp_path / "list.csv").write_text("path,label\nclips/a.mp4,crimson\n")
    write_shards([], tmp_path / "s", config=ShardConfig(size=32, list=str(tmp_path / "list.csv")), progress=False)
    with pytest.raises(UserError, match=r"does not know: crimson.*labels are crimson.*model's are blue, green, red"):
        evaluate(trained, [tmp_path / "s"], device="cpu", show=False)


def test_a_class_without_test_clips_is_named_and_left_out_of_the_means(trained: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "two", [row for row in rows(3) if row[1] != "green"])
    report = evaluate(trained, [folder], out=tmp_path / "out", device="cpu", show=False)
    assert report.scores.absent == (1,)
    assert report.scores.recall[1] is None
    assert any("has the label green" in note for note in report.notes)
    assert 0 <= report.intervals["uar"].value <= 1


def test_a_model_that_tells_nothing_apart_is_called_so(trained: Path, tmp_path: Path) -> None:
    from hicmae.runtime.checkpoint import read_weights, save_weights

    weights, meta = read_weights(max((trained / "checkpoints").iterdir()) / "weights.safetensors")
    weights["head.bias"] = torch.tensor([0.0, 1e6, 0.0])
    save_weights(tmp_path / "w.safetensors", weights, meta)
    report = evaluate(tmp_path / "w.safetensors", out=tmp_path / "out", device="cpu", show=False)
    assert report.intervals["uar"].value == pytest.approx(1 / 3)
    assert any("tells nothing apart" in note for note in report.notes)
    weights["head.bias"] = torch.tensor([0.0, 0.0, -1e6])
    save_weights(tmp_path / "w.safetensors", weights, meta)
    report = evaluate(tmp_path / "w.safetensors", out=tmp_path / "out", device="cpu", show=False)
    assert any(note.startswith("Never predicted: ") and "red" in note for note in report.notes)


def test_several_test_folders_are_measured_as_one(trained: Path, tmp_path: Path, test_shards: str) -> None:
    folder = make_shards(tmp_path / "other", rows(2, "q"), classes=("red", "green", "blue"))
    report = evaluate(trained, [test_shards, folder], out=tmp_path / "out", device="cpu", show=False)
    assert len(report.truth) == 21
    assert all(COLOURS[label] in key for key, label in zip(report.keys, report.truth, strict=True))


def test_samples_of_one_long_video_are_one_clip(trained: Path, tmp_path: Path) -> None:
    tinted(tmp_path / "clips" / "long.mp4", "red", 1, frames=40)  # 3.2 s: three samples
    tinted(tmp_path / "clips" / "short.mp4", "blue", 2)
    (tmp_path / "list.csv").write_text("path,label\nclips/long.mp4,red\nclips/short.mp4,blue\n")
    config = ShardConfig(size=32, list=str(tmp_path / "list.csv"), max_seconds=1.2)
    index = write_shards([], tmp_path / "s", config=config, progress=False)
    assert len(index) == 4
    report = evaluate(trained, [tmp_path / "s"], out=tmp_path / "out", device="cpu", show=False)
    assert [Path(source).name for source in report.sources] == ["long.mp4", "short.mp4"]
    assert report.protocol["samples"] == 4 and report.protocol["clips"] == 2
    _, by_sample, _ = predict_index(_model(trained), index, HERE, **VIEWS, show=False)
    np.testing.assert_allclose(report.probabilities[0], by_sample[:3].mean(0), rtol=1e-6)
    np.testing.assert_allclose(report.probabilities[1], by_sample[3], rtol=1e-6)


def test_samples_of_one_recording_with_different_labels_stay_apart(test_shards: str) -> None:
    index = Index.load(test_shards)
    sources = index.sources.copy()
    sources[:5] = "dialogue.mp4"
    sources[5:8] = "monologue.mp4"
    labels = index.labels.copy()
    labels[:5], labels[5:8] = [0, 0, 1, 1, 2], 1
    same = dataclasses.replace(index, sources=sources, labels=labels)
    assert clips_of(same, np.arange(15)).tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 10, 11, 12]


def _model(folder: Path) -> nn.Module:
    from hicmae.finetune.evaluation import load_classifier
    from hicmae.runtime.checkpoint import weights_file

    return load_classifier(weights_file(folder))[0]


def test_the_report_agrees_with_its_own_predictions(trained: Path, test_shards: str) -> None:
    report = evaluate(trained, device="cpu", show=False)
    stored = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    truth = [COLOURS.index(row["truth"]) for row in stored["predictions"]]
    guess = [int(np.argmax(row["probabilities"])) for row in stored["predictions"]]
    assert [COLOURS[k] for k in guess] == [row["prediction"] for row in stored["predictions"]]
    matrix = confusion_matrix(truth, guess, 3)
    assert stored["confusion"] == matrix.tolist()
    assert stored["numbers"]["uar"]["value"] == pytest.approx(scores(matrix).uar)
    assert stored["numbers"]["war"]["value"] == pytest.approx(scores(matrix).war)
    with (trained / "evaluation" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["key"] for row in table] == [row["key"] for row in stored["predictions"]] == report.keys
    assert float(table[0]["p(blue)"]) == pytest.approx(report.probabilities[0, 0], abs=1e-6)
    assert {row["group"] for row in table} == {f"test{i}" for i in range(5)}
    assert "5 groups" in stored["protocol"]["intervals"]
    assert stored["labels"] == list(COLOURS) and stored["preprocessing"]["size"] == 32
    assert stored["config"]["model"] == "mae_dfer_base"


def test_without_groups_the_result_is_stamped_clip_level(trained: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "anonymous", rows(3, people=False))
    report = evaluate(trained, [folder], out=tmp_path / "out", device="cpu", show=False)
    assert "clip-level (groups unknown)" in report.protocol["intervals"]
    assert "clip-level (groups unknown)" in (tmp_path / "out" / "evaluation.html").read_text()
    assert "clip-level (groups unknown)" in str(report)


def test_clips_made_differently_from_the_training_clips_are_pointed_out(trained: Path, tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "large", rows(1), size=48)
    report = evaluate(trained, [folder], out=tmp_path / "out", device="cpu", show=False)
    assert any("made differently" in note and "size 32 in training, 48 here" in note for note in report.notes)
    assert not any("made differently" in note for note in evaluate(trained, device="cpu", show=False).notes)


def test_the_number_of_segments_can_be_chosen(trained: Path, tmp_path: Path) -> None:
    one = evaluate(trained, segments=1, out=tmp_path / "one", device="cpu", show=False)
    two = evaluate(trained, out=tmp_path / "two", device="cpu", show=False)
    assert (one.protocol["segments"], two.protocol["segments"]) == (1, 2)
    assert not np.allclose(one.probabilities, two.probabilities)
    with pytest.raises(UserError, match="segments must be at least 1, not 0"):
        evaluate(trained, segments=0, device="cpu", show=False)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_unreadable_clip_is_left_out_and_listed_or_stops_the_run(
    trained: Path, tmp_path: Path, test_shards: str, share: float
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(test_shards, folder)
    index = Index.load(folder)
    with index.shards[int(index.shard[4])].path.open("r+b") as tar:
        tar.seek(int(index.offset[4]))
        tar.write(bytes(int(index.size[4])))
    opened = open_test([folder], COLOURS, "the model")
    if share == 0.0:
        with pytest.raises(UserError, match=r"1 clips .* cannot be used"):
            predict_index(Tint(), opened, HERE, **VIEWS, max_bad_share=share, show=False)
        return
    number, _, skipped = predict_index(Tint(), opened, HERE, **VIEWS, max_bad_share=share, show=False)
    assert number.tolist() == [n for n in range(15) if n != 4]
    assert [key for key, _ in skipped] == [index.keys[4]]


@pytest.mark.parametrize("kind", ["run", "checkpoint", "file"])
def test_a_run_a_checkpoint_folder_or_a_weights_file_can_be_measured(trained: Path, kind: str) -> None:
    shutil.rmtree(trained / "evaluation")
    folder = max((trained / "checkpoints").iterdir())
    source = {"run": trained, "checkpoint": folder, "file": folder / "weights.safetensors"}[kind]
    evaluate(source, device="cpu", show=False)
    assert {path.name for path in (trained / "evaluation").iterdir()} == {
        "evaluation.json", "evaluation.html", "predictions.csv", "features.npz",
    }  # fmt: skip


def test_what_cannot_be_measured_is_refused_in_words(trained: Path, tmp_path: Path) -> None:
    import hicmae
    from hicmae.models import save_weights
    from hicmae.runtime.checkpoint import read_weights
    from hicmae.runtime.checkpoint import save_weights as save_plain

    with pytest.raises(UserError, match="no such checkpoint"):
        evaluate(tmp_path / "nowhere", device="cpu", show=False)
    pretraining = hicmae.create_model("mae_dfer_base", stage="pretrain", dim=16, depth=1, heads=2, size=32)
    save_weights(tmp_path / "p.safetensors", pretraining)
    with pytest.raises(UserError, match="is a pretraining checkpoint, which predicts no classes; fine-tune it first"):
        evaluate(tmp_path / "p.safetensors", device="cpu", show=False)
    weights, meta = read_weights(max((trained / "checkpoints").iterdir()) / "weights.safetensors")
    save_plain(tmp_path / "bare.safetensors", weights, {k: v for k, v in meta.items() if k != "labels"})
    with pytest.raises(UserError, match="does not say its labels"):
        evaluate(tmp_path / "bare.safetensors", device="cpu", show=False)
    meta["config"]["data"]["test"] = []
    save_plain(tmp_path / "untested.safetensors", weights, meta)
    with pytest.raises(UserError, match=r"names no data\.test; name folders of labelled shards, --data DIR"):
        evaluate(tmp_path / "untested.safetensors", device="cpu", show=False)


SCRIPT = """
import json, os, sys
from hicmae.finetune import evaluate
run, out = sys.argv[1:]
report = evaluate(run, out=out, device="cpu", show=False, batch_size=4)
with open(f"{out}-rank{os.environ['RANK']}.json", "w") as file:
    json.dump(report.to_dict()["predictions"], file)
"""


def two_processes(script: str, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, script, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_two_processes_measure_every_clip_exactly_once(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    two_processes(str(tmp_path / "script.py"), str(trained), str(tmp_path / "two"))  # 7 clips for one, 8 for the other
    one = evaluate(trained, out=tmp_path / "one", device="cpu", show=False).to_dict()
    two = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert one["numbers"] == two["numbers"] and one["confusion"] == two["confusion"]
    ranks = [json.loads((tmp_path / f"two-rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1] == two["predictions"]
    assert [row["key"] for row in one["predictions"]] == [row["key"] for row in two["predictions"]]
    assert len({row["key"] for row in two["predictions"]}) == 15
    for a, b in zip(one["predictions"], two["predictions"], strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=2e-6)


TRAINING = """
import json, sys
from hicmae import configs
from hicmae.finetune import FinetuneConfig, run
print(run(configs.load(FinetuneConfig, json.loads(sys.argv[1])), show=False))
"""


def test_two_processes_train_together_and_report_what_one_would(recipe: FinetuneConfig, tmp_path: Path) -> None:
    config = changed(recipe, loop__epochs=4, loop__ema=0.9)
    (tmp_path / "script.py").write_text(TRAINING)
    two_processes(str(tmp_path / "script.py"), json.dumps(as_dict(config)))
    for ema in (False, True):
        one = evaluate(config.out, ema=ema, out=tmp_path / "one", device="cpu", show=False).to_dict()
        two = json.loads((Path(config.out) / f"evaluation{'-ema' if ema else ''}" / "evaluation.json").read_text())
        assert one["numbers"] == two["numbers"] and len(two["predictions"]) == 15
    run(changed(config, out=str(tmp_path / "alone")), show=False)
    alone, both = (_model(Path(folder)).state_dict() for folder in (tmp_path / "alone", config.out))
    for name in alone:  # no chance in this model: two halves of a batch sum to the same gradient
        torch.testing.assert_close(alone[name], both[name], rtol=1e-3, atol=1e-4)
