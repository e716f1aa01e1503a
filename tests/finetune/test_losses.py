"""Losses against torch, brute force and closed forms, and where nothing varies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hicmae.finetune.losses import (
    VALUE_LOSSES,
    binary_cross_entropy,
    ccc_loss,
    kl_divergence,
    l1,
    mse,
    pcc_loss,
    smooth_l1,
    soft_cross_entropy,
)


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def brute_ccc(p: np.ndarray, t: np.ndarray) -> float:
    """One output, moments over n."""
    cov = ((p - p.mean()) * (t - t.mean())).mean()
    return float(2 * cov / (p.var() + t.var() + (p.mean() - t.mean()) ** 2))


def test_soft_cross_entropy_equals_that_of_torch() -> None:
    logits, target = torch.randn(5, 7), torch.rand(5, 7).softmax(-1)
    torch.testing.assert_close(soft_cross_entropy(logits, target), F.cross_entropy(logits, target))


def test_kl_equals_that_of_torch_and_is_zero_where_the_shares_agree() -> None:
    logits, _ = pair(5, 4)
    target = torch.tensor([[1.0, 0, 0, 0]] * 2 + [[0.5, 0.25, 0.25, 0]] * 3)
    wanted = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(logits, target), wanted)
    assert abs(float(kl_divergence(logits, logits.softmax(-1)))) < 1e-6


def test_kl_differs_from_cross_entropy_by_the_entropy_of_the_votes() -> None:
    logits, target = torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0, 0]])
    assert float(kl_divergence(logits, target)) == pytest.approx(math.log(4) - math.log(2), rel=1e-6)


def test_binary_cross_entropy_has_its_closed_form() -> None:
    logits, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert float(binary_cross_entropy(logits, target)) == pytest.approx((math.log(2) + math.log1p(math.e**2)) / 2)


def test_plain_errors_have_their_closed_forms() -> None:
    predicted, target = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5], [1.0]])
    assert float(mse(predicted, target)) == pytest.approx((0.25 + 4) / 2)
    assert float(l1(predicted, target)) == pytest.approx((0.5 + 2) / 2)
    assert float(smooth_l1(predicted, target)) == pytest.approx((0.125 + 1.5) / 2)


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3)], ids=["clips", "frames"])
def test_correlation_losses_equal_brute_force_with_clips_and_frames_together(shape: tuple[int, ...]) -> None:
    predicted, target = pair(*shape)
    p, t = (x.double().flatten(0, -2).numpy() for x in (predicted, target))
    concordance = np.mean([brute_ccc(p[:, k], t[:, k]) for k in range(3)])
    assert float(ccc_loss(predicted, target)) == pytest.approx(1 - concordance, rel=1e-5)
    pearson = np.mean([np.corrcoef(p[:, k], t[:, k])[0, 1] for k in range(3)])
    assert float(pcc_loss(predicted, target)) == pytest.approx(1 - pearson, rel=1e-4)


def test_concordance_knows_shift_and_scale_and_pearson_does_not() -> None:
    _, target = pair(64, 1)
    assert float(ccc_loss(target, target)) == pytest.approx(0, abs=1e-6)
    assert float(pcc_loss(3 * target + 5, target)) == pytest.approx(0, abs=1e-5)
    assert float(pcc_loss(-target, target)) == pytest.approx(2, rel=1e-5)
    var = float(target.var(correction=0))
    assert float(ccc_loss(target + 2, target)) == pytest.approx(1 - 2 * var / (2 * var + 4), rel=1e-5)


@pytest.mark.parametrize("name", sorted(VALUE_LOSSES))
@pytest.mark.parametrize("constant", ["prediction", "truth", "both", "both alike", "one clip"])
def test_where_nothing_varies_loss_and_gradient_are_finite(name: str, constant: str) -> None:
    predicted, target = pair(1 if constant == "one clip" else 6, 2)
    if constant in ("prediction", "both", "both alike"):
        predicted = torch.full_like(predicted, 0.1)
    if constant in ("truth", "both"):
        target = torch.full_like(target, 0.7)
    if constant == "both alike":
        target = predicted.clone()
    predicted.requires_grad_()
    loss = VALUE_LOSSES[name](predicted, target)
    loss.backward()
    assert torch.isfinite(loss) and predicted.grad is not None and torch.isfinite(predicted.grad).all()
    if name in ("ccc", "pcc"):
        assert float(loss.detach()) == pytest.approx(1, abs=1e-6)  # no correlation


@pytest.mark.parametrize("name", sorted(VALUE_LOSSES))
def test_gradients_are_those_of_the_formula(name: str) -> None:
    predicted, target = (x.double() for x in pair(5, 2))
    assert torch.autograd.gradcheck(lambda p: VALUE_LOSSES[name](p, target), predicted.requires_grad_())


@pytest.mark.parametrize(
    "loss", [soft_cross_entropy, kl_divergence, binary_cross_entropy, *VALUE_LOSSES.values()], ids=lambda f: f.__name__
)
def test_half_precision_outputs_lose_no_more_than_their_own_rounding(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    raw, target = torch.randn(5, 7), torch.rand(5, 7).softmax(-1)
    low = loss(raw.bfloat16(), target)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(raw.bfloat16().float(), target))
