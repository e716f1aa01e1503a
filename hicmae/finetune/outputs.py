"""What the outputs of a fine-tuned model mean, as its checkpoint says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hicmae.finetune.config import TaskConfig

__all__ = ["Outputs", "activate"]

_FUNCTIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


def activate(raw: Tensor, name: str) -> Tensor:
    """Outputs that are numbers, through the function of a recipe's `task.activation`; any shape -> the same."""
    return _FUNCTIONS[name](raw) if name in _FUNCTIONS else raw


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """K outputs by name: classes, then numbers.

    >>> Outputs(names=("happy", "sad", "valence"), numbers=1)(torch.zeros(1, 3))
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    names: tuple[str, ...] = ()
    """Of all outputs, in their order, where they are known."""
    numbers: int = 0
    """How many of the last ones are numbers, not classes."""
    exclusive: bool = True
    """A clip has one class; otherwise each class is there or not."""
    activation: str = "none"
    """What the numbers pass through."""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Outputs:
        """Those of a checkpoint; one that does not say its task is a classifier."""
        return cls.for_task(TaskConfig(**meta.get("task", {})), meta.get("labels") or ())

    @classmethod
    def for_task(cls, task: TaskConfig, names: Sequence[str]) -> Outputs:
        """Those of a model that learns `task`."""
        numbers, exclusive = len(task.values), task.kind != "multi"
        return cls(names=tuple(names), numbers=numbers, exclusive=exclusive, activation=task.activation)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.names[: len(self.names) - self.numbers]

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the numbers."""
        return self.names[len(self.classes) :]

    def __call__(self, raw: Tensor) -> Tensor:
        """What a model returned, (B, K) or (B, T, K) -> probabilities and numbers (B, K), averaged over frames."""
        chances, numbers = raw.split([raw.shape[-1] - self.numbers, self.numbers], dim=-1)
        chances = chances.softmax(-1) if self.exclusive else chances.sigmoid()
        found = torch.cat([chances, activate(numbers, self.activation)], dim=-1)
        return found if found.dim() == 2 else found.mean(1)
