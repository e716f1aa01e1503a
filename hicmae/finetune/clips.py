"""Own clips, a folder per class or a list, made into what a recipe asks for: shards, and a part to test on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import Item, find_videos, is_list, read_list
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.selection import part_of
from hicmae.runtime.dist import Place
from hicmae.runtime.log import say

__all__ = ["from_clips"]

FOLDERS = "put the clips of each class into a folder named after it: DIR/happy/one.mp4, DIR/sad/two.mp4"


def from_clips(config: FinetuneConfig, place: Place, *, show: bool = True) -> FinetuneConfig:
    """The recipe with shards in place of a folder of clips in `data.train`; as it is where shards are named.

    The clips are sharded into `clips` in the run folder. Where no `data.test` is named, `clips.test_share` of them are
    kept out of training and tested on: whole groups where a list has a column `group`, or where all clips lie in
    CLASS/PERSON/, else clips class by class. A batch is never larger than the clips to train on.

    Raises:
        UserError: no videos, no folders of classes, a single class, or too few clips of one.
    """
    if len(config.data.train) != 1 or not _are_clips(config.data.train[0]):
        return config
    problem, found = None, (0, "")
    if place.first:  # the others wait for it, and stop with it
        try:
            found = _shard(config, show)
        except UserError as error:
            problem = str(error)
    problem, (clips, what) = place.gather((problem, found))[0]
    if problem is not None:
        raise UserError(problem)
    folder = str(_folder(config))
    data, loop = dataclasses.replace(config.data, train=[folder]), config.loop
    if not data.test:
        data = dataclasses.replace(data, train=[f"{folder}@split=train"], test=[f"{folder}@split=test"])
        if show:
            say(what)
    if clips < loop.batch_size and loop.accumulate == place.world == 1:
        loop = dataclasses.replace(loop, batch_size=clips)
    return dataclasses.replace(config, data=data, loop=loop)


def _are_clips(path: str) -> bool:
    """A list, or a folder that holds no shards, finished or not."""
    folder = Path(path)
    return is_list(folder) or (
        folder.is_dir() and not any((folder / f).exists() for f in ("index.json", "config.json"))
    )


def _folder(config: FinetuneConfig) -> Path:
    return Path(config.out) / "clips"


def _shard(config: FinetuneConfig, show: bool) -> tuple[int, str]:
    """Shard the clips; how many there are to train on, and what is kept out, in words."""
    place, own = config.data.train[0], config.clips
    items = _listed(place)
    counts = Counter(item.label for item in items)
    if len(counts) < 2:
        raise UserError(f"{place}: all {len(items)} clips are of one class, {next(iter(counts))}; {FOLDERS}")
    what = ""
    if not config.data.test:
        items, what = _divided(items, own.test_share, config.seed, place)
    size = own.size or min(224, config.data.size * 3 // 2)
    sharding = ShardConfig(size=size, faces=own.faces)
    index = write_shards(items, _folder(config), config=sharding, progress=show)
    if show:
        say(index.describe())
    train = index if config.data.test else index.where("split=train")
    return len(train), what


def _listed(place: str) -> list[Item]:
    """The labelled clips of a list or of folders of classes."""
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


def _divided(items: list[Item], share: float, seed: int, place: str) -> tuple[list[Item], str]:
    """The clips with a column `split`, train or test; and what is tested on, in words."""
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
    divided = [
        dataclasses.replace(item, extra={**item.extra, "split": "test" if test else "train"})
        for item, test in zip(items, mask, strict=True)
    ]
    what = f"{len(set(units[mask]))} of {len(set(units))} groups" if known else "drawn class by class; groups unknown"
    return divided, f"{mask.sum()} of {len(items)} clips are kept out of training and tested on ({what}, seed {seed})"
