"""What an evaluation of classes found, in memory, as text, and as JSON, CSV and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicmae.finetune.calibration import Calibration, calibration
from hicmae.finetune.embedding import Map
from hicmae.finetune.measured import Measured, counted
from hicmae.finetune.published import published_results
from hicmae.finetune.values import ValueReport
from hicmae.runtime import charts, diagrams
from hicmae.runtime.metrics import Scores
from hicmae.runtime.page import Page

__all__ = ["HEADLINES", "Report", "matrix_words", "show_calibration"]

HEADLINES = {"uar": "UAR", "war": "WAR", "weighted_f1": "weighted F1", "macro_f1": "macro F1"}
MER_MULTI = "weighted F1 less a quarter of the mean squared error of the numbers"
MISTAKES = 20  # shown on the page; the CSV has them all


@dataclass(frozen=True, kw_only=True)
class Report(Measured):
    """An evaluation of N clips with K classes; `intervals` are uar, war, weighted_f1, macro_f1, and mer_multi where
    numbers were predicted beside the classes."""

    labels: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs."""
    scores: Scores
    """Figures over all clips."""
    confusion: NDArray[np.int64]
    """(K, K), rows = truth."""
    truth: NDArray[np.int64]
    """(N,) class numbers."""
    guess: NDArray[np.int64]
    """(N,) class numbers."""
    probabilities: NDArray[np.float64]
    """(N, K), averaged over views."""
    values: ValueReport | None = None
    """Numbers that the model predicted beside the classes."""

    @cached_property
    def calibration(self) -> Calibration:
        """How far the probabilities can be believed."""
        return calibration(self.probabilities, self.truth)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) probability of the predicted class."""
        return self.probabilities[np.arange(len(self.guess)), self.guess]

    @property
    def hardest(self) -> NDArray[np.int64]:
        """The mistakes, most confident first."""
        wrong = np.flatnonzero(self.guess != self.truth)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def details(self) -> dict[str, Any]:
        """Figures of each class, confusion matrix, calibration, numbers beside the classes."""
        s = self.scores
        columns = zip(self.labels, s.support, s.recall, s.precision, s.f1, strict=True)
        return {
            "per_class": {n: {"support": k, "recall": r, "precision": p, "f1": f} for n, k, r, p, f in columns},
            "absent": [self.labels[k] for k in s.absent],
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
            "calibration": self.calibration.to_dict(),
            **({"values": self.values.to_dict()} if self.values is not None else {}),
        }

    def answer(self, n: int) -> dict[str, Any]:
        """Truth, prediction, probabilities, and the numbers predicted beside them."""
        return {
            "truth": self.labels[self.truth[n]],
            "prediction": self.labels[self.guess[n]],
            "probabilities": [round(float(p), 6) for p in self.probabilities[n]],
            **({"values": self.values.answer(n)} if self.values is not None else {}),
        }

    def cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`truth`, `prediction`, `p(class)` for each class; of a joint model the numbers too."""
        cells = {"truth": row["truth"], "prediction": row["prediction"]}
        cells |= {f"p({name})": p for name, p in zip(self.labels, row["probabilities"], strict=True)}
        return cells | (self.values.cells(row["values"]) if self.values is not None else {})

    def page(self, log: Path | None = None, drawn: Map | None = None) -> Page:
        """The page."""
        page = self.head(self._subtitle(), self._tiles())
        self._published(page)
        page.heading("Confusion matrix").figure(
            charts.confusion(self.confusion.tolist(), self.labels),
            matrix_words(self.labels),
        )
        page.heading("Recall per class").figure(
            charts.bars(
                self.labels,
                self.scores.recall,
                notes=[counted(n, "clip") for n in self.scores.support],
                reference=1 / len(self.labels),
                reference_name=f"chance {100 / len(self.labels):.1f}",
                label="recall per class",
            ),
            "Percent of the clips of each class that were found; their mean is the UAR.",
        )
        page.table(["class", "clips", "recall", "precision", "F1"], self._per_class())
        if self.values is not None:
            page.heading("Numbers").table(*self.values.table(), caption=f"MER-MULTI: {MER_MULTI}.")
        self._mistakes(page)
        show_calibration(page, self.calibration)
        self._map(page, drawn)
        return self.foot(page, log)

    def __str__(self) -> str:
        lines = [self.title, self._subtitle(key=True), ""]
        for name, word in HEADLINES.items():
            value, low, high = (100 * x for x in self.intervals[name])
            lines.append(f"{word:12} {value:6.2f}   95 % interval {low:.2f} … {high:.2f}{self.stamp}")
        if "mer_multi" in self.intervals:
            value, low, high = self.intervals["mer_multi"]
            lines.append(f"{'MER-MULTI':12} {value:6.4f}   95 % interval {low:.4f} … {high:.4f}{self.stamp}")
        width = max(12, *(len(name) for name in self.labels))
        lines += ["", f"{'class':{width}} {'clips':>6} {'recall':>7} {'precision':>10} {'F1':>6}"]
        lines += [f"{row[0]:{width}} {row[1]:>6} {row[2]:>7} {row[3]:>10} {row[4]:>6}" for row in self._per_class()]
        lines += ["", f"{self.calibration}{self.stamp}"]
        if self.values is not None:
            lines += ["", *self.values.lines()]
        if self.parts:
            head, rows = self.by_table()
            lines += [
                "",
                *(f"{row[0]:{width}} " + " ".join(f"{cell:>20}" for cell in row[1:]) for row in [head, *rows]),
            ]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)]).rstrip()

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _subtitle(self, key: bool = False) -> str:
        chance = 100 / len(self.labels)
        text = f"{self.size_told()}, {len(self.labels)} classes, chance {chance:.1f} %"
        return f"{self.protocol['protocol']}: {text}" if key and self.protocol.get("protocol") else text

    def _tiles(self) -> list[tuple[str, str, str]]:
        tiles = []
        for name, word in HEADLINES.items():
            value, low, high = (100 * x for x in self.intervals[name])
            tiles.append((word, f"{value:.2f} %", f"95 %: {low:.1f} … {high:.1f}"))
        if "mer_multi" in self.intervals:
            value, low, high = self.intervals["mer_multi"]
            tiles.append(("MER-MULTI", f"{value:.4f}", f"95 %: {low:.3f} … {high:.3f}"))
        return tiles

    def _published(self, page: Page) -> None:
        head, rows = published_results(str(self.config.get("model")), self.protocol.get("protocol"))
        if not rows:
            return
        mine = ", ".join(f"{HEADLINES[name]} {100 * self.intervals[name].value:.2f}" for name in ("uar", "war"))
        measured = ["measured here", mine + self.stamp, str(self.protocol.get("input", ""))]
        page.heading("Beside published numbers").table(
            head,
            [[*measured, str(self.protocol["protocol"]), ""], *rows],
            "Published ones as the card of the model states them; none was measured here.",
        )

    def _per_class(self) -> list[list[str]]:
        s = self.scores
        rows = zip(self.labels, s.support, s.recall, s.precision, s.f1, strict=True)
        return [[name, str(n), *("–" if v is None else f"{100 * v:.1f}" for v in values)] for name, n, *values in rows]

    def by_table(self) -> tuple[list[str], list[list[str]]]:
        """UAR and WAR of each part."""
        head = [self.by, "clips", "groups", "UAR", "WAR", "without clips of"]
        rows = []
        for p in self.parts:
            figures = [[100 * x for x in p.intervals[name]] for name in ("uar", "war")]
            shown = [f"{v:.2f} ({low:.1f} … {high:.1f})" + self.stamp for v, low, high in figures]
            groups = "–" if p.groups is None else str(p.groups)
            rows.append([p.name, str(p.clips), groups, *shown, ", ".join(p.absent) or "–"])
        return head, rows

    def _mistakes(self, page: Page) -> None:
        page.heading("Most confident mistakes")
        worst = self.hardest
        if not len(worst):
            page.text("None: every clip was recognised.")
            return
        names, chances = self.labels, self.probabilities
        self.show_hardest(
            page,
            [
                f"{names[self.truth[n]]} ({100 * chances[n, self.truth[n]]:.1f} %), taken for "
                f"{names[self.guess[n]]} ({100 * self.confidence[n]:.1f} %)"
                for n in worst
            ],
        )
        rows = [
            [
                self.sources[n],
                names[self.truth[n]],
                names[self.guess[n]],
                f"{100 * self.confidence[n]:.1f} %",
                f"{100 * chances[n, self.truth[n]]:.1f} %",
            ]
            for n in worst[:MISTAKES]
        ]
        page.table(
            ["video", "truth", "prediction", "confidence", "given to the truth"],
            rows,
            f"{len(rows)} of {len(worst)} mistakes; predictions.csv has all clips.",
        )

    def _map(self, page: Page, drawn: Map | None) -> None:
        if drawn is None:
            return
        numbers = sorted(self.features)
        points = [
            (
                float(place[0]),
                float(place[1]),
                int(self.truth[n]),
                bool(self.guess[n] == self.truth[n]),
                f"{self.keys[n]}: {self.labels[self.truth[n]]}, taken for {self.labels[self.guess[n]]}",
            )
            for n, place in zip(numbers, drawn.points, strict=True)
        ]
        some = "All" if len(points) == len(self.keys) else f"{len(points):,} of {len(self.keys):,}"
        page.heading("Map of the clips").figure(
            diagrams.scatter(points, self.labels, "map of features"),
            f"{some} clips by what the model made of them before its head ({drawn.how}): near each other where the "
            "model finds them alike. Colour is the true class; rings are mistakes. Distances between far clusters and "
            "the axes mean nothing.",
        )


def matrix_words(labels: Sequence[str]) -> str:
    """What a confusion matrix of these classes shows."""
    if len(labels) > charts.WORDY:
        return "Rows are the truth. The darker, the larger the share of the row; pointed at, a cell tells its numbers."
    return "Rows are the truth. Large: percent of the row; small: clips."


def show_calibration(page: Page, found: Calibration) -> None:
    """The section on calibration."""
    drawn = diagrams.reliability([(b.low, b.high, b.clips, b.confidence, b.accuracy) for b in found.bins])
    captions = (
        "Of the clips of each range of confidence, percent that are right; on the dashed line confidence is what it "
        "says, the shaded gap is what it is not.",
        "Clips by confidence, the probability of the predicted class; its mean, and the percentage that is right.",
    )
    page.heading("Calibration").text(f"{str(found).removeprefix('calibration: ')}.")
    page.figures(list(zip(drawn, captions, strict=True)))
