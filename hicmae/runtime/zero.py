"""DeepSpeed as an engine: ZeRO 0 to 3."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hicmae.runtime.checkpoint import Saved
from hicmae.runtime.engines import Engine, offloaded
from hicmae.runtime.log import UserError, say
from hicmae.runtime.optim import OptimConfig, adamw, set_learning_rate

__all__ = ["Zero"]

TAG = "deepspeed"
# the recipe's business, which DeepSpeed is told
TAKEN = {
    "train_batch_size": "loop.batch_size",
    "train_micro_batch_size_per_gpu": "loop.batch_size",
    "gradient_accumulation_steps": "loop.accumulate",
    "gradient_clipping": "loop.clip_grad",
    "optimizer": "optim",
    "scheduler": "optim",
    "bf16": "loop.precision",
    "fp16": "loop.precision",
    "torch_autocast": "loop.precision",
}


class Zero(Engine):
    """DeepSpeed divides moments (stage 1), gradients (2) and parameters (3) among the processes.

    Whether a step is taken is decided by the losses, which all processes compare before the backward pass; a gradient
    that is not finite behind a finite loss is found after the step, and ends the run at its last checkpoint.
    """

    in_parts = True

    def wrap(self, groups: list[dict], optim: OptimConfig) -> None:
        """See `Engine`."""
        if self.ema is not None:
            raise UserError("loop.ema: averaged weights are kept by the engines single, ddp and fsdp only")
        if self.precision == "fp16":
            raise UserError(
                "loop.precision: fp16 is for the engines single, ddp and fsdp; DeepSpeed takes bf16 or fp32"
            )
        try:
            import deepspeed
            from deepspeed.ops import __compatible_ops__ as extensions
        except ImportError:
            raise UserError("loop.engine=deepspeed needs the package: pip install 'hicmae[deepspeed]'") from None
        if self.place.device.type == "cpu":
            extensions["deepspeed_shm_comm"] = False  # it would be compiled for minutes, and leave a lock when killed
        settings = self.settings()
        self.stage = int(settings["zero_optimization"]["stage"])
        flat = _Flat(self.bare)
        for parameter in self.bare.parameters(recurse=False) if self.stage == 3 else ():
            # its own module does not see when they are needed again: its output is no tuple of tensors
            deepspeed.zero.register_external_parameter(flat, parameter)
        self.zero, self.optimiser, *_ = deepspeed.initialize(
            model=flat, optimizer=adamw(groups, optim), config=settings, dist_init_required=False
        )
        self.model, self.bad = _Whole(self.zero, flat), False
        self._gathered = deepspeed.zero.GatheredParameters

    def settings(self) -> dict[str, Any]:
        """What DeepSpeed is told.

        Raises:
            UserError: the recipe's `loop.deepspeed` says what is the recipe's elsewhere, or is no file of JSON.
        """
        stated = _read(self.loop.deepspeed)
        if taken := TAKEN.keys() & stated.keys():
            told = ", ".join(f"{key} is {TAKEN[key]}" for key in sorted(taken))
            raise UserError(f"loop.deepspeed: leave out what the recipe says elsewhere: {told}")
        loop = self.loop
        stated["zero_optimization"] = {"stage": 1, **stated.get("zero_optimization", {})}
        return {
            "zero_allow_untested_optimizer": True,
            **stated,
            "train_micro_batch_size_per_gpu": loop.batch_size // (self.place.world * loop.accumulate),
            "gradient_accumulation_steps": loop.accumulate,
            "gradient_clipping": loop.clip_grad or 0.0,
            "torch_autocast": {"enabled": self.precision == "bf16", "dtype": "bfloat16"},
        }

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """None: DeepSpeed does it around the model."""
        with offloaded() if self.loop.offload else contextlib.nullcontext():
            yield

    def exchange(self, final: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine`."""
        self.zero.set_gradient_accumulation_boundary(final)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine`; nothing where the loss of any process is not finite."""
        bad = (~torch.isfinite(loss.detach())).float().cpu()
        if self.place.world > 1:
            torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
        self.bad = self.bad or bool(bad)
        if not self.bad:
            self.zero.backward(loss)

    def update(self, lr: float) -> tuple[Tensor, Tensor]:
        """See `Engine`."""
        device = self.place.device
        skipped, self.bad = self.bad, False
        if skipped:
            self.zero.zero_grad()
            self.optimiser.zero_grad()
            return torch.full((), torch.nan, device=device), torch.ones((), device=device)
        set_learning_rate(self.optimiser, lr)
        norm = _norm(self.bare) if self.stage == 0 else None
        self.zero.step()
        norm = self.zero.get_global_grad_norm() if norm is None else norm
        norm = torch.as_tensor(norm, dtype=torch.float32, device=device)
        if not bool(torch.isfinite(norm)):
            raise UserError(
                "a gradient was not finite though the loss was; the same command continues from the last checkpoint. "
                "Lower optim.lr, set loop.clip_grad, or choose an engine that skips such steps (ddp, fsdp)"
            )
        return norm, torch.zeros((), device=device)

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        with self._gathered(list(self.bare.parameters()) if self.stage == 3 else []):
            return self._kept(self.core)

    def state(self) -> dict[str, Any]:
        """Which processes wrote the parts, and what lies beside the model's core."""
        beside = {}
        if self.core is not self.bare:
            with self._gathered(list(self.bare.parameters()) if self.stage == 3 else []):
                beside = {k: v for k, v in self._kept(self.bare).items() if not k.startswith("core.")}
        return {TAG: {"stage": self.stage, "world": self.place.world}, "beside": beside}

    def save_parts(self, folder: Path) -> None:
        """See `Engine`."""
        self.zero.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def resume(self, saved: Saved) -> None:
        """Go on exactly at the same size and stage; else from the whole weights with a fresh optimiser, and say so."""
        left, now = saved.state.get(TAG), {"stage": self.stage, "world": self.place.world}
        if left == now:
            self.zero.load_checkpoint(str(saved.folder), tag=TAG)
        elif self.place.first:
            before = "another engine" if left is None else json.dumps(left)
            say(f"{saved.folder} was left by {before}, not {json.dumps(now)}: its weights go on with a fresh optimiser")


def _read(stated: str | dict[str, Any]) -> dict[str, Any]:
    """The settings themselves, a copy."""
    if isinstance(stated, dict):
        return dict(stated)
    try:
        found = json.loads(Path(stated).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"loop.deepspeed: {stated} is no readable JSON file ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"loop.deepspeed: {stated} holds no JSON object of settings")
    return found


class _Flat(nn.Module):
    """Gives the tensors of a model's output as a tuple, which is what DeepSpeed looks into."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.shape: Any = None

    def forward(self, *given: Any, **named: Any) -> tuple[Any, ...]:
        """Whatever the model takes."""
        out = self.inner(*given, **named)
        if dataclasses.is_dataclass(out) and type(out) not in pytree.SUPPORTED_NODES:
            pytree.register_dataclass(type(out))
        leaves, self.shape = pytree.tree_flatten(out)
        return tuple(leaves)


class _Whole(nn.Module):
    """Calls DeepSpeed, and puts the tensors together again."""

    def __init__(self, zero: nn.Module, flat: _Flat) -> None:
        super().__init__()
        self.zero, self.flat = zero, flat

    def forward(self, *given: Any, **named: Any) -> Any:
        """Whatever the model takes and gives."""
        return pytree.tree_unflatten(list(self.zero(*given, **named)), self.flat.shape)


def _norm(model: nn.Module) -> Tensor:
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return nn.utils.get_total_norm(grads)
