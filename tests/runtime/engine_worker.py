"""Trains small masked autoencoders with one engine or another, in this process or in those of `tests.processes`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hicmae.models import create_model
from hicmae.pretrain.config import ContrastConfig, MaskConfig, TargetConfig
from hicmae.pretrain.objectives import objective_for
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.loop import Batch, Fit, LoopConfig, Step
from hicmae.runtime.optim import OptimConfig, parameter_groups

STEPS, BATCH, FRAMES = 10, 12, 8
SMALL: dict[str, dict[str, Any]] = {
    "mae_dfer_base": {"dim": 24, "depth": 2, "heads": 2, "patch": (2, 8, 8), "region": (2, 2, 2), "size": 32},
    "svfap_base": {"dim": 24, "depth": 3, "heads": 2, "patch": (2, 8, 8), "stages": (1, 1, 1), "size": 32},
    "hicmae_base": {
        **{"dim": 24, "depth": 4, "heads": 2, "patch": (2, 8, 8), "size": 32, "fusion_depth": 1},
        **{"audio_frames": 32, "mels": 32},
    },
}


class Left(Exception):
    """The run is left here, as by a kill."""


class Clips:
    """Random clips, functions of (epoch, step) alone; each process takes its part of a batch."""

    steps_per_epoch = 5

    def __init__(self, place: Place, accumulate: int, stop: int | None, both: bool) -> None:
        self.place, self.accumulate, self.stop, self.both = place, accumulate, stop, both

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Steps of uint8 video, and a spectrogram."""
        for step in range(start, self.steps_per_epoch):
            done = epoch * self.steps_per_epoch + step
            if done == self.stop:
                raise Left
            draw = torch.Generator().manual_seed(done)
            video = torch.randint(0, 256, (BATCH, 3, FRAMES, 32, 32), generator=draw, dtype=torch.uint8)
            audio = torch.randn(BATCH, 1, 32, 32, generator=draw, dtype=torch.float32).to(torch.get_default_dtype())
            numbers = torch.arange(BATCH)
            whole = {"video": video, "number": numbers, "source": numbers}
            if self.both:
                whole["audio"] = audio
            parts = {name: value.chunk(self.accumulate) for name, value in whole.items()}
            rank, world = self.place.rank, self.place.world
            yield [
                {
                    **{name: value[i].chunk(world)[rank] for name, value in parts.items()},
                    **{"epoch": epoch, "key": [str(n) for n in parts["number"][i].chunk(world)[rank].tolist()]},
                }
                for i in range(self.accumulate)
            ]


def train(
    out: Path,
    engine: str = "single",
    *,
    models: tuple[str, ...] = ("hicmae_base",),
    stop: int | None = None,
    float64: bool = False,
    poison: int | None = None,
    wait: float = 0.0,
    **loop: Any,
) -> None:
    """Runs of 10 steps, one after another, in out/MODEL.

    Args:
        engine: `zero2` is DeepSpeed's ZeRO 2.
        stop: leave them after so many steps, to be continued by another call.
        poison: the micro-batch whose loss is not finite, in the last process only; -1: all of them.
        wait: seconds per step, so that a kill finds the run in the middle.
    """
    torch.set_default_dtype(torch.float64 if float64 else torch.float32)
    with process_group("cpu", timeout=float(loop.get("timeout", 60))) as place:
        for model in models:
            with contextlib.suppress(Left):
                _train(out / model, model, place, engine, stop, float64, poison, wait, loop)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def _train(
    out: Path,
    model: str,
    place: Place,
    engine: str,
    stop: int | None,
    float64: bool,
    poison: int | None,
    wait: float,
    more: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    sizes = {**SMALL[model], "frames": FRAMES, "decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
    net = create_model(model, stage="pretrain", **sizes)
    if float64:  # frames are made float32 by the objective
        net.register_forward_pre_hook(lambda _, given: tuple(map(_double, given)))
    contrast = ContrastConfig(weight=0.1, negatives="global")
    learn = objective_for(net, mask=MaskConfig(video=0.5, audio=0.5), target=TargetConfig(), contrast=contrast, seed=0)
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> Step:
        nonlocal calls
        calls += 1
        time.sleep(wait)
        step = learn(model, batch)
        if poison in (calls, -1) and place.rank == place.world - 1:
            step = Step(step.loss * torch.nan, step.parts)
        return step

    settings: dict[str, Any] = {"engine": engine, "ema": None if float64 else 0.9, "accumulate": 2, **more}
    if engine.startswith("zero"):
        stage = {"zero_optimization": {"stage": int(engine[4:])}}
        settings |= {"engine": "deepspeed", "ema": None, "deepspeed": stage}
    Fit(
        net,
        objective,
        Clips(place, settings["accumulate"], stop, both=net.audio_grid is not None),
        groups=parameter_groups(net, weight_decay=0.05),
        optim=OptimConfig(lr=0.02, warmup_epochs=0.4),
        loop=LoopConfig(
            **{
                **{"epochs": STEPS // Clips.steps_per_epoch, "batch_size": BATCH, "log_every": 1, "save_every": 2},
                **{"clip_grad": 1.0, "precision": "fp32", **settings},
            }
        ),
        out=out,
        place=place,
        meta={},
        show=False,
    ).run()
