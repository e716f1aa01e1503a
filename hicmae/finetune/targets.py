"""Targets of clips from the columns of their list: read and checked once, before training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.datasets.sampling import View
from hicmae.finetune.config import TaskConfig

__all__ = ["Targeted", "read_targets"]

_REMEDY = "correct the list and shard again"


def read_targets(index: Index, task: TaskConfig) -> Tensor:
    """What the columns of `task` say of each of the N samples: float32 (N, K).

    `soft`: shares of the index's classes, from votes in their order; otherwise as many numbers as columns.

    Raises:
        UserError: a column is missing, or a sample has no usable value in it; folder, sample and column are named.
    """
    columns = [_column(index, name) for name in task.columns]
    if task.kind == "soft":
        votes = np.array([_votes(index, n, task.columns[0], text) for n, text in enumerate(columns[0])], np.float64)
        return torch.from_numpy(votes / votes.sum(1, keepdims=True)).float()
    rows = np.empty((len(index), len(columns)))
    for k, (name, column) in enumerate(zip(task.columns, columns, strict=True)):
        low, high = task.ranges.get(name, (-math.inf, math.inf))
        for n, text in enumerate(column):
            value = rows[n, k] = _number(index, n, name, text)
            if task.kind == "multi" and value not in (0, 1):
                raise _wrong(index, n, name, f"is {text}, not 0 or 1")
            if not low <= value <= high:
                raise _wrong(index, n, name, f"is {text}, outside {low:g} … {high:g}", f"or task.ranges.{name}")
    return torch.from_numpy(rows).float()


@dataclass(frozen=True)
class Targeted:
    """A view that gives the sample's row of `table` (N, K), too, as `name` (K,)."""

    view: View
    table: Tensor
    name: str = "target"

    def __call__(self, sample: Any, generator: torch.Generator) -> dict[str, Any]:
        """As the view, and `name`."""
        return {**self.view(sample, generator), self.name: self.table[sample.number]}


def _column(index: Index, name: str) -> np.ndarray:
    if name not in index.extra:
        known = ", ".join(index.extra) or "none"
        raise UserError(
            f"{index.folder}: its samples have no column {name} (task.columns); their columns are: {known}. Add it to "
            "the list and shard again, --list LIST.csv"
        )
    return index.extra[name]


def _number(index: Index, n: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(index, n, name, f"is {text.strip()[:40]!r}, which is no number" if text.strip() else "is empty")
    return value


def _votes(index: Index, n: int, name: str, text: str) -> list[float]:
    votes = [_number(index, n, name, word) for word in text.split()]
    if len(votes) != len(index.classes):
        told = f"has {len(votes)} numbers for the {len(index.classes)} classes {', '.join(index.classes)}"
        raise _wrong(index, n, name, told)
    if min(votes) < 0 or not 0 < sum(votes) < math.inf:
        raise _wrong(index, n, name, f"is {text.strip()[:40]!r}: votes are not negative, and there is one at least")
    return votes


def _wrong(index: Index, n: int, name: str, what: str, other: str = "") -> UserError:
    folder = index.shards[index.shard[n]].path.parent
    return UserError(f"{folder}: column {name} of sample {index.keys[n]} {what}; {_REMEDY}{f', {other}' * bool(other)}")
