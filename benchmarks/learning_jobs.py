"""The pieces of work of `learning.py`: what is pretrained and fine-tuned, from which weights, on which clips.

Every piece is a folder with a `result.json` at its end. A piece whose result is there is read back; one that was
interrupted continues as any run of the library does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning_data import TASKS, Sizes, make_data, shards
from hicmae import configs, finetune, pretrain
from hicmae.finetune.evaluation import open_test, report_on
from hicmae.finetune.robustness import curves
from hicmae.inference.loading import load_model
from hicmae.models.factory import save_weights
from hicmae.runtime.dist import process_group

__all__ = ["PARTS", "SHARES", "SIZES", "Job", "Size", "carry_out", "plan"]

PARTS = ("labels", "motion", "pieces", "missing", "controls", "contrast")
SHARES = (0.01, 0.1, 1.0)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the test clips that lack a modality."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained on how much."""

    data: Sizes = Sizes()
    pretrain_steps: int = 795
    steps: Mapping[str, int] = field(
        default_factory=lambda: {"motion": 150, "sound": 150, "agreement": 240, "pairs": 240}
    )
    """Steps of fine-tuning, the same for all shares of the labels."""
    dim: int = 64
    depth: int = 3
    batch: int = 24
    workers: int = 0
    device: str = "cpu"


SIZES = {
    "cpu": Size(),
    "gpu": Size(
        data=Sizes(train=4800, test=1200, unlabeled=9600, noise=1.2, hiss=1.5),
        pretrain_steps=12000,
        steps=dict.fromkeys(TASKS, 3000),
        dim=192,
        depth=6,
        workers=6,
        device="auto",
    ),
    "smoke": Size(data=Sizes(train=24, test=12, unlabeled=32), pretrain_steps=2, steps=dict.fromkeys(TASKS, 2), dim=16),
}


@dataclass(frozen=True)
class Job:
    """One piece of work."""

    name: str
    """Its folder, below the output folder."""
    kind: str
    """data, pretrain, finetune or curves (fine-tuning, measured with modalities missing)."""
    values: Mapping[str, Any]
    """The recipe, or the seed of data."""
    needs: tuple[str, ...] = ()
    test: str = ""
    """Test shards."""
    cost: int = 1
    """Expected seconds on one core."""

    def result(self, out: Path) -> dict[str, Any] | None:
        """What was found, where it is done."""
        file = out / self.name / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def plan(size: Size, out: Path, seeds: Sequence[int], parts: Sequence[str]) -> list[Job]:
    """The jobs of some parts in the order in which they are to be done: part by part, each with all seeds."""
    wanted = [(part, _Seed(size, out, seed).of(part)) for part in parts for seed in seeds]
    jobs: dict[str, Job] = {}
    for _, found in wanted:
        jobs.update((job.name, job) for job in found if job.name not in jobs)
    return list(jobs.values())


@dataclass(frozen=True)
class _Seed:
    """The jobs of one seed."""

    size: Size
    out: Path
    seed: int

    def of(self, part: str) -> list[Job]:
        """The jobs of a part, each after those it needs."""
        data = self.data()
        full = self.pretraining("full", "hicmae_tiny")
        if part == "labels":
            tuned = [
                self.tuning(f"{task}-{100 * share:g}-{start}", task, full, start, share=share)
                for share in reversed(SHARES)
                for task in ("motion", "sound", "agreement")
                for start in ("pretrained", "scratch")
            ]
            return [data, full, *tuned]
        if part == "motion":
            targets = {
                name: self.pretraining(f"target-{name}", "hicmae_tiny_video", target=target)
                for name, target in (("motion", {}), ("pixels", {"difference": None}))
            }
            tuned = [
                self.tuning(f"motion-{100 * share:g}-target-{name}", "motion", run, "pretrained", share=share)
                for share in (0.1, 1.0)
                for name, run in targets.items()
            ]
            return [data, *targets.values(), *tuned]
        if part == "pieces":
            ablated = {
                "no-contrast": self.pretraining("no-contrast", "hicmae_tiny", contrast={"weight": 0.0}),
                "no-skips": self.pretraining("no-skips", "hicmae_tiny", args={"skips": False}),
            }
            tuned = []
            for share in (0.1, 1.0):
                start = f"agreement-{100 * share:g}"
                tuned.append(self.tuning(f"{start}-pretrained", "agreement", full, "pretrained", share=share))
                for name, run in ablated.items():
                    tuned.append(self.tuning(f"{start}-{name}", "agreement", run, "pretrained", share=share))
                last = {"args": {"layers": "last"}}
                tuned.append(self.tuning(f"{start}-last-layer", "agreement", full, "pretrained", share=share, **last))
            return [data, full, *ablated.values(), *tuned]
        if part == "missing":
            lost = {"missing": {"video": 0.25, "audio": 0.25}, "args": {"missing": True}}
            return [
                data,
                full,
                self.tuning("pairs-whole", "pairs", full, "pretrained", kind="curves"),
                self.tuning("pairs-missing", "pairs", full, "pretrained", kind="curves", **lost),
            ]
        if part == "contrast":
            strong = self.pretraining("strong-contrast", "hicmae_tiny", contrast={"weight": 0.1})
            tuned = [
                self.tuning(f"agreement-{100 * share:g}-{name}", "agreement", run, "pretrained", share=share)
                for share in (0.1, 1.0)
                for name, run in (("pretrained", full), ("strong-contrast", strong))
            ]
            return [data, full, strong, *tuned]
        if part == "controls":
            return [data, full, *self.controls(full)]
        raise ValueError(f"no part {part}; there are {', '.join(PARTS)}")

    def controls(self, full: Job) -> list[Job]:
        """Models that lack what a task needs."""
        still = {"data": {"frames": 1}, "args": {"patch": [1, 16, 16]}}
        found = [self.tuning("motion-single-frame", "motion", None, "scratch", **still)]
        for task, tower in (("motion", "audio"), ("sound", "video"), ("agreement", "video"), ("agreement", "audio")):
            found.append(self.tuning(f"{task}-{tower}-alone", task, full, "pretrained", tower=tower))
        return found

    def data(self) -> Job:
        data = self.size.data
        cost = round(0.05 * (data.train + data.test + data.unlabeled)) + 1
        return Job(self._name("data"), "data", {"seed": self.seed, "sizes": vars(data)}, cost=cost)

    def pretraining(self, name: str, model: str, **changes: Any) -> Job:
        """A pretraining run that differs from the full one in `changes`."""
        size, both = self.size, model == "hicmae_tiny"
        args = {**_shape(size, both), "decoder_dim": 48, "decoder_depth": 2, "decoder_heads": 2}
        epoch = max(1, size.data.unlabeled // 32)
        epochs = max(1, size.pretrain_steps // epoch)
        values = {
            "model": model,
            "args": args,
            "mask": {"video": 0.5, "audio": 0.5},
            "contrast": {"scale": "chance"},
            "data": {"shards": [self._shards("together")], **_clips(size)},
            "optim": {"lr": 1.6e-2, "min_lr": 1e-4, "warmup_epochs": 0.1 * epochs},
            "loop": {"epochs": epochs, "batch_size": 32, "clip_grad": 1.0, "save_every": 200},
        }
        cost = size.pretrain_steps * (0.13 if both else 0.06)
        return self._job(f"pretrain-{name}", "pretrain", values, changes, (self._name("data"),), cost)

    def tuning(
        self,
        name: str,
        task: str,
        start: Job | None,
        how: str,
        *,
        share: float = 1.0,
        tower: str | None = None,
        kind: str = "finetune",
        **changes: Any,
    ) -> Job:
        """A classifier of a task on a share of the labels.

        It starts from a pretrained run's last weights, or (`scratch`) from those which that run itself started from.
        """
        size = self.size
        tower = tower or {"motion": "video", "sound": "audio"}.get(task)
        clips = len(TASKS[task]) * max(1, round(share * size.data.train / len(TASKS[task])))
        batch = min(size.batch, clips)
        epochs = max(1, size.steps[task] // (clips // batch))
        values: dict[str, Any] = {
            "model": f"hicmae_tiny_{tower}" if tower else "hicmae_tiny",
            "args": {"init_scale": 1.0},
            "data": {"train": [self._shards(task)], "fraction": share, "segments": 2, **_clips(size)},
            "augment": {"policy": "", "crop": [1.0, 1.0], "aspect": [1.0, 1.0], "flip": 0.0, "erase": 0.0}
            | {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0},
            # the same rate of a step whatever the batch
            "optim": {"lr": 1e-3 * 256 / batch, "min_lr": 1e-5, "warmup_epochs": 0.1 * epochs, "layer_decay": 1.0},
            "loop": {"epochs": epochs, "batch_size": batch, "clip_grad": 1.0, "save_every": 500},
        }
        if start is not None:
            run = self.out / start.name
            values["init"] = str(run if how == "pretrained" else run / "untrained.safetensors")
        else:
            values["args"] |= {key: value for key, value in _shape(size, False).items()}
        needs = (self._name("data"), *([start.name] if start else []))
        cost = 2 + size.steps[task] * batch / 24 * {"video": 0.035, "audio": 0.035, None: 0.08}[tower]
        test = self._shards(task, "test")
        return self._job(name, kind, values, changes, needs, cost, test)

    def _name(self, name: str) -> str:
        return f"seed-{self.seed}/{name}"

    def _shards(self, task: str, role: str = "train") -> str:
        return shards(self.out / self._name("data"), task, role)

    def _job(
        self,
        name: str,
        kind: str,
        values: dict[str, Any],
        changes: Mapping[str, Any],
        needs: tuple[str, ...],
        cost: float,
        test: str = "",
    ) -> Job:
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, Mapping) else value
        values |= {"seed": self.seed, "device": self.size.device, "out": str(self.out / self._name(name))}
        return Job(self._name(name), kind, values, needs, test, round(cost) + 1)


def _shape(size: Size, both: bool) -> dict[str, Any]:
    """The encoder's arguments: 16 tokens of video, as many of sound."""
    video = {"dim": size.dim, "depth": size.depth, "heads": max(1, size.dim // 32), "patch": [2, 16, 16]}
    sound = {"fusion_depth": 1, "audio_frames": 128, "mels": 64, "audio_patch": [16, 32]}
    return {**video, **sound} if both else video


def _clips(size: Size) -> dict[str, Any]:
    return {"frames": 8, "stride": 2, "size": size.data.pixels, "workers": size.workers}


def carry_out(job: Job, out: Path) -> dict[str, Any]:
    """Do one piece of work, or continue it; what was found, which is also written."""
    if (known := job.result(out)) is not None:
        return known
    torch.set_num_threads(1)
    cpu, wall, folder = time.process_time(), time.monotonic(), out / job.name
    found: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if job.kind == "data":
        make_data(folder, Sizes(**job.values["sizes"]), job.values["seed"])
    elif job.kind == "pretrain":
        config = configs.load(pretrain.PretrainConfig, dict(job.values))
        save_weights(folder / "untrained.safetensors", pretrain.build_model(config))
        pretrain.run(config, show=False)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        parts = ("loss", "video", "appearance", "motion", "audio", "contrastive")
        found["loss"] = {
            name: [line[name] for line in lines if name in line][-1] for name in parts if name in lines[-1]
        }
    else:
        config = configs.load(finetune.FinetuneConfig, dict(job.values))
        last = finetune.run(config, show=False)
        model, meta = load_model(last, "finetune")[:2]
        with process_group(config.device) as place:
            index = open_test([job.test], meta["labels"], str(last))
            report = report_on(model.to(place.device), meta, index, place, show=False)
        found |= {name: report.intervals[name].value for name in ("uar", "war")}
        if job.kind == "curves":
            kinds = ["missing-video", "missing-audio"]
            levels = dict.fromkeys(kinds, RATES)
            measured = curves(last, [job.test], kinds=kinds, levels=levels, out=folder / "robustness", show=False)
            found["curves"] = {
                kind: {
                    "rates": list(RATES),
                    "uar": [estimate.value for estimate in curve.figures["uar"]],
                    "area": curve.area["uar"].value,
                }
                for kind, curve in measured.curves.items()
            }
    found |= {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
    part = folder / "result.part"
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / "result.json")
    return found
