"""Which format of shards, and how many workers, feed a model on this machine: measured, not guessed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hicmae.configs.errors import UserError
from hicmae.datasets.conversion import Stored, videos_in
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.frames import Format
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.sampling import View, pretrain_view
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.store import ClipStore
from hicmae.runtime.log import progress as progress_bar

__all__ = ["Measured", "Probe", "probe", "step_rate"]

FORMATS: tuple[Format, ...] = ("jpeg", "mp4", "raw")
SPARE = 1.25
"""How much faster than the model the workers should be, so that it hardly ever waits."""
CLIPS = 8
"""Clips per micro-batch of the measured model."""


@dataclass(frozen=True)
class Measured:
    """One format on this machine."""

    format: Format
    core: float
    """Clips per second of processor time."""
    workers: dict[int, float]
    """Clips per second of so many reading processes together."""
    kilobytes: float
    """Bytes of a frame in thousands, its sound's share included."""


@dataclass(frozen=True)
class Probe:
    """What was measured, and what follows for a model that takes `speed` clips per second (None: not known)."""

    formats: tuple[Measured, ...]
    here: str
    """The format of the shards that were looked at."""
    cores: int
    speed: float | None
    whose: str
    """Whose speed it is, in words."""

    def needed(self, one: Measured) -> int:
        """Workers of a format that feed the model."""
        assert self.speed is not None
        return max(1, int(np.ceil(SPARE * self.speed / one.core)))

    def __str__(self) -> str:
        counts = sorted(self.formats[0].workers)
        head = ["format", "KB/frame", "clips/s of a core", *(f"{n} worker{'s' * (n > 1)}" for n in counts)]
        table = [head + (["workers needed"] if self.speed else [])]
        for one in self.formats:
            cells = [one.format, f"{one.kilobytes:.1f}", f"{one.core:.0f}", *(f"{one.workers[n]:.0f}" for n in counts)]
            table.append(cells + ([str(self.needed(one))] if self.speed else []))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([*lines, *self._words(), *self._doubts()])

    def _doubts(self) -> list[str]:
        """Where workers together fall far behind as many cores."""
        most = max((n for n in self.formats[0].workers if n <= self.cores), default=0)
        shares = [one.workers[most] / (most * one.core) for one in self.formats] if most else [1.0]
        if np.median(shares) > 0.6:
            return []
        return [
            f"but {most} worker{'s' * (most > 1)} gave {np.median(shares):.0%} of what as many cores could: other "
            "programs run here, or the disk is slow; measure again when it is quiet"
        ]

    def _words(self) -> list[str]:
        if self.speed is None:
            return ["name a model (--model) or its speed (--speed CLIPS/S) to be told which format feeds it"]
        said = [f"{self.whose} takes {self.speed:.3g} clips/s; this machine has {self.cores} cores"]
        by_size = sorted(self.formats, key=lambda one: one.kilobytes)
        able = [one for one in by_size if self.needed(one) <= self.cores]
        if not able:
            best = max(self.formats, key=lambda one: one.core)
            share = min(1.0, self.cores * best.core / self.speed)
            return [
                *said,
                f"no format feeds it here: {best.format} needs {self.needed(best)} workers, and with {self.cores} the "
                f"model would work {share:.0%} of the time",
            ]
        kept = next((one for one in able if one.format == self.here), None)
        best = kept or able[0]
        words = f"{best.format} shards feed it with {self.needed(best)} workers: --data.workers {self.needed(best)}"
        if kept is None:
            words += f" (convert them: hicmae shard SHARDS --format {best.format} --out DIR)"
        elif able[0] is not kept:
            small = able[0]
            share = small.kilobytes / kept.kilobytes
            words += f"; so would {small.format} with {self.needed(small)}, at {share:.0%} of the bytes"
        return [*said, words]


def probe(
    shards: str | Path,
    *,
    model: str | None = None,
    speed: float | None = None,
    workers: Sequence[int] = (1, 2),
    samples: int = 16,
    seconds: float = 2.0,
    frames: int = 16,
    stride: int = 4,
    size: int = 160,
    progress: bool = True,
) -> Probe:
    """Measure how fast this machine reads some of the shards in every format, and how fast it steps a model.

    Args:
        model: whose pretraining step is measured here, where `speed` is not given.
        speed: clips per second that a model takes elsewhere (`clips_per_second` in a run's log).
        workers: how many reading processes are tried.
        samples: of the shards, at most, evenly chosen; they are converted into a temporary folder.
        seconds: spent on each measurement, about.
        frames, stride, size: of a clip.

    Raises:
        UserError: there are no such shards, or no such model.
    """
    if speed is not None and speed <= 0:
        raise UserError(f"--speed must be positive, in clips per second, not {speed:g}")
    videos = [item for item in videos_in(shards)[0] if isinstance(item, Stored)]
    if not videos:
        raise UserError(f"{shards} holds no sample that could be read")
    chosen = [
        videos[n] for n in np.unique(np.linspace(0, len(videos) - 1, min(samples, len(videos))).round().astype(int))
    ]
    one = [replace(item, rows=item.rows[:1]) for item in chosen]
    hears = all(item.rows[0]["sound"] for item in one)
    rate, whose = (speed, "the model") if speed or not model else (step_rate(model, seconds=seconds), f"{model} here")
    view, found = pretrain_view(frames, stride, size, SoundConfig() if hears else None), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in progress_bar(FORMATS, desc="probe", unit="format", show=progress):
            config = ShardConfig(format=kind, size=one[0].side)
            part = write_shards(one, Path(folder) / kind, config=config, progress=False)
            store, count, begun = ClipStore(part), 0, time.process_time()
            while (spent := time.process_time() - begun) < seconds or count < len(part):
                view(store[count % len(part)], torch.Generator().manual_seed(count))
                count += 1
            store.close()
            together = {n: _together(part, view, n, seconds) for n in workers}
            found.append(Measured(kind, count / spent, together, float(part.size.sum() / part.frames.sum() / 1000)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Probe(tuple(found), videos[0].kind, cores, rate, whose)


def step_rate(model: str, *, seconds: float = 2.0, device: str = "auto") -> float:
    """Clips per second of a model's pretraining step on this machine, forward and backward, without an optimiser.

    Raises:
        UserError: there is no such model.
    """
    from hicmae.pretrain import PretrainConfig
    from hicmae.pretrain.engine import build_model
    from hicmae.pretrain.objectives import objective_for
    from hicmae.pretrain.planning import example

    config = PretrainConfig(model=model)
    on = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")
    net = build_model(config).to(on)
    objective = objective_for(net, mask=config.mask, target=config.target, contrast=config.contrast, seed=0)
    batch = {k: v.to(on) if isinstance(v, torch.Tensor) else v for k, v in example(config, net, CLIPS).items()}

    def step() -> float:
        with torch.autocast(on.type, torch.bfloat16, enabled=on.type == "cuda"):
            loss = objective(net, batch).loss
        loss.backward()
        return float(loss.detach())  # waits for the device

    step()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds or not count:
        step()
        count += 1
    return count * CLIPS / (time.perf_counter() - begun)


def _together(index: Index, view: View, workers: int, seconds: float) -> float:
    """Clips per second, by the clock, that reach this process from so many workers."""
    size = min(4, len(index))
    stream = Stream(index, view, batch_size=size, workers=workers, max_bad_share=1.0)
    count, begun, epoch, ahead = 0, 0.0, 0, 2 * workers + 1
    while True:
        for _ in stream.epoch(epoch):
            count += 1
            if count == ahead:
                begun = time.perf_counter()  # workers have started, and what they had read ahead is gone
            if begun and time.perf_counter() - begun >= seconds:
                return size * (count - ahead) / (time.perf_counter() - begun)
        epoch += 1
