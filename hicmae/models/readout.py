"""From an encoder's tokens to one vector: their mean, or what a learnt query reads; and standardised features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.models.blocks import Attention, LayerNorm, init_weights

__all__ = ["AttentivePool", "Readout", "Standardise", "check_readout", "pool"]

Readout = Literal["mean", "standard", "attentive"]


def pool(tokens: Tensor, slots: int, frames: int | None = None, reduce: nn.Module | None = None) -> Tensor:
    """Mean over tokens, (B, N, D) -> (B, D); with `frames`, over each time slot, then linear to (B, frames, D).

    Time is the slowest axis of the N tokens, in `slots` steps. `reduce` takes the place of the mean.
    """
    if frames is None:
        return tokens.mean(dim=1) if reduce is None else reduce(tokens)
    steps = tokens.unflatten(1, (slots, -1))  # (B, slots, S, D)
    read = steps.mean(dim=2) if reduce is None else reduce(steps.flatten(0, 1)).unflatten(0, (-1, slots))
    return F.interpolate(read.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


class AttentivePool(nn.Module):
    """What one learnt query reads of the tokens: cross-attention, as attentive probes do (CAE, Chen et al. 2022).

    Shapes:
        tokens: (B, N, D) -> (B, D)
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        self.norm = LayerNorm(dim)
        self.attn = Attention(dim, heads)
        init_weights(self, "finetune")

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        query = tokens.new_zeros(tokens.shape[0], 1, 1) + self.query.to(tokens.dtype)  # (B, 1, D)
        return self.attn(query, self.norm(tokens))[:, 0]


class Standardise(nn.Module):
    """Batch normalisation without weights, before a linear probe (He et al. 2022, appendix A.2).

    By mean and variance of all features seen in training so far, over all processes, not of the last batches: those of
    a frozen encoder do not drift, and a probe is then the same however clips are divided into batches. Statistics are
    parameters without gradient, so that they are kept and loaded with the weights.

    Shapes:
        x: (B, D) or (B, T, D) -> the same
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.count, self.mean, self.var = (
            nn.Parameter(x, requires_grad=False) for x in (torch.zeros(1), torch.zeros(dim), torch.ones(dim))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) or (B, T, D) -> the same."""
        if self.training:
            self._update(x.detach().float().flatten(0, -2))
        return (x - self.mean) * (self.var + 1e-6).rsqrt()

    @torch.no_grad()
    def _update(self, rows: Tensor) -> None:
        """Merge the moments of rows (R, D) into those of all before them."""
        total = _over_processes(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
        count, mean = total[-1:], total[:-1] / total[-1:]
        squares = _over_processes((rows - mean).square().sum(0))
        share = count / (self.count + count)
        step = mean - self.mean
        self.var.copy_((1 - share) * self.var + share * squares / count + share * (1 - share) * step.square())
        self.mean.add_(share * step)
        self.count.add_(count)


def _over_processes(x: Tensor) -> Tensor:
    if td.is_available() and td.is_initialized():
        td.all_reduce(x)
    return x


def check_readout(readout: str) -> bool:
    """Whether tokens are read by a learnt query."""
    if readout not in ("mean", "standard", "attentive"):
        raise ValueError(f"readout={readout!r} is not one of 'mean', 'standard', 'attentive'")
    return readout == "attentive"
