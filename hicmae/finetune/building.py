"""Reports from truth and predictions: figures, intervals, and what must be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicmae.finetune.report import Report
from hicmae.finetune.values import ValueReport
from hicmae.runtime.metrics import (
    Scores,
    bootstrap,
    bootstrap_mer_multi,
    bootstrap_regression,
    confusion_matrix,
    regression,
    scores,
)
from hicmae.runtime.multilabel import multilabel

__all__ = ["DRAWS", "class_notes", "report_of_classes", "report_of_labels", "report_of_numbers"]

DRAWS = 2000  # resamplings behind an interval
FIGURES = ("mae", "rmse", "pcc", "ccc", "ccc_unbiased")


def report_of_classes(
    labels: Sequence[str],
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    common: Mapping[str, Any],
    values: ValueReport | None = None,
) -> Report:
    """The report on one class per clip, (N,) and (N, K), perhaps with `values` beside it; `common` is what every report
    has."""
    guess = probabilities.argmax(1)
    confusion = confusion_matrix(truth, guess, len(labels))
    figures = scores(confusion)
    groups = common["groups"]
    intervals = bootstrap(truth, guess, groups, len(labels), samples=DRAWS)
    beside = []
    if values is not None:
        beside = [note for note in values.notes if note not in common["notes"]]
        pair = (values.truth, values.predicted)
        intervals["mer_multi"] = bootstrap_mer_multi(truth, guess, *pair, groups, len(labels), samples=DRAWS)
    return Report(
        **{**common, "notes": [*class_notes(figures, labels), *common["notes"], *beside], "intervals": intervals},
        labels=tuple(labels),
        scores=figures,
        confusion=confusion,
        truth=truth,
        guess=guess,
        probabilities=probabilities,
        values=values,
    )


def report_of_numbers(
    names: Sequence[str], truth: NDArray[np.float64], found: NDArray[np.float64], common: Mapping[str, Any]
) -> ValueReport:
    """The report on numbers (N, D)."""
    measured = regression(truth, found, names)
    intervals = bootstrap_regression(truth, found, common["groups"], samples=DRAWS)
    return ValueReport(
        **{**common, "notes": [*common["notes"], *measured.notes]},
        kind="numbers",
        names=tuple(names),
        intervals={name: intervals[name] for name in FIGURES},
        figures={name: {key: getattr(measured, key)[d] for key in FIGURES} for d, name in enumerate(names)},
        truth=truth,
        predicted=found,
    )


def report_of_labels(
    names: Sequence[str], truth: NDArray[np.float64], found: NDArray[np.float64], common: Mapping[str, Any]
) -> ValueReport:
    """The report on probabilities (N, D) of classes independent of each other, decided at one half."""
    measured = multilabel(truth > 0.5, found > 0.5, common["groups"], samples=DRAWS)
    keys = ("support", "recall", "precision", "f1")
    return ValueReport(
        **common,
        kind="classes",
        names=tuple(names),
        intervals=measured.intervals,
        figures={name: {key: getattr(measured, key)[d] for key in keys} for d, name in enumerate(names)},
        truth=truth,
        predicted=found,
    )


def class_notes(figures: Scores, labels: Sequence[str]) -> list[str]:
    """What a reader of figures of classes must know: classes that no clip has, or that are never predicted."""
    notes = []
    if figures.absent:
        names = ", ".join(labels[k] for k in figures.absent)
        notes.append(f"No clip of the test data has the label {names}: left out of UAR and macro F1.")
    never = [name for name, precision in zip(labels, figures.precision, strict=True) if precision is None]
    if len(never) == len(labels) - 1:
        notes.append("Every clip was given the same class: the model tells nothing apart.")
    elif never:
        notes.append(f"Never predicted: {', '.join(never)}.")
    return notes
