"""Pretraining with sound: both modalities, one tower alone, clips that cannot be heard, and several processes."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae import configs
from hicmae.datasets.index import Index
from hicmae.datasets.media import write_video
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, run
from hicmae.runtime import checkpoint
from hicmae.runtime.log import UserError
from tests import processes
from tests.media_files import moving, video

AUDIO = {"audio_patch": [8, 8], "audio_frames": 24, "mels": 16}
VIDEO = {"patch": [2, 8, 8]}
TOWER = {"dim": 32, "depth": 4, "heads": 2, "decoder_dim": 16, "decoder_heads": 2}
ARGS: dict[str, dict[str, Any]] = {
    "hicmae_tiny": {**TOWER, **VIDEO, **AUDIO, "decoder_depth": 3, "fusion_depth": 1},
    "hicmae_tiny_video": {**TOWER, **VIDEO, "decoder_depth": 1},
    "hicmae_tiny_audio": {**TOWER, **AUDIO, "decoder_depth": 1},
}
RECIPE: dict[str, Any] = {
    "mask": {"video": 0.75, "audio": 0.7},
    "data": {"frames": 4, "stride": 1, "size": 32, "workers": 0},
    "contrast": {"weight": 0.5},
    "loop": {"batch_size": 4, "epochs": 2, "log_every": 1, "save_every": 1},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips with sound, one with a silent track, two without a track."""
    root = tmp_path_factory.mktemp("hear")
    for n in range(11):
        if n == 5:
            (root / "clips").mkdir(exist_ok=True)
            write_video(root / "clips" / "05.mp4", moving(8, seed=n), 25, np.zeros(5120, np.float32))
        else:
            video(root / "clips" / f"{n:02d}.mp4", frames=6 + n % 3, seed=n, sound=n not in (2, 9))
    write_shards([root / "clips"], root / "shards", config=ShardConfig(size=32, per_shard=4), progress=False)
    return root / "shards"


def recipe(shards: Path, out: Path, *options: str, model: str = "hicmae_tiny") -> PretrainConfig:
    given = {**RECIPE, "model": model, "args": ARGS[model]}
    return configs.load(PretrainConfig, given, [f"--data.shards={shards}", f"--out={out}", *options])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(checkpoint.weights_file(out))[0]


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_both_modalities_are_learnt_from_clips_that_can_be_heard(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(recipe(shards, tmp_path))
    assert "3 of 11 clips have no sound or a silent one: left out" in capsys.readouterr().err
    meta = checkpoint.read_weights(folder / "weights.safetensors")[1]
    assert (meta["name"], meta["stage"], meta["step"]) == ("hicmae_tiny", "pretrain", 4)
    assert meta["preprocessing"]["sound"] == {"length": 24, "bins": 16, "mean": -4.2677393, "std": 4.5689974}
    assert meta["preprocessing"]["sound_augment"]["gain"] is True
    assert meta["config"]["sound"]["length"] == 24
    for line in logged(tmp_path):
        assert line["contrastive"] > 0
        assert line["loss"] == pytest.approx(line["video"] + line["audio"] + 0.5 * line["contrastive"], rel=1e-5)


@pytest.mark.parametrize(("modality", "clips"), [("video", 11), ("audio", 8)])
def test_one_tower_alone_learns_from_the_clips_it_can_use(
    modality: str, clips: int, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe(shards, tmp_path, "--loop.save_every=99", model=f"hicmae_tiny_{modality}"))
    told = capsys.readouterr().err
    assert f"parameters; {clips} clips" in told and ("left out" in told) is (modality == "audio")
    lines = logged(tmp_path)
    assert len(lines) == 2 * (clips // 4)
    assert all(line["loss"] == pytest.approx(line[modality], rel=1e-5) for line in lines)
    assert not {"video", "audio", "contrastive"} - {modality} & lines[0].keys()


def test_a_killed_run_continued_equals_an_undisturbed_one_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    run(recipe(shards, tmp_path / "a", "--loop.epochs=8"), show=False)
    (tmp_path / "r.yaml").write_text(
        configs.to_yaml(recipe(shards, tmp_path / "b", "--loop.epochs=8", "--data.workers=1"))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hicmae", "pretrain", str(tmp_path / "r.yaml")], stderr=subprocess.DEVNULL
    )
    while checkpoint.newest(tmp_path / "b") is None and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(recipe(shards, tmp_path / "b", "--loop.epochs=8"), show=False)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line["loss"] for line in logged(tmp_path / "a")] == [line["loss"] for line in logged(tmp_path / "b")]


def test_with_negatives_of_all_processes_two_equal_one(shards: Path, tmp_path: Path) -> None:
    options = ["--contrast.negatives=global", "--optim.warmup_epochs=0", "--optim.lr=0.05"]
    run(recipe(shards, tmp_path / "one", *options), show=False)
    one = logged(tmp_path / "one")
    both = functools.partial(run, recipe(shards, tmp_path / "two", *options), show=False)
    processes.run(2, both, log=tmp_path / "log")
    two = logged(tmp_path / "two")
    assert len(one) == len(two) == 4 and one[0]["loss"] != pytest.approx(one[-1]["loss"], rel=1e-3)
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "video", "audio", "contrastive"):  # two levels at chance: 2 ln 4, with two clips 2 ln 2
            assert a[name] == pytest.approx(b[name], rel=1e-5)
    assert two[0]["contrastive"] > 2.5


def test_the_recipe_decides_length_and_bands_once(shards: Path, tmp_path: Path) -> None:
    args = {key: value for key, value in ARGS["hicmae_tiny"].items() if key not in ("audio_frames", "mels")}
    config = dataclasses.replace(recipe(shards, tmp_path), args=args)  # keeps the sizes that args had stated
    meta = checkpoint.read_weights(run(config, show=False) / "weights.safetensors")[1]
    assert (meta["args"]["audio_frames"], meta["args"]["mels"]) == (24, 16)
    with pytest.raises(configs.ConfigError, match=r"sound\.length is 32, and the model takes 24"):
        recipe(shards, tmp_path, "--sound.length=32")


def test_clips_nobody_can_hear_are_an_error_before_training(tmp_path: Path) -> None:
    for n in range(2):
        video(tmp_path / "clips" / f"{n}.mp4", seed=n, sound=False)
    write_shards([tmp_path / "clips"], tmp_path / "shards", config=ShardConfig(size=32), progress=False)
    for model in ("hicmae_tiny", "hicmae_tiny_audio"):
        with pytest.raises(UserError, match=f"none of its 2 clips has sound that can be heard, and {model} hears"):
            run(recipe(tmp_path / "shards", tmp_path / model, model=model), show=False)
        assert not (tmp_path / model).exists()


def test_a_selection_of_an_index_keeps_what_belongs_together(shards: Path) -> None:
    index = Index.load(shards)
    some = index.select(index.audible)
    assert len(some) == 8 and some.shards == index.shards
    kept = np.flatnonzero(index.audible)
    for name in ("keys", "sources", "labels", "shard", "offset", "size", "frames", "sound", "sha256"):
        assert np.array_equal(getattr(some, name), getattr(index, name)[kept])
    assert not set(some.keys) & set(index.keys[~index.audible])


def test_a_decoder_without_levels_is_refused_with_contrast_and_trains_without(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"args\.decoder_depth to 2 or more"):
        run(recipe(shards, tmp_path / "a", "--args.decoder_depth", "1"), show=False)
    run(recipe(shards, tmp_path / "b", "--args.decoder_depth", "1", "--contrast.weight", "0"), show=False)
    logged = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert all(entry["contrastive"] == 0 for entry in logged)


def test_contrast_and_skips_can_be_left_out_of_a_run(shards: Path, tmp_path: Path) -> None:
    run(recipe(shards, tmp_path, "--args.skips", "false", "--contrast.weight", "0"), show=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line in lines:  # contrast is still watched, and no part of the loss
        assert line["contrastive"] > 0
        assert line["loss"] == pytest.approx(line["video"] + line["audio"], rel=1e-6)
    weights, meta = checkpoint.read_weights(checkpoint.weights_file(tmp_path))
    assert meta["args"]["skips"] is False and not any("cross" in name for name in weights if name.startswith("decoder"))
