"""Parts of a corpus: a few of its clips, a part kept out of training, quarters where it brings no division."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hicmae.configs.errors import UserError

if TYPE_CHECKING:
    from hicmae.datasets.index import Index

__all__ = ["few", "part_of", "quarters", "validation_part"]


def few(index: Index, fraction: float, seed: int) -> NDArray[np.bool_]:
    """A share of the clips, (N,) bool: of each label (clips without one count as one more) that share, at least one.

    A clip's place in the draw depends on `seed` and its key alone, so that a smaller share is a part of a larger one,
    and another order of shards draws the same clips.
    """
    place = [blake2b(f"{seed}/{key}".encode(), digest_size=8).digest() for key in index.keys]
    order = np.array(sorted(range(len(index)), key=place.__getitem__), np.int64)
    mask = np.zeros(len(index), bool)
    for label in np.unique(index.labels):
        clips = order[index.labels[order] == label]
        mask[clips[: max(1, round(fraction * len(clips)))]] = True
    return mask


def validation_part(index: Index, share: float, seed: int) -> tuple[NDArray[np.bool_], str]:
    """The clips (N,) bool to be kept out of training, and how they were found, a function of the clips and `seed`.

    Whole groups (persons, sessions) are drawn until they hold `share` of the clips. Where groups are not known, videos
    are drawn class by class. No class is left without training clips.

    Raises:
        UserError: there are too few groups or videos.
    """
    known = all(group is not None for group in index.groups)
    units = (index.groups if known else index.sources).astype(str)
    mask, count = part_of(units, index.labels, share, seed, known=known), len(np.unique(units))
    if not mask.any():
        raise UserError(
            f"{index.folder}: its {len(index):,} clips of {count} {'groups' if known else 'videos'} cannot be "
            "divided into a training and a validation part that leaves clips of every class to train on; use select: "
            "last, or name other clips as data.val"
        )
    taken = len(np.unique(units[mask]))
    what = f"{taken} of {count} groups" if known else "stratified by clip: clip-level (groups unknown)"
    return mask, f"{mask.sum():,} of {len(index):,} training clips kept out of training, {what}, seed {seed}"


def part_of(
    units: NDArray[np.str_], labels: NDArray[np.int64], share: float, seed: int, *, known: bool
) -> NDArray[np.bool_]:
    """Which clips are kept out of training, (N,) bool, from the unit and the label (-1: none) of each.

    Units are groups (`known`), drawn until they hold `share` of all clips, or videos, drawn class by class. A unit
    whose clips are all that is left of a class is never taken; none may be.
    """
    names, unit = np.unique(units, return_inverse=True)
    table = np.zeros((len(names), max(int(labels.max(initial=0)), 0) + 1), np.int64)  # clips of each unit and class
    np.add.at(table, (unit, np.maximum(labels, 0)), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    left, taken = table.sum(0), np.zeros(len(names), bool)
    # by group one account for all; else one per class, that of a video's commonest label
    account = np.zeros(len(names), np.int64) if known else table.argmax(1)
    wanted = np.bincount(account, table.sum(1)) * share
    for n in order:
        if wanted[account[n]] > 0 and not ((table[n] > 0) & (left == table[n])).any():
            taken[n] = True
            left = left - table[n]
            wanted[account[n]] -= table[n].sum()
    return taken[unit]


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
