"""What a dry run tells: the arithmetic of a batch, memory that engines save, hours."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

import pytest
import torch

from hicmae import configs
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, plan
from tests.media_files import video
from tests.pretrain.test_engine import TINY


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    for n in range(8):
        video(root / "clips" / f"{n}.mp4", frames=6, seed=n)
    write_shards([root / "clips"], root / "shards", config=ShardConfig(size=32), progress=False)
    return root / "shards"


def told(shards: Path, out: Path, *options: str, processes: int = 1, probe: int = 0) -> str:
    given = [f"--data.shards={shards}", f"--out={out}", *options]
    return plan(configs.load(PretrainConfig, TINY, given), processes=processes, probe=probe)


def sizes(text: str) -> dict[str, float]:
    return {name.strip(): float(size) for name, size in re.findall(r"^  (.+?) +([\d.]+) GiB$", text, re.MULTILINE)}


def test_batch_rate_and_steps_are_those_of_the_recipe(shards: Path, tmp_path: Path) -> None:
    text = told(shards, tmp_path / "run", "--optim.lr=0.064", processes=2, probe=4)
    assert "4 = 2 processes x 1 micro-batches x 2 clips" in text
    assert "0.001 at most (0.064 per 256 clips)" in text
    assert "6 = 3 epochs x 2 of 8 clips" in text
    assert re.search(r"s per step on 1 x cpu, median of 4 tried; about 0\.0 hours for 2 such processes", text)
    assert not (tmp_path / "run").exists()


def test_engines_and_recomputing_save_what_they_are_for(shards: Path, tmp_path: Path) -> None:
    large = ("--args.dim=512", "--args.heads=8", "--args.depth=8", "--loop.ema=null", "--loop.batch_size=8")
    whole = sizes(told(shards, tmp_path, *large, processes=8))
    assert whole["fsdp"] < whole["zero 2"] < whole["zero 1"] < whole["single"] < whole["ddp"]
    alone = sizes(told(shards, tmp_path, *large))
    again = sizes(told(shards, tmp_path, *large, "--loop.recompute=true"))
    assert again["single"] < alone["single"]


def test_activations_that_were_counted_are_let_go(shards: Path, tmp_path: Path) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def remember(_: torch.nn.Module, __: object, out: object) -> None:
        made.extend(weakref.ref(x) for x in [out] if isinstance(x, torch.Tensor))

    hook = torch.nn.modules.module.register_module_forward_hook(remember)
    try:
        told(shards, tmp_path)
    finally:
        hook.remove()
    assert made and not [ref for ref in made if ref() is not None]


def test_a_batch_that_cannot_be_divided_and_absent_shards_are_told(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 cannot be divided among 3 processes"):
        told(shards, tmp_path, processes=3)
    assert "not here" in told(tmp_path / "none", tmp_path)
