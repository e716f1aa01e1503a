"""What an evaluation of numbers, or of classes independent of each other, found: as text, JSON, CSV and one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hicmae.finetune.curves import curves_of
from hicmae.runtime.metrics import Estimate
from hicmae.runtime.page import Page, write_file

__all__ = ["ValueReport"]

WORST = 20  # shown on the page; the CSV has all
WORDS = {
    **{name: name.upper() for name in ("mae", "rmse", "pcc", "ccc", "uar", "f1")},
    **{"ccc_unbiased": "CCC, n - 1", "macro_f1": "macro F1", "exact": "all right", "support": "clips"},
}


@dataclass(frozen=True, kw_only=True)
class ValueReport:
    """An evaluation of N clips with D outputs; columns hold one entry per clip."""

    title: str
    """What was measured on what."""
    names: tuple[str, ...]
    """Of the outputs, in the model's order."""
    intervals: dict[str, Estimate]
    """Figures averaged over the outputs, with their 95 % intervals."""
    figures: Mapping[str, Mapping[str, float | None]]
    """The same and more, for each output by its name; None where one is not defined."""
    truth: NDArray[np.float64]
    """(N, D)."""
    predicted: NDArray[np.float64]
    """(N, D), averaged over views."""
    keys: list[str]
    """Names of the clips."""
    sources: list[str]
    """Videos they come from."""
    groups: list[str] | None
    """Persons or sessions, the unit of the intervals; None where they are not known."""
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

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able, with the predictions clip by clip."""
        return {
            "title": self.title,
            "numbers": {name: value._asdict() for name, value in self.intervals.items()},
            "per_output": {name: dict(figures) for name, figures in self.figures.items()},
            "outputs": list(self.names),
            "protocol": self.protocol,
            "notes": self.notes,
            "skipped": [list(pair) for pair in self.skipped],
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
            "config": self.config,
            "predictions": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Clip by clip: names, truth and prediction by output."""
        return [
            {
                "key": self.keys[n],
                "source": self.sources[n],
                "group": self.groups[n] if self.groups is not None else None,
                "truth": self._by_name(self.truth[n]),
                "prediction": self._by_name(self.predicted[n]),
            }
            for n in range(len(self.keys))
        ]

    def write(self, folder: Path, log: Path | None = None) -> Path:
        """Write evaluation.json, predictions.csv and evaluation.html into `folder`; returns the path of the page.

        `log` is the run's log.jsonl, for the training curves.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str)
        write_file(folder / "evaluation.json", text + "\n")
        write_file(folder / "predictions.csv", self._csv())
        return self.page(log).write(folder / "evaluation.html")

    def page(self, log: Path | None = None) -> Page:
        """The page."""
        page = Page(self.title, self._subtitle())
        spread = {name: f"95 %: {e.low:.3f} … {e.high:.3f}" for name, e in self.intervals.items()}
        page.tiles([(WORDS[name], f"{e.value:.3f}", spread[name]) for name, e in self.intervals.items()])
        for note in self.notes:
            page.note(note)
        page.heading("By output").table(*self.table())
        error = np.abs(self.predicted - self.truth).mean(1)
        worst = np.argsort(-error, kind="stable")[:WORST]
        page.heading("Farthest from the truth").table(
            ["video", *(f"{name}: truth → prediction" for name in self.names), "mean distance"],
            [
                [
                    self.sources[n],
                    *(f"{t:.3g} → {p:.3g}" for t, p in zip(self.truth[n], self.predicted[n], strict=True)),
                    f"{error[n]:.3f}",
                ]
                for n in worst
            ],
            f"{len(worst)} of {len(error)} clips; predictions.csv has all.",
        )
        curves = curves_of(log)
        if curves:
            page.heading("Training").figures(curves)
        page.heading("How this was measured").facts(self.protocol)
        if self.skipped:
            page.heading("Clips left out").table(["clip", "reason"], self.skipped)
        page.details("Recipe", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        return page

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows, one per output."""
        head = [WORDS.get(name, name) for name in next(iter(self.figures.values()))]
        shown = [["–" if v is None else f"{v:.4g}" for v in figures.values()] for figures in self.figures.values()]
        return ["output", *head], [[name, *row] for name, row in zip(self.figures, shown, strict=True)]

    def lines(self) -> list[str]:
        """The figures as text."""
        lines = [
            f"{WORDS[name]:12} {e.value:8.4f}   95 % interval {e.low:.4f} … {e.high:.4f}"
            for name, e in self.intervals.items()
        ]
        head, rows = self.table()
        wide = max(12, *map(len, self.names))
        return [
            *lines,
            "",
            *(f"{row[0]:{wide}} {' '.join(f'{cell:>12}' for cell in row[1:])}" for row in [head, *rows]),
        ]

    def __str__(self) -> str:
        lines = [self.title, self._subtitle(), "", *self.lines()]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)]).rstrip()

    def _subtitle(self) -> str:
        count, samples = len(self.keys), self.protocol["samples"]
        merged = "" if samples == count else f" from {samples:,} samples"
        return f"{count:,} clip{'s' * (count != 1)}{merged}; {', '.join(self.names)}"

    def _by_name(self, row: NDArray[np.float64]) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in zip(self.names, row, strict=True)}

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        columns = (f"{side}({name})" for side in ("truth", "prediction") for name in self.names)
        writer.writerow(["key", "source", "group", *columns])
        for row in self.rows():
            values = (value for side in ("truth", "prediction") for value in row[side].values())
            writer.writerow([row["key"], row["source"], row["group"] or "", *values])
        return text.getvalue()
