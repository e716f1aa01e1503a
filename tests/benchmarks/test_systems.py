"""The twins that are compared: the same loss and the same gradients on the same batch."""

from __future__ import annotations

import pytest
import torch
from benchmarks.systems import STAGES, SYSTEMS, twins


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_both_formulations_have_the_same_loss_and_gradients(name: str, stage: str) -> None:
    both = twins(name, stage, 2, quick=True)
    ours, theirs = both.ours(), both.theirs()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    others = dict(both.twin.named_parameters())
    for key, parameter in both.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, others[key].grad, rtol=1e-3, atol=1e-6, msg=key)
