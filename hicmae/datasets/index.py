"""The index of a folder of shards: which sample lies where, and what was skipped.

Beside each tar lies a `.jsonl` that describes it: a head line (configuration, list, and the tar's size and sha256), a
line per sample, a line per skipped file. `index.json` sums them up once all are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import Problem

__all__ = ["FORMAT", "Index", "Shard", "Skip"]

FORMAT = 1
"""Version of the layout of shards, stored in every file that describes them."""


@dataclass(frozen=True)
class Shard:
    """One tar."""

    path: Path
    bytes: int
    sha256: str
    samples: int
    seconds: float


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
        preprocessing: how frames and sound were made (crop, size, frame rate), to be compared by whoever uses them.
        shard, offset, size: (N,) int64; the tar and the byte range in it that holds the sample.
        frames, seconds, fps: (N,) numbers, length and average frame rate.
        sound, silent: (N,) bool, whether there is a sound track, and whether nothing is to be heard on it.
        sha256: (N, 32) uint8, digests of the byte ranges.
    """

    folder: Path
    shards: tuple[Shard, ...]
    skipped: tuple[Skip, ...]
    others: int
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    keys: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    extra: dict[str, np.ndarray]
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

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Read the index of `folder`.

        Raises:
            UserError: there are no shards, sharding was not finished, or a file is missing or has another size.
        """
        folder = Path(folder)
        problems = problems_of(folder)
        if problems:
            raise UserError(str(problems[0]) + (f" (and {len(problems) - 1} problems more)" if problems[1:] else ""))
        summary = read_json(folder / "index.json")
        parts = [read_sidecar((folder / entry["name"]).with_suffix(".jsonl")) for entry in summary["shards"]]
        return build(folder, parts, summary)

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
        names = sorted({name for index in indexes for name in index.extra})
        blank = [np.full(len(index), "", object) for index in indexes]
        return cls(
            folder=first.folder,
            shards=tuple(shard for index in indexes for shard in index.shards),
            skipped=tuple(skip for index in indexes for skip in index.skipped),
            others=sum(index.others for index in indexes),
            classes=first.classes,
            preprocessing=first.preprocessing,
            extra={n: np.concatenate([i.extra.get(n, b) for i, b in zip(indexes, blank, strict=True)]) for n in names},
            **columns,
        )

    @property
    def audible(self) -> np.ndarray:
        """(N,) bool, whether there is a sound track on which something is to be heard."""
        return self.sound & ~self.silent

    def select(self, mask: np.ndarray) -> Index:
        """The samples where `mask` (N,) bool is True, numbered anew from 0; shards stay as they are."""
        columns = {name: getattr(self, name)[mask] for name in _COLUMNS}
        return replace(self, extra={name: column[mask] for name, column in self.extra.items()}, **columns)

    def reasons(self) -> dict[str, int]:
        """How many videos were skipped for each kind of reason, the commonest first."""
        return dict(Counter(skip.reason.split(" (")[0] for skip in self.skipped).most_common())

    def describe(self) -> str:
        """What was made and what was left out, in lines to be read."""
        lines = [f"{self.folder}: {self}"]
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


_PLACE = ("keys", "sources", "groups", "labels", "shard", "offset", "size", "sha256")
_COLUMNS = (*_PLACE, "frames", "seconds", "fps", "sound", "silent")
_ROW = {"key", "source", "frames", "fps", "seconds", "sound", "silent", "offset", "size", "sha256"}


@dataclass(frozen=True)
class Sidecar:
    """What a shard's `.jsonl` says: its head, its samples, the videos it skipped."""

    path: Path
    head: dict[str, Any]
    samples: list[dict[str, Any]]
    skipped: list[dict[str, Any]]


def read_sidecar(path: Path) -> Sidecar:
    """Read a shard's description.

    Raises:
        UserError: it is missing or damaged.
    """
    remedy = f"delete {path.stem}* and shard again"
    try:
        with path.open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        head = lines[0]
        samples = [line for line in lines[1:] if "key" in line]
        skipped = [line for line in lines[1:] if "key" not in line]
        if (len(samples), len(skipped)) != (head["samples"], head["skipped"]):
            raise ValueError("lines are missing")
        lacking = next((_ROW - row.keys() for row in samples if not row.keys() >= _ROW), None)
        if lacking:
            raise ValueError(f"a sample has no {', '.join(sorted(lacking))}")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {remedy}") from error
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    return Sidecar(path, head, samples, skipped)


def build(folder: Path, parts: Sequence[Sidecar], summary: dict[str, Any]) -> Index:
    """The index of the shards described by `parts` (those without a sample add only what they skipped)."""
    tars = [part for part in parts if part.samples]
    rows = [(n, row) for n, part in enumerate(tars) for row in part.samples]
    classes = tuple(summary["classes"])
    place: dict[str | None, int] = {name: n for n, name in enumerate(classes)} | {None: -1}
    names = sorted({name for _, row in rows for name in row.get("extra", ())})

    def texts(values: list[Any]) -> np.ndarray:
        column = np.empty(len(values), object)
        column[:] = values
        return column

    return Index(
        folder=folder,
        shards=tuple(
            Shard(
                folder / part.path.with_suffix(".tar").name,
                part.head["bytes"],
                part.head["sha256"],
                len(part.samples),
                sum(row["seconds"] for row in part.samples),
            )
            for part in tars
        ),
        skipped=tuple(Skip(row["path"], row["reason"], row["remedy"]) for part in parts for row in part.skipped),
        others=summary["others"],
        classes=classes,
        preprocessing=summary["preprocessing"],
        keys=texts([row["key"] for _, row in rows]),
        sources=texts([row["source"] for _, row in rows]),
        groups=texts([row.get("group") for _, row in rows]),
        extra={name: texts([row.get("extra", {}).get(name, "") for _, row in rows]) for name in names},
        labels=np.array([place[row.get("label")] for _, row in rows], np.int64),
        shard=np.array([n for n, _ in rows], np.int64),
        offset=np.array([row["offset"] for _, row in rows], np.int64),
        size=np.array([row["size"] for _, row in rows], np.int64),
        frames=np.array([row["frames"] for _, row in rows], np.int64),
        seconds=np.array([row["seconds"] for _, row in rows], np.float64),
        fps=np.array([row["fps"] for _, row in rows], np.float64),
        sound=np.array([row["sound"] for _, row in rows], bool),
        silent=np.array([row["silent"] for _, row in rows], bool),
        sha256=np.frombuffer(bytes.fromhex("".join(row["sha256"] for _, row in rows)), np.uint8).reshape(-1, 32),
    )


def problems_of(folder: Path) -> list[Problem]:
    """What is missing or does not fit together in a folder of shards, as far as sizes and descriptions tell."""
    make = f"make one with `hicmae shard VIDEOS --out {folder}`"
    if not folder.is_dir():
        return [Problem(path=str(folder), reason="is no folder of shards", remedy=make)]
    summary, begun = read_json(folder / "index.json"), read_json(folder / "config.json")
    if summary is None and begun is None:
        return [Problem(path=str(folder), reason="holds no shards (no index.json)", remedy=make)]
    if summary is None:
        done = len(list(folder.glob("shard-*.jsonl")))
        reason = f"is not finished ({done} of {begun['shards']} shards are there)"
        return [Problem(path=str(folder), reason=reason, remedy="give the command that began it once more")]
    if summary.get("version") != FORMAT:
        reason = f"holds shards of format {summary.get('version')}, where this version reads {FORMAT}"
        return [Problem(path=str(folder), reason=reason, remedy="shard again")]
    problems = []
    for entry in summary["shards"]:
        tar = folder / entry["name"]
        remedy = f"copy it again, or delete {tar.stem}.* and shard again"
        size = tar.stat().st_size if tar.exists() else None
        if entry["samples"] and size is None:
            problems.append(Problem(path=str(tar), reason="is missing", remedy=remedy))
        elif entry["samples"] and size != entry["bytes"]:
            reason = f"has another size than when it was written ({size:,} bytes, not {entry['bytes']:,})"
            problems.append(Problem(path=str(tar), reason=reason, remedy=remedy))
        try:
            part = read_sidecar(tar.with_suffix(".jsonl"))
        except UserError as error:
            reason, _, cure = str(error).removeprefix(f"{tar.with_suffix('.jsonl')} ").partition("; ")
            problems.append(Problem(path=str(tar.with_suffix(".jsonl")), reason=reason, remedy=cure))
            continue
        if any(part.head.get(name) != entry[name] for name in ("bytes", "sha256", "samples", "skipped")):
            reason = "does not belong to the index.json beside it"
            problems.append(Problem(path=str(part.path), reason=reason, remedy=remedy))
    return problems


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is no such file.

    Raises:
        UserError: it is damaged or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and shard again") from error
