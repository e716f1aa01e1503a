"""Figures of stored predictions together, of several folds or of the clips of one sex, one age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicmae.configs.errors import UserError
from hicmae.finetune.measured import Part
from hicmae.runtime.metrics import Estimate, bootstrap, bootstrap_mer_multi, bootstrap_regression
from hicmae.runtime.multilabel import multilabel

__all__ = ["classes_of", "groups_of", "parts_of", "pooled_of"]


def pooled_of(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> dict[str, Estimate]:
    """Figures of predictions together; `found` says what they are of."""
    groups = groups_of(rows)
    if labels := found.get("labels"):
        truth, guess = classes_of(rows, labels)
        intervals = bootstrap(truth, guess, groups, len(labels))
        if rows and all("values" in row for row in rows):
            beside = _numbers([row["values"] for row in rows])
            intervals["mer_multi"] = bootstrap_mer_multi(truth, guess, *beside, groups, len(labels))
            intervals |= bootstrap_regression(*beside, groups)
        return intervals
    values, predicted = _numbers(rows)
    if found["config"].get("task", {}).get("kind") == "multi":
        return multilabel(values > 0.5, predicted > 0.5, groups).intervals
    return bootstrap_regression(values, predicted, groups)


def parts_of(rows: Sequence[Mapping[str, Any]], column: str, found: Mapping[str, Any]) -> tuple[Part, ...]:
    """Figures of the clips of each value of a column."""
    told = [str(_value(row, column) or "") for row in rows]
    parts = []
    for value in sorted(set(told)):
        of = [row for row, word in zip(rows, told, strict=True) if word == value]
        groups, labels = groups_of(of), found.get("labels", ())
        there = {row["truth"] for row in of} if labels else set()
        parts.append(
            Part(
                name=value or "unknown",
                clips=len(of),
                groups=len(set(groups)) if groups is not None else None,
                intervals=pooled_of(of, found),
                absent=tuple(label for label in labels if label not in there),
            )
        )
    return tuple(parts)


def _value(row: Mapping[str, Any], column: str) -> str | None:
    columns = row.get("columns", {})
    if column == "group":
        return row["group"]
    if column not in columns:
        known = ", ".join(["group", *columns])
        raise UserError(
            f"the predictions have no column {column}; there are {known}. Columns come from the list of the shards; "
            "an evaluation from before they were stored is to be done again"
        )
    return columns[column]


def _numbers(rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Truth and prediction as numbers (N, D)."""
    truth, found = (np.array([list(row[side].values()) for row in rows], float) for side in ("truth", "prediction"))
    return truth, found


def classes_of(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truth and prediction as class numbers (N,)."""
    number = {label: n for n, label in enumerate(labels)}
    truth, guess = (np.array([number[row[side]] for row in rows], np.int64) for side in ("truth", "prediction"))
    return truth, guess


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Groups (N,) of predictions; None where one is not known."""
    groups = [row["group"] for row in rows]
    return None if any(group is None for group in groups) else groups
