"""How a recipe fits a card: micro-batch and recomputing chosen so that a process needs no more memory than there is.

On a CPU this is an estimate: what a forward pass keeps is read off at two batch sizes, in the precision a GPU would
have, and nothing of it was tried on such a card. On a GPU the steps are tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.configs.errors import ConfigError, UserError
from hicmae.runtime.config import LoopConfig
from hicmae.runtime.dist import process_group
from hicmae.runtime.engines import blocks_of, engine_for
from hicmae.runtime.loop import Batch, Objective
from hicmae.runtime.transfer import to_device

__all__ = ["CARDS", "GIB", "Fitted", "Made", "Need", "activations", "fit_recipe", "gibibytes", "need_of"]

GIB = 2**30
CARDS = (8, 24, 80, 141)
"""GiB of the cards that pieces in `configs/` are for."""
SPARE = 0.75
"""GiB that CUDA, its libraries and the desktop take: assumed."""
SLACK = 1.2
"""What fragments, workspaces and gradients of activations take beside what is kept: assumed, as a factor."""
ENOUGH = 8
"""Clips per micro-batch above which recomputing is not worth its time: a third more."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a recipe trains, before an engine has it."""

    model: nn.Module
    objective: Objective
    example: Callable[[int], Batch]
    """A batch of so many empty clips, as large as the recipe's."""
    groups: list[dict]
    """Parameters that learn, as `optim.parameter_groups` returns them."""
    least: int = 1
    """Clips of a micro-batch that the loss needs."""


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
class Fitted:
    """A recipe that fits, and what it needs."""

    config: Any
    """With the loop that was chosen."""
    clips: int
    """Clips of a process's micro-batch."""
    need: float
    """Bytes of one process."""
    limit: float
    """Bytes that there are."""
    processes: int
    tried: bool
    """On a GPU, rather than estimated."""
    before: Any
    notes: tuple[str, ...] = ()
    """What else is to be known of the choice."""

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
            *(f"note      {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    @property
    def divided(self) -> bool:
        """A micro-batch has fewer clips than a process's share of the recipe's batch."""
        return self.clips < self.before.loop.batch_size // self.processes


def gibibytes(text: str) -> float:
    """`24GB`, `24 GiB` or `24` as bytes; makers' gigabytes of GPU memory are 2^30.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:gi?b?)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise ConfigError(f"--fit: {text} is no size of memory; give one as 24GB")
    return float(found[1]) * GIB


def need_of(made: Made, loop: LoopConfig) -> Need:
    """What `made` needs for weights, gradients, moments and averages, and for each clip, by the engine `single`.

    Parameters that do not learn have neither gradients nor moments.
    """
    small, large = (activations(made.model, made.objective, made.example(clips), loop) for clips in (2, 4))
    clip = (large - small) / 2
    fixed = _weights_and_moments(made.model, loop) + max(0.0, small - 2 * clip)
    blocks = blocks_of(made.model)
    still = any(not _learns(block) for block in blocks)
    if loop.recompute or still:  # one block at a time is there whole
        whole = dataclasses.replace(loop, recompute=False)
        with _all_learning(made.model) if still else contextlib.nullcontext():
            two, four = (activations(made.model, made.objective, made.example(clips), whole) for clips in (2, 4))
        clip += (four - two) / 2 / max(1, len(blocks))
    if still:  # little else is kept, so that the batch counts, and what is made of it for the model
        clip += 2 * sum(x.nbytes for x in made.example(1).values() if isinstance(x, Tensor))
    return Need(fixed, clip)


def activations(model: nn.Module, objective: Objective, batch: Batch, loop: LoopConfig) -> float:
    """Bytes that a forward pass of `objective` keeps of a batch, and of weights in bf16, read off a real one on the
    CPU; in bf16 unless fp32 is asked for."""
    seen: dict[int, tuple[int, Tensor]] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    inside = 0  # blocks that are computed again keep their inputs alone

    def keep(x: Tensor) -> Tensor:
        x = x.detach()  # the graph holds this hook: holding the graph's outputs in turn would never free either
        storage = x.untyped_storage()
        if not inside and storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage.nbytes(), x)  # held, or another would get its address
        return x

    def enter(block: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal inside
        tensors = [x for x in given if isinstance(x, Tensor)]
        if _learns(block) or any(x.requires_grad for x in tensors):  # else nothing is computed again
            for x in tensors:
                keep(x)
        inside += 1

    def leave(*_: Any) -> None:
        nonlocal inside
        inside -= 1

    blocks = blocks_of(model) if loop.recompute else []
    hooks = [
        hook for one in blocks for hook in (one.register_forward_pre_hook(enter), one.register_forward_hook(leave))
    ]
    half = loop.precision != "fp32"
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", enabled=half):
        objective(model, batch)
    for hook in hooks:
        hook.remove()
    return float(sum(size for size, _ in seen.values()))


def fit_recipe(
    config: Any,
    make: Callable[[], Made],
    limit: float,
    *,
    processes: int = 1,
    find_batch: bool = False,
    remedy: str = "take a smaller model",
) -> Fitted:
    """The recipe with micro-batch and recomputing chosen so that a process needs at most `limit` bytes.

    The batch stays as it is, and the learning rate with it, unless `find_batch` makes it as large as fits at once (a
    power of two per process): the rate is then scaled with it.

    Args:
        config: a recipe, with `model`, `optim`, `loop` and `device`.
        make: what it trains, made anew at each call.
        remedy: what to do where nothing fits.

    Raises:
        UserError: not even as many clips at a time as the loss needs fit; ValueError: there are no processes, or
            the batch cannot be divided among them.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, not {processes}")
    share, rest = divmod(config.loop.batch_size, processes)
    if rest:
        raise ValueError(f"loop.batch_size: {config.loop.batch_size} cannot be divided among {processes} processes")
    made = make()
    least = made.least
    plain, again = (need_of(made, _with(config, recompute=value).loop) for value in (False, True))
    gpu = torch.cuda.is_available() and config.device != "cpu"

    def clips_within(need: Need, recompute: bool) -> int:
        most = need.most(limit)
        sizes = (
            [2**k for k in range(most.bit_length())]
            if find_batch
            else [n for n in range(1, share + 1) if share % n == 0]
        )
        for clips in sorted((n for n in sizes if least <= n <= most), reverse=True):
            if not gpu or _tried(_with(config, recompute=recompute), make, clips) <= limit:
                return clips
        return 0

    clips, recompute, need = clips_within(plain, False), False, plain
    if clips < min(ENOUGH, share) and (more := clips_within(again, True)) > clips:
        clips, recompute, need = more, True, again
    if not clips:
        raise UserError(
            f"--fit: {config.model} needs {again.total(least) / GIB:.1f} GiB for {least} clip{'s' * (least > 1)} at a "
            f"time with recomputing, and there are {limit / GIB:.1f}: {remedy}"
        )
    batch = clips * processes if find_batch else config.loop.batch_size
    chosen = _with(config, recompute=recompute, batch_size=batch, accumulate=batch // (clips * processes))
    total = _tried(chosen, make, clips) if gpu else need.total(clips)
    return Fitted(chosen, clips, total, limit, processes, gpu, config)


def _tried(config: Any, make: Callable[[], Made], clips: int) -> float:
    """Bytes that two real steps reserve on the GPU; infinite where they do not fit. (Not tried on a GPU yet.)"""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        with process_group(config.device) as place:
            made = make()
            engine = engine_for(made.model, made.groups, config.optim, config.loop, place, None)
            for _ in range(2):
                with engine.autocast():
                    step = made.objective(engine.model, to_device(made.example(clips), place.device))
                engine.backward(step.loss)
                engine.update(0.0)
        return float(torch.cuda.max_memory_reserved())
    except torch.cuda.OutOfMemoryError:
        return float("inf")


def _with(config: Any, **loop: Any) -> Any:
    """The recipe on a GPU that has bf16, unless it says otherwise, with other values of the loop."""
    if config.loop.precision == "auto":
        loop = {"precision": "bf16", **loop}
    if "batch_size" not in loop:
        loop = {"accumulate": 1, **loop}
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **loop))


def _weights_and_moments(model: nn.Module, loop: LoopConfig) -> float:
    """Bytes of weights, and of the average that a recipe asks for; of what learns, gradients and AdamW's two moments:
    all float32."""
    core: nn.Module = getattr(model, "core", model)  # which alone is averaged
    learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    held = sum(parameter.numel() for one in [model, *[core] * bool(loop.ema)] for parameter in one.parameters())
    return 4.0 * (held + 3 * learnt)


def _learns(block: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


@contextlib.contextmanager
def _all_learning(model: nn.Module) -> Iterator[None]:
    """What is frozen learns meanwhile."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
