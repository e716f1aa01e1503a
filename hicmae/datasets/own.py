"""Own clips, a folder per class or a list: which there are, and the part of them that is tested on."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.divisions import part_of
from hicmae.datasets.listing import Item, find_videos, is_list, read_list

__all__ = ["FOLDERS", "divided", "labelled_clips"]

FOLDERS = "put the clips of each class into a folder named after it: DIR/happy/one.mp4, DIR/sad/two.mp4"


def labelled_clips(place: str) -> list[Item]:
    """The labelled clips of a list or of folders of classes, CLASS/clip or CLASS/PERSON/clip.

    Raises:
        UserError: a list that cannot be used, clips without a label, or none at all.
    """
    if is_list(place):
        items, problems = read_list(place)
        if problems:
            raise UserError("the list cannot be used:\n" + "\n".join(map(str, problems[:10])))
        if not items or any(item.label is None for item in items):
            raise UserError(f"{place}: its videos have no labels; give it the columns path,label")
        return items
    items, _ = find_videos([place])
    if not items:
        raise UserError(f"{place}: holds no shards and no videos; {FOLDERS}")
    loose = [item.source for item in items if "/" not in item.source and not item.trouble]
    if loose:
        raise UserError(f"{place}: {len(loose)} of its videos lie in no folder of a class, as {loose[0]}; {FOLDERS}")
    parts = [item.source.split("/") for item in items]
    # CLASS/PERSON/clip.mp4
    people = all(len(path) > 2 for path in parts) and len({path[1] for path in parts}) > 1
    return [
        dataclasses.replace(item, label=path[0], group=path[1] if people else None)
        for item, path in zip(items, parts, strict=True)
    ]


def divided(items: list[Item], share: float, seed: int, place: str) -> tuple[list[Item], str]:
    """The clips with a column `split`, train or test, as they are or drawn; and what is tested on, in words.

    Raises:
        UserError: they cannot be divided so that every class is learnt and tested on.
    """
    if all({"train", "test"} >= {item.extra.get("split")} for item in items):
        return items, "tested on the clips of the list's split test"
    classes = sorted({str(item.label) for item in items})
    counts = Counter(str(item.label) for item in items)
    few = [name for name in classes if counts[name] < 2]
    if few:
        raise UserError(
            f"{place}: there is 1 clip of {', '.join(few)}; two are needed, one to learn from and one to be tested on. "
            "Add clips, take the class away, or name other clips as data.test"
        )
    known = all(item.group is not None for item in items)
    units = np.array([str(item.group) if known else item.source for item in items])
    labels = np.array([classes.index(str(item.label)) for item in items])
    mask = part_of(units, labels, share, seed, known=known)
    if not mask.any():
        raise UserError(
            f"{place}: its {len(items)} clips of {len(set(units))} groups cannot be divided into parts to train and "
            "to test on so that every class is learnt; add clips of other people, or name other clips as data.test"
        )
    parted = [
        dataclasses.replace(item, extra={**item.extra, "split": "test" if test else "train"})
        for item, test in zip(items, mask, strict=True)
    ]
    what = f"{len(set(units[mask]))} of {len(set(units))} groups" if known else "drawn class by class; groups unknown"
    return parted, f"{mask.sum()} of {len(items)} clips are kept out of training and tested on ({what}, seed {seed})"
