"""Own clips, a folder per class or a list, made into what a recipe asks for: shards, and a part to test on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import is_list
from hicmae.datasets.own import FOLDERS, divided, labelled_clips
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.finetune.config import FinetuneConfig
from hicmae.runtime.dist import Place
from hicmae.runtime.log import say

__all__ = ["from_clips"]


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
    items = labelled_clips(place)
    counts = Counter(item.label for item in items)
    if len(counts) < 2:
        raise UserError(f"{place}: all {len(items)} clips are of one class, {next(iter(counts))}; {FOLDERS}")
    what = ""
    if not config.data.test:
        items, what = divided(items, own.test_share, config.seed, place)
    size = own.size or min(224, config.data.size * 3 // 2)
    sharding = ShardConfig(size=size, faces=own.faces)
    index = write_shards(items, _folder(config), config=sharding, progress=show)
    if show:
        say(index.describe())
    train = index if config.data.test else index.where("split=train")
    return len(train), what
