"""What an evaluation of numbers, or of classes independent of each other, found: as text, JSON, CSV and one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hicmae.finetune.embedding import Map
from hicmae.finetune.measured import Measured
from hicmae.runtime.page import Page

__all__ = ["WORDS", "ValueReport"]

WORST = 20  # shown on the page; the CSV has all
WORDS = {
    **{name: name.upper() for name in ("mae", "rmse", "pcc", "ccc", "uar", "f1")},
    **{"ccc_unbiased": "CCC, n - 1", "macro_f1": "macro F1", "exact": "all right", "support": "clips"},
}


@dataclass(frozen=True, kw_only=True)
class ValueReport(Measured):
    """An evaluation of N clips with D outputs; `intervals` are figures averaged over the outputs."""

    kind: Literal["numbers", "classes"] = "numbers"
    """What the outputs are: numbers, or probabilities of classes independent of each other."""
    names: tuple[str, ...]
    """Of the outputs, in the model's order."""
    figures: Mapping[str, Mapping[str, float | None]]
    """The same figures and more, for each output by its name; None where one is not defined."""
    truth: NDArray[np.float64]
    """(N, D)."""
    predicted: NDArray[np.float64]
    """(N, D), averaged over views."""

    @property
    def error(self) -> NDArray[np.float64]:
        """(N,) distance from the truth, averaged over outputs."""
        return np.abs(self.predicted - self.truth).mean(1)

    @property
    def hardest(self) -> NDArray[np.int64]:
        """All clips, the farthest from the truth first."""
        return np.argsort(-self.error, kind="stable")

    def details(self) -> dict[str, Any]:
        """Figures of each output."""
        per_output = {name: dict(figures) for name, figures in self.figures.items()}
        return {"per_output": per_output, "outputs": list(self.names)}

    def answer(self, n: int) -> dict[str, Any]:
        """Truth and prediction by output."""
        return {"truth": self._by_name(self.truth[n]), "prediction": self._by_name(self.predicted[n])}

    def cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`truth(output)`, `prediction(output)` for each output."""
        return {f"{side}({name})": row[side][name] for side in ("truth", "prediction") for name in self.names}

    def page(self, log: Path | None = None, drawn: Map | None = None) -> Page:
        """The page; a map says nothing of numbers, and is left to features.npz."""
        spread = {name: f"95 %: {e.low:.3f} … {e.high:.3f}" for name, e in self.intervals.items()}
        tiles = [(WORDS[name], f"{e.value:.3f}", spread[name]) for name, e in self.intervals.items()]
        page = self.head(self._subtitle(), tiles)
        page.heading("By output").table(*self.table())
        error, order = self.error, self.hardest
        told = [
            [f"{t:.3g} → {p:.3g}" for t, p in zip(self.truth[n], self.predicted[n], strict=True)] for n in order[:WORST]
        ]
        page.heading("Farthest from the truth")
        self.show_hardest(page, [", ".join(map(" ".join, zip(self.names, row, strict=True))) for row in told])
        page.table(
            ["video", *(f"{name}: truth → prediction" for name in self.names), "mean distance"],
            [[self.sources[n], *row, f"{error[n]:.3f}"] for n, row in zip(order, told, strict=False)],
            f"{len(told)} of {len(error)} clips; predictions.csv has all.",
        )
        return self.foot(page, log)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows, one per output."""
        head = [WORDS.get(name, name) for name in next(iter(self.figures.values()))]
        shown = [["–" if v is None else f"{v:.4g}" for v in figures.values()] for figures in self.figures.values()]
        return ["output", *head], [[name, *row] for name, row in zip(self.figures, shown, strict=True)]

    def by_table(self) -> tuple[list[str], list[list[str]]]:
        """Every figure of each part."""
        head = [self.by, "clips", "groups", *(WORDS[name] for name in self.intervals)]
        return head, [
            [
                part.name,
                str(part.clips),
                "–" if part.groups is None else str(part.groups),
                *(f"{e.value:.4f} ({e.low:.3f} … {e.high:.3f})" + self.stamp for e in part.intervals.values()),
            ]
            for part in self.parts
        ]

    def lines(self) -> list[str]:
        """The figures as text."""
        lines = [
            f"{WORDS[name]:12} {e.value:8.4f}   95 % interval {e.low:.4f} … {e.high:.4f}{self.stamp}"
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
        key = f"{self.protocol['protocol']}: " if self.protocol.get("protocol") else ""
        lines = [self.title, key + self._subtitle(), "", *self.lines()]
        if self.parts:
            head, rows = self.by_table()
            lines += ["", *(f"{row[0]:12} " + " ".join(f"{cell:>24}" for cell in row[1:]) for row in [head, *rows])]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)]).rstrip()

    def _subtitle(self) -> str:
        return f"{self.size_told()}; {', '.join(self.names)}"

    def _by_name(self, row: NDArray[np.float64]) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in zip(self.names, row, strict=True)}
