"""AdamW, its parameter groups, and schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["OptimConfig", "adamw", "cosine", "parameter_groups", "set_learning_rate"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay per step."""

    lr: float = 1.5e-4
    """Learning rate per 256 clips; scaled by the global batch."""
    min_lr: float = 1e-5
    """Learning rate the cosine ends at, per 256 clips."""
    weight_decay: float = 0.05
    """Decoupled weight decay; biases, norms and learnt tokens are exempt."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    eps: float = 1e-8
    """Added to the denominator of AdamW."""
    warmup_epochs: float = 5
    """Epochs of linear warm-up from 0."""
    layer_decay: float = 1.0
    """Layer-wise decay: a layer k below the head learns at layer_decay**k of the rate; 1 switches it off."""

    def __post_init__(self) -> None:
        for name, low, high in (("lr", 0.0, math.inf), ("layer_decay", 0.0, 1.0)):
            if not low < getattr(self, name) <= high:
                raise ValueError(f"optim.{name} must lie in ({low:g}, {high:g}], not {getattr(self, name)}")
        for name in ("min_lr", "weight_decay", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must not be negative, not {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas must lie in [0, 1), not {self.betas}")


def cosine(base: float, final: float, steps: int, warmup: int) -> Callable[[int], float]:
    """The published schedule: `linspace(0, base, warmup)`, then half a cosine from `base` towards `final`.

    `base` is reached at the last warm-up step and again at the first step after it; `final` is never quite reached
    (reference implementation of MAE-DFER, SVFAP and HiCMAE). Returns a function of the step, 0-based.
    """
    warmup = min(warmup, steps)

    def value(step: int) -> float:
        if step < warmup:
            return base * step / (warmup - 1) if warmup > 1 else 0.0
        return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return value


def parameter_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0, published: bool = False
) -> list[dict]:
    """One group per (layer, decayed or not): `params`, `names`, `weight_decay` and `lr_scale`.

    The scale is a function of the parameter's name alone (`model.layer_of`), so freezing parameters does not shift
    it. Vectors, biases and what `model.no_weight_decay()` lists are not decayed. With `published` the groups are those
    of the published code. What lies beside a model's `core` learns at the full rate.
    """
    core: Any = getattr(model, "core", model)
    exempt: set[str] = core.no_weight_decay(published=published)
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = core is model or name.startswith("core.")
        known = name.removeprefix("core.") if core is not model else name
        plain = parameter.ndim <= 1 or name.endswith(".bias") or (own and known in exempt)
        scale = 1.0
        if own and layer_decay < 1:
            scale = layer_decay ** (int(core.num_layers) + 1 - core.layer_of(known, published=published))
        group = groups.setdefault(
            (scale, plain),
            {"params": [], "names": [], "weight_decay": 0.0 if plain else weight_decay, "lr_scale": scale},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def adamw(groups: list[dict], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over `groups` (one kernel per step on CPU and GPU)."""
    stripped = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    return torch.optim.AdamW(stripped, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate `lr` times its own scale."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]
