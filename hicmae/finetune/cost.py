"""What a model cost and costs: size, work per view, hours of training, clips per second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hicmae.models.base import Model
from hicmae.models.profile import multiplications

__all__ = ["cost_of", "trained"]


def cost_of(model: nn.Module, views: int, clips: int, seconds: float, where: str) -> dict[str, Any]:
    """Size of a model, work of an evaluation of `clips` clips that took `seconds`, and where it was done."""
    parameters = list(model.parameters())
    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in parameters)}
    free = sum(p.numel() for p in parameters if p.requires_grad)
    if free < facts["parameters"]:
        facts["of them learnt"] = free
    if isinstance(model, Model) and (macs := multiplications(model)) is not None:
        facts |= {"multiply-accumulates per view": macs, "views per clip": views}
    return {**facts, "evaluation, clips per second": round(clips / max(seconds, 1e-9), 2), "evaluation on": where}


def trained(log: Path | None) -> dict[str, Any]:
    """How long a run trained, in hours, and on what, from its log; nothing where that does not say it.

    Times of a run that was continued add up; what a kill made it do again counts once.
    """
    hours, devices, steps = None, [], None
    for line in read_log(log):
        hours = line["elapsed"] / 3600 if isinstance(line.get("elapsed"), int | float) else hours
        steps = line["step"]
        if line.get("device") and line["device"] not in devices:
            devices.append(line["device"])
    if hours is None:
        return {}
    return {"training, hours": round(hours, 4), "training on": ", then ".join(devices) or "unknown", "steps": steps}


def read_log(log: Path | None) -> list[Mapping[str, Any]]:
    """The lines of a run's log.jsonl, those cut by a kill left out."""
    if log is None or not log.is_file():
        return []
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in lines if isinstance(line, dict) and "step" in line]
