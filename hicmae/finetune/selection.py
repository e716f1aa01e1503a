"""Which epoch's weights count: the last ones, or the best on clips kept out of training, or (stamped) on the test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hicmae.datasets.index import Index
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.evaluation import report_on
from hicmae.runtime.checkpoint import CHOSEN, save_weights
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import Stream
from hicmae.runtime.page import write_file

__all__ = ["Chooser", "few", "part_of", "validation_part"]

FIGURES = ("uar", "ccc")  # the first that a task has decides


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


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Measures the model after an epoch and keeps the best weights, in `run/chosen/weights.safetensors`.

    Which epoch is best so far follows from the scores of the epochs up to it, so that a run that was killed and
    redoes some of them chooses the same.
    """

    out: Path
    index: Index
    """The clips it is measured on."""
    place: Place
    meta: Mapping[str, Any]
    """What the checkpoints say of themselves."""
    unit: str
    """What those clips are, in words."""
    config: FinetuneConfig
    stream: Stream
    """What is trained on, which tells the steps of an epoch."""

    @property
    def file(self) -> Path:
        """The chosen weights."""
        return self.out / CHOSEN / "weights.safetensors"

    def __call__(self, epoch: int, model: nn.Module) -> dict[str, float]:
        """Measure after epoch number `epoch`, keep the weights where they are the best; what is to be logged."""
        if (epoch + 1) % self.config.val_every and epoch + 1 < self.config.loop.epochs:
            return {}
        report = report_on(model, self.meta, self.index, self.place, segments=1, show=False)
        name = next(figure for figure in FIGURES if figure in report.intervals)
        score = report.intervals[name].value
        if self.place.first:
            before = {int(e): s for e, s in self._scores().items() if int(e) < epoch}
            if not before or score > max(before.values()):
                self._keep(model, epoch, name, score)
            write_file(self.file.with_name("scores.json"), json.dumps({**before, epoch: score}) + "\n")
        return {f"{self.config.select}_{name}": score}

    def _scores(self) -> dict[str, float]:
        path = self.file.with_name("scores.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _keep(self, model: nn.Module, epoch: int, name: str, score: float) -> None:
        place = {"by": self.config.select, "epoch": epoch + 1, "epochs": self.config.loop.epochs}
        selected = {**place, "figure": name, "score": score, "unit": self.unit}
        part = self.file.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        step = (epoch + 1) * self.stream.steps_per_epoch
        save_weights(part, model.state_dict(), {**self.meta, "step": step, "selected": selected})
        part.replace(self.file)
