"""The measurement of steps runs, names every row of its table, and counts what a step multiplies."""

from __future__ import annotations

import pytest
import torch
from benchmarks import step
from benchmarks.systems import SYSTEMS, twins

from hicmae.models.products import Library, products_by


@pytest.mark.parametrize("by", ["torch", "onednn"])
def test_a_system_is_measured_by_step_optimiser_forward_and_rate(by: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "SYSTEMS", {"mae_dfer_base": "MAE-DFER"})
    monkeypatch.setattr(step, "STAGES", {"pretrain": "pretraining"})
    with products_by(by):
        rows = list(step.steps(1, 2, True, False))
    rate, others = "fraction of the matrix-product rate, pretraining", by == "onednn"
    assert [(row.measure, row.target) for row in rows] == [
        ("pretraining step, forward + backward", 1.15),
        ("pretraining step with optimiser", 1.30),
        ("pretraining forward with targets", 1.25),
        *([("pretraining step, forward + backward, PyTorch's products in both", None)] if others else []),
        (rate, 0.80),
        *([(f"{rate}, of oneDNN's", 0.80), (f"{rate}, PyTorch's in both", None)] if others else []),
        (rate, None),
    ]
    assert all(row.value > 0 for row in rows)


@pytest.mark.slow
def test_every_system_is_measured_in_both_stages() -> None:
    with products_by("torch"):
        rows = list(step.steps(1, 2, True, False))
    ratios = {(row.measure, row.what): row.target for row in rows if row.target is not None and row.unit == "x"}
    assert ratios == {
        ("pretraining step, forward + backward", "MAE-DFER"): 1.15,
        ("pretraining step, forward + backward", "SVFAP"): 1.10,
        ("pretraining step, forward + backward", "HiCMAE"): 1.10,
        ("pretraining step with optimiser", "MAE-DFER"): 1.30,
        ("pretraining forward with targets", "MAE-DFER"): 1.25,
        ("fine-tuning step, forward + backward", "MAE-DFER"): 1.20,
        ("fine-tuning step, forward + backward", "SVFAP"): 1.05,
        ("fine-tuning step, forward + backward", "HiCMAE"): 1.00,
    }
    assert sum(row.measure.startswith("fraction") for row in rows) == 4 * len(SYSTEMS)
    assert all(row.value > 0 for row in rows)


def test_steps_in_half_precision_and_beside_transformers_run() -> None:
    pytest.importorskip("transformers")
    rows = [*step.half(1, 2, True, False), *step.transformers_rows(1, 2, True, False)]
    assert [row.what for row in rows if "transformers" in row.measure] == [
        *("MAE-DFER, 16x160", "MAE-DFER, 16x224", "MAE-DFER, 16x160")
    ]
    assert sum(row.measure.startswith("bf16") for row in rows) == 4


def test_a_step_changes_weights_only_with_an_optimiser() -> None:
    pair = twins("mae_dfer_base", "finetune", 2, quick=True)
    before = [p.clone() for p in pair.model.parameters()]
    step.step(pair.model, pair.ours)()
    assert all(torch.equal(p, old) for p, old in zip(pair.model.parameters(), before, strict=True))
    step.step(pair.model, pair.ours, torch.optim.SGD(pair.model.parameters(), lr=1.0))()
    assert any(not torch.equal(p, old) for p, old in zip(pair.model.parameters(), before, strict=True))
