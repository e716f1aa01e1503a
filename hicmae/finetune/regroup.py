"""An evaluation by another unit: figures per sex, age or ethnicity, and predictions averaged per task."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.finetune.report import Part, Report
from hicmae.runtime.metrics import bootstrap, confusion_matrix, scores

__all__ = ["merged", "with_parts"]


def with_parts(report: Any, index: Index, column: str) -> Report:
    """`report` with the figures of the clips of each value of a column of `index`, as `sex`.

    Raises:
        UserError: there is no such column, or the report is not that of a classifier.
    """
    values = _column(report, index, column)
    parts = []
    for value in sorted(set(values)):
        of = np.array([v == value for v in values])
        groups = [g for g, there in zip(report.groups, of, strict=True) if there] if report.groups is not None else None
        found = scores(confusion_matrix(report.truth[of], report.guess[of], len(report.labels)))
        parts.append(
            Part(
                name=value or "unknown",
                clips=int(of.sum()),
                groups=len(set(groups)) if groups is not None else None,
                intervals=bootstrap(report.truth[of], report.guess[of], groups, len(report.labels)),
                absent=tuple(report.labels[k] for k in found.absent),
            )
        )
    return dataclasses.replace(report, by=column, parts=tuple(parts))


def merged(report: Any, index: Index, column: str) -> Report:
    """`report` with the probabilities of all clips of one value of a column averaged, as AVCAffe is scored per `task`.

    Raises:
        UserError: no such column, a clip without a value, one value with several labels or groups, or no classifier.
    """
    values = _column(report, index, column)
    if not all(values):
        raise UserError(f"{index.folder}: {sum(not v for v in values):,} clips have no {column} to be merged by")
    names, first, number = np.unique(values, return_index=True, return_inverse=True)
    for what, told in (("labels", report.truth.tolist()), ("groups", report.groups or [])):
        for n, value in zip(number, told, strict=False):
            if told[first[n]] != value:
                raise UserError(f"{index.folder}: clips with {column} {names[n]} have several {what}: not one {column}")
    sums = np.zeros((len(names), report.probabilities.shape[1]))
    np.add.at(sums, number, report.probabilities)
    probabilities = sums / np.bincount(number)[:, None]
    truth, guess = report.truth[first], probabilities.argmax(1)
    groups = [report.groups[n] for n in first] if report.groups is not None else None
    confusion = confusion_matrix(truth, guess, len(report.labels))
    what = f"{column}: {len(report.truth):,} clips averaged to {len(names):,}"
    return dataclasses.replace(
        report,
        scores=scores(confusion),
        intervals=bootstrap(truth, guess, groups, len(report.labels)),
        confusion=confusion,
        keys=names.tolist(),
        sources=names.tolist(),
        groups=groups,
        truth=truth,
        guess=guess,
        probabilities=probabilities,
        protocol={**report.protocol, "merged by": what},
        notes=[f"Scored per {what}.", *report.notes],
    )


def _column(report: Any, index: Index, column: str) -> list[str]:
    """The value of a column for each clip of a report; empty where it has none."""
    if not isinstance(report, Report):
        raise UserError(f"{report.title}: clips are regrouped by {column} for classes only, not for numbers")
    found = index.groups if column == "group" else index.extra.get(column)
    if found is None:
        known = ", ".join(["group", *index.extra])
        raise UserError(f"{index.folder}: its samples have no column {column}; there are {known}")
    told = ["" if value is None else str(value) for value in found]
    by_clip: dict[tuple[str, str], str] = dict(zip(zip(index.sources, index.keys, strict=True), told, strict=True))
    by_video: dict[str, str] = dict(zip(index.sources, told, strict=True))  # a clip that was read as several samples
    return [by_clip.get(pair, by_video[pair[0]]) for pair in zip(report.sources, report.keys, strict=True)]
