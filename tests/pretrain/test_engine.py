"""A pretraining run from its recipe: real shards, real checkpoints, real processes."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hicmae import configs
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, run
from hicmae.pretrain.engine import build_model
from hicmae.runtime import checkpoint
from tests import processes
from tests.media_files import video

TINY = {
    "model": "mae_dfer_base",
    "args": {
        **{"dim": 32, "depth": 2, "heads": 2, "patch": [2, 8, 8], "region": [2, 2, 4]},
        **{"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 1},
    },
    "mask": {"video": 0.75},
    "data": {"frames": 4, "stride": 1, "size": 32, "workers": 0},
    "loop": {"batch_size": 4, "epochs": 3, "log_every": 1, "save_every": 1, "ema": 0.9},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    for n in range(12):
        video(root / "clips" / f"{n:02d}.mp4", frames=6 + n % 3, seed=n)
    write_shards([root / "clips"], root / "shards", config=ShardConfig(size=32, per_shard=5), progress=False)
    return root / "shards"


def recipe(shards: Path, out: Path, *options: str) -> PretrainConfig:
    return configs.load(PretrainConfig, TINY, [f"--data.shards={shards}", f"--out={out}", *options])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(checkpoint.weights_file(out))[0]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ((), "raster"),
        (("--fidelity=published",), "published"),
        (("--fidelity=published", "--args.decoder_order=raster"), "raster"),
    ],
)
def test_fidelity_decides_in_which_order_the_decoder_gets_its_tokens(
    tmp_path: Path, options: tuple[str, ...], order: str
) -> None:
    assert build_model(recipe(tmp_path, tmp_path / "run", *options)).decoder_order == order


@pytest.mark.parametrize("name", configs.names("pretrain"))
def test_the_model_of_every_shipped_recipe_can_be_built(name: str) -> None:
    with torch.device("meta"):
        built = build_model(configs.load(PretrainConfig, configs.resolve(name, "pretrain")))
    published = name.startswith("mae_dfer_voxceleb2")
    assert getattr(built, "decoder_order", "raster") == ("published" if published else "raster")


def test_a_recipe_becomes_a_checkpoint_that_describes_itself(shards: Path, tmp_path: Path) -> None:
    folder = run(recipe(shards, tmp_path), show=False)
    _, meta = checkpoint.read_weights(folder / "weights.safetensors")
    assert (meta["name"], meta["stage"], meta["step"]) == ("mae_dfer_base", "pretrain", 9)
    assert meta["args"]["dim"] == 32
    assert meta["config"]["mask"]["video"] == 0.75
    assert meta["preprocessing"]["frames"] == 4
    assert len(losses(tmp_path)) == 9
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx((line["appearance"] + line["motion"]) / 2, rel=1e-5)


def test_a_killed_process_continued_equals_an_undisturbed_one_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    run(recipe(shards, tmp_path / "a", "--loop.epochs=12", "--data.workers=1"), show=False)
    (tmp_path / "r.yaml").write_text(
        configs.to_yaml(recipe(shards, tmp_path / "b", "--loop.epochs=12", "--data.workers=1"))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hicmae", "pretrain", str(tmp_path / "r.yaml")], stderr=subprocess.DEVNULL
    )
    while checkpoint.newest(tmp_path / "b") is None and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(recipe(shards, tmp_path / "b", "--loop.epochs=12", "--data.workers=0"), show=False)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_two_processes_equal_one(shards: Path, tmp_path: Path) -> None:
    run(recipe(shards, tmp_path / "one"), show=False)
    processes.run(2, functools.partial(run, recipe(shards, tmp_path / "two"), show=False), log=tmp_path / "log")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


def test_the_loss_falls(shards: Path, tmp_path: Path) -> None:
    options = ["--loop.epochs=40", "--optim.lr=0.2", "--target.normalise=false", "--loop.save_every=60"]
    run(recipe(shards, tmp_path, *options), show=False)
    values = losses(tmp_path)
    assert sum(values[-10:]) < 0.5 * sum(values[:10])


def test_a_run_made_by_another_recipe_is_refused(shards: Path, tmp_path: Path) -> None:
    run(recipe(shards, tmp_path), show=False)
    with pytest.raises(configs.ConfigError, match=r"another recipe \(mask\.video: 0\.75 -> 0\.5\)"):
        run(recipe(shards, tmp_path, "--mask.video=0.5"), show=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--args.depht=3"], r"depht"),
        (["--args.region=[2,3,4]"], r"region"),
        (["--loop.batch_size=64"], r"fewer than one batch of 64"),
        (["--mask.video=1.5"], r"mask\.video must lie in \(0, 1\)"),
        (["--data.frames=5"], r"5"),
        (["--model=mae_dfer_bass"], r"mae_dfer_base"),
    ],
)
def test_what_cannot_be_trained_is_told_before_training(
    shards: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(recipe(shards, tmp_path, *options), show=False)
    assert not (tmp_path / "checkpoints").exists()


def test_no_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(configs.ConfigError, match=r"data\.shards is empty"):
        run(configs.load(PretrainConfig, TINY), show=False)
