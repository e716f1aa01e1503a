"""A card and a folder -> the clips in it, ready to be sharded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.cards import Card, load
from hicmae.datasets.corpora import annotated, named
from hicmae.datasets.corpora.found import Found
from hicmae.datasets.listing import Item
from hicmae.datasets.strips import ShardConfig
from hicmae.runtime.log import say

__all__ = ["READERS", "inputs", "read_corpus"]

READERS: dict[str, Callable[[Found], None]] = {
    "avcaffe": annotated.avcaffe,
    "crema_d": named.crema_d,
    "csv": annotated.lists,
    "dfew": annotated.dfew,
    "enterface05": named.enterface05,
    "ferv39k": annotated.ferv39k,
    "folder_per_class": annotated.folder_per_class,
    "iemocap": annotated.iemocap,
    "lists": annotated.lists,
    "mafw": annotated.mafw,
    "ravdess": named.ravdess,
    "voxceleb2": named.voxceleb2,
}


def read_corpus(card: Card | str, root: str | Path, variant: str | None = None) -> Found:
    """The clips below `root` with labels, groups and folds as the card's variant says, and what is wrong with them.

    Raises:
        UserError: there is no such folder, card or variant, or an annotation file is missing or has another form.
    """
    card = load(card) if isinstance(card, str) else card
    folder = Path(os.path.normpath(Path(root).absolute()))
    if not folder.is_dir():
        raise UserError(f"{root} is no folder; give the folder of your copy of {card.corpus} as --root")
    found = Found(card, card.variant(variant), folder)
    READERS[card.reader](found)
    found.items.sort(key=lambda item: item.source)
    return found


def inputs(
    card: Card | str, root: str | Path, variant: str | None = None, config: ShardConfig | None = None
) -> tuple[list[Item], ShardConfig]:
    """What `write_shards` is to be called with: the clips, and the configuration with the card's labels and protocol.

    What is left out, and where the number of clips is not the card's, is said on stderr.

    Raises:
        UserError: the copy cannot be read as the card says, or a clip or a line of its annotation is wrong.
    """
    found = read_corpus(card, root, variant)
    config = config or ShardConfig()
    if found.problems:
        more = f"\n… and {len(found.problems) - 10} more" if len(found.problems) > 10 else ""
        told = "\n".join(str(problem) for problem in found.problems[:10])
        raise UserError(f"{found.card.corpus} cannot be sharded:\n{told}{more}")
    if not found.items:
        raise UserError(f"{root} holds no clip of {found.card.corpus}; expected is: {'; '.join(found.card.tree)}")
    labels = found.variant.labels
    if config.list is not None or config.labels is not None:
        raise UserError("shard.list and shard.labels do not go with a card, which brings its own labels")
    if labels and config.classes is not None and sorted(config.classes) != sorted(labels):
        raise UserError(f"shard.classes must be the card's labels in another order: {', '.join(labels)}")
    protocol = found.card.protocol(found.variant)
    expected = found.variant.clips
    more = f" where the card says {expected:,}" if expected not in (None, len(found.items)) else ""
    say(f"{protocol}: {len(found.items):,} clips{more}")
    for reason, names in sorted(found.left_out.items()):
        say(f"  {len(names):,} left out, {reason}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}")
    return found.items, dataclasses.replace(config, classes=config.classes or labels or None, protocol=protocol)
