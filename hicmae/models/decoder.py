"""The decoder: visible and mask tokens to patches, with optional skip connections from the encoder (HiCMAE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hicmae.models.blocks import Block, CrossSelfBlock, LayerNorm
from hicmae.models.products import Linear
from hicmae.models.tokens import Parts, gather, sinusoid

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """Blocks over visible and mask tokens; the hidden ones are predicted.

    Args:
        dim: width C of the decoder.
        depth: blocks; the first is plain, with `skips` every later one also attends to an encoder level.
        heads: attention heads.
        out: values P per patch.
        tokens: positions N of the whole grid.
        skips: take `depth - 1` skip features (HiCMAE, section 3.3: decoder block i reads the i-th last level).

    Shapes:
        x: (B, V, C) visible tokens, mask_token: (1, 1, C), skips: each (B, V, C) -> (B, M, P)
    """

    pos: Tensor

    def __init__(
        self, dim: int, depth: int, heads: int, *, out: int, tokens: int, mlp_ratio: float = 4.0, skips: bool = False
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a decoder needs at least one block, not {depth}")
        self.skips = depth - 1 if skips else 0
        self.keep: Literal["hidden", "all"] = "hidden"  # what the last block computes: nothing reads visible tokens
        later = CrossSelfBlock if skips else Block
        self.blocks = nn.ModuleList((Block if i == 0 else later)(dim, heads, mlp_ratio) for i in range(depth))
        self.norm = LayerNorm(dim)
        self.head = Linear(dim, out)
        self.register_buffer("pos", sinusoid(tokens, dim), persistent=False)

    def forward(self, x: Tensor, mask_token: Tensor, parts: Parts, skips: Sequence[Tensor] = ()) -> Tensor:
        """(B, V, C) -> (B, M, P), M hidden tokens in the order of `parts.hidden`."""
        if len(skips) != self.skips:
            raise ValueError(f"this decoder takes {self.skips} skip features, not {len(skips)}")
        hidden = parts.hidden.shape[1]
        pos = self.pos.to(x.dtype).expand(x.shape[0], -1, -1)  # (B, N, C)
        seen = gather(pos, parts.visible)  # (B, V, C)
        x = torch.cat([x + seen, mask_token.to(x.dtype) + gather(pos, parts.hidden)], dim=1)  # (B, V+M, C)
        for i, block in enumerate(self.blocks):
            memory = (skips[-i] + seen,) if i and self.skips else ()
            read = {"last": hidden} if i == len(self.blocks) - 1 and self.keep == "hidden" else {}
            x = block(x, *memory, **read)
        return self.head(self.norm(x[:, -hidden:]))  # (B, M, P)
