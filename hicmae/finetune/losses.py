"""Losses of fine-tuning: pure functions, computed in float32 at least.

Shapes: K outputs of B clips, (B, K), or of every frame too, (B, T, K); the mean is taken over all but the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "VALUE_LOSSES",
    "binary_cross_entropy",
    "ccc_loss",
    "kl_divergence",
    "l1",
    "mse",
    "pcc_loss",
    "smooth_l1",
    "soft_cross_entropy",
]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy with soft targets; (..., K), (..., K) -> ()."""
    return -(target * F.log_softmax(logits.to(target.dtype), dim=-1)).sum(-1).mean()


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of KL(target || softmax(logits)), 0 where they agree; (..., K) shares that sum to 1 -> ()."""
    return soft_cross_entropy(logits, target) + torch.special.xlogy(target, target).sum(-1).mean()


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over outputs that are independent of each other; (..., K), (..., K) in [0, 1] -> ()."""
    return F.binary_cross_entropy_with_logits(logits.to(target.dtype), target)


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error; (..., K), (..., K) -> ()."""
    return F.mse_loss(predicted.to(target.dtype), target)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error; (..., K), (..., K) -> ()."""
    return F.l1_loss(predicted.to(target.dtype), target)


def smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of e² / 2 where |e| < 1, of |e| - 1/2 elsewhere; (..., K), (..., K) -> ()."""
    return F.smooth_l1_loss(predicted.to(target.dtype), target)


def ccc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - concordance correlation, averaged over outputs; (..., K), (..., K) -> ().

    The correlation is 2 cov / (var + var + (mean - mean)²).
    Moments are those of the batch, clips and frames together, divided by n, as published. Two constants, where the
    published form is 0 / 0, have no concordance.
    """
    p, t = _centred(predicted, target)
    apart = (predicted.to(target.dtype) - target).flatten(0, -2).mean(0)
    spread = (p.square() + t.square()).mean(0) + apart.square()  # (K,)
    concordance = 2 * (p * t).mean(0) / torch.where(spread > 0, spread, 1)
    return 1 - concordance.mean()


def pcc_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - Pearson correlation cov / (sqrt(var var) + 1e-6), averaged over outputs; (..., K), (..., K) -> ().

    As published; where a side is constant the root is left out of the gradient, which would be no number.
    """
    p, t = _centred(predicted, target)
    product = p.square().mean(0) * t.square().mean(0)  # (K,)
    root = torch.where(product > 0, torch.where(product > 0, product, 1).sqrt(), 0)
    return 1 - ((p * t).mean(0) / (root + 1e-6)).mean()


def _centred(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(n, K) each, without their means over n; exactly 0 where all are alike."""
    p, t = (x.flatten(0, -2) - x.flatten(0, -2)[:1].detach() for x in (predicted.to(target.dtype), target))
    return p - p.mean(0), t - t.mean(0)


VALUE_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "l1": l1,
    "smooth_l1": smooth_l1,
    "ccc": ccc_loss,
    "pcc": pcc_loss,
}
"""Losses of values by their names in recipes."""
