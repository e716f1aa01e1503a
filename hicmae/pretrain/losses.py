"""Losses of masked and contrastive pretraining: pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "appearance_motion",
    "chance_scale",
    "contrastive",
    "hierarchical_contrastive",
    "masked_mse",
    "similarity",
    "split_mse",
    "symmetric_cross_entropy",
]


def masked_mse(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over hidden tokens; (B, M, P), (B, M, P) -> ()."""
    kind = torch.promote_types(pred.dtype, target.dtype)
    return F.mse_loss(pred.to(kind), target.to(kind))


def split_mse(pred: Tensor, target: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the appearance values and of the motion values; (B, M, P) twice -> (), ().

    `motion` is bool (P,) or (B, M, P), True = motion; a part without values counts as 0.
    """
    error = (pred - target).square()
    error = error.flatten(0, -2).mean(0) if motion.dim() == 1 else error  # alike for all tokens: (P,)
    part = motion.to(error.dtype).expand_as(error)
    moved = (error * part).sum() / part.sum().clamp_min(1)
    still = (error * (1 - part)).sum() / (1 - part).sum().clamp_min(1)
    return still, moved


def appearance_motion(pred: Tensor, target: Tensor, motion: Tensor, weight: float | None = None) -> Tensor:
    """(1 - weight) * MSE(appearance) + weight * MSE(motion) (MAE-DFER); (B, M, P) twice -> ().

    Without a weight the plain mean over all values, which equals weight 0.5 where half of the values are motion.
    """
    if weight is None:
        return masked_mse(pred, target)
    still, moved = split_mse(pred, target, motion)
    return (1 - weight) * still + weight * moved


def similarity(video: Tensor, audio: Tensor, temperature: float | Tensor = 0.07, eps: float = 1e-12) -> Tensor:
    """Cosine similarities over a temperature; (B, D), (B, D) -> (B, B), rows = video.

    `eps` bounds the norms from below, so that a zero vector gives zeros and not NaN.
    """
    return F.normalize(video, dim=-1, eps=eps) @ F.normalize(audio, dim=-1, eps=eps).T / temperature


def symmetric_cross_entropy(logits: Tensor, source: Tensor | None = None) -> Tensor:
    """Half the sum of both directions' cross-entropies, pairs on the diagonal (HiCMAE); (B, B) -> ().

    `source` int64 (B,) numbers the source videos: clips of one video are never each other's negatives.
    """
    if source is not None:
        same = source[:, None] == source[None, :]
        same = same & ~torch.eye(len(source), dtype=torch.bool, device=source.device)
        logits = logits.masked_fill(same, -torch.inf)
    pair = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair))


def contrastive(
    video: Tensor,
    audio: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    source: Tensor | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """InfoNCE between the two modalities of each clip, other clips as negatives; (B, D), (B, D) -> ().

    For negatives of all ranks pass features that were gathered with their gradient.
    """
    return symmetric_cross_entropy(similarity(_precise(video), _precise(audio), temperature, eps), source)


def hierarchical_contrastive(
    levels: Sequence[tuple[Tensor, Tensor]],
    *,
    temperature: float | Tensor = 0.07,
    source: Tensor | None = None,
    eps: float = 1e-12,
) -> Tensor:
    """The sum (not the mean) of `contrastive` over levels of (video, audio) features, (B, D) each (HiCMAE)."""
    terms = [contrastive(video, audio, temperature=temperature, source=source, eps=eps) for video, audio in levels]
    return torch.stack(terms).sum()


def chance_scale(batch: int, reference: int = 40) -> float:
    """ln(reference) / ln(batch): makes the contrastive term at chance what it is at `reference` negatives.

    The published weight, 0.0025, was tuned with 40 clips.
    """
    if batch < 2:
        raise ValueError(f"contrast needs at least 2 clips, not {batch}")
    return math.log(reference) / math.log(batch)


def _precise(x: Tensor) -> Tensor:
    """At least float32, whatever autocast made of it."""
    return x if x.dtype == torch.float64 else x.float()
