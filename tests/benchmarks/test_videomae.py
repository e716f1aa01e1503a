"""The comparison with transformers' VideoMAE: both sides are the model that they are said to be."""

from __future__ import annotations

import pytest
import torch
from benchmarks import videomae

pytest.importorskip("transformers", reason="needs transformers")
pytestmark = pytest.mark.slow  # 12 s of one core: transformers takes its time to be imported
CPU = torch.device("cpu")


def test_every_comparison_is_made() -> None:
    rows = videomae.measure(1, 1, CPU, quick=True, show=False)
    assert [row.target for row in rows] == [1.0, None, None, None]
    assert all(row.value > 0 for row in rows)


def test_theirs_is_as_large_as_ours_and_attends_by_the_fused_kernel() -> None:
    with torch.device("meta"):
        theirs = videomae._theirs(160, "VideoMAEForVideoClassification", False, torch.device("meta"))
    size = sum(parameter.numel() for parameter in theirs.parameters())
    assert size == pytest.approx(86.2e6, rel=0.01)
    assert theirs.config._attn_implementation == "sdpa"
