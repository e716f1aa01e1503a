"""Four parts of a corpus that brings no division of its own."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["quarters"]


def quarters(groups: np.ndarray, sources: np.ndarray, labels: NDArray[np.int64]) -> np.ndarray:
    """The part of each clip, (N,) str from `1` to `4`, as equal as whole groups allow; no group is in two.

    Units are groups where all are known, else videos. One after the other, in an order that depends on their names
    alone, each goes to the part that has the fewest clips of its commonest label, so that the same clips are divided
    likewise wherever and however often they are sharded.

    Args:
        groups: (N,) persons or sessions of the clips, None where not known.
        sources: (N,) videos the clips come from.
        labels: class numbers (N,), -1 for none.
    """
    units = sources if any(group is None for group in groups) else groups
    names, unit = np.unique(units.astype(str), return_inverse=True)
    table = np.zeros((len(names), int(labels.max(initial=0)) + 1), np.int64)  # clips of each unit and class
    np.add.at(table, (unit, np.maximum(labels, 0)), 1)
    order = sorted(range(len(names)), key=lambda n: blake2b(str(names[n]).encode(), digest_size=8).digest())
    filled, part = np.zeros((4, table.shape[1]), np.int64), np.zeros(len(names), np.int64)
    for n in order:
        part[n] = min(range(4), key=lambda q: (filled[q, table[n].argmax()], filled[q].sum(), q))
        filled[part[n]] += table[n]
    return (part[unit] + 1).astype(str).astype(object)
