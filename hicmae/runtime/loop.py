"""The one training loop: the only backward, the only optimiser step, the only save."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from hicmae.runtime import checkpoint
from hicmae.runtime.dist import Place
from hicmae.runtime.log import RunLog, UserError, progress, say
from hicmae.runtime.optim import OptimConfig, adamw, cosine, set_learning_rate

__all__ = ["Batch", "Interrupted", "LoopConfig", "Objective", "Step", "Stream", "fit", "to_device"]

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


class Interrupted(UserError):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGUSR1) and left a checkpoint to continue from."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how to train."""

    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 64
    """Clips per optimiser step, over all processes and accumulation."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    clip_grad: float | None = None
    """Largest gradient norm; null leaves gradients alone."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Autocast type; auto is bf16 on GPUs that have it, fp32 elsewhere."""
    ema: float | None = None
    """Decay of the averaged weights per step; null keeps none."""
    log_every: int = 10
    """Steps between log lines."""
    save_every: int | None = None
    """Steps between checkpoints; null saves at the end of every epoch."""
    keep: int = 2
    """Checkpoints kept."""
    max_bad_steps: int = 10
    """Steps in a row with a non-finite gradient after which the run stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every", "keep", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, not {getattr(self, name)}")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(f"loop.save_every must be at least 1 or null, not {self.save_every}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"loop.ema must lie in (0, 1) or be null, not {self.ema}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"loop.batch_size ({self.batch_size}) must be a multiple of loop.accumulate ({self.accumulate})"
            )


def fit(
    model: nn.Module,
    objective: Objective,
    stream: Stream,
    *,
    groups: list[dict],
    optim: OptimConfig,
    loop: LoopConfig,
    out: Path,
    place: Place,
    meta: Mapping[str, Any],
    show: bool = True,
    on_epoch: Callable[[int, nn.Module], Mapping[str, float]] | None = None,
) -> Path:
    """Train `model` until `loop.epochs` are done, from the newest checkpoint in `out` where there is one.

    Where a model has a `core`, that alone is what checkpoints hold as weights, what is averaged and given to
    `on_epoch`; what lies beside it (an adversary, a predictor) is needed to train on, and kept in their state.

    `on_epoch(epoch, model)` is called after every epoch and returns scalars for the log. Returns the folder of the
    last checkpoint. A run that was killed and continued equals an undisturbed one bit for bit on the same device.
    """
    return _Run(model, objective, stream, groups, optim, loop, out, place, meta, show, on_epoch).train()


class _Run:
    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        stream: Stream,
        groups: list[dict],
        optim: OptimConfig,
        loop: LoopConfig,
        out: Path,
        place: Place,
        meta: Mapping[str, Any],
        show: bool,
        on_epoch: Callable[[int, nn.Module], Mapping[str, float]] | None,
    ) -> None:
        self.bare = model.to(place.device)
        self.core: nn.Module = getattr(model, "core", model)
        self.objective, self.stream, self.loop, self.out, self.place = objective, stream, loop, out, place
        self.meta, self.show, self.on_epoch = meta, show and place.first, on_epoch
        self.optimiser = adamw(groups, optim)
        self.steps = loop.epochs * stream.steps_per_epoch
        scale = loop.batch_size / 256
        warmup = round(optim.warmup_epochs * stream.steps_per_epoch)
        self.rate = cosine(optim.lr * scale, optim.min_lr * scale, self.steps, warmup)
        self.ema = ModelEmaV3(self.core, decay=loop.ema) if loop.ema else None
        self.parameters = [p for group in groups for p in group["params"]]
        self.autocast = _autocast(loop.precision, place.device)
        self.done = 0  # optimiser steps behind us
        self.bad_streak = torch.zeros((), device=place.device)
        self.stop_signal = 0
        self.rng: list[dict[str, Any]] | None = None
        self._restore()
        self.model: nn.Module = self.bare
        if place.world > 1:
            ids = [place.device.index] if place.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(self.bare, device_ids=ids)

    # -- the run, top to bottom -------------------------------------------------------------------------------------

    def train(self) -> Path:
        loop, per_epoch = self.loop, self.stream.steps_per_epoch
        last = checkpoint.newest(self.out)
        if self.done and self.show:
            say(f"continuing {self.out} at step {self.done} of {self.steps}")
        bar = progress(total=self.steps, initial=self.done, desc="train", unit="step", show=self.show)
        with RunLog(self.out, write=self.place.first, resume_step=self.done) as log, _signals(self), bar:
            recent = _Recent()
            while self.done < self.steps:
                epoch, start = divmod(self.done, per_epoch)
                self.bare.train()
                for micro_batches in self.stream.epoch(epoch, start):
                    self._before_first_step(micro_batches)
                    lr = self.rate(self.done)
                    set_learning_rate(self.optimiser, lr)
                    recent.add(self._step(micro_batches), micro_batches)
                    self.done += 1
                    bar.update()
                    if self.done % loop.log_every == 0 or self.done == self.steps:
                        self._report(log, bar, recent, lr, epoch)
                        recent = _Recent()
                    ends = self.done % per_epoch == 0
                    if ends and self.on_epoch is not None:
                        with self._undisturbed_rng():
                            log.scalars(self.done, self.on_epoch(epoch, self.core))
                    due = self.done % loop.save_every == 0 if loop.save_every else ends
                    stop = self._stop_requested()
                    if due or stop or self.done == self.steps:
                        last = self._save()
                    if stop:
                        raise Interrupted(f"stopped at step {self.done} of {self.steps}; the same command continues it")
        assert last is not None
        return last

    def _step(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimiser step; a non-finite gradient leaves weights and moments as they were, on every rank alike."""
        totals: dict[str, Tensor] = {}
        for i, batch in enumerate(micro_batches):
            final = i == len(micro_batches) - 1
            with self._exchange(final), self.autocast():
                step = self.objective(self.model, to_device(batch, self.place.device))
                (step.loss / len(micro_batches)).backward()
            for name, value in {"loss": step.loss.detach(), **step.parts}.items():
                totals[name] = totals.get(name, 0) + value / len(micro_batches)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.loop.clip_grad or math.inf)
        bad = (~torch.isfinite(norm)).float()
        self.optimiser.found_inf = bad  # type: ignore[attr-defined]  # fused AdamW skips the step on the device
        self.optimiser.grad_scale = None  # type: ignore[attr-defined]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.core)
        self.bad_streak = (self.bad_streak + bad) * bad
        return {**totals, "grad_norm": norm, "bad_steps": bad, "bad_streak": self.bad_streak.clone()}

    # -- what surrounds a step ---------------------------------------------------------------------------------------

    def _before_first_step(self, micro_batches: list[Batch]) -> None:
        """DDP regroups its buckets after the first backward, and with them the order of summation: two discarded
        passes before the first step of every start make a continued run sum like an undisturbed one. The generators
        are then set to what the checkpoint holds (reading the first batch may have drawn from them)."""
        if self.rng is None:
            return
        if self.place.world > 1:
            for _ in range(2):
                with self.autocast():
                    step = self.objective(self.model, to_device(micro_batches[0], self.place.device))
                    step.loss.backward()
            self.optimiser.zero_grad(set_to_none=True)
        _set_rng(self.rng[self.place.rank])
        self.rng = None

    def _exchange(self, final: bool) -> contextlib.AbstractContextManager[Any]:
        if final or self.model is self.bare:
            return contextlib.nullcontext()
        return self.model.no_sync()  # type: ignore[operator]

    def _report(self, log: RunLog, bar: Any, recent: _Recent, lr: float, epoch: int) -> None:
        ranks = self.place.gather((recent.means(), recent.skipped, recent.bad_keys()))
        values = {name: sum(means[name] for means, _, _ in ranks) / len(ranks) for name in ranks[0][0]}
        skipped, bad_keys = ([item for rank in ranks for item in rank[i]] for i in (1, 2))
        streak = values.pop("bad_streak_last")
        clips = recent.steps * self.loop.batch_size / max(1e-9, time.monotonic() - recent.since)
        values |= {"lr": lr, "epoch": epoch + 1.0, "clips_per_second": clips, "skipped_clips": len(skipped)}
        extra = {name: items for name, items in (("skipped", skipped), ("bad_keys", bad_keys)) if items}
        log.scalars(self.done, values, **extra)
        bar.set_postfix_str(f"loss {values['loss']:.4f}, {clips:.1f} clips/s", refresh=False)
        if streak >= self.loop.max_bad_steps:
            raise UserError(
                f"the gradient was not finite in {streak:.0f} steps in a row up to step {self.done}; weights are those "
                f"before them, the clips are listed in {log.path}. Lower optim.lr or set loop.clip_grad, then continue."
            )

    def _save(self) -> Path:
        states = self.place.gather(_get_rng())
        problem = None
        if self.place.first:
            state = {"optimiser": self.optimiser.state_dict(), "step": self.done, "steps": self.steps, "rng": states}
            ema = self.ema.module.state_dict() if self.ema is not None else None
            weights = self.core.state_dict()
            if self.core is not self.bare:
                state["beside"] = {k: v for k, v in self.bare.state_dict().items() if not k.startswith("core.")}
            try:
                checkpoint.save(
                    self.out, self.done, weights=weights, ema=ema, meta=self.meta, state=state, keep=self.loop.keep
                )
            except checkpoint.CheckpointError as error:
                problem = str(error)
        problem = self.place.gather(problem)[0]  # every process stops with the one that could not write
        if problem is not None:
            raise checkpoint.CheckpointError(problem)
        return checkpoint.folder_of(self.out, self.done)

    def _restore(self) -> None:
        folder = checkpoint.newest(self.out)
        # one rank decides, so that all start from the same step
        folder = self.place.gather(folder)[0]
        self.rng = self.place.gather(_get_rng())
        if folder is None:
            return
        state = checkpoint.read_state(folder)
        if state["steps"] != self.steps:
            raise UserError(
                f"{self.out} holds a run of {state['steps']} steps, this one has {self.steps}: "
                "the data or the recipe changed. Choose another --out, or remove the folder to start again."
            )
        self.core.load_state_dict(checkpoint.read_weights(folder / "weights.safetensors")[0])
        if self.core is not self.bare:
            self.bare.load_state_dict(state["beside"], strict=False)
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.read_weights(folder / "ema.safetensors")[0])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["step"]
        if len(state["rng"]) == self.place.world:
            self.rng = state["rng"]
        elif self.place.first:
            say(f"the run had {len(state['rng'])} processes and has {self.place.world} now: generators start afresh")

    def _stop_requested(self) -> bool:
        if self.place.world == 1:
            return bool(self.stop_signal)
        flag = torch.tensor(self.stop_signal, device=self.place.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    @contextlib.contextmanager
    def _undisturbed_rng(self) -> Iterator[None]:
        before = _get_rng()
        try:
            yield
        finally:
            _set_rng(before)


class _Recent:
    """What happened since the last log line; tensors stay on their device until it is written."""

    def __init__(self) -> None:
        self.since, self.steps = time.monotonic(), 0
        self.values: list[dict[str, Tensor]] = []
        self.keys: list[list[str]] = []
        self.skipped: list[str] = []

    def add(self, values: dict[str, Tensor], micro_batches: list[Batch]) -> None:
        self.steps += 1
        self.values.append(values)
        self.keys.append([key for batch in micro_batches for key in batch.get("key", ())])
        self.skipped += [f"{key}: {reason}" for batch in micro_batches for key, reason in batch.get("skipped", ())]

    def means(self) -> dict[str, float]:
        names = list(self.values[0])
        table = torch.stack([torch.stack([step[n].detach().float() for n in names]) for step in self.values]).cpu()
        good = table[table[:, names.index("bad_steps")] == 0]
        result = dict(zip(names, (good if len(good) else table).mean(0).tolist(), strict=True))
        result["bad_steps"] = table[:, names.index("bad_steps")].sum().item()
        result["bad_streak_last"] = table[-1, names.index("bad_streak")].item()
        del result["bad_streak"]
        return result

    def bad_keys(self) -> list[str]:
        return [key for keys, step in zip(self.keys, self.values, strict=True) if step["bad_steps"] for key in keys]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` with its tensors on `device`."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _autocast(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _get_rng() -> dict[str, Any]:
    """The state of every generator a model or an augmentation may draw from, as tensors and plain values."""
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None,
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(words), gauss],
    }


def _set_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


@contextlib.contextmanager
def _signals(run: _Run) -> Iterator[None]:
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
