"""The index of a folder of shards: which sample lies where, and what was skipped, in columns."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.divisions import quarters
from hicmae.datasets.fingerprint import sum_up
from hicmae.datasets.listing import Problem
from hicmae.datasets.remote import Remote, place_of
from hicmae.datasets.sidecars import Sidecar, parts_of, summary_of

__all__ = ["Index", "Shard", "Skip", "build", "hashed_bytes"]


@dataclass(frozen=True)
class Shard:
    """One tar."""

    path: Path | Remote
    bytes: int
    sha256: str
    samples: int
    seconds: float
    format: str = "jpeg"
    """How its frames are stored: jpeg, mp4 or raw."""


@dataclass(frozen=True)
class Skip:
    """A video that is in no shard, and why."""

    source: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Index:
    """N samples in columns; element n of each column belongs to sample number n.

    Attributes:
        folder: where the shards lie.
        shards: the tars, in order.
        skipped: videos left out, with reasons; `others` counts files that were not taken for videos.
        classes: label names in order; `labels` (N,) int64 holds positions in it, -1 without a label.
        keys, sources: (N,) object arrays of str.
        groups: (N,) object array of str or None.
        extra: further columns of the list, name -> (N,) object array of str.
        measures: name -> (N,) float64, what was measured of a sample's picture and sound, NaN where it is not known.
        preprocessing: how frames and sound were made (crop, size, frame rate), to be compared by whoever uses them.
        shard, offset, size: (N,) int64; the tar and the byte range in it that holds the sample.
        corpus: (N,) int64, which of the joined indexes it comes from, 0 in a single one.
        frames, seconds, fps: (N,) numbers, length and average frame rate (of a still, that of a video of one frame).
        sound, silent: (N,) bool, whether there is a sound track, and whether nothing is to be heard on it.
        sha256: (N, 32) uint8, digests of the byte ranges.
        protocol: what the labels say and how the clips are split, where a card has made the shards.
        selection: the conditions under which samples were taken, as `fold!=1`.
    """

    folder: Path | Remote
    shards: tuple[Shard, ...]
    skipped: tuple[Skip, ...]
    others: int
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    keys: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    extra: dict[str, np.ndarray]
    measures: dict[str, np.ndarray]
    labels: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    frames: np.ndarray
    seconds: np.ndarray
    fps: np.ndarray
    sound: np.ndarray
    silent: np.ndarray
    sha256: np.ndarray
    corpus: np.ndarray
    protocol: str | None = None
    selection: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def load(cls, folder: str | Path | Remote) -> Index:
        """Read the index of `folder`, which may lie elsewhere (`https://…`, `s3://…`).

        `folder@fold=1` takes the samples of fold 1 alone, `folder@fold!=1` the others, as `where` does.

        Raises:
            UserError: there are no shards, sharding was not finished, a file is missing or has another size, a server
                does not answer, or a condition is wrong.
        """
        condition = ""
        if isinstance(folder, str | Path) and not Path(folder).exists():
            folder, condition = _CONDITION.sub("", str(folder)), "@".join(_CONDITION.findall(str(folder)))
        place = place_of(folder)
        summary = summary_of(place)
        if isinstance(summary, Problem):
            raise UserError(str(summary))
        problems: list[Problem] = []
        index = build(place, parts_of(place, summary, problems), summary)
        if problems:
            raise UserError(str(problems[0]) + (f" (and {len(problems) - 1} problems more)" if problems[1:] else ""))
        return index.where(condition) if condition else index

    @classmethod
    def join(cls, indexes: Sequence[Index]) -> Index:
        """Several indexes as one, samples numbered on from one to the next.

        Raises:
            UserError: they differ in classes or preprocessing.
        """
        first = indexes[0]
        if len(indexes) == 1:
            return first
        for other in indexes[1:]:
            for name in ("classes", "preprocessing"):
                if getattr(other, name) != getattr(first, name):
                    raise UserError(
                        f"{first.folder} and {other.folder} differ in {name} ({getattr(first, name)}, "
                        f"{getattr(other, name)}): shard both with the same settings"
                    )
        starts = np.cumsum([0, *(len(index.shards) for index in indexes)])
        columns = {name: np.concatenate([getattr(index, name) for index in indexes]) for name in _COLUMNS}
        columns["shard"] = np.concatenate([index.shard + at for index, at in zip(indexes, starts, strict=False)])
        columns["corpus"] = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])

        def joined(which: str, missing: Any, kind: type) -> dict[str, np.ndarray]:
            named: list[tuple[dict[str, np.ndarray], np.ndarray]]
            named = [(getattr(index, which), np.full(len(index), missing, kind)) for index in indexes]
            names = sorted({name for columns, _ in named for name in columns})
            return {name: np.concatenate([columns.get(name, blank) for columns, blank in named]) for name in names}

        return cls(
            folder=first.folder,
            shards=tuple(shard for index in indexes for shard in index.shards),
            skipped=tuple(skip for index in indexes for skip in index.skipped),
            others=sum(index.others for index in indexes),
            classes=first.classes,
            preprocessing=first.preprocessing,
            extra=joined("extra", "", object),
            measures=joined("measures", np.nan, float),
            protocol=" + ".join(dict.fromkeys(index.protocol for index in indexes if index.protocol)) or None,
            selection=" + ".join(dict.fromkeys(index.selection for index in indexes if index.selection)),
            **columns,
        )

    def hashed(self, number: int) -> int:
        """How many of a sample's bytes, from its first on, its sha256 is of."""
        kind, side = self.shards[self.shard[number]].format, self.preprocessing["size"]
        return hashed_bytes(int(self.size[number]), kind, int(self.frames[number]), side)

    @property
    def audible(self) -> np.ndarray:
        """(N,) bool, whether there is a sound track on which something is to be heard."""
        return self.sound & ~self.silent

    @property
    def pace(self) -> np.ndarray:
        """(N,) frames per second, NaN of stills."""
        return np.where(self.frames > 1, self.fps, np.nan)

    @property
    def fingerprint(self) -> dict[str, list[float] | None]:
        """What was measured of the samples, summed up: name -> [5 %, median, 95 %], None where nothing is known."""
        return sum_up({**self.measures, "fps": self.pace})

    def select(self, mask: np.ndarray) -> Index:
        """The samples where `mask` (N,) bool is True, numbered anew from 0; shards stay as they are."""
        columns = {name: getattr(self, name)[mask] for name in _COLUMNS}
        extra = {name: column[mask] for name, column in self.extra.items()}
        measures = {name: column[mask] for name, column in self.measures.items()}
        return replace(self, extra=extra, measures=measures, **columns)

    def where(self, condition: str) -> Index:
        """The samples for which a column of the list is a value (`fold=1`), one of several (`split=train,validation`)
        or none of them (`fold!=1`); several conditions are joined by `@`. `quarter` is there without a column: 1 to 4,
        a division by group, or by video where groups are not known (`hicmae.datasets.divisions`).

        Raises:
            UserError: there is no such column, no sample with such a value, or no sample left.
        """
        mask = np.ones(len(self), bool)
        for part in condition.split("@"):
            name, _, words = part.partition("=")
            name, other = name.rstrip("!"), name.endswith("!")
            column = self.groups if name == "group" else self.extra.get(name)
            if column is None and name == "quarter":
                column = quarters(self.groups, self.sources, self.labels)
            if column is None:
                known = ", ".join(["group", *self.extra])
                raise UserError(f"{self.folder}@{part}: its samples have no column {name}; there are {known}")
            there, wanted = {str(value) for value in column}, words.split(",")
            if not there >= set(wanted):
                shown = ", ".join(sorted(there)[:20]) + (", …" if len(there) > 20 else "")
                raise UserError(
                    f"{self.folder}@{part}: no sample has {', '.join(set(wanted) - there)}; there are {shown}"
                )
            mask &= np.isin(column.astype(str), wanted) ^ other
        if not mask.any():
            raise UserError(f"{self.folder}@{condition}: no sample is left")
        return replace(self.select(mask), selection="@".join(filter(None, [self.selection, condition])))

    def reasons(self) -> dict[str, int]:
        """How many videos were skipped for each kind of reason, the commonest first."""
        return dict(Counter(skip.reason.split(" (")[0] for skip in self.skipped).most_common())

    def describe(self) -> str:
        """What was made and what was left out, in lines to be read."""
        lines = [f"{self.folder}: {self}", *([f"  protocol {self.protocol}"] if self.protocol else [])]
        lines += [f"  skipped {skip.source}: it {skip.reason}; {skip.remedy}" for skip in self.skipped[:20]]
        if len(self.skipped) > 20:
            lines.append(f"  … and {len(self.skipped) - 20} more, all named in {self.folder}/shard-*.jsonl")
        return "\n".join(lines)

    def __str__(self) -> str:
        hours = self.seconds.sum() / 3600
        length = f"{hours:.1f} h" if hours >= 1 else f"{hours * 3600:.0f} s"
        count = len(self.shards)
        text = f"{len(self)} samples ({length}) in {count} shard{'s' * (count != 1)}, {self.sound.sum()} with sound"
        if self.silent.any():
            text += f" ({self.silent.sum()} of it silent)"
        if self.classes:
            counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
            text += "; " + ", ".join(f"{name} {n}" for name, n in zip(self.classes, counts, strict=True))
        if self.skipped:
            text += f"; {len(self.skipped)} video{'s' * (len(self.skipped) != 1)} skipped: "
            text += ", ".join(f"{count} {reason}" for reason, count in self.reasons().items())
        return text


_CONDITION = re.compile(r"@(\w+!?=[^@]*)")
_PLACE = ("keys", "sources", "groups", "labels", "shard", "offset", "size", "sha256", "corpus")
_COLUMNS = (*_PLACE, "frames", "seconds", "fps", "sound", "silent")
_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("offset", "size", "frames"), np.int64),
    **dict.fromkeys(("seconds", "fps"), np.float64),
    **dict.fromkeys(("sound", "silent"), np.bool_),
}


def hashed_bytes(size: int, kind: str, frames: int, side: int) -> int:
    """How many of the `size` bytes of a sample its sha256 is of: all but raw frames, which have checksums each."""
    return size - (-(-frames * 3 * side**2 // 512) * 512 if kind == "raw" else 0)


def build(folder: Path | Remote, parts: Iterable[Sidecar], summary: dict[str, Any]) -> Index:
    """The index of the shards described by `parts` (those without a sample add only what they skipped).

    Parts are taken one at a time: a million samples are never held as a million dictionaries.

    Raises:
        UserError: a description says what cannot be.
    """
    classes = tuple(summary["classes"])
    place: dict[str | None, int] = {name: n for n, name in enumerate(classes)} | {None: -1}
    shards: list[Shard] = []
    skipped: list[Skip] = []
    texts: dict[str, list[str | None]] = {"keys": [], "sources": [], "groups": []}
    extra: dict[str, list[str]] = {}
    measures: dict[str, list[float]] = {}
    kinds = {**_NUMBERS, "labels": np.int64, "shard": np.int64, "corpus": np.int64}
    numbers: dict[str, list[np.ndarray]] = {name: [np.empty(0, kind)] for name, kind in kinds.items()}
    numbers["sha256"] = [np.empty((0, 32), np.uint8)]
    for part in parts:
        skipped += [Skip(row["path"], row["reason"], row["remedy"]) for row in part.skipped]
        rows, before = part.samples, len(texts["keys"])
        if not rows:
            continue
        _extend(extra, "extra", rows, "", before)
        _extend(measures, "measures", rows, math.nan, before)
        texts["keys"] += [row["key"] for row in rows]
        texts["sources"] += [row["source"] for row in rows]
        texts["groups"] += [row.get("group") for row in rows]
        try:
            for name, kind in _NUMBERS.items():
                numbers[name].append(np.array([row[name] for row in rows], kind))
            numbers["labels"].append(np.array([place[row.get("label")] for row in rows], np.int64))
            hashes = b"".join(bytes.fromhex(row["sha256"]) for row in rows)
            numbers["sha256"].append(np.frombuffer(hashes, np.uint8).reshape(len(rows), 32))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{part.path} cannot be read ({error}); delete {part.path.stem}* and shard again"
            ) from error
        numbers["shard"].append(np.full(len(rows), len(shards), np.int64))
        numbers["corpus"].append(np.zeros(len(rows), np.int64))
        tar, seconds = part.path.with_suffix(".tar").name, sum(row["seconds"] for row in rows)
        shards.append(
            Shard(
                folder / tar,
                part.head["bytes"],
                part.head["sha256"],
                len(rows),
                seconds,
                part.head.get("format", "jpeg"),
            )
        )
    columns: dict[str, Any] = {name: np.concatenate(arrays) for name, arrays in numbers.items()}
    columns |= {name: _objects(values) for name, values in texts.items()}
    return Index(
        folder=folder,
        shards=tuple(shards),
        skipped=tuple(skipped),
        others=summary["others"],
        classes=classes,
        preprocessing=summary["preprocessing"],
        protocol=summary.get("protocol"),
        extra={name: _objects(values) for name, values in sorted(extra.items())},
        measures={name: np.array(values, np.float64) for name, values in sorted(measures.items())},
        **columns,
    )


def _extend(columns: dict[str, list[Any]], what: str, rows: list[dict[str, Any]], missing: Any, before: int) -> None:
    """Add the values of `rows` to columns that not every row has; `before` rows came earlier."""
    for name in {name for row in rows for name in row.get(what, ())} | columns.keys():
        columns.setdefault(name, [missing] * before).extend(row.get(what, {}).get(name, missing) for row in rows)


def _objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column
