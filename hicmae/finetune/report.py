"""What an evaluation found, in memory, as text, and as JSON, CSV and one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hicmae.datasets import fingerprint
from hicmae.finetune.curves import curves_of
from hicmae.finetune.published import published_results
from hicmae.finetune.values import ValueReport
from hicmae.runtime import charts
from hicmae.runtime.metrics import Estimate, Scores
from hicmae.runtime.page import Page, write_file

__all__ = ["Part", "Report", "selection_of", "stamp_of"]

HEADLINES = {"uar": "UAR", "war": "WAR", "weighted_f1": "weighted F1", "macro_f1": "macro F1"}
TEST_CHOSEN = "epoch CHOSEN ON THE TEST CLIPS"
MISTAKES = 20  # shown on the page; the CSV has them all


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
    """uar, war, weighted_f1, macro_f1 with their 95 % intervals."""
    absent: tuple[str, ...]
    """Classes none of these clips has: left out of UAR and macro F1."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """An evaluation of N clips with K classes; columns hold one entry per clip."""

    title: str
    """What was measured on what."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs."""
    scores: Scores
    """Figures over all clips."""
    intervals: dict[str, Estimate]
    """uar, war, weighted_f1, macro_f1 with their 95 % intervals."""
    confusion: NDArray[np.int64]
    """(K, K), rows = truth."""
    keys: list[str]
    """Names of the clips."""
    sources: list[str]
    """Videos they come from."""
    groups: list[str] | None
    """Persons or sessions, the unit of the intervals; None where they are not known."""
    truth: NDArray[np.int64]
    """(N,) class numbers."""
    guess: NDArray[np.int64]
    """(N,) class numbers."""
    probabilities: NDArray[np.float64]
    """(N, K), averaged over views."""
    protocol: dict[str, Any]
    """How the numbers came about: weights, views, data, unit of the intervals."""
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
    values: ValueReport | None = None
    """Numbers that the model predicted beside the classes."""
    by: str = ""
    """The column that `parts` are made by."""
    parts: tuple[Part, ...] = ()
    """Figures of parts of the clips."""

    @property
    def stamp(self) -> str:
        """What must follow every figure."""
        return stamp_of(self.protocol)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able, with the predictions clip by clip."""
        per_class = {
            name: {"support": s, "recall": r, "precision": p, "f1": f}
            for name, s, r, p, f in zip(
                self.labels,
                self.scores.support,
                self.scores.recall,
                self.scores.precision,
                self.scores.f1,
                strict=True,
            )
        }
        return {
            "title": self.title,
            "numbers": {name: value._asdict() for name, value in self.intervals.items()},
            "per_class": per_class,
            "absent": [self.labels[k] for k in self.scores.absent],
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
            **({"by": {self.by: {part.name: asdict(part) for part in self.parts}}} if self.parts else {}),
            "protocol": self.protocol,
            "notes": self.notes,
            "skipped": [list(pair) for pair in self.skipped],
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
            "config": self.config,
            "predictions": list(self._rows()),
            **({"values": self.values.to_dict()} if self.values is not None else {}),
        }

    def write(self, folder: Path, log: Path | None = None) -> Path:
        """Write evaluation.json, predictions.csv and evaluation.html into `folder`, each whole or not at all.

        `log` is the run's log.jsonl, for the training curves. Returns the path of the page.
        """
        write_file(
            folder / "evaluation.json", json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str) + "\n"
        )
        write_file(folder / "predictions.csv", self._csv())
        return self.page(log).write(folder / "evaluation.html")

    def page(self, log: Path | None = None) -> Page:
        """The page."""
        page = Page(self.title, self._subtitle())
        page.tiles(self._tiles())
        for note in self.notes:
            page.note(note)
        head, rows = published_results(str(self.config.get("model")), self.protocol.get("protocol"))
        if rows:
            page.heading("Published").table(head, rows, "As the card of the model states them; none was measured here.")
        page.heading("Confusion matrix").figure(
            charts.confusion(self.confusion.tolist(), self.labels),
            "Rows are the truth. Large: percent of the row; small: clips.",
        )
        page.heading("Recall per class").figure(
            charts.bars(
                self.labels,
                self.scores.recall,
                notes=[_clips(n) for n in self.scores.support],
                reference=1 / len(self.labels),
                reference_name=f"chance {100 / len(self.labels):.1f}",
                label="recall per class",
            ),
            "Percent of the clips of each class that were found; their mean is the UAR.",
        )
        page.table(["class", "clips", "recall", "precision", "F1"], self._per_class())
        if self.values is not None:
            page.heading("Numbers").table(*self.values.table())
        if self.parts:
            page.heading(f"By {self.by}").table(*self._by())
        curves = curves_of(log)
        if curves:
            page.heading("Training").figures(curves)
        self._mistakes(page)
        page.heading("How this was measured").facts(self.protocol)
        if self.preprocessing:
            made = dict(self.preprocessing)
            trained = made.pop("fingerprint", None)
            page.text("How the training clips were made:").facts(made)
            if trained and self.fingerprint:
                page.table(*fingerprint.rows(training=trained, here=self.fingerprint), "Clips as measured.")
        if self.skipped:
            page.heading("Clips left out").table(["clip", "reason"], self.skipped)
        page.details("Recipe", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        return page

    def __str__(self) -> str:
        lines = [self.title, self._subtitle(), ""]
        for name, word in HEADLINES.items():
            value, low, high = (100 * x for x in self.intervals[name])
            lines.append(f"{word:12} {value:6.2f}   95 % interval {low:.2f} … {high:.2f}{self.stamp}")
        width = max(12, *(len(name) for name in self.labels))
        lines += ["", f"{'class':{width}} {'clips':>6} {'recall':>7} {'precision':>10} {'F1':>6}"]
        lines += [f"{row[0]:{width}} {row[1]:>6} {row[2]:>7} {row[3]:>10} {row[4]:>6}" for row in self._per_class()]
        if self.values is not None:
            lines += ["", *self.values.lines()]
        if self.parts:
            head, rows = self._by()
            lines += [
                "",
                *(f"{row[0]:{width}} " + " ".join(f"{cell:>20}" for cell in row[1:]) for row in [head, *rows]),
            ]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)]).rstrip()

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _subtitle(self) -> str:
        merged = "" if self.protocol["samples"] == len(self.truth) else f" from {self.protocol['samples']:,} samples"
        chance = 100 / len(self.labels)
        key = f"{self.protocol['protocol']}: " if self.protocol.get("protocol") else ""
        return f"{key}{_clips(len(self.truth))}{merged}, {len(self.labels)} classes, chance {chance:.1f} %"

    def _tiles(self) -> list[tuple[str, str, str]]:
        tiles = []
        for name, word in HEADLINES.items():
            value, low, high = (100 * x for x in self.intervals[name])
            tiles.append((word, f"{value:.2f} %", f"95 %: {low:.1f} … {high:.1f}"))
        return tiles

    def _per_class(self) -> list[list[str]]:
        s = self.scores
        rows = zip(self.labels, s.support, s.recall, s.precision, s.f1, strict=True)
        return [[name, str(n), *("–" if v is None else f"{100 * v:.1f}" for v in values)] for name, n, *values in rows]

    def _by(self) -> tuple[list[str], list[list[str]]]:
        head = [self.by, "clips", "groups", "UAR", "WAR", "without clips of"]
        rows = []
        for p in self.parts:
            figures = [[100 * x for x in p.intervals[name]] for name in ("uar", "war")]
            shown = [f"{v:.2f} ({low:.1f} … {high:.1f})" + self.stamp for v, low, high in figures]
            groups = "–" if p.groups is None else str(p.groups)
            rows.append([p.name, str(p.clips), groups, *shown, ", ".join(p.absent) or "–"])
        return head, rows

    def _mistakes(self, page: Page) -> None:
        confidence = self.probabilities[np.arange(len(self.guess)), self.guess]
        wrong = np.flatnonzero(self.guess != self.truth)
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
        page.heading("Most confident mistakes")
        if not len(worst):
            page.text("None: every clip was recognised.")
            return
        rows = [
            [
                self.sources[i],
                self.labels[self.truth[i]],
                self.labels[self.guess[i]],
                f"{100 * confidence[i]:.1f} %",
                f"{100 * self.probabilities[i, self.truth[i]]:.1f} %",
            ]
            for i in worst
        ]
        page.table(
            ["video", "truth", "prediction", "confidence", "given to the truth"],
            rows,
            f"{len(worst)} of {len(wrong)} mistakes; predictions.csv has all clips.",
        )

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "key": self.keys[i],
                "source": self.sources[i],
                "group": self.groups[i] if self.groups is not None else None,
                "truth": self.labels[self.truth[i]],
                "prediction": self.labels[self.guess[i]],
                "probabilities": [round(float(p), 6) for p in self.probabilities[i]],
            }
            for i in range(len(self.truth))
        ]

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        stamp = [self.stamp.strip(" ()")] if self.stamp else []  # a column of its own, last
        named = [f"p({name})" for name in self.labels]
        writer.writerow(["key", "source", "group", "truth", "prediction", *named, *["selection"][: len(stamp)]])
        for row in self._rows():
            fixed = [row["key"], row["source"], row["group"] or "", row["truth"], row["prediction"]]
            writer.writerow([*fixed, *row["probabilities"], *stamp])
        return text.getvalue()


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"
