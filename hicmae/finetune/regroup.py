"""An evaluation by another unit: figures per sex, age or ethnicity, and predictions averaged per task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.finetune.building import class_notes, report_of_classes, report_of_labels, report_of_numbers
from hicmae.finetune.measured import Measured, Part
from hicmae.finetune.report import Report
from hicmae.finetune.values import ValueReport

__all__ = ["merged", "part_of", "with_parts"]


def with_parts(report: Report | ValueReport, index: Index, column: str) -> Any:
    """`report` with the figures of the clips of each value of a column of `index`, as `sex`.

    Raises:
        UserError: there is no such column.
    """
    values = _column(report, index, column)
    parts = tuple(
        part_of(value, _rows(report, np.array([v == value for v in values]))) for value in sorted(set(values))
    )
    return dataclasses.replace(report, by=column, parts=parts)


def part_of(name: str, report: Measured) -> Part:
    """A report on some of the clips, as a line among others."""
    absent = tuple(report.labels[k] for k in report.scores.absent) if isinstance(report, Report) else ()
    return Part(
        name=name or "unknown",
        clips=len(report.keys),
        groups=len(set(report.groups)) if report.groups is not None else None,
        intervals=report.intervals,
        absent=absent,
    )


def merged(report: Report | ValueReport, index: Index, column: str) -> Any:
    """`report` with the predictions of all clips of one value of a column averaged, as AVCAffe is scored per `task`.

    Probabilities are averaged before they are decided upon, numbers as they are.

    Raises:
        UserError: no such column, a clip without a value, or one value with several labels, numbers or groups.
    """
    values = _column(report, index, column)
    if not all(values):
        raise UserError(f"{index.folder}: {sum(not v for v in values):,} clips have no {column} to be merged by")
    names, first, number = np.unique(values, return_index=True, return_inverse=True)
    truths = {"labels": report.truth.tolist(), "groups": report.groups or []}
    if isinstance(report, Report) and report.values is not None:
        truths["numbers"] = report.values.truth.tolist()
    for what, told in truths.items():
        for n, value in zip(number, told, strict=False):
            if told[first[n]] != value:
                raise UserError(f"{index.folder}: clips with {column} {names[n]} have several {what}: not one {column}")
    count = len(report.keys)
    what = f"{column}: {count:,} clips averaged to {len(names):,}"
    whole = _rows(report, np.arange(count), number)
    same = {  # what all clips of a value agree on
        name: [told[n] for n in first]
        for name, told in report.columns.items()
        if all(told[first[k]] == value for k, value in zip(number, told, strict=True))
    }
    seconds = np.bincount(number, report.seconds).tolist() if report.seconds is not None else None
    return dataclasses.replace(
        whole,
        keys=names.tolist(),
        sources=names.tolist(),
        seconds=seconds,
        columns=same,
        protocol={**report.protocol, "merged by": what},
        notes=[f"Scored per {what}.", *whole.notes],
    )


def _rows(report: Report | ValueReport, of: NDArray, number: NDArray[np.int64] | None = None) -> Report | ValueReport:
    """The report on some clips (a mask or numbers), measured anew; averaged over those with one `number`."""
    of = np.flatnonzero(of) if of.dtype == bool else of
    number = np.arange(len(of)) if number is None else number
    first = of[np.unique(number, return_index=True)[1]]
    common = {name: getattr(report, name) for name in _KEPT}
    common |= {name: [getattr(report, name)[n] for n in first] for name in ("keys", "sources")}
    common["groups"] = [report.groups[n] for n in first] if report.groups is not None else None

    def mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.zeros((len(first), rows.shape[1]))
        np.add.at(sums, number, rows[of])
        return sums / np.bincount(number)[:, None]

    def numbers(of_report: ValueReport, notes: Sequence[str]) -> ValueReport:
        build = report_of_numbers if of_report.kind == "numbers" else report_of_labels
        rows = (of_report.truth[first], mean(of_report.predicted))
        return build(of_report.names, *rows, {**common, "notes": list(notes)})

    if isinstance(report, ValueReport):
        return numbers(report, [note for note in report.notes if "not defined" not in note])
    stale = [*class_notes(report.scores, report.labels), *(report.values.notes if report.values is not None else ())]
    common["notes"] = [note for note in report.notes if note not in stale]
    values = numbers(report.values, []) if report.values is not None else None
    return report_of_classes(report.labels, report.truth[first], mean(report.probabilities), common, values)


_KEPT = ("title", "protocol", "skipped", "preprocessing", "fingerprint", "config", "cost")


def _column(report: Measured, index: Index, column: str) -> list[str]:
    """The value of a column for each clip of a report; empty where it has none."""
    found = index.groups if column == "group" else index.extra.get(column)
    if found is None:
        known = ", ".join(["group", *index.extra])
        raise UserError(f"{index.folder}: its samples have no column {column}; there are {known}")
    told = ["" if value is None else str(value) for value in found]
    by_clip: dict[tuple[str, str], str] = dict(zip(zip(index.sources, index.keys, strict=True), told, strict=True))
    by_video: dict[str, str] = dict(zip(index.sources, told, strict=True))  # a clip that was read as several samples
    return [by_clip.get(pair, by_video[pair[0]]) for pair in zip(report.sources, report.keys, strict=True)]
