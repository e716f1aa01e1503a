"""The plain encoder: joint attention over all tokens (VideoMAE; both towers of HiCMAE)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hicmae.models.blocks import Block, rates
from hicmae.models.encoder import Encoded, Encoder

__all__ = ["ViT"]


class ViT(Encoder):
    """Blocks of joint self-attention; see `Encoder` for arguments and shapes."""

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        mlp_ratio: float = 4.0,
        frames: int = 16,
        size: int | Sequence[int] = 160,
        patch: Sequence[int] = (2, 16, 16),
        drop_path: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__(dim, depth, heads, frames, size, patch)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate) for rate in rates(drop_path, depth))
        self.final_norm(norm)

    def forward(self, x: Tensor, visible: Tensor | None = None, levels: Sequence[int] = ()) -> Encoded:
        """(B, C, *shape), visible (B, V) -> tokens and levels (B, V, D) in the order of `visible`."""
        x = self.embed(x, visible)  # (B, V, D)
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x)  # (B, V, D)
            if i in levels:
                kept[i] = self.norm(x)
        tokens = kept[self.depth - 1] if self.depth - 1 in kept else self.norm(x)
        return Encoded(tokens, tuple(kept[i] for i in levels))
