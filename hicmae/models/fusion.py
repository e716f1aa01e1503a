"""Cross-modal fusion (HiCMAE, Sun et al., Information Fusion 2024, section 3.2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hicmae.models.blocks import CrossSelfBlock, LayerNorm, init_weights, rates

__all__ = ["Fusion"]


class Fusion(nn.Module):
    """Both modalities read each other, at the same time: layer j sees the other's tokens as layer j - 1 left them.

    Args:
        dim: width D of the video tokens.
        audio_dim: width E of the audio tokens.
        depth: layers.
        heads: attention heads of the video blocks.
        audio_heads: of the audio blocks.
        mlp_ratio: of all blocks.
        drop_path: stochastic-depth rate of the last layer.

    Shapes:
        video: (B, N, D), audio: (B, M, E) -> (B, N, D), (B, M, E)
    """

    def __init__(
        self, dim: int, audio_dim: int, depth: int, heads: int, audio_heads: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        steps = rates(drop_path, depth)
        self.blocks = nn.ModuleList(CrossSelfBlock(dim, heads, mlp_ratio, r, memory_dim=audio_dim) for r in steps)
        self.norm = LayerNorm(dim)
        self.blocks_audio = nn.ModuleList(
            CrossSelfBlock(audio_dim, audio_heads, mlp_ratio, r, memory_dim=dim) for r in steps
        )
        self.norm_audio = LayerNorm(audio_dim)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, M, E) -> the same."""
        for block, block_audio in zip(self.blocks, self.blocks_audio, strict=True):
            video, audio = block(video, audio), block_audio(audio, video)
        return self.norm(video), self.norm_audio(audio)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Xavier-uniform in both stages, as published."""
        init_weights(self, "pretrain")
