"""The one training loop: the only backward, the only optimiser step, the only save."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hicmae.configs.errors import Continuable
from hicmae.runtime import checkpoint, generators
from hicmae.runtime.checkpoint import Saved, Writer
from hicmae.runtime.config import LoopConfig
from hicmae.runtime.dist import Place, contact
from hicmae.runtime.engines import engine_for
from hicmae.runtime.log import RunLog, UserError, progress, say
from hicmae.runtime.meters import Recent, peak_flops
from hicmae.runtime.optim import OptimConfig, cosine
from hicmae.runtime.recap import recap
from hicmae.runtime.transfer import to_device

__all__ = ["Batch", "Fit", "Interrupted", "LoopConfig", "Objective", "Step", "Stream", "to_device"]

Batch = dict[str, Any]


@dataclass
class Step:
    """What an objective or a task makes of one batch: the loss to descend and its parts, detached, to be logged."""

    loss: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[nn.Module, Batch], Step]


class Stream(Protocol):
    """An endless supply of steps whose order depends on seed and epoch alone."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from `start` on; each is a list of this process's micro-batches."""


class Interrupted(Continuable):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGUSR1) and left a checkpoint to continue from."""


_FAILED = 1000  # above all signals


@dataclass
class Fit:
    """Train `model` until `loop.epochs` are done, from the newest checkpoint in `out` where there is one.

    Where a model has a `core`, that alone is what checkpoints hold as weights, what is averaged and given to
    `on_epoch`; what lies beside it (an adversary, a predictor) is needed to train on, and kept in their state. A run
    that was killed and continued equals an undisturbed one bit for bit on the same device.
    """

    model: nn.Module
    objective: Objective
    stream: Stream
    _: KW_ONLY
    groups: list[dict]
    """Parameters as `optim.parameter_groups` returns them."""
    optim: OptimConfig
    loop: LoopConfig
    out: Path
    place: Place
    meta: Mapping[str, Any]
    """What checkpoints say of themselves."""
    show: bool = True
    on_epoch: Callable[[int, nn.Module], Mapping[str, float]] | None = None
    """Called with number and model after every epoch; returns scalars for the log."""
    clip_flops: float = 0.0
    """FLOP of a forward pass of one clip: lets the log tell which share of the GPU's peak is used."""
    listener: Callable[[int, Mapping[str, float]], None] | None = None
    """Hears, in the first process, step and scalars that the log is told."""

    def __post_init__(self) -> None:
        optim, loop, place, per_epoch = self.optim, self.loop, self.place, self.stream.steps_per_epoch
        self.show = self.show and place.first
        self.steps = loop.epochs * per_epoch
        scale = loop.batch_size / 256
        warmup = round(optim.warmup_epochs * per_epoch)
        self.rate = cosine(optim.lr * scale, optim.min_lr * scale, self.steps, warmup)
        self.bad_streak = torch.zeros((), device=place.device)
        self.stop_signal = 0
        self.begun = place.gather(generators.get_state())
        saved = self._found()
        self.done = 0 if saved is None else int(saved.state["step"])  # optimiser steps behind us
        self.engine = engine_for(self.model, self.groups, optim, loop, place, saved)
        self.writer = Writer(self.out, keep=loop.keep, keep_every=loop.keep_every)

    # -- the run, top to bottom -------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train; returns the folder of the last checkpoint."""
        loop, per_epoch = self.loop, self.stream.steps_per_epoch
        if self.done and self.show:
            say(f"continuing {self.out} at step {self.done} of {self.steps}")
        bar = progress(total=self.steps, initial=self.done, desc="train", unit="step", show=self.show)
        hardware = self.place.hardware
        log = RunLog(self.out, self.listener, write=self.place.first, resume_step=self.done, device=hardware)
        fresh, where = True, lambda: f" at step {self.done} of {self.steps}"
        with log, _signals(self), contact(self.place, where), self.writer, bar:
            recent = Recent(self.place.device)
            while self.done < self.steps:
                epoch, start = divmod(self.done, per_epoch)
                self.engine.bare.train()
                for micro_batches in self.stream.epoch(epoch, start):
                    recent.data_came()
                    if fresh:
                        self._before_first_step(micro_batches)
                    fresh = False
                    lr = self.rate(self.done)
                    recent.add(self._step(micro_batches, lr), micro_batches)
                    self.done += 1
                    bar.update()
                    if self.done % loop.log_every == 0 or self.done == self.steps:
                        self._report(log, bar, recent, lr, epoch)
                        recent = Recent(self.place.device)
                    ends = self.done % per_epoch == 0
                    if ends and self.on_epoch is not None:
                        with self._undisturbed_rng(), recent.paused():
                            found = self.on_epoch(epoch, self.engine.core)
                        if found:
                            log.scalars(self.done, found)
                    due = self.done % loop.save_every == 0 if loop.save_every else ends
                    stop = self._stop_requested()
                    if due or stop or self.done == self.steps:
                        self._save()
                    if stop:
                        self._finish()
                        raise Interrupted(f"stopped at step {self.done} of {self.steps}; the same command continues it")
                    recent.wants_data()
            self._finish()
            if self.show:
                say(recap(log.path))
        return checkpoint.folder_of(self.out, self.done)

    def _step(self, micro_batches: list[Batch], lr: float) -> dict[str, Tensor]:
        """One optimiser step; the mean loss and parts of its micro-batches."""
        totals: dict[str, Tensor] = {}
        for i, batch in enumerate(micro_batches):
            with self.engine.exchange(i == len(micro_batches) - 1):
                step = self._objective(batch)
                self.engine.backward(step.loss)
            for name, value in {"loss": step.loss.detach(), **step.parts}.items():
                totals[name] = totals.get(name, 0) + value / len(micro_batches)
        norm, bad = self.engine.update(lr)
        self.bad_streak = (self.bad_streak + bad) * bad
        return {**totals, "grad_norm": norm, "bad_steps": bad, "bad_streak": self.bad_streak.clone()}

    def _objective(self, batch: Batch) -> Step:
        with self.engine.autocast():
            return self.objective(self.engine.model, to_device(batch, self.place.device))

    # -- what surrounds a step ---------------------------------------------------------------------------------------

    def _before_first_step(self, micro_batches: list[Batch]) -> None:
        """The engine warms up; then generators are set to what the checkpoint holds, since that, and reading the first
        batch, may have drawn from them."""
        self.engine.warm_up(lambda: self._objective(micro_batches[0]).loss)
        generators.set_state(self.begun[self.place.rank])

    def _report(self, log: RunLog, bar: Any, recent: Recent, lr: float, epoch: int) -> None:
        ranks = self.place.gather((recent.means(), recent.skipped, recent.bad_keys()))
        values = {name: sum(means[name] for means, _, _ in ranks) / len(ranks) for name in ranks[0][0]}
        skipped, bad_keys = ([item for rank in ranks for item in rank[i]] for i in (1, 2))
        streak = values.pop("bad_streak_last")
        clips = recent.steps * self.loop.batch_size / recent.seconds
        values |= {"lr": lr, "epoch": epoch + 1.0, "clips_per_second": clips, "skipped_clips": len(skipped)}
        if self.clip_flops and (peak := peak_flops(self.place.device, self.engine.precision)):
            values["mfu"] = 3 * self.clip_flops * clips / (peak * self.place.world)
        extra = {name: items for name, items in (("skipped", skipped), ("bad_keys", bad_keys)) if items}
        log.scalars(self.done, values, **extra)
        bar.set_postfix_str(f"loss {values['loss']:.4f}, {clips:.1f} clips/s", refresh=False)
        if streak >= self.loop.max_bad_steps:
            raise UserError(
                f"the gradient was not finite in {streak:.0f} steps in a row up to step {self.done}; weights are those "
                f"before them, the clips are listed in {log.path}. Lower optim.lr or set loop.clip_grad, then continue."
            )

    def _save(self) -> None:
        """Copy what is kept, and go on while it is written."""
        generator = self.place.gather(generators.get_state())
        weights, averages, state = self.engine.weights(), self.engine.averages(), self.engine.state()
        self._agree(self.writer.wait())  # the one before
        folder = self.writer.open(self.done) if self.place.first else checkpoint.part_of(self.out, self.done)
        if self.engine.in_parts:
            self.place.wait()
            self.engine.save_parts(folder)
            self.place.wait()
        if self.place.first:
            kept = {**state, "step": self.done, "steps": self.steps, "rng": generator}
            self.writer.submit(self.done, Saved(weights, averages, kept), self.meta)

    def _finish(self) -> None:
        """Wait for the last checkpoint."""
        self._agree(self.writer.wait())

    def _agree(self, problem: str | None) -> None:
        """Every process stops with the one that could not write."""
        problem = self.place.gather(problem)[0]
        if problem is not None:
            raise checkpoint.CheckpointError(problem)

    def _found(self) -> Saved | None:
        """The newest usable checkpoint, of which this run must be the continuation."""
        # one rank decides, so that all start from the same step
        folder = self.place.gather(checkpoint.newest(self.out) if self.place.first else None)[0]
        if folder is None:
            return None
        saved = checkpoint.read(folder)
        if saved.state["steps"] != self.steps:
            raise UserError(
                f"{self.out} holds a run of {saved.state['steps']} steps, this one has {self.steps}: "
                "the data or the recipe changed. Choose another --out, or remove the folder to start again."
            )
        if len(saved.state["rng"]) == self.place.world:
            self.begun = saved.state["rng"]
        elif self.show:
            before = len(saved.state["rng"])
            say(f"the run had {before} processes and has {self.place.world} now: generators start afresh")
        return saved

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop, or a checkpoint could not be written."""
        asked = self.stop_signal or (_FAILED if self.writer.failed else 0)
        if self.place.world > 1:
            # on the CPU, so that no process waits for its GPU
            flag = torch.tensor(asked)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = int(flag)
        if asked >= _FAILED:
            self._finish()
        return bool(asked)

    @contextlib.contextmanager
    def _undisturbed_rng(self) -> Iterator[None]:
        before = generators.get_state()
        try:
            yield
        finally:
            generators.set_state(before)


@contextlib.contextmanager
def _signals(run: Fit) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR1 end the run after the current step, with a checkpoint; a second Ctrl-C at once."""

    def ask(number: int, _: Any) -> None:
        if run.stop_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        run.stop_signal = number

    names = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    try:
        before = [signal.signal(name, ask) for name in names]
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
