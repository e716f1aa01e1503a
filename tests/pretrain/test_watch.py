"""A run that is watched trains as if nobody looked, and what it shows is there and right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from hicmae import configs
from hicmae.datasets.media import write_video
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, probing, run
from hicmae.pretrain.watch import Watcher
from hicmae.runtime import checkpoint
from hicmae.runtime.log import RunLog, UserError
from tests import processes
from tests.media_files import pulses, video
from tests.pretrain.test_audio_visual import ARGS as HICMAE
from tests.pretrain.test_audio_visual import RECIPE
from tests.pretrain.test_engine import TINY

ARGS = {**HICMAE, "mae_dfer_base": TINY["args"]}
SOUND = 3
"""Rows of a picture that show sound; as many show frames."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue clips with sound, of four people: 16."""
    root = tmp_path_factory.mktemp("watched")
    lines = ["path,label,group"]
    for n in range(16):
        colour = ("red", "blue")[n % 2]
        pixels = np.random.default_rng(n).integers(0, 90, (7, 32, 32, 3))
        pixels[..., 2 * (n % 2)] += 120
        write_video(root / f"{n:02d}.mp4", pixels.astype(np.uint8), 25, pulses(7 / 25, every=0.02 + 0.02 * (n % 2)))
        lines.append(f"{n:02d}.mp4,{colour},person{n // 4}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    config = ShardConfig(size=32, list=str(root / "list.csv"))
    write_shards([], root / "shards", config=config, progress=False)
    return root / "shards"


def recipe(shards: Path, out: Path, *options: str, model: str = "mae_dfer_base") -> PretrainConfig:
    given = {**RECIPE, "model": model, "args": ARGS[model]}
    given["contrast"] = {"negatives": "global", "weight": 0.5}
    return configs.load(PretrainConfig, given, [f"--data.shards={shards}", f"--out={out}", *options])


def watched(shards: Path, out: Path, *options: str, model: str = "mae_dfer_base") -> PretrainConfig:
    looks = ["--watch.every=1", "--watch.pictures=2", "--watch.points=6", f"--watch.probe={shards}"]
    return recipe(shards, out, *looks, *options, model=model)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(checkpoint.weights_file(out))[0]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out) if "loss" in line]


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return losses(one) == losses(other) and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def embeddings(out: Path) -> list[str]:
    """Names of what TensorBoard's projector lists; each with one vector per word and a sprite."""
    folder = out / "tensorboard" / "watch"
    listed = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    for info in listed:
        vectors = np.loadtxt(folder / info.tensor_path, delimiter="\t", ndmin=2)
        words = [line.split("\t") for line in (folder / info.metadata_path).read_text().splitlines()]
        assert words[0] == ["label", "group", "key"] and len(words) == len(vectors) + 1
        assert {word[0] for word in words[1:]} <= {"red", "blue"} and np.isfinite(vectors).all()
        with Image.open(folder / info.sprite.image_path) as sprite:
            assert sprite.size[0] >= 48 * np.ceil(len(vectors) ** 0.5)
    return [info.tensor_name for info in listed]


@pytest.mark.parametrize(("model", "kinds"), [("mae_dfer_base", 1), ("hicmae_tiny", 2), ("hicmae_tiny_audio", 1)])
def test_a_watched_run_equals_one_that_is_not_bit_for_bit_and_shows_what_it_does(
    model: str, kinds: int, shards: Path, tmp_path: Path
) -> None:
    drawn = "--args.drop_path=0.2"  # so that training draws from the generators
    run(recipe(shards, tmp_path / "plain", drawn, model=model), show=False)
    run(watched(shards, tmp_path / "seen", drawn, model=model), show=False)
    assert same(tmp_path / "plain", tmp_path / "seen")
    assert not (tmp_path / "plain" / "watch").exists()
    pictures = sorted((tmp_path / "seen" / "watch").iterdir())
    assert [path.name for path in pictures] == ["step-00000004.png", "step-00000008.png"]
    board = EventAccumulator(str(tmp_path / "seen" / "tensorboard" / "watch")).Reload()
    shown = board.Images("reconstructions")
    for path, image in zip(pictures, shown, strict=True):
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG" and picture.size == (image.width, image.height)
            assert picture.height > 2 * SOUND * kinds * 152  # two clips, of rows 152 pixels high
    assert [image.step for image in shown] == [4, 8]
    assert embeddings(tmp_path / "seen") == ["features:00004", "features:00008"]
    figures = [line for line in lines(tmp_path / "seen") if "probe_linear_uar" in line]
    assert [line["step"] for line in figures] == [4, 8]
    if model == "mae_dfer_base":  # colours are told without any training
        assert all(line[name] == 1 for line in figures for name in line if name.startswith("probe_"))
    scalars = EventAccumulator(str(tmp_path / "seen" / "tensorboard")).Reload().Tags()["scalars"]
    assert {"loss", "grad_norm", "lr", "data_wait", "clips_per_second", "skipped_clips"} < set(scalars)
    assert {"probe_knn_uar", "probe_knn_war", "probe_linear_uar", "probe_linear_war"} < set(scalars)


def test_a_run_killed_while_it_looks_is_continued_and_lists_each_look_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(shards, tmp_path / "plain", "--loop.epochs=3"), show=False)
    show, looks = Watcher._show, 0

    def interrupted(*given: Any) -> None:
        nonlocal looks
        looks += 1
        show(*given)
        if looks == 2:
            raise KeyboardInterrupt

    options = ["--loop.epochs=3", "--watch.pictures=0"]
    monkeypatch.setattr(Watcher, "_show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(watched(shards, tmp_path / "seen", *options), show=False)
    run(watched(shards, tmp_path / "seen", *options, "--watch.points=5"), show=False)  # looks may change
    assert same(tmp_path / "plain", tmp_path / "seen")
    assert embeddings(tmp_path / "seen") == ["features:00004", "features:00008", "features:00012"]
    assert [line["step"] for line in lines(tmp_path / "seen") if "probe_knn_uar" in line] == [4, 8, 12]


@pytest.mark.slow  # 15 seconds on a busy core, most of them to start processes
def test_two_processes_are_watched_as_one(shards: Path, tmp_path: Path) -> None:
    options = ["--loop.epochs=1", "--watch.points=7"]
    run(watched(shards, tmp_path / "one", *options), show=False)
    processes.run(2, _train, watched(shards, tmp_path / "two", *options), log=tmp_path / "two.txt")
    processes.run(2, _train, recipe(shards, tmp_path / "plain", *options[:1]), log=tmp_path / "plain.txt")
    assert same(tmp_path / "two", tmp_path / "plain")
    assert [path.name for path in (tmp_path / "two" / "watch").iterdir()] == ["step-00000004.png"]
    assert embeddings(tmp_path / "two") == embeddings(tmp_path / "one") == ["features:00004"]
    found = [next(line for line in lines(tmp_path / name) if "probe_knn_uar" in line) for name in ("one", "two")]
    assert found[0]["probe_linear_uar"] == found[1]["probe_linear_uar"] == 1
    words = [
        tmp_path / name / "tensorboard" / "watch" / "00004" / "features" / "tensors.tsv" for name in ("one", "two")
    ]
    one, two = (np.loadtxt(path, delimiter="\t") for path in words)
    assert one.shape == two.shape and np.allclose(one, two, atol=1e-3)


def _train(config: PretrainConfig) -> None:
    run(config, show=False)


def test_a_picture_that_cannot_be_written_is_said_and_training_goes_on(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("watch").write_text("in the way")
    run(watched(shards, tmp_path, "--loop.epochs=1"), show=False)
    told = capsys.readouterr().err
    assert "watching at step 4" in told and "cannot be written" in told and "training goes on" in told
    assert len(losses(tmp_path)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch.every=-1"], r"watch\.every must not be negative"),
        (["--watch.probe=a"], r"watch\.probe is stated, .*set watch\.every"),
        (["--watch.every=1", "--watch.probe_test=a"], r"watch\.probe_test needs watch\.probe"),
        (["--watch.every=1", "--loop.engine=fsdp"], r"fsdp divides the model .*hicmae reconstruct"),
        (["--watch.every=1", "--watch.probe=SILENT"], r"watch\.probe: the clips of .* have no labels of two classes"),
        (["--watch.every=1", "--watch.probe=SHARDS@colour=red"], r"no column colour"),
        (["--watch.every=1", "--watch.clips=SILENT", "--model=hicmae_tiny"], r"watch\.clips: none of the 2 clips"),
        (["--watch.every=1", "--data.frames=6", "--args.patch=[3,8,8]"], r"watch\.pictures: .*set it to 0"),
    ],
)
def test_what_cannot_be_watched_is_told_before_training(
    shards: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    for n in range(2):
        video(tmp_path / "clips" / f"{n}.mp4", seed=n, sound=False)
    write_shards([tmp_path / "clips"], tmp_path / "silent", config=ShardConfig(size=32), progress=False)
    model = next((option[8:] for option in options if option.startswith("--model=")), "mae_dfer_base")
    names = {"SILENT": str(tmp_path / "silent"), "SHARDS": str(shards)}
    given = [option for option in options if "model" not in option]
    for word, name in names.items():
        given = [option.replace(word, name) for option in given]
    with pytest.raises((ValueError, UserError), match=message):
        run(recipe(shards, tmp_path / "out", *given, model=model), show=False)
    assert not (tmp_path / "out" / "checkpoints").exists()


def _clouds(seed: int, clips: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (clips, 12) of three classes, of which the first has most, `apart` along one direction each."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, clips, p=[0.6, 0.2, 0.2])
    return draw.normal(size=(clips, 12)) + apart * np.eye(12)[labels] + 3, labels


@pytest.mark.parametrize("tell", [probing.nearest, probing.linear])
def test_probes_tell_what_features_hold_and_nothing_from_noise(tell: Any) -> None:
    def right(apart: float) -> float:
        (train, known), (test, truth) = _clouds(0, 300, apart), _clouds(1, 300, apart)
        told = tell(train, known, test, 3)
        return float(np.mean([(told[truth == k] == k).mean() for k in range(3)]))

    assert right(30.0) == 1.0
    assert 0.2 < right(0.0) < 0.45  # chance is a third
    assert right(0.0) < right(3.0) < 1.0


def test_the_error_by_which_the_linear_probe_chooses_is_that_of_leaving_each_clip_out() -> None:
    x, labels = _clouds(2, 40, 1.5)
    y, weight = np.eye(3)[labels], 1 / np.bincount(labels)[labels]
    weight *= len(x) / weight.sum()
    ridge = probing._Ridge(x, labels, 3)
    for penalty in probing.PENALTIES:
        errors = []
        for out in range(len(x)):
            rest = np.arange(len(x)) != out
            w = weight[rest][:, None]
            x0, y0 = (w * x[rest]).sum(0) / w.sum(), (w * y[rest]).sum(0) / w.sum()
            a, b = x[rest] - x0, y[rest] - y0
            slope = np.linalg.solve(a.T @ (w * a) + penalty * np.eye(12), a.T @ (w * b))
            errors.append(weight[out] * (y[out] - y0 - (x[out] - x0) @ slope) ** 2)
        assert ridge.error(penalty) == pytest.approx(np.mean(errors), rel=1e-6)


def test_what_the_log_is_told_others_hear_too(tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    with RunLog(tmp_path, lambda step, values: heard.append((step, dict(values)))) as log:
        log.scalars(3, {"loss": 1.5}, skipped=["a"])
    assert heard == [(3, {"loss": 1.5})]


def test_weights_and_biases_without_its_package_is_refused_with_the_extra(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"hicmae\[wandb\]"):
        run(recipe(shards, tmp_path, "--watch.wandb=faces"), show=False)
