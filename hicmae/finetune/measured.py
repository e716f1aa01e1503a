"""What every evaluation of clips has in common: names, protocol, what was left out, and its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hicmae.datasets import fingerprint
from hicmae.finetune.cost import trained
from hicmae.finetune.curves import curves_of
from hicmae.finetune.embedding import Map, map_of
from hicmae.runtime.metrics import Estimate
from hicmae.runtime.page import Page, write_file

__all__ = ["Measured", "Part", "selection_of", "stamp_of"]

TEST_CHOSEN = "epoch CHOSEN ON THE TEST CLIPS"
SHOWN = 8  # clips whose frames are on the page
FIXED = ("key", "source", "group", "seconds", "truth", "prediction", "selection")  # no name for a column of the list


def selection_of(selected: Mapping[str, Any]) -> str:
    """Whose weights were measured, in words, from what a checkpoint says of its choice."""
    if not selected:
        return "last checkpoint; no epoch was chosen by its score"
    epoch = f"epoch {selected['epoch']} of {selected['epochs']}, best {selected['figure'].upper()}"
    return f"{TEST_CHOSEN}: {epoch}" if selected["by"] == "test" else f"{epoch} on {selected['unit']}"


def stamp_of(protocol: Mapping[str, Any]) -> str:
    """What must follow every figure that was measured so; empty where there is nothing to be said."""
    test = str(protocol.get("selection", "")).startswith(TEST_CHOSEN)
    return f" ({TEST_CHOSEN}: no result on unseen clips)" if test else ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The clips of an evaluation that share a value of a column: one sex, one age."""

    name: str
    clips: int
    groups: int | None
    """Persons or sessions among them; None where they are not known."""
    intervals: dict[str, Estimate]
    """The figures of the whole, of these clips alone, with their 95 % intervals."""
    absent: tuple[str, ...] = ()
    """Classes none of these clips has: left out of UAR and macro F1."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An evaluation of N clips; columns hold one entry per clip."""

    title: str
    """What was measured on what."""
    intervals: dict[str, Estimate]
    """Figures over all clips, with their 95 % intervals."""
    keys: list[str]
    """Names of the clips."""
    sources: list[str]
    """Videos they come from."""
    groups: list[str] | None
    """Persons or sessions, the unit of the intervals; None where they are not known."""
    protocol: dict[str, Any]
    """How the numbers came about: weights, views, data, unit of the intervals."""
    seconds: list[float] | None = None
    """How long the clips are, where that is known."""
    columns: dict[str, list[str]] = field(default_factory=dict)
    """What the list of the shards says of the clips beside label and group, by the names of its columns."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(clip, reason) of clips that could not be read."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """How the model's training clips were made."""
    fingerprint: dict[str, list[float] | None] = field(default_factory=dict)
    """What was measured of the clips (`hicmae.datasets.fingerprint`)."""
    config: dict[str, Any] = field(default_factory=dict)
    """The recipe of the run."""
    by: str = ""
    """The column that `parts` are made by."""
    parts: tuple[Part, ...] = ()
    """Figures of parts of the clips."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Parameters, work per view, speed of the evaluation."""
    features: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """What the head was given, by the number of the clip; of at most as many clips as a map shows."""
    pictures: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Frames of the hardest clips side by side, as JPEG, by the number of the clip."""

    @property
    def stamp(self) -> str:
        """What must follow every figure."""
        return stamp_of(self.protocol)

    @property
    def hardest(self) -> NDArray[np.int64]:
        """Numbers of the clips that say most of what goes wrong, the worst first."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able, with the predictions clip by clip."""
        return {
            "title": self.title,
            "numbers": {name: value._asdict() for name, value in self.intervals.items()},
            **self.details(),
            **({"by": {self.by: {part.name: asdict(part) for part in self.parts}}} if self.parts else {}),
            "protocol": self.protocol,
            "notes": self.notes,
            "skipped": [list(pair) for pair in self.skipped],
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
            "cost": self.cost,
            "config": self.config,
            "predictions": self.rows(),
        }

    def details(self) -> dict[str, Any]:
        """What one kind of evaluation has beside the others, JSON-able."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Clip by clip: names, columns of the list, truth and prediction."""
        return [
            {
                "key": self.keys[n],
                "source": self.sources[n],
                "group": self.groups[n] if self.groups is not None else None,
                **({"seconds": round(self.seconds[n], 3)} if self.seconds is not None else {}),
                **({"columns": {name: column[n] for name, column in self.columns.items()}} if self.columns else {}),
                **self.answer(n),
            }
            for n in range(len(self.keys))
        ]

    def answer(self, n: int) -> dict[str, Any]:
        """Truth, prediction and what belongs to them of clip `n`, JSON-able."""
        raise NotImplementedError

    def cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`answer` as it stands in the CSV: name of the column -> value."""
        raise NotImplementedError

    def write(self, folder: Path, log: Path | None = None) -> Path:
        """Write evaluation.json, predictions.csv and evaluation.html into `folder`, each whole or not at all, and
        features.npz where features are known.

        `log` is the run's log.jsonl, for the training's curves and hours. Returns the path of the page.
        """
        told = dataclasses.replace(self, cost={**self.cost, **trained(log)})
        text = json.dumps(told.to_dict(), indent=1, ensure_ascii=False, default=str)
        write_file(folder / "evaluation.json", text + "\n")
        write_file(folder / "predictions.csv", self._csv())
        drawn = map_of([self.features[n] for n in sorted(self.features)]) if self.features else None
        if self.features:
            write_file(folder / "features.npz", self._features(drawn))
        return told.page(log, drawn).write(folder / "evaluation.html")

    def page(self, log: Path | None = None, drawn: Map | None = None) -> Page:
        """The page; `drawn` is the map of its features."""
        raise NotImplementedError

    # -- pieces of the page -----------------------------------------------------------------------------------------

    def head(self, words: str, tiles: Sequence[tuple[str, str, str]]) -> Page:
        """The page's beginning: its protocol key where there is one, what was measured, headline figures, notes."""
        key = self.protocol.get("protocol")
        page = Page(f"{key}{self.stamp}", f"{self.title.removesuffix(self.stamp)}: {words}") if key else None
        page = page or Page(self.title, words)
        page.tiles(tiles)
        for note in self.notes:
            page.note(note)
        return page

    def show_hardest(self, page: Page, words: Sequence[str]) -> None:
        """Cards of the hardest clips with their frames; `words` say what is wrong with each, in that order."""
        cards: list[tuple[str, str, str, Sequence[str | bytes]]] = [
            (self.sources[n], told, "", [self.pictures[n]])
            for n, told in zip(self.hardest.tolist(), words, strict=False)
            if n in self.pictures
        ]
        if cards:
            page.cards(cards)

    def foot(self, page: Page, log: Path | None) -> Page:
        """The page's end: parts, curves, cost, how it was measured, what was left out, the recipe."""
        if self.parts:
            page.heading(f"By {self.by}").table(*self.by_table())
        curves = curves_of(log)
        if curves:
            page.heading("Training").figures(curves)
        if self.cost:
            page.heading("Cost").facts({name: _counted(value) for name, value in self.cost.items()})
        page.heading("How this was measured").facts(self.protocol)
        if self.preprocessing:
            made = dict(self.preprocessing)
            told = made.pop("fingerprint", None)
            page.text("How the training clips were made:").facts(made)
            if told and self.fingerprint:
                page.table(*fingerprint.rows(training=told, here=self.fingerprint), "Clips as measured.")
        if self.skipped:
            page.heading("Clips left out").table(["clip", "reason"], self.skipped)
        return page.details("Recipe", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))

    def by_table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows, one per part."""
        raise NotImplementedError

    def size_told(self) -> str:
        """How many clips, of how many samples."""
        merged = "" if self.protocol["samples"] == len(self.keys) else f" from {self.protocol['samples']:,} samples"
        return f"{counted(len(self.keys), 'clip')}{merged}"

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        taken = {*FIXED, *(self.cells(row) if (row := next(iter(self.rows()), None)) else ())}
        named = {name: f"list({name})" if name in taken else name for name in self.columns}
        stamp = {"selection": self.stamp.strip(" ()")} if self.stamp else {}  # a column of its own, last
        for n, row in enumerate(self.rows()):
            fixed = {name: row[name] if row.get(name) is not None else "" for name in ("key", "source", "group")}
            fixed |= {"seconds": row["seconds"]} if "seconds" in row else {}
            fixed |= {named[name]: value for name, value in row.get("columns", {}).items()}
            line = {**fixed, **self.cells(row), **stamp}
            if not n:
                writer.writerow(line)
            writer.writerow(line.values())
        return text.getvalue()

    def _features(self, drawn: Map | None) -> bytes:
        """features.npz: `keys` (P,), `features` (P, D) and, where there is a map, `map` (P, 2)."""
        numbers = sorted(self.features)
        columns: dict[str, Any] = {"keys": np.array([self.keys[n] for n in numbers], np.str_)}
        columns |= {"features": np.stack([self.features[n] for n in numbers])}
        columns |= {"map": drawn.points} if drawn is not None else {}
        file = io.BytesIO()
        np.savez(file, **columns)
        return file.getvalue()


def counted(count: int, what: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _counted(value: Any) -> Any:
    """Large whole numbers as they are read."""
    if not isinstance(value, int) or value < 10_000:
        return value
    unit, size = next((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s)
    return f"{value / size:.3g} {unit} ({value:,})"
