"""Training curves of a report's page, from what the run logged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hicmae.runtime import charts

__all__ = ["curves_of"]


def curves_of(log: Path | None) -> list[tuple[str | bytes, str]]:
    """Drawings of what a run logged; nothing where there is no log."""
    lines = _read_log(log)
    names = {
        "loss": "Training loss (mixed, smoothed targets)",
        "accuracy": "Accuracy on augmented training clips",
        "mae": "Mean absolute error on augmented training clips",
    }
    drawn: list[tuple[str | bytes, str]] = []
    for name, caption in {**names, "lr": "Learning rate of the head"}.items():
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if points:
            steps, values = zip(*points, strict=True)
            drawn.append((charts.curves({name: (steps, values)}, x_name="step", y_name=name), caption))
    return drawn


def _read_log(log: Path | None) -> Sequence[dict[str, Any]]:
    if log is None or not log.is_file():
        return []
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a line cut by a kill
            continue
    return [line for line in lines if isinstance(line, dict) and "step" in line]
