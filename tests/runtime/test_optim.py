"""Schedules and parameter groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hicmae.runtime.optim import OptimConfig, cosine

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "numeric_lr_schedule.json").read_text())


CASES = [case for case in FIXTURE["schedules"] if "base_value" in case]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['base_value']}-{c['warmup_epochs']}")
def test_the_schedule_equals_the_published_one(case: dict) -> None:
    steps = case["epochs"] * case["iters_per_epoch"]
    warmup = case.get("warmup_steps", -1)
    warmup = warmup if warmup > 0 else case["warmup_epochs"] * case["iters_per_epoch"]
    value = cosine(case["base_value"], case["final_value"], steps, warmup)
    assert steps == case["length"]
    assert [value(i) for i in case["iterations"]] == pytest.approx(case["values"], rel=1e-12, abs=1e-18)


def test_a_warm_up_longer_than_the_run_only_warms_up() -> None:
    value = cosine(1.0, 0.0, 4, 10)
    assert [value(i) for i in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, r"optim\.lr must lie in \(0, inf\], not 0"),
        ({"layer_decay": 1.5}, r"optim\.layer_decay must lie in \(0, 1\]"),
        ({"weight_decay": -1}, r"optim\.weight_decay must not be negative"),
        ({"betas": (0.9, 1.0)}, r"optim\.betas must lie in \[0, 1\)"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_dotted_path(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**change)
