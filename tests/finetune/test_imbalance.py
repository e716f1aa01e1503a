"""What balanced sampling and logit adjustment trade: UAR rises, WAR falls, where classes are unequal and overlap."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hicmae.datasets import ShardConfig, write_shards, write_video
from hicmae.finetune import FinetuneConfig, FinetuneData, TaskConfig, evaluate, run
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig
from tests.finetune.conftest import COLOURS, FREE_DATA, PLAIN, TINY

SHARES = {"red": 0.7, "green": 0.2, "blue": 0.1}
WAYS = {
    "plain": TaskConfig(),
    "balanced": TaskConfig(balanced=True),
    "logit adjustment": TaskConfig(logit_adjustment=1.0),
}


def overlapping(root: Path, clips: int, seed: int) -> str:
    """Shards of clips whose tint is drawn around that of their class, so that no model tells all apart."""
    generator = np.random.default_rng(seed)
    lines = ["path,label"]
    for colour, share in SHARES.items():
        for number in range(round(share * clips)):
            tint = 100 + 25 * np.eye(3)[("red", "green", "blue").index(colour)] + generator.normal(0, 20, 3)
            pixels = tint + generator.normal(0, 12, (8, 32, 32, 3))
            path = root / "clips" / f"{colour}{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, pixels.clip(0, 255).astype(np.uint8), fps=12.5)
            lines.append(f"clips/{path.name},{colour}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    config = ShardConfig(size=32, list=str(root / "list.csv"))
    write_shards([], root / "shards", config=config, progress=False)
    return str(root / "shards")


def measure(root: Path, seeds: int = 5, epochs: int = 12) -> dict[str, np.ndarray]:
    """UAR and WAR (seeds, 2) of each way, trained on 240 clips and tested on 400 with the same shares."""
    train, test = overlapping(root / "train", 240, 1), overlapping(root / "test", 400, 2)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for name, task in WAYS.items():
        for seed in range(seeds):
            config = FinetuneConfig(
                model="mae_dfer_base",
                args={**TINY, "init_scale": 1.0},
                data=FinetuneData(train=[train], **{**FREE_DATA, "stride": 1, "segments": 1}),
                augment=PLAIN,
                task=task,
                optim=OptimConfig(lr=0.16, min_lr=0, betas=(0.9, 0.999), warmup_epochs=1),
                loop=LoopConfig(epochs=epochs, batch_size=16, log_every=1000),
                seed=seed,
                device="cpu",
                out=str(root / f"{name.replace(' ', '-')}-{seed}"),
            )
            run(config, show=False)
            report = evaluate(config.out, [test], device="cpu", show=False)
            assert dataclasses.is_dataclass(report) and tuple(sorted(COLOURS)) == report.labels  # type: ignore[union-attr]
            found[name].append((report.intervals["uar"].value, report.intervals["war"].value))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.slow  # 75 s of one core: fifteen runs
def test_making_up_for_rare_classes_raises_uar_and_lowers_war(tmp_path: Path) -> None:
    found = measure(tmp_path)
    told = {
        name: [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
        for name, values in found.items()
    }
    for name in ("balanced", "logit adjustment"):
        uar, war = (found[name] - found["plain"]).mean(0)
        assert uar > 0.05, told
        assert war < -0.02, told
