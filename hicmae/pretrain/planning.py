"""What a run will be, before it is begun: batch, learning rate, steps, memory for each engine, hours from a probe."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hicmae.pretrain.config import PretrainConfig
from hicmae.pretrain.engine import Prepared, prepare
from hicmae.runtime.dist import process_group
from hicmae.runtime.engines import blocks_of
from hicmae.runtime.fitting import GIB, activations
from hicmae.runtime.log import say
from hicmae.runtime.loop import Batch, Fit, Stream

__all__ = ["example", "memory", "plan"]


def plan(config: PretrainConfig, *, processes: int = 1, probe: int = 20) -> str:
    """The arithmetic of a run on so many processes, in words; nothing of it is kept.

    Args:
        processes: how many the run will have; one of them, this one, is tried.
        probe: steps that are tried, of which the first quarter is not counted; 0 tries none.

    Raises:
        ConfigError, UserError: as `hicmae.pretrain.run`; ValueError: a batch that cannot be divided.
    """
    loop, optim = config.loop, config.optim
    share = loop.batch_size // (processes * loop.accumulate)
    if share * processes * loop.accumulate != loop.batch_size:
        raise ValueError(
            f"loop.batch_size: {loop.batch_size} cannot be divided among {processes} processes x {loop.accumulate} "
            "micro-batches"
        )
    absent = [name for name in config.data.shards if "://" not in name and not Path(name).is_dir()]
    if absent:
        return f"not here: {', '.join(absent)}; steps, memory and hours are told where the shards lie"
    with process_group(config.device) as place:
        run = prepare(config, place)
        per_epoch = run.stream.steps_per_epoch
        steps, scale = per_epoch * loop.epochs, loop.batch_size / 256
        lines = [
            f"batch     {loop.batch_size} = {processes} processes x {loop.accumulate} micro-batches x {share} clips",
            f"rate      {optim.lr * scale:.3g} at most ({optim.lr:g} per 256 clips), "
            f"{round(optim.warmup_epochs * per_epoch):,} warm-up steps, then to {optim.min_lr * scale:.3g}",
            f"steps     {steps:,} = {loop.epochs} epochs x {per_epoch:,} of {run.clips:,} clips",
            "memory    of one process, estimated: weights, gradients, moments, activations; CUDA's own not counted",
            *(f"  {name:10} {size / GIB:8.2f} GiB" for name, size in memory(config, run, processes, share).items()),
        ]
        if probe:
            seconds = _seconds_per_step(config, run, place, probe)
            hours = seconds * steps / processes / 3600
            lines.append(
                f"time      {seconds:.2f} s per step on 1 x {place.device.type}, median of {probe} tried; about "
                f"{hours:,.1f} hours for {processes} such processes, their exchange not counted"
            )
    return "\n".join(lines)


def memory(config: PretrainConfig, run: Prepared, processes: int, share: int) -> dict[str, float]:
    """Bytes that one process needs with each engine, for micro-batches of `share` clips.

    Weights, gradients and AdamW's two moments are float32 (Rajbhandari et al. 2020, section 3, for what ZeRO divides);
    activations are counted as what a forward pass of one clip keeps for the backward pass.
    """
    one = 4.0 * sum(parameter.numel() for parameter in run.model.parameters())
    block = 4.0 * max((sum(p.numel() for p in module.parameters()) for module in blocks_of(run.model)), default=0)
    kept = activations(run.model, run.objective, example(config, run.model, 2), config.loop) / 2 * share
    averages, n = one if config.loop.ema else 0.0, processes
    return {
        "single": 4 * one + averages + kept,
        "ddp": 5 * one + averages + kept,  # the buckets hold the gradients once more
        "fsdp": (4 * one + averages) / n + 2 * block + kept,
        "zero 1": 2 * one + 2 * one / n + kept,
        "zero 2": one + 3 * one / n + kept,
        "zero 3": 4 * one / n + 2 * block + kept,
    }


def example(config: PretrainConfig, model: Any, clips: int) -> Batch:
    """A batch of empty clips, as large as the recipe's; contrast needs two."""
    data, numbers = config.data, torch.arange(clips)
    batch: Batch = {"number": numbers, "source": numbers, "epoch": 0}
    if model.grid is not None:
        batch["video"] = torch.zeros(clips, 3, data.frames, data.size, data.size, dtype=torch.uint8)
    if model.audio_grid is not None:
        frames, bins = (n * p for n, p in zip(model.audio_grid, model.audio_patch, strict=True))
        batch["audio"] = torch.zeros(clips, 1, frames, bins)
    return batch


class _First:
    """The first steps of a stream, as a whole epoch."""

    def __init__(self, stream: Stream, steps: int) -> None:
        self.stream, self.steps_per_epoch = stream, steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """See `Stream`."""
        left = self.steps_per_epoch - start
        while left > 0:  # a small data set begins again
            for step in self.stream.epoch(epoch, start % self.stream.steps_per_epoch):
                yield step
                left -= 1
                if not left:
                    return
            epoch, start = epoch + 1, 0


def _seconds_per_step(config: PretrainConfig, run: Prepared, place: Any, steps: int) -> float:
    say(f"trying {steps} steps of {config.loop.batch_size} clips …")
    loop = dataclasses.replace(config.loop, epochs=1, log_every=1, save_every=None, ema=None)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        Fit(
            run.model,
            run.objective,
            _First(run.stream, steps),
            groups=run.groups,
            optim=config.optim,
            loop=loop,
            out=out,
            place=place,
            meta={},
        ).run()
        times = [json.loads(line)["time"] for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    gaps = [b - a for a, b in itertools.pairwise(times)][math.ceil(steps / 4) - 1 :]
    return statistics.median(gaps) if gaps else math.nan
