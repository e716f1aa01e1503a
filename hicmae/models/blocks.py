"""The vocabulary of layers: one attention, one MLP, two residual blocks, and how they are initialised.

Everything local, global or cross-modal in this library is a *call* of `Attention` on reshaped tokens. Module and
parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.models.products import LINEAR, Linear, linear

__all__ = [
    "Attention",
    "Block",
    "CrossSelfBlock",
    "LayerNorm",
    "Mlp",
    "affine",
    "init_tokens",
    "init_weights",
    "is_plain",
    "path",
    "rates",
]

Stage = Literal["finetune", "pretrain"]

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling `layer` is exactly what its kind does, so that its weight may be used directly."""
    # pruning sets its weight in a hook; a tracer's hooks change nothing
    return type(layer) in kinds and (not (layer._forward_pre_hooks or layer._forward_hooks) or torch.jit.is_tracing())


def affine(layer: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
    """`layer(x) + bias` for a linear `layer` without a bias of its own.

    A linear layer and nothing more takes the bias into the same kernel; anything in its place (an adapter, a
    quantised or pruned layer) is called as a module.
    """
    if is_plain(layer, *LINEAR) and layer.bias is None:
        return linear(x, layer.weight, bias)
    y = layer(x)
    return y + bias.to(y.dtype)


class Attention(nn.Module):
    """Multi-head attention of `x` over `memory` (over itself when `memory` is None). Keys carry no bias.

    Args:
        dim: width D of the tokens, a multiple of `heads`.
        heads: number of heads H; each is D / H wide and scaled by its inverse square root.
        memory_dim: width of the memory; D when None.
        fused: one projection `qkv`, for self-attention only, instead of `q` and `kv` (the published layouts).

    Where a few memory tokens are read by many, their keys and values absorb the projections of `x` and of the output
    (`fold`): exact, and less work.

    Shapes:
        x: (B, N, D), memory: (B, M, memory_dim) or None -> (B, N, D)

    >>> Attention(dim=32, heads=4)(torch.zeros(2, 5, 32), torch.zeros(2, 3, 32)).shape
    torch.Size([2, 5, 32])
    """

    fold = True

    def __init__(self, dim: int, heads: int, *, memory_dim: int | None = None, fused: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.heads = heads
        self.fused = fused
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        if fused:
            self.qkv = Linear(dim, 3 * dim, bias=False)
        else:
            self.q = Linear(dim, dim, bias=False)
            self.kv = Linear(dim if memory_dim is None else memory_dim, 2 * dim, bias=False)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor | None = None, last: int | None = None) -> Tensor:
        """(B, N, D), memory (B, M, memory_dim) -> (B, N, D), or (B, last, D) of the last tokens alone."""
        k_bias = torch.zeros_like(self.v_bias)
        if self.fused:
            if memory is not None:
                raise ValueError("a fused attention has one projection for x, k and v: it attends to itself only")
            q, k, v = affine(self.qkv, x, torch.cat([self.q_bias, k_bias, self.v_bias])).chunk(3, dim=-1)
            q = q if last is None else q[:, -last:]
        else:
            k, v = affine(self.kv, x if memory is None else memory, torch.cat([k_bias, self.v_bias])).chunk(2, dim=-1)
            x = x if last is None else x[:, -last:]
            if self._folds(x.shape[1], k.shape[1]):
                return self._folded(x, k, v)
            q = affine(self.q, x, self.q_bias)
        y = _attend(self._split(q), self._split(k), self._split(v))  # (B, H, N, d)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, N, D)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _folds(self, n: int, m: int) -> bool:
        """Whether folding at least halves the multiplications that depend on N, and no adapter stands in the way."""
        dim = self.proj.in_features
        cheap = 2 * m * (dim + n * (self.heads - 1)) <= n * dim
        return self.fold and cheap and is_plain(self.q, *LINEAR) and is_plain(self.proj, *LINEAR)

    def _folded(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(Wq x + b) k = x (Wq' k) + b k, and the sum of P (a v) over heads is that of a (P v); k, v are (B, M, D)."""
        k, v = (y.unflatten(-1, (self.heads, -1)) for y in (k, v))  # (B, M, H, d)
        k = k * k.shape[-1] ** -0.5
        ask = torch.einsum("bmhd,hdc->bhmc", k, self.q.weight.unflatten(0, (self.heads, -1))).flatten(1, 2)
        shift = torch.einsum("bmhd,hd->bhm", k, self.q_bias.unflatten(0, (self.heads, -1)))
        told = torch.einsum("bmhd,chd->bhmc", v, self.proj.weight.unflatten(1, (self.heads, -1))).flatten(1, 2)
        weights = ((x @ ask.transpose(1, 2)).unflatten(-1, shift.shape[1:]) + shift[:, None]).softmax(-1)
        return weights.flatten(2) @ told + self.proj.bias  # (B, N, H*M) @ (B, H*M, D)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v by the fastest kernel; (B, H, N, d), (B, H, M, d) twice -> (B, H, N, d)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":  # the fused one takes 2 to 5 times as long there
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Linear, exact GELU, linear; (..., D) -> (..., out)."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., out)."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then MLP; (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads, fused=True)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = path(drop_path)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, last, D) where only the last tokens are read."""
        told = self.attn(self.norm1(x), last=last)
        x = (x if last is None else x[:, -last:]) + self.drop_path(told)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CrossSelfBlock(nn.Module):
    """Pre-norm block of SVFAP and HiCMAE: attention over a memory, over itself, then MLP.

    The memory is normed inside the block and never changed by it; its width may differ (`memory_dim`).

    Shapes:
        x: (B, N, D), memory: (B, M, memory_dim) -> (B, N, D)
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        memory_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.cross_attn = Attention(dim, heads, memory_dim=memory_dim)
        self.cross_norm1 = LayerNorm(dim)
        self.cross_norm2 = LayerNorm(dim if memory_dim is None else memory_dim)
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads, fused=True)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = path(drop_path)

    def forward(self, x: Tensor, memory: Tensor, last: int | None = None) -> Tensor:
        """(B, N, D), memory (B, M, memory_dim) -> (B, N, D), or (B, last, D) where only the last tokens are read."""
        x = x + self.drop_path(self.cross_attn(self.cross_norm1(x), self.cross_norm2(memory)))
        told = self.attn(self.norm1(x), last=last)
        x = (x if last is None else x[:, -last:]) + self.drop_path(told)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _DropPath(DropPath):
    """timm's with the rate in a tensor, so that blocks of different rates share one compiled graph."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self.register_buffer("keep", torch.tensor(1 - rate), persistent=False)

    keep: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


def path(rate: float) -> nn.Module:
    """Stochastic depth per sample, scaled by 1 / keep; nothing at all when `rate` is 0."""
    return _DropPath(rate) if rate > 0 else nn.Identity()


def rates(drop_path: float, depth: int) -> list[float]:
    """Stochastic-depth rates growing linearly from 0 to `drop_path` over `depth` blocks."""
    return [drop_path * i / max(depth - 1, 1) for i in range(depth)]


@torch.no_grad()
def init_weights(module: nn.Module, stage: Stage) -> None:
    """Initialise every linear layer and LayerNorm inside `module` as published (all else keeps PyTorch's default).

    Weights: `finetune` normal with std 0.02 cut at ±2; `pretrain` Xavier-uniform, fused matrices as one matrix.
    Biases 0, norms 1 and 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if stage == "finetune":
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_tokens(tokens: Tensor, stage: Stage) -> None:
    """Learnt tokens: normal with std 0.02, cut at ±2 (`finetune`) or at one standard deviation (`pretrain`)."""
    cut = 2.0 if stage == "finetune" else 0.02
    nn.init.trunc_normal_(tokens, std=0.02, a=-cut, b=cut)
