"""A finished run in one line."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["recap"]


def recap(log: Path) -> str:
    """What a run's `log.jsonl` says of it as a whole, its parts before a continuation included."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "clips_per_second" in line]
    if not steps:
        return "nothing was left to do"
    rates = sorted(line["clips_per_second"] for line in steps)
    waits = sum(line.get("data_wait", 0.0) for line in steps) / len(steps)
    skipped = sum(line["skipped_clips"] for line in steps)
    bad = sum(line["bad_steps"] for line in steps)
    hours = lines[-1].get("elapsed", 0.0) / 3600
    return (
        f"done: step {lines[-1]['step']:,} after {hours:.2f} h, loss {steps[0]['loss']:.4g} -> "
        f"{steps[-1]['loss']:.4g}; median {rates[len(rates) // 2]:,.1f} clips/s, {100 * waits:.0f} % of the time "
        f"waiting for data; {skipped:.0f} clips and {bad:.0f} steps skipped; {log}"
    )
