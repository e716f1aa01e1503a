"""How a recipe fits a card: micro-batch and recomputing chosen so that a process needs no more memory than there is.

On a CPU this is an estimate: what a forward pass keeps is read off at two batch sizes, in the precision a GPU would
have, and nothing of it was tried on such a card. On a GPU the steps are tried.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from hicmae.configs.errors import ConfigError, UserError
from hicmae.pretrain.config import PretrainConfig
from hicmae.pretrain.engine import build_model
from hicmae.pretrain.objectives import objective_for
from hicmae.pretrain.planning import GIB, activations, example, weights_and_moments
from hicmae.runtime.engines import blocks_of

__all__ = ["CARDS", "Fit", "Need", "fit_to", "gibibytes", "need_of"]

CARDS = (8, 24, 80, 141)
"""GiB of the cards that pieces in `configs/` are for."""
SPARE = 0.75
"""GiB that CUDA, its libraries and the desktop take: assumed."""
SLACK = 1.2
"""What fragments, workspaces and gradients of activations take beside what is kept: assumed, as a factor."""
ENOUGH = 8
"""Clips per micro-batch above which recomputing is not worth its time: a third more."""


@dataclass(frozen=True)
class Need:
    """What a process needs, in bytes: `fixed`, and `clip` for each clip of a micro-batch."""

    fixed: float
    clip: float

    def total(self, clips: int) -> float:
        """With so many clips at a time, and what is assumed beside it."""
        return self.fixed + SLACK * self.clip * clips + SPARE * GIB

    def most(self, limit: float) -> int:
        """Clips at a time within `limit` bytes."""
        return max(0, int((limit - self.fixed - SPARE * GIB) // (SLACK * self.clip)))


@dataclass(frozen=True)
class Fit:
    """A recipe that fits, and what it needs."""

    config: PretrainConfig
    clips: int
    """Clips of a process's micro-batch."""
    need: float
    """Bytes of one process."""
    limit: float
    processes: int
    tried: bool
    """On a GPU, rather than estimated."""
    before: PretrainConfig

    def __str__(self) -> str:
        loop, old, optim = self.config.loop, self.before.loop, self.config.optim
        how = "tried on this GPU" if self.tried else "an estimate, not tried on such a card"
        rate, was = (optim.lr * one.batch_size / 256 for one in (loop, old))
        scaled = "unchanged" if loop.batch_size == old.batch_size else f"was {was:.3g} for {old.batch_size}"
        lines = [
            f"fit       {self.need / GIB:.1f} of {self.limit / GIB:.0f} GiB per process ({how})",
            f"batch     {loop.batch_size} = {self.processes} processes x {loop.accumulate} micro-batches x {self.clips}"
            f" clips, precision {loop.precision}, {'' if loop.recompute else 'no '}recomputing",
            f"rate      {rate:.3g} at most ({optim.lr:g} per 256 clips; {scaled})",
            f"options   --loop.batch_size={loop.batch_size} --loop.accumulate={loop.accumulate} "
            f"--loop.precision={loop.precision} --loop.recompute={str(loop.recompute).lower()}",
        ]
        if self.config.contrast.weight and self.clips < old.batch_size // self.processes and self.hears:
            lines.append(
                f"note      contrast compares the {self.clips} clips of a micro-batch with each other, no more"
            )
        return "\n".join(lines)

    @property
    def hears(self) -> bool:
        """Whether the model is audio-visual, and has a contrast."""
        return "hicmae" in self.config.model and not self.config.model.endswith(("_video", "_audio"))


def gibibytes(text: str) -> float:
    """`24GB`, `24 GiB` or `24` as bytes; makers' gigabytes of GPU memory are 2^30.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:gi?b?)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise ConfigError(f"--fit: {text} is no size of memory; give one as 24GB")
    return float(found[1]) * GIB


def need_of(config: PretrainConfig, model: Any = None) -> Need:
    """What a recipe needs for weights, gradients, moments and averages, and for each clip, by the engine `single`."""
    model = build_model(config) if model is None else model
    run: Any = SimpleNamespace(model=model, objective=_objective(config, model))
    small, large = (activations(config, run, clips) for clips in (2, 4))
    clip = (large - small) / 2
    fixed = weights_and_moments(config, model) + max(0.0, small - 2 * clip)
    if config.loop.recompute:  # one block at a time is there whole
        whole = dataclasses.replace(config, loop=dataclasses.replace(config.loop, recompute=False))
        inside = (activations(whole, run, 4) - activations(whole, run, 2)) / 2 / max(1, len(blocks_of(model)))
        clip += inside
    return Need(fixed, clip)


def fit_to(config: PretrainConfig, limit: float, *, processes: int = 1, find_batch: bool = False) -> Fit:
    """The recipe with micro-batch and recomputing chosen so that a process needs at most `limit` bytes.

    The batch stays as it is, and the learning rate with it, unless `find_batch` makes it as large as fits at once (a
    power of two per process): the rate is then scaled with it.

    Raises:
        UserError: not even one clip at a time fits; ValueError: the batch cannot be divided among `processes`.
    """
    share, rest = divmod(config.loop.batch_size, processes)
    if rest:
        raise ValueError(f"loop.batch_size: {config.loop.batch_size} cannot be divided among {processes} processes")
    model = build_model(config)
    both = model.grid is not None and model.audio_grid is not None
    least = 2 if both else 1  # a contrast needs two
    plain, again = (need_of(_with(config, recompute=value), model) for value in (False, True))
    gpu = torch.cuda.is_available() and config.device != "cpu"

    def clips_within(need: Need, recompute: bool) -> int:
        most = need.most(limit)
        sizes = (
            [2**k for k in range(most.bit_length())]
            if find_batch
            else [n for n in range(1, share + 1) if share % n == 0]
        )
        for clips in sorted((n for n in sizes if least <= n <= most), reverse=True):
            if not gpu or tried(_with(config, recompute=recompute), clips) <= limit:
                return clips
        return 0

    clips, recompute, need = clips_within(plain, False), False, plain
    if clips < min(ENOUGH, share) and (more := clips_within(again, True)) > clips:
        clips, recompute, need = more, True, again
    if not clips:
        raise UserError(
            f"--fit: {config.model} needs {again.total(least) / GIB:.1f} GiB for {least} clip{'s' * (least > 1)} at a "
            f"time with recomputing, and there are {limit / GIB:.1f}: take a smaller model, or the engine fsdp"
        )
    batch = clips * processes if find_batch else config.loop.batch_size
    chosen = _with(config, recompute=recompute, batch_size=batch, accumulate=batch // (clips * processes))
    total = tried(chosen, clips) if gpu else need.total(clips)
    return Fit(chosen, clips, total, limit, processes, gpu, config)


def tried(config: PretrainConfig, clips: int) -> float:
    """Bytes that two real steps reserve on the GPU; infinite where they do not fit. (Not tried on a GPU yet.)"""
    from hicmae.runtime.dist import process_group
    from hicmae.runtime.engines import engine_for
    from hicmae.runtime.optim import parameter_groups
    from hicmae.runtime.transfer import to_device

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        with process_group(config.device) as place:
            model = build_model(config)
            groups = parameter_groups(model, weight_decay=config.optim.weight_decay, published=False)
            engine = engine_for(model, groups, config.optim, config.loop, place, None)
            objective = _objective(config, model)
            for _ in range(2):
                with engine.autocast():
                    step = objective(engine.model, to_device(example(config, model, clips), place.device))
                engine.backward(step.loss)
                engine.update(0.0)
        return float(torch.cuda.max_memory_reserved())
    except torch.cuda.OutOfMemoryError:
        return float("inf")


def _with(config: PretrainConfig, **loop: Any) -> PretrainConfig:
    """The recipe on a GPU that has bf16, unless it says otherwise, with other values of the loop."""
    if config.loop.precision == "auto":
        loop = {"precision": "bf16", **loop}
    if "batch_size" not in loop:
        loop = {"accumulate": 1, **loop}
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **loop))


def _objective(config: PretrainConfig, model: Any) -> Any:
    return objective_for(model, mask=config.mask, target=config.target, contrast=config.contrast, seed=config.seed)
