"""Engines: how one process or several compute gradients, take a step, and say what must be kept to go on.

The loop knows the methods of `Engine` and nothing else. Weights and optimiser state leave an engine under the model's
own names and in whole tensors, so that a run begun by `single`, `ddp` or `fsdp` is continued by any of them, on any
number of processes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from hicmae.runtime.checkpoint import Saved
from hicmae.runtime.config import LoopConfig
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError
from hicmae.runtime.optim import OptimConfig, adamw, set_learning_rate

__all__ = ["Engine", "blocks_of", "engine_for", "offloaded", "recompute"]

Tensors = dict[str, Tensor]


def engine_for(
    model: nn.Module, groups: list[dict], optim: OptimConfig, loop: LoopConfig, place: Place, saved: Saved | None = None
) -> Engine:
    """The engine `loop.engine` names; `auto` is `ddp` where there are several processes and `single` elsewhere.

    Raises:
        UserError: an engine that does not fit the number of processes, or whose package is missing.
    """
    name = loop.engine if loop.engine != "auto" else ("ddp" if place.world > 1 else "single")
    if name == "single" and place.world > 1:
        raise UserError(
            f"loop.engine: single is one process, {place.world} were started; choose ddp, fsdp or deepspeed"
        )
    if place.device.type != "cuda" and (loop.offload or loop.graphs):
        raise UserError(f"loop.{'offload' if loop.offload else 'graphs'}: needs a GPU, this run is on the CPU")
    if loop.graphs and name != "single":
        raise UserError(f"loop.graphs: goes with loop.engine=single, not {name}")
    if name in ("fsdp", "deepspeed") and not place.grouped:
        raise UserError(f"loop.engine: {name} needs torchrun, also for one process: torchrun --nproc-per-node 1 …")
    kinds: dict[str, type[Engine]] = {"single": Engine, "ddp": DDP if place.world > 1 else Engine, "fsdp": FSDP}
    if name == "deepspeed":
        from hicmae.runtime.zero import Zero  # its package takes seconds to import, and is an extra

        kinds[name] = Zero
    return kinds[name](model, groups, optim, loop, place, saved)


class Engine:
    """One process; what the others have in common.

    Args:
        model: moved to the device; its names are those of the checkpoints.
        groups: parameters as `optim.parameter_groups` returns them.
        saved: what to go on from.
    """

    in_parts = False
    """Every process writes a part of its own of a checkpoint (`save_parts`)."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict],
        optim: OptimConfig,
        loop: LoopConfig,
        place: Place,
        saved: Saved | None = None,
    ) -> None:
        self.bare, self.loop, self.place = model.to(place.device), loop, place
        self.core: nn.Module = getattr(model, "core", model)  # whose weights are kept as the run's
        torch.set_float32_matmul_precision("high" if loop.tf32 else "highest")
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self._names = {parameter: name for name, parameter in self.bare.named_parameters()}
        self.precision = _precision(loop.precision, place.device)
        self.ema = ModelEmaV3(self.core, decay=loop.ema) if loop.ema else None
        if saved is not None:  # while tensors are whole
            self.core.load_state_dict(saved.weights)
            if self.core is not self.bare:
                self.bare.load_state_dict(saved.state["beside"], strict=False)
            if self.ema is not None and saved.averages is not None:
                self.ema.module.load_state_dict(saved.averages)
        if loop.recompute:
            recompute(self.bare)
        if loop.compile:
            for block in blocks_of(self.bare):  # block by block: compiled once for all that are alike
                block.compile()
        self.model: nn.Module = self.bare
        self.scaler = torch.amp.GradScaler(place.device.type) if self.precision == "fp16" else None
        self.optimiser: Any = None
        self.wrap(groups, optim)
        if saved is not None:
            self.resume(saved)

    def wrap(self, groups: list[dict], optim: OptimConfig) -> None:
        """Make `model`, what objectives call, and the optimiser."""
        self.optimiser = adamw(groups, optim)

    # -- a step ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Around an objective."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        on, cached = self.place.device.type, not self.loop.graphs
        cast = torch.autocast(on, kind, enabled=kind is not None, cache_enabled=cached)
        with cast, offloaded() if self.loop.offload else contextlib.nullcontext():
            yield

    def exchange(self, final: bool) -> contextlib.AbstractContextManager[Any]:
        """Around the passes of a micro-batch: gradients are exchanged with the `final` one of a step only."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss."""
        loss = loss / self.loop.accumulate
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self, lr: float) -> tuple[Tensor, Tensor]:
        """Take a step; returns the norm of the gradient and 1.0 where it was not finite, both on the device.

        Such a step leaves weights and moments as they were, on every rank alike, without asking the device.
        """
        set_learning_rate(self.optimiser, lr)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        norm = _whole(nn.utils.clip_grad_norm_(self.parameters, self.loop.clip_grad or math.inf))
        bad = (~torch.isfinite(norm)).float()
        if self.scaler is not None:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.optimiser.found_inf, self.optimiser.grad_scale = bad, None  # fused AdamW skips on the device
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.core)
        return norm, bad

    def warm_up(self, once: Callable[[], Tensor]) -> None:
        """Whatever makes the sums of a continued run those of an undisturbed one; `once` computes a loss."""
        if self.loop.graphs:
            with self.autocast():
                _capture(self.bare, once)

    # -- what is kept ------------------------------------------------------------------------------------------------

    def weights(self) -> Tensors:
        """The model's tensors, whole and on the CPU; every process must call, the first gets them."""
        return self._kept(self.core)

    def averages(self) -> Tensors | None:
        """The averaged tensors likewise; None where none are kept."""
        return None if self.ema is None else self._kept(self.ema.module)

    def state(self) -> dict[str, Any]:
        """Moments by parameter name, the scaler, and what lies beside the model's core; every process must call, the
        first gets them."""
        moments: dict[str, dict[str, Tensor]] = {}
        for parameter, values in self.optimiser.state.items():
            kept = {key: self._copy(value) for key, value in values.items()}
            if self.place.first:
                moments[self._names[parameter]] = kept
        state = {"optimiser": moments, **({} if self.scaler is None else {"scaler": self.scaler.state_dict()})}
        if self.core is not self.bare:
            state["beside"] = {k: v for k, v in self._kept(self.bare).items() if not k.startswith("core.")}
        return state

    def resume(self, saved: Saved) -> None:
        """Go on from what `state` returned.

        Raises:
            UserError: the state was left by an engine that this one cannot follow.
        """
        if "optimiser" not in saved.state:
            raise UserError(
                f"{saved.folder} was left by DeepSpeed, whose state only loop.engine=deepspeed continues; continue "
                "with that, or start a new run from its weights"
            )
        for parameter, name in self._names.items():
            for key, value in saved.state["optimiser"].get(name, {}).items():
                self.optimiser.state[parameter][key] = _as_part_of(parameter, value)
        if self.scaler is not None and "scaler" in saved.state:
            self.scaler.load_state_dict(saved.state["scaler"])

    def save_parts(self, folder: Path) -> None:
        """Write what each process must write itself."""

    def _kept(self, module: nn.Module) -> Tensors:
        kept = {name: self._copy(value) for name, value in module.state_dict().items()}
        return kept if self.place.first else {}

    def _copy(self, value: Tensor) -> Tensor:
        """A copy on the CPU: training goes on while it is written."""
        whole = _whole(value.detach())
        return whole.to("cpu", copy=True) if self.place.first else whole


class DDP(Engine):
    """Every process has the whole model; gradients are averaged."""

    def wrap(self, groups: list[dict], optim: OptimConfig) -> None:
        """See `Engine`."""
        super().wrap(groups, optim)
        ids = [self.place.device.index] if self.place.device.type == "cuda" else None
        self.model = nn.parallel.DistributedDataParallel(self.bare, device_ids=ids)

    def exchange(self, final: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine`."""
        return contextlib.nullcontext() if final else self.model.no_sync()  # type: ignore[operator]

    def warm_up(self, once: Callable[[], Tensor]) -> None:
        """DDP regroups its buckets after the first backward, and with them the order of summation: two discarded
        passes before the first step of every start make a continued run sum like an undisturbed one."""
        still = [p for p in self.bare.parameters() if not p.requires_grad]  # a forward may gather statistics in them
        before = [p.clone() for p in still]
        for _ in range(2):
            once().backward()
        self.optimiser.zero_grad(set_to_none=True)
        for parameter, value in zip(still, before, strict=True):
            parameter.copy_(value)


class FSDP(Engine):
    """Parameters, gradients and moments are divided among the processes (FSDP2), block by block."""

    def wrap(self, groups: list[dict], optim: OptimConfig) -> None:
        """See `Engine`."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.place.device.type, (self.place.world,))
        for module in [self.bare] if self.ema is None else [self.bare, self.ema.module]:
            blocks = blocks_of(module)
            held = [parameter for block in blocks for parameter in block.parameters()]
            if len(held) == len(set(held)):  # blocks that share layers stay together, with the rest
                for block in blocks:
                    fully_shard(block, mesh=mesh)
            fully_shard(module, mesh=mesh)
        parts = dict(self.bare.named_parameters())  # other objects than before
        for group in groups:
            group["params"] = [parts[name] for name in group["names"]]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self._names = {parameter: name for name, parameter in parts.items()}
        super().wrap(groups, optim)

    def exchange(self, final: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine`."""
        self.bare.set_requires_gradient_sync(final)  # type: ignore[operator]
        return contextlib.nullcontext()


def _precision(stated: str, device: torch.device) -> str:
    if stated == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return stated


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of all encoders and decoders, in order."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2].startswith("blocks")
    ]
    return [block for blocks in lists for block in blocks]


def recompute(model: nn.Module) -> None:
    """Let blocks keep their input only, and compute the rest again when gradients are asked for."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    chosen = set(blocks_of(model))
    apply_activation_checkpointing(model, check_fn=lambda module: module in chosen)


def offloaded() -> contextlib.AbstractContextManager[Any]:
    """Around a forward pass: what it keeps for the backward pass lies in the CPU's memory meanwhile, but for weights
    and small things."""

    def pack(x: Tensor) -> Any:
        if isinstance(x if x._base is None else x._base, nn.Parameter) or x.nbytes < 2**16:
            return x
        kept = torch.empty(x.shape, dtype=x.dtype, pin_memory=torch.cuda.is_available())
        return x.device, kept.copy_(x, non_blocking=True)

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[1].to(kept[0], non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _capture(model: nn.Module, once: Callable[[], Tensor]) -> None:
    """Record every block that `once` passes through, forward and backward, as CUDA graphs of inputs of these shapes."""
    inputs: dict[nn.Module, tuple[Tensor, ...]] = {}  # in the order of calls, in which graphs must be replayed

    def note(block: nn.Module, given: tuple[Tensor, ...], more: dict[str, Any]) -> None:
        if not more:  # a graph takes tensors alone
            inputs[block] = given

    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks_of(model)]
    once()
    for hook in hooks:
        hook.remove()
    samples = [tuple(torch.zeros_like(x).requires_grad_(x.requires_grad) for x in given) for given in inputs.values()]
    torch.cuda.make_graphed_callables(tuple(inputs), tuple(samples), allow_unused_input=True)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _as_part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor as `parameter` is kept: on its device, and divided as it is."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value
