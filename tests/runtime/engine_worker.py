"""Trains a small masked autoencoder with each engine it is told of, in the processes that `torchrun` started.

`python engine_worker.py OUT ENGINE[,ENGINE…] [stop=N] [float64]`: OUT/ENGINE is the run; engines may have a suffix, as
zero2. With stop=N the run is left after N steps, to be continued by the next call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hicmae.models import create_model
from hicmae.pretrain.config import ContrastConfig, MaskConfig, TargetConfig
from hicmae.pretrain.objectives import objective_for
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.loop import Batch, LoopConfig, Step, fit
from hicmae.runtime.optim import OptimConfig, parameter_groups

STEPS, BATCH = 10, 8
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

    def __init__(self, place: Place, accumulate: int, dtype: torch.dtype, stop: int | None, both: bool) -> None:
        self.place, self.accumulate, self.dtype, self.stop, self.both = place, accumulate, dtype, stop, both

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """Steps of uint8 video, and a spectrogram."""
        for step in range(start, self.steps_per_epoch):
            done = epoch * self.steps_per_epoch + step
            if done == self.stop:
                raise Left
            draw = torch.Generator().manual_seed(done)
            video = torch.randint(0, 256, (BATCH, 3, 4, 32, 32), generator=draw, dtype=torch.uint8)
            audio = torch.randn(BATCH, 1, 32, 32, generator=draw).to(self.dtype)
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
    out: Path, engine: str, place: Place, model: str, *, stop: int | None, float64: bool, poison: int = -1
) -> None:
    """One run of 10 steps."""
    torch.manual_seed(0)
    net = create_model(
        model, stage="pretrain", decoder_dim=16, decoder_depth=2, decoder_heads=2, frames=4, **SMALL[model]
    )
    dtype = torch.float64 if float64 else torch.float32
    net.to(dtype)
    contrast = ContrastConfig(weight=0.1, negatives="global")
    learn = objective_for(net, mask=MaskConfig(video=0.5, audio=0.5), target=TargetConfig(), contrast=contrast, seed=0)
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> Step:
        nonlocal calls
        calls += 1
        step = learn(model, batch)
        if poison >= 0 and calls == poison and place.rank == place.world - 1:
            step = Step(step.loss * torch.nan, step.parts)
        return step

    accumulate = 2
    settings: dict[str, Any] = {"engine": "deepspeed" if engine.startswith("zero") else engine}
    if engine.startswith("zero"):
        settings["deepspeed"] = {"zero_optimization": {"stage": int(engine[4:])}}
    elif not float64:
        settings["ema"] = 0.9
    loop = LoopConfig(
        **{"epochs": STEPS // Clips.steps_per_epoch, "batch_size": BATCH, "accumulate": accumulate, "log_every": 1},
        **{"save_every": 2, "clip_grad": 1.0, "precision": "fp32", **settings},
    )
    fit(
        net,
        objective,
        Clips(place, accumulate, dtype, stop, both="audio" in net.modalities),
        groups=parameter_groups(net, weight_decay=0.05),
        optim=OptimConfig(lr=0.02, warmup_epochs=0.4),
        loop=loop,
        out=out,
        place=place,
        meta={},
        show=False,
    )


def main() -> None:
    """See above."""
    out, engines, *more = sys.argv[1:]
    given = dict(word.split("=") if "=" in word else (word, "1") for word in more)
    torch.set_default_dtype(torch.float64 if "float64" in given else torch.float32)
    with process_group("cpu", timeout=60) as place:
        for engine in engines.split(","):
            try:
                train(
                    Path(out) / engine,
                    engine,
                    place,
                    given.get("model", "hicmae_base"),
                    stop=int(given["stop"]) if "stop" in given else None,
                    float64="float64" in given,
                    poison=int(given.get("poison", -1)),
                )
            except Left:
                continue


if __name__ == "__main__":
    main()
