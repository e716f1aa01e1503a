"""The plain formulation's layers and encoders, as the published code goes about them (see `benchmarks.plain`).

Every token is embedded by a strided convolution, attention is spelt out, masks are boolean, and whatever the
formulas name is computed, read or not. Nothing here is taken from `hicmae.models`; parameter names are the same, so
that a state dict of either loads into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LGI", "TPSBT", "Block", "CrossSelfBlock", "Embedding", "ViT", "layer_norm", "sinusoid"]


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm as everywhere in the three systems."""
    return nn.LayerNorm(dim, eps=1e-6)


def sinusoid(n: int, dim: int) -> Tensor:
    """Positions over the flattened token index, (1, n, dim)."""
    angle = np.arange(n)[:, None] / np.power(10000, 2 * (np.arange(dim)[None] // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.tensor(angle, dtype=torch.float32)[None]


class Attention(nn.Module):
    """Softmax attention in three steps; over `memory` where there is one. (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int, memory_dim: int | None = None, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.scale = heads, fused, (dim // heads) ** -0.5
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        else:
            self.q = nn.Linear(dim, dim, bias=False)
            self.kv = nn.Linear(memory_dim or dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        b, n, dim = x.shape
        zeros = torch.zeros_like(self.v_bias, requires_grad=False)
        if self.fused:
            bias = torch.cat((self.q_bias, zeros, self.v_bias))
            qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        else:
            memory = x if memory is None else memory
            q = F.linear(x, self.q.weight, self.q_bias).reshape(b, n, self.heads, -1).transpose(1, 2)
            kv = F.linear(memory, self.kv.weight, torch.cat((zeros, self.v_bias)))
            kv = kv.reshape(b, memory.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            k, v = kv[0], kv[1]
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, dim))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Self-attention, then MLP."""

    def __init__(self, dim: int, heads: int, ratio: float = 4.0, rate: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = layer_norm(dim), Attention(dim, heads, fused=True)
        self.norm2, self.mlp = layer_norm(dim), Mlp(dim, int(dim * ratio), dim)
        self.drop_path = DropPath(rate) if rate > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CrossSelfBlock(Block):
    """Attention over a memory, then a block."""

    def __init__(
        self, dim: int, heads: int, ratio: float = 4.0, rate: float = 0.0, memory_dim: int | None = None
    ) -> None:
        super().__init__(dim, heads, ratio, rate)
        self.cross_attn = Attention(dim, heads, memory_dim)
        self.cross_norm1, self.cross_norm2 = layer_norm(dim), layer_norm(memory_dim or dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, D), (B, M, memory_dim) -> (B, N, D)."""
        x = x + self.drop_path(self.cross_attn(self.cross_norm1(x), self.cross_norm2(memory)))
        return super().forward(x)


class Embedding(nn.Module):
    """All patches through a strided convolution; (B, C, *shape) -> (B, N, D)."""

    def __init__(self, patch: Sequence[int], dim: int) -> None:
        super().__init__()
        conv: Any = nn.Conv3d if len(patch) == 3 else nn.Conv2d
        self.proj = conv(3 if len(patch) == 3 else 1, dim, kernel_size=tuple(patch), stride=tuple(patch))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *shape) -> (B, N, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Embedding and positions; a subclass adds blocks. `mask` (B, N) is True where a token is hidden."""

    pos: Tensor

    def __init__(self, shape: Sequence[int], patch: Sequence[int], dim: int) -> None:
        super().__init__()
        self.grid = tuple(n // p for n, p in zip(shape, patch, strict=True))
        self.dim = dim
        self.patch_embed = Embedding(patch, dim)
        self.register_buffer("pos", sinusoid(int(np.prod(self.grid)), dim), persistent=False)

    def embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D), or (B, V, D) of the visible."""
        x = self.patch_embed(x)
        x = x + self.pos.to(x.dtype).clone().detach()
        return x if mask is None else x[~mask].reshape(x.shape[0], -1, x.shape[-1])


def _rates(rate: float, depth: int) -> list[float]:
    return [float(r) for r in np.linspace(0, rate, depth)]


class ViT(Encoder):
    """Joint attention; gives the tokens after every block."""

    def __init__(self, args: dict[str, Any], shape: Sequence[int], patch: Sequence[int], norm: bool) -> None:
        super().__init__(shape, patch, args["dim"])
        rates = _rates(args["drop_path"], args["depth"])
        self.blocks = nn.ModuleList(Block(args["dim"], args["heads"], args["mlp_ratio"], r) for r in rates)
        self.norm = layer_norm(args["dim"]) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Final tokens (B, V, D), and those after the blocks numbered in `keep`, through the same norm."""
        x, kept = self.embed(x, mask), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in keep:
                kept.append(self.norm(x))
        return self.norm(x), kept


class LGIBlock(nn.Module):
    """Attention inside regions, between messengers, from patches to messengers; (B*R, 1+S, D), slot 0 the messenger."""

    def __init__(self, args: dict[str, Any], regions: int, rate: float) -> None:
        super().__init__()
        dim, heads, self.regions, self.second = args["dim"], args["heads"], regions, args["second"]
        self.first_attn_norm0, self.first_attn = layer_norm(dim), Attention(dim, heads)
        if self.second:
            self.second_attn_norm0 = layer_norm(dim)
            self.second_attn = self.first_attn if args["share"] == "all" else Attention(dim, heads)
        self.third_attn_norm0, self.third_attn_norm1 = layer_norm(dim), layer_norm(dim)
        self.third_attn = self.first_attn if args["share"] != "none" else Attention(dim, heads)
        self.norm2, self.mlp = layer_norm(dim), Mlp(dim, int(dim * args["mlp_ratio"]), dim)
        self.drop_path = DropPath(rate) if rate > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        rows, slots, dim = x.shape
        x = x + self.drop_path(self.first_attn(self.first_attn_norm0(x)))
        m = x[:, 0].reshape(-1, self.regions, dim)
        if self.second:
            m = m + self.drop_path(self.second_attn(self.second_attn_norm0(m)))
        local = x[:, 1:].reshape(len(m), -1, dim)
        told = self.third_attn(self.third_attn_norm0(local), self.third_attn_norm1(m))
        local = local + self.drop_path(told)
        x = torch.cat([m.reshape(rows, 1, dim), local.reshape(rows, slots - 1, dim)], dim=1)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LGI(Encoder):
    """LGI-Former. A mask must hide equally many tokens in each region, and regions must be as wide as the frame."""

    def __init__(self, args: dict[str, Any], shape: Sequence[int], patch: Sequence[int], norm: bool) -> None:
        super().__init__(shape, patch, args["dim"])
        if args["first"] != "self" or args["third"] != "cross":
            raise ValueError("the plain formulation is that of first='self', third='cross'")
        self.region = tuple(args["region"] or (2, self.grid[1] // 2, self.grid[2]))
        self.count = tuple(n // r for n, r in zip(self.grid, self.region, strict=True))
        regions = int(np.prod(self.count))
        self.order, self.pool = "raster", args.get("pool", "local")
        self.lg_region_tokens = nn.Parameter(torch.zeros(regions, args["dim"]))
        rates = _rates(args["drop_path"], args["depth"])
        self.blocks = nn.ModuleList(LGIBlock(args, regions, rate) for rate in rates)
        self.norm = layer_norm(args["dim"]) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Tokens by `pool`, or the visible patches (B, V, D); no levels."""
        x = self.embed(x, mask)
        b, _, dim = x.shape
        (nt, nh, nw), (t, h, w) = self.count, self.region
        if mask is None:
            x = x.reshape(b, nt, t, nh, h, nw, w, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
        else:
            x = x.reshape(b, nt, t, nh * nw, -1, dim).transpose(2, 3)
        x = x.reshape(b * nt * nh * nw, -1, dim)
        x = torch.cat([self.lg_region_tokens.to(x.dtype).repeat(b, 1)[:, None], x], dim=1)
        for block in self.blocks:
            x = block(x)
        if mask is None:
            x = x[:, :1] if self.pool == "region" else x[:, 1:] if self.pool == "local" else x
            return self.norm(x.reshape(b, -1, dim)), []
        x = x[:, 1:]
        if self.order == "raster":  # published: left by region
            x = x.reshape(b, nt, nh * nw, t, -1, dim).transpose(2, 3)
        return self.norm(x.reshape(b, -1, dim)), []


class SpatialBottleneck(nn.Module):
    """Weighted means of each frame's tokens; (B, T, S, D) -> (B, T*K, D)."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.mlp = layer_norm(dim), Mlp(dim, 128, tokens)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mlp(self.norm(x)).transpose(2, 3).softmax(dim=-1)
        return (weights @ x).reshape(x.shape[0], -1, x.shape[-1])


class TPSBT(Encoder):
    """SVFAP's encoder in the paper's form; with a mask (of tubes) the sum of all stages, else the last."""

    def __init__(self, args: dict[str, Any], shape: Sequence[int], patch: Sequence[int], norm: bool) -> None:
        super().__init__(shape, patch, args["dim"])
        dim, depth = args["dim"], args["depth"]
        last, middle = max(round(depth / 7), 1), max(round(2 * depth / 7), 1)
        self.stages = list(args["stages"] or (depth - middle - last, middle, last))
        if not args["temporal_pyramid"] or not args["bottleneck"] or args["downsample"] != "conv":
            raise ValueError("the plain formulation is that of the published switches")
        kinds = [Block] * self.stages[0] + [CrossSelfBlock] * sum(self.stages[1:])
        rates = _rates(args["drop_path"], len(kinds))
        self.blocks = nn.ModuleList(
            kind(dim, args["heads"], args["mlp_ratio"], rate) for kind, rate in zip(kinds, rates, strict=True)
        )
        later = range(len(self.stages) - 1)
        self.temporal_downsamples = nn.ModuleList(nn.Conv1d(dim, dim, 2, stride=2) for _ in later)
        self.spatial_downsamples = nn.ModuleList(SpatialBottleneck(dim, args["tokens"]) for _ in later)
        self.norm = layer_norm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Tokens of the last stage, or the visible patches (B, V, D); no levels."""
        x = self.embed(x, mask)
        b, _, dim = x.shape
        t, start = self.grid[0], self.stages[0]
        for block in self.blocks[:start]:
            x = block(x)
        total = x
        for i, depth in enumerate(self.stages[1:]):
            x = x.reshape(b, t, -1, dim).permute(0, 2, 3, 1).flatten(0, 1)  # (B*S, D, T)
            t //= 2
            u = self.temporal_downsamples[i](x).reshape(b, -1, dim, t).permute(0, 3, 1, 2)  # (B, T/2, S, D)
            few, u = self.spatial_downsamples[i](u), u.reshape(b, -1, dim)
            for block in self.blocks[start : start + depth - 1]:
                few = block(few, u)
            x = self.blocks[start + depth - 1](u, few)
            start += depth
            if mask is not None:
                up = x.reshape(b, t, -1, dim).repeat_interleave(2 ** (i + 1), dim=1)
                total = total + up.reshape(b, -1, dim)
        return self.norm(x if mask is None else total), []
