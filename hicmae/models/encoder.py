"""What every encoder shares: its signature, patch embedding, positions, and the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hicmae.models.blocks import LayerNorm, Stage, init_weights
from hicmae.models.tokens import PatchEmbed, sinusoid

__all__ = ["Encoded", "Encoder"]


class Encoded(NamedTuple):
    """What an encoder makes of an input."""

    tokens: Tensor
    """(B, N, D), normed where the encoder ends in a norm; time is the slowest axis."""
    levels: tuple[Tensor, ...] = ()
    """(B, N, D) after each block asked for, through the same norm; N may differ where an encoder changes it."""


class Encoder(nn.Module):
    """Base of the plain, LGI and TPSBT encoders; subclasses add `blocks`, then `final_norm`, and `forward`.

    Args:
        dim: width D.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs over D.
        frames: video frames T, or filter-bank frames F.
        size: height and width of a video frame (one number or two), or the number K of mel bins.
        patch: (t, h, w) for video, (f, k) for a filter bank.
        drop_path: stochastic-depth rate of the last block; earlier ones grow linearly from 0.
        norm: end in a LayerNorm (pretraining, and towers); a classifier norms after pooling instead.

    Shapes:
        x: (B, 3, T, H, W) or (B, 1, F, K), visible: (B, V) token indices or None -> tokens (B, V, D) or (B, N, D)
    """

    pos: Tensor
    blocks: nn.ModuleList
    norm: nn.Module

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        frames: int,
        size: int | Sequence[int],
        patch: Sequence[int],
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"an encoder needs at least one block, not depth={depth}")
        height, width = (size, size) if isinstance(size, int) else size
        video = len(patch) == 3
        shape = (frames, height, width) if video else (frames, width)
        self.dim, self.depth, self.heads = dim, depth, heads
        self.patch_embed = PatchEmbed(shape, patch, 3 if video else 1, dim)
        self.grid = self.patch_embed.grid
        self.slots = self.grid[0]  # time steps that the output tokens resolve
        tokens = 1
        for n in self.grid:
            tokens *= n
        # not persistent: it follows from the shape, so weights fit clips of any size
        self.register_buffer("pos", sinusoid(tokens, dim), persistent=False)

    def final_norm(self, norm: bool) -> None:
        """Add the closing LayerNorm, or none; called last, so that parameters lie in the published order."""
        self.norm = LayerNorm(self.dim) if norm else nn.Identity()

    @property
    def patch(self) -> tuple[int, ...]:
        """Patch sizes, (t, h, w) or (f, k)."""
        return self.patch_embed.patch

    @property
    def level_slots(self) -> tuple[int, ...]:
        """Time steps that the tokens after each block resolve."""
        return (self.slots,) * self.depth

    @property
    def mask_windows(self) -> tuple[int, int] | None:
        """Window in patches (of the last two grid axes) in which every mask must hide equally many, or None."""
        return None

    def embed(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Patch embedding plus positions of the tokens asked for; -> (B, V, D), or (B, N, D) for all."""
        pos = self.pos if visible is None else self.pos[visible]
        tokens = self.patch_embed(x, visible)
        return tokens + pos.to(tokens.dtype)

    def forward(self, x: Tensor, visible: Tensor | None = None, levels: Sequence[int] = ()) -> Encoded:
        """Encode the tokens at `visible` (all when None); also after the blocks numbered in `levels`."""
        raise NotImplementedError

    def check_mask(self, mask: Tensor) -> None:
        """Raise ValueError where this encoder cannot use `mask` (B, N); reads the mask's values."""

    @torch.no_grad()
    def init_weights(self, stage: Stage) -> None:
        """Initialise as the published fine-tuning or pretraining form does."""
        init_weights(self, stage)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed beyond the usual (one-dimensional ones and biases)."""
        return set()

    def layer_of(self, name: str, published: bool = False) -> int | None:
        """Layer id of a parameter for layer-wise learning rates: 0 embedding, k + 1 block k, None the end."""
        if name.startswith("patch_embed."):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return None
