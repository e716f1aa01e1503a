"""Training curves of a report's page, from what the run logged."""

from __future__ import annotations

from pathlib import Path

from hicmae.finetune.cost import read_log
from hicmae.runtime import charts

__all__ = ["curves_of"]


def curves_of(log: Path | None) -> list[tuple[str | bytes, str]]:
    """Drawings of what a run logged; nothing where there is no log."""
    lines = read_log(log)
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
