"""The folds of a corpus as one result, pooled and as mean and spread over folds: in text, JSON and one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hicmae.configs.errors import UserError
from hicmae.finetune.calibration import Calibration, pooled_calibration
from hicmae.finetune.measured import Part, stamp_of
from hicmae.finetune.pooling import classes_of, groups_of, parts_of, pooled_of
from hicmae.finetune.published import published_results
from hicmae.finetune.report import HEADLINES, matrix_words, show_calibration
from hicmae.runtime import charts
from hicmae.runtime.comparison import Total, total
from hicmae.runtime.metrics import Estimate, Scores, confusion_matrix, scores
from hicmae.runtime.page import Page, write_file

__all__ = ["Fold", "Summary", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one run found: an evaluation.json, read."""

    name: str
    """Of the part of the corpus it was tested on."""
    seed: int
    found: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """Its figures by name; of a joint model those of the numbers too."""
        both = {**self.found.get("values", {}).get("numbers", {}), **self.found["numbers"]}
        return {name: both[name]["value"] for name in dict.fromkeys([*self.found["numbers"], *both])}

    @property
    def clips(self) -> int:
        """How many clips it was tested on."""
        return len(self.rows)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Its predictions, clip by clip."""
        return self.found["predictions"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All folds, of one seed or several."""

    title: str
    """What was measured on what, under which protocol."""
    folds: tuple[Fold, ...]
    """By seed, then in the order of the folds."""
    pooled: dict[int, dict[str, Estimate]]
    """Of each seed, the figures of the predictions of all its folds together, with 95 % intervals."""
    over_folds: dict[int, dict[str, Total]]
    """Of each seed, the figures of its folds averaged."""
    over_seeds: dict[str, Total]
    """The pooled figures averaged over the seeds."""
    labels: tuple[str, ...]
    """Names of the classes; empty where numbers were predicted."""
    confusion: NDArray[np.int64] | None
    """(K, K) of all folds and seeds, rows = truth."""
    scores: Scores | None
    """Figures per class of that matrix."""
    calibration: Calibration | None
    """Of all folds and seeds together; None where no classes were predicted."""
    by: str
    """The column that `parts` are made by."""
    parts: dict[int, tuple[Part, ...]]
    """Of each seed, the pooled figures of the clips of each value of that column."""
    protocol: dict[str, Any]
    """How the numbers came about, where that is the same for all folds."""
    notes: list[str]
    """What a reader of the numbers must know."""
    config: dict[str, Any]
    """The recipe of the first fold."""

    @property
    def stamp(self) -> str:
        """What must follow every figure."""
        return stamp_of(self.folds[0].found["protocol"])

    @property
    def headline(self) -> dict[str, float]:
        """The pooled figures, averaged over seeds."""
        return {name: value.mean for name, value in self.over_seeds.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, JSON-able."""
        s = self.scores
        per_class = {} if s is None else dict(zip(self.labels, zip(s.support, s.recall, strict=True), strict=True))
        head, rows = self.published
        return {
            "title": self.title,
            "protocol": self.protocol,
            "headline": self.headline,
            "pooled": {seed: {n: e._asdict() for n, e in found.items()} for seed, found in self.pooled.items()},
            "over_folds": {seed: {n: vars(t) for n, t in found.items()} for seed, found in self.over_folds.items()},
            "over_seeds": {name: vars(value) for name, value in self.over_seeds.items()},
            "folds": [{"fold": f.name, "seed": f.seed, "clips": f.clips, **f.figures} for f in self.folds],
            "per_class": {name: {"support": n, "recall": recall} for name, (n, recall) in per_class.items()},
            "labels": list(self.labels),
            "confusion": self.confusion.tolist() if self.confusion is not None else None,
            **({"calibration": self.calibration.to_dict()} if self.calibration is not None else {}),
            **({"by": {self.by: self._by_dict()}} if self.parts else {}),
            "published": [dict(zip(head, row, strict=True)) for row in rows],
            "notes": self.notes,
            "config": self.config,
        }

    def write(self, folder: Path, name: str = "summary") -> Path:
        """Write NAME.json, NAME.csv (a line per fold) and NAME.html into `folder`; returns the path of the page."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, default=str)
        write_file(folder / f"{name}.json", text + "\n")
        write_file(folder / f"{name}.csv", self._csv())
        return self.page().write(folder / f"{name}.html")

    @property
    def published(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the published results of this model on this corpus."""
        return published_results(str(self.config.get("model")), self.protocol.get("protocol"))

    def page(self) -> Page:
        """The page."""
        key = self.protocol.get("protocol")
        page = Page(f"{key}{self.stamp}" if key else self.title, f"{self._model}{self._subtitle()}")
        first = next(iter(self.pooled))
        page.tiles(
            (
                f"{_word(name)}, pooled",
                _shown(name, value) + (" %" if name in HEADLINES else ""),
                f"95 %: {_shown(name, self.pooled[first][name].low)} … {_shown(name, self.pooled[first][name].high)}"
                if len(self.pooled) == 1
                else f"± {_shown(name, self.over_seeds[name].sd)} over {len(self.pooled)} seeds",
            )
            for name, value in self.headline.items()
        )
        for note in self.notes:
            page.note(note)
        head, rows = self.published
        if rows:
            page.heading("Published").table(head, rows, "As the card of the model states them; none was measured here.")
        page.heading("Totals").table(*self._totals(), caption=_RULES)
        page.heading("Folds").table(*self._folds())
        if self.scores is not None and self.confusion is not None:
            s = self.scores
            page.heading("Recall per class").figure(
                charts.bars(
                    self.labels,
                    s.recall,
                    notes=[f"{n:,} clip{'s' * (n != 1)}" for n in s.support],
                    reference=1 / len(self.labels),
                    reference_name=f"chance {100 / len(self.labels):.1f}",
                    label="recall per class",
                ),
                "Percent of the clips of each class that were found, in all folds together.",
            )
            page.heading("Confusion matrix").figure(
                charts.confusion(self.confusion.tolist(), self.labels),
                f"{matrix_words(self.labels)} All folds and seeds.",
            )
        if self.calibration is not None:
            show_calibration(page, self.calibration)
        if self.parts:
            page.heading(f"By {self.by}").table(*self._by())
        page.heading("How this was measured").facts(self.protocol)
        page.details("Recipe of the first fold", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        return page

    def __str__(self) -> str:
        lines = [self.title, self._subtitle(), "", *_aligned(*self._totals(), self.stamp), ""]
        lines += _aligned(*self._folds(), self.stamp)
        if self.scores is not None:
            recall = zip(self.labels, self.scores.recall, strict=True)
            lines += ["", "recall: " + ", ".join(f"{n} {_shown('recall', r)}" for n, r in recall) + self.stamp]
        if self.calibration is not None:
            lines += ["", f"{self.calibration}{self.stamp}"]
        if self.parts:
            lines += ["", *_aligned(*self._by(), self.stamp)]
        lines += ["", *("published: " + ", ".join(row[1:2] + row[2:]) for row in self.published[1])]
        return "\n".join([*lines, "", *(f"note: {note}" for note in self.notes)]).rstrip()

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _subtitle(self) -> str:
        folds, seeds = len({f.name for f in self.folds}), len(self.pooled)
        clips = sum(fold.clips for fold in self.folds) // seeds
        text = f"{folds} fold{'s' * (folds != 1)}, {clips:,} clips"
        return text + (f", {seeds} seeds: {', '.join(map(str, self.pooled))}" if seeds > 1 else "")

    def _totals(self) -> tuple[list[str], list[list[str]]]:
        head = [
            "figure",
            *(["seed"] if len(self.pooled) > 1 else []),
            "pooled",
            "95 % interval",
            "mean ± sd",
            "weighted",
        ]
        rows = []
        for name in self.over_seeds:
            for seed, found in self.pooled.items():
                e, over = found[name], self.over_folds[seed][name]
                row = [_shown(name, e.value), f"{_shown(name, e.low)} … {_shown(name, e.high)}"]
                row += [f"{_shown(name, over.mean)} ± {_shown(name, over.sd)}", _shown(name, over.weighted)]
                rows.append([_word(name), *([str(seed)] if len(self.pooled) > 1 else []), *row])
            if len(self.pooled) > 1:
                seeds = self.over_seeds[name]
                rows.append([_word(name), "all", f"{_shown(name, seeds.mean)} ± {_shown(name, seeds.sd)}", "", "", ""])
        return head, rows

    def _folds(self) -> tuple[list[str], list[list[str]]]:
        head = ["fold", "seed", "clips", *(_word(name) for name in self.over_seeds)]
        return head, [
            [f.name, str(f.seed), str(f.clips), *(_shown(name, f.figures[name]) for name in self.over_seeds)]
            for f in self.folds
        ]

    @property
    def _model(self) -> str:
        """Name of the model, where the protocol stands in the place of the title."""
        return f"{self.config.get('model', 'the model')}: " if self.protocol.get("protocol") else ""

    def _by(self) -> tuple[list[str], list[list[str]]]:
        several = len(self.parts) > 1
        names = [name for name in self.over_seeds if name in _BY] or list(self.over_seeds)
        head = [self.by, *(["seed"] if several else []), "clips", "groups", *map(_word, names), "without clips of"]
        rows = []
        for seed, parts in self.parts.items():
            for p in parts:
                groups = "–" if p.groups is None else str(p.groups)
                found = {name: p.intervals[name] for name in names}
                shown = [f"{_shown(n, e.value)} ({_shown(n, e.low)} … {_shown(n, e.high)})" for n, e in found.items()]
                cells = [p.name, *([str(seed)] if several else []), str(p.clips), groups, *shown]
                rows.append([*cells, ", ".join(p.absent) or "–"])
        return head, rows

    def _by_dict(self) -> dict[str, Any]:
        return {str(seed): {part.name: asdict(part) for part in parts} for seed, parts in self.parts.items()}

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        stamp = ["selection"] if self.stamp else []
        writer.writerow(["fold", "seed", "clips", *self.over_seeds, *stamp])
        for fold in self.folds:
            figures = [fold.figures[name] for name in self.over_seeds]
            writer.writerow([fold.name, fold.seed, fold.clips, *figures, *([self.stamp.strip(" ()")] if stamp else [])])
        return text.getvalue()


_RULES = (
    "Pooled: one figure of the predictions of all folds together. Mean ± sd: over the folds' own figures (sd over "
    "their number less one). Weighted: their mean by clips. Published totals follow one or another of these."
)
_BY = ("uar", "war", "ccc", "mae")  # of parts, the figures that are shown
_COMMON = (
    "protocol",
    "weights",
    "selection",
    "trained on",
    "input",
    "frames",
    "stride",
    "size",
    "segments",
    "merged by",
    "fidelity",
)


def summarise(folds: Sequence[Fold], by: str = "") -> Summary:
    """The summary of evaluations of one model on the folds of one corpus.

    Args:
        by: a column of the list, as `sex`, or `group`; figures are also given for the clips of each of its values.

    Raises:
        UserError: they predict different things, or the predictions have no such column.
    """
    first = folds[0].found
    for fold in folds[1:]:
        for key in ("labels", "outputs"):
            if fold.found.get(key) != first.get(key):
                raise UserError(
                    f"folds {folds[0].name} and {fold.name} differ in {key} ({first.get(key)}, {fold.found.get(key)}): "
                    "they are no folds of one corpus"
                )
    seeds = list(dict.fromkeys(fold.seed for fold in folds))
    of_seed = {seed: [fold for fold in folds if fold.seed == seed] for seed in seeds}
    rows = {seed: [row for fold in part for row in fold.rows] for seed, part in of_seed.items()}
    everything = [row for part in rows.values() for row in part]
    pooled = {seed: pooled_of(part, first) for seed, part in rows.items()}
    names = [name for name in folds[0].figures if name in pooled[seeds[0]]]
    if not names:
        raise UserError(
            f"{', '.join(first['numbers'])}: these figures of folds cannot be pooled; read them fold by fold"
        )
    over_folds = {
        seed: {name: total([f.figures[name] for f in part], [f.clips for f in part]) for name in names}
        for seed, part in of_seed.items()
    }
    labels, matrix = tuple(first.get("labels", ())), None
    if labels:
        truth, guess = classes_of(everything, labels)
        matrix = confusion_matrix(truth, guess, len(labels))
    protocols = [fold.found["protocol"] for fold in folds]
    protocol = {
        key: value for key, value in first["protocol"].items()
        if key in _COMMON and all(other.get(key) == value for other in protocols)
    }  # fmt: skip
    if "selection" not in protocol:  # each fold has its own epoch
        protocol["selection"] = "; ".join(f"fold {f.name}: {f.found['protocol'].get('selection')}" for f in folds)
    groups = groups_of(everything)
    unit = "clip-level (groups unknown)" if groups is None else f"{len(set(groups))} groups"
    protocol["intervals"] = f"95 %, bootstrap over the pooled predictions, {unit}"
    model = first["config"].get("model", "the model")
    told = [*dict.fromkeys(note for fold in folds for note in _notes(fold.found))]
    per_seed = {
        seed: sorted(f"{f.found['protocol'].get('data')}{row['key']}" for f in part for row in f.rows)
        for seed, part in of_seed.items()
    }
    if any(len(set(keys)) < len(keys) for keys in per_seed.values()):
        told.append("Some clips are tested in more than one fold: the pooled figures count them as often.")
    if any(keys != next(iter(per_seed.values())) for keys in per_seed.values()):
        told.append("The seeds were not tested on the same clips.")
    what = protocol.get("protocol") or ", ".join(map(str, first["protocol"].get("data", ())))
    return Summary(
        title=f"{model}: {what}{stamp_of(first['protocol'])}",
        folds=tuple(folds),
        pooled=pooled,
        over_folds=over_folds,
        over_seeds={name: total([pooled[seed][name].value for seed in seeds], [1] * len(seeds)) for name in names},
        labels=labels,
        confusion=matrix,
        scores=scores(matrix) if matrix is not None else None,
        calibration=pooled_calibration([f.found["calibration"] for f in folds])
        if all("calibration" in f.found for f in folds)
        else None,
        by=by,
        parts={seed: parts_of(part, by, first) for seed, part in rows.items()} if by else {},
        protocol=protocol,
        notes=told,
        config=dict(first["config"]),
    )


def _notes(found: Mapping[str, Any]) -> list[str]:
    """Notes that hold of more than the fold they stand in."""
    return [note for note in found["notes"] if note.startswith(("clip-level", "The model was given", "The clips were"))]


def _word(name: str) -> str:
    return {**HEADLINES, "mer_multi": "MER-MULTI"}.get(name, name.upper().replace("_", " "))


def _shown(name: str, value: float | None) -> str:
    """A figure as it is read: shares in percent with two digits, distances and correlations with four."""
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if name in HEADLINES or name == "recall" else f"{value:.4f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], stamp: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            f"{c:<{w}}" if n == 0 else f"{c:>{w}}" for n, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    return [line(head), *(line(row) + stamp for row in rows)]
