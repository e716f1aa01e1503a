"""Two runs on the same clips: do they differ, from the predictions that their evaluations stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.finetune.measured import stamp_of
from hicmae.finetune.report import HEADLINES
from hicmae.runtime.comparison import Difference, compare

__all__ = ["against", "told_against"]

Rows = Mapping[tuple[str, str], Mapping[str, Any]]


def against(first: str | Path, second: str | Path) -> tuple[dict[str, Difference], list[str]]:
    """The figures of two classifiers on the same clips, what lies between them, and what a reader must know.

    Args:
        first, second: an evaluation.json, a run with an evaluation, or a folder of folds whose predictions are pooled.

    Raises:
        UserError: no stored predictions there, or of other clips, labels or truths.
    """
    (one, rows, notes), (two, others, more) = (_stored(Path(path)) for path in (first, second))
    if rows.keys() != others.keys() or not rows:
        alone = [len(rows.keys() - others.keys()), len(others.keys() - rows.keys())]
        raise UserError(
            f"{first} and {second} were not measured on the same clips: {alone[0]:,} are in the first alone, "
            f"{alone[1]:,} in the second; measure both on the same shards (hicmae evaluate RUN --data DIR)"
        )
    if set(one) != set(two):
        raise UserError(f"{first} and {second} have other labels: {', '.join(one)}; {', '.join(two)}")
    number, keys = {label: n for n, label in enumerate(one)}, sorted(rows)
    truth, guess, other = (
        np.array([number[source[key][side]] for key in keys], np.int64)
        for source, side in ((rows, "truth"), (rows, "prediction"), (others, "prediction"))
    )
    if any(rows[key]["truth"] != others[key]["truth"] for key in keys):
        raise UserError(f"{first} and {second} were measured against other labels of the same clips")
    groups = [rows[key]["group"] for key in keys]
    known = None if any(group is None for group in groups) else groups
    unit = f"{len(set(groups))} groups" if known is not None else "clips: clip-level (groups unknown)"
    told = [f"{len(keys):,} clips; both tests are over {unit}.", *notes, *more]
    return compare(truth, guess, other, known, len(one)), told


def told_against(first: str | Path, second: str | Path) -> str:
    """`against`, as a table."""
    found, notes = against(first, second)
    lines = [f"{first} less {second}", "", f"{'':12} {'first':>6} {'second':>7} {'difference':>11}   95 % interval   p"]
    for name, d in found.items():
        gap = d.difference
        lines.append(
            f"{HEADLINES[name]:12} {100 * d.first:6.2f} {100 * d.second:7.2f} {100 * gap.value:+11.2f}   "
            f"{100 * gap.low:+.2f} … {100 * gap.high:+.2f}   {d.p:.4f}"
        )
    lines += ["", "interval: paired bootstrap; p: predictions exchanged between the runs group by group, two-sided"]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _stored(path: Path) -> tuple[list[str], Rows, list[str]]:
    """Labels, predictions by (source, key), and stamps."""
    files = [path] if path.is_file() else [path / "evaluation" / "evaluation.json", path / "evaluation.json"]
    files = [file for file in files if file.is_file()] or sorted(path.glob("*/evaluation/evaluation.json"))
    if not files:
        raise UserError(f"{path}: no evaluation.json there; measure it first: hicmae evaluate RUN")
    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    labels: list[str] = []
    notes = []
    for file in files[:1] if path.is_file() or files[0].parent.parent == path else files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            labels = found["labels"]
            rows |= {(row["source"], row["key"]): row for row in found["predictions"]}
            stamp = stamp_of(found["protocol"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: no evaluation of a classifier ({error!r}); measure it again") from None
        notes += [f"{path}:{stamp}"] if stamp else []
    return labels, rows, list(dict.fromkeys(notes))
