"""Small labelled shards whose classes a tiny model learns in seconds: clips tinted red, green or blue."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.datasets import ShardConfig, write_shards, write_video
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import FinetuneConfig, FinetuneData
from hicmae.finetune.tasks import Task
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig

COLOURS = ("blue", "green", "red")  # as sorted
TINY = {"dim": 16, "depth": 2, "heads": 2, "patch": [2, 8, 8], "region": [2, 2, 4]}
PLAIN = AugmentConfig(policy="", crop=(0.6, 1.0), erase=0.0, mix=0.0, smoothing=0.0)
FREE_DATA: dict[str, Any] = {"frames": 4, "stride": 2, "size": 32, "workers": 0}


def tinted(path: Path, colour: str, seed: int, frames: int = 12) -> Path:
    """A clip of noise in which one colour channel is strong."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 90, (frames, 32, 32, 3))
    pixels[..., ("red", "green", "blue").index(colour)] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, pixels.astype(np.uint8), fps=12.5)


def make_shards(root: Path, rows: Sequence[tuple[str, str, str | None]], **options: Any) -> str:
    """Shards of (file name, colour, person) rows, labelled by colour; returns their folder."""
    people = any(person for *_, person in rows)
    lines = ["path,label,group" if people else "path,label"]
    for number, (name, colour, person) in enumerate(rows):
        tinted(root / "clips" / name, colour, seed=number)
        lines.append(f"clips/{name},{colour}" + (f",{person}" if people else ""))
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    config = ShardConfig(**{"size": 32, "per_shard": 8, "list": str(root / "list.csv"), **options})
    write_shards([], root / "shards", config=config, progress=False)
    return str(root / "shards")


def rows(per_colour: int, prefix: str = "p", people: bool = True) -> list[tuple[str, str, str | None]]:
    return [
        (f"{prefix}{i}-{colour}.mp4", colour, f"{prefix}{i}" if people else None)
        for i in range(per_colour)
        for colour in COLOURS
    ]


@pytest.fixture(scope="session")
def train_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 clips of 8 people."""
    return make_shards(tmp_path_factory.mktemp("train"), rows(8, "train"))


@pytest.fixture(scope="session")
def test_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """15 clips of 5 other people."""
    return make_shards(tmp_path_factory.mktemp("test"), rows(5, "test"))


@pytest.fixture
def recipe(train_shards: str, test_shards: str, tmp_path: Path) -> FinetuneConfig:
    """A run of a few seconds that learns the colours."""
    return FinetuneConfig(
        model="mae_dfer_base",
        args={**TINY, "init_scale": 1.0},
        data=FinetuneData(train=[train_shards], test=[test_shards], **FREE_DATA),
        augment=PLAIN,
        optim=OptimConfig(lr=0.64, min_lr=0, betas=(0.9, 0.999), warmup_epochs=0.5, layer_decay=0.9),
        loop=LoopConfig(epochs=8, batch_size=8, log_every=1),
        device="cpu",
        out=str(tmp_path / "run"),
    )


def changed(config: FinetuneConfig, **changes: Any) -> FinetuneConfig:
    """`config` with fields replaced; `data__test=[…]` reaches into `data`."""
    nested: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for key, value in changes.items():
        parent, _, name = key.partition("__")
        if name:
            nested.setdefault(parent, {})[name] = value
        else:
            plain[key] = value
    inner = {parent: dataclasses.replace(getattr(config, parent), **values) for parent, values in nested.items()}
    return dataclasses.replace(config, **plain, **inner)


class Killed(Exception):
    """A run ends here, as by a kill."""


class Life:
    """Micro-batches that tasks of this process still compute."""

    left = 10**9


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Life:
    """Set `left`, and any task dies when it is used up."""
    life, whole = Life(), Task.__call__

    def call(task: Task, model: Any, batch: Any) -> Any:
        if life.left == 0:
            raise Killed
        life.left -= 1
        return whole(task, model, batch)

    monkeypatch.setattr(Task, "__call__", call)
    return life
