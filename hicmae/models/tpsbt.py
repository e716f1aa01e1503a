"""TPSBT, the encoder of SVFAP (Sun et al., IEEE T-AC 2024; arXiv 2401.00416, section 3.2).

A temporal pyramid halves the time steps from stage to stage; in later stages a few bottleneck tokens per frame do the
work and a last, reversed block writes it back to all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hicmae.models.blocks import Block, CrossSelfBlock, LayerNorm, Mlp, is_plain, rates
from hicmae.models.encoder import Encoded, Encoder
from hicmae.models.products import linear

__all__ = ["TPSBT", "SpatialBottleneck"]

Downsample = Literal["conv", "avg", "max"]


class SpatialBottleneck(nn.Module):
    """Per frame, K weighted means of its S tokens; the weights are a softmax over places (the code's form of Eq. 5).

    Shapes:
        x: (B, T, S, D) -> (B, T*K, D)
    """

    def __init__(self, dim: int, tokens: int, hidden: int = 128) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, S, D) -> (B, T*K, D)."""
        weights = self.mlp(self.norm(x)).softmax(dim=2)  # (B, T, S, K)
        return (weights.transpose(2, 3) @ x).flatten(1, 2)  # (B, T*K, D)


class TPSBT(Encoder):
    """Temporal pyramid and spatial bottleneck transformer; see `Encoder` for the arguments shared by all encoders.

    Args:
        depth: total number of blocks, split 4 : 2 : 1 into stages: (12, 6, 3) for SVFAP-B, (8, 4, 2) for SVFAP-S.
        stages: blocks per stage, in place of `depth`.
        tokens: bottleneck tokens per frame, one number or one per later stage.
        temporal_pyramid: halve the time steps before every later stage.
        bottleneck: later stages work on bottleneck tokens; without, they are plain blocks, four in place of three
            cross-self blocks (the same number of parameters, as in the paper's ablation).
        downsample: how time steps are halved.
        multiscale: return the sum of all stages at full time resolution (pretraining, Eq. 9 and 10).

    Shapes:
        x: (B, 3, T, H, W), visible: (B, V) or None -> tokens (B, V, D) if `multiscale`, else (B, slots*S, D),
        S places per frame
    """

    def __init__(
        self,
        dim: int = 512,
        depth: int = 21,
        heads: int = 8,
        *,
        mlp_ratio: float = 4.0,
        frames: int = 16,
        size: int | Sequence[int] = 160,
        patch: Sequence[int] = (2, 16, 16),
        drop_path: float = 0.0,
        stages: Sequence[int] | None = None,
        tokens: int | Sequence[int] = 8,
        temporal_pyramid: bool = True,
        bottleneck: bool = True,
        downsample: Downsample = "conv",
        norm: bool = False,
        multiscale: bool = False,
    ) -> None:
        stages = _stages(depth, stages)
        later = len(stages) - 1
        counts = [stages[0], *(n if bottleneck else round(n * 4 / 3) for n in stages[1:])]
        super().__init__(dim, sum(counts), heads, frames, size, patch)
        self.halvings = later if temporal_pyramid else 0
        if self.grid[0] % 2**self.halvings:
            raise ValueError(
                f"{len(stages)} stages halve the time steps {later} times, but {frames} frames give {self.grid[0]} of "
                f"them: frames must be a multiple of {2**self.halvings * self.patch[0]}"
            )
        if downsample not in ("conv", "avg", "max"):
            raise ValueError(f"downsample={downsample!r} is not one of 'conv', 'avg', 'max'")
        tokens = (tokens,) * later if isinstance(tokens, int) else tuple(tokens)
        if bottleneck and len(tokens) != later:
            raise ValueError(f"tokens={tokens} must be one number, or one for each of the {later} later stages")
        self.downsample, self.multiscale = downsample, multiscale
        self.starts = [sum(counts[:i]) for i in range(len(counts))]  # first block of every stage
        self.slots = self.grid[0] if multiscale else self.grid[0] // 2**self.halvings
        self.blocks = nn.ModuleList(
            (CrossSelfBlock if bottleneck and i >= stages[0] else Block)(dim, heads, mlp_ratio, rate)
            for i, rate in enumerate(rates(drop_path, self.depth))
        )
        # published initialisation leaves these convolutions at PyTorch's default
        convs = self.halvings if downsample == "conv" else 0
        self.temporal_downsamples = nn.ModuleList(nn.Conv1d(dim, dim, 2, stride=2) for _ in range(convs))
        self.spatial_downsamples = nn.ModuleList(SpatialBottleneck(dim, k) for k in tokens if bottleneck)
        self.final_norm(norm)

    def forward(self, x: Tensor, visible: Tensor | None = None, levels: Sequence[int] = ()) -> Encoded:
        """(B, 3, T, H, W), visible (B, V) or None -> see the class."""
        x = self.embed(x, visible).unflatten(1, (self.grid[0], -1))  # (B, T, S, D)
        places = x.shape[2]
        scales: list[Tensor] = []
        kept: dict[int, Tensor] = {}
        ends = [*self.starts[1:], self.depth]
        for stage, (start, end) in enumerate(zip(self.starts, ends, strict=True)):
            blocks = self.blocks[start:end]
            if stage and self.halvings:
                x = self._halve(x, stage - 1)  # (B, T/2, S, D)
            for i, tokens in enumerate(self._stage(x, stage, blocks), start):
                if i in levels:
                    kept[i] = self.norm(tokens)
            x = tokens.unflatten(1, (-1, places))  # (B, T, S, D)
            scales.append(x)
        if self.multiscale:
            # Eq. 9 and 10: every time step of a coarser stage stands for the two it came from
            steps = self.grid[0]
            x = torch.stack([s.repeat_interleave(steps // s.shape[1], dim=1) for s in scales]).sum(dim=0)
        return Encoded(self.norm(x.flatten(1, 2)), tuple(kept[i] for i in levels))

    def _stage(self, x: Tensor, stage: int, blocks: nn.ModuleList) -> Iterator[Tensor]:
        """Tokens after every block of a stage: (B, T, S, D) -> (B, T*S, D), inside a bottleneck (B, T*K, D)."""
        every = x.flatten(1, 2)  # (B, T*S, D)
        if stage == 0 or not self.spatial_downsamples:
            for block in blocks:
                every = block(every)
                yield every
            return
        few = self.spatial_downsamples[stage - 1](x)  # (B, T*K, D)
        for block in blocks[:-1]:
            few = block(few, every)
            yield few
        yield blocks[-1](every, few)  # reversed: all tokens read the bottleneck (Eq. 8)

    @property
    def level_slots(self) -> tuple[int, ...]:
        """Each later stage halves the time steps of the one before."""
        stages = [sum(i >= start for start in self.starts) - 1 for i in range(self.depth)]
        return tuple(self.grid[0] // 2 ** min(stage, self.halvings) for stage in stages)

    def _halve(self, x: Tensor, step: int) -> Tensor:
        """Two time steps to one; (B, T, S, D) -> (B, T/2, S, D)."""
        pairs = x.unflatten(1, (-1, 2))  # (B, T/2, 2, S, D)
        if self.downsample == "avg":
            return pairs.mean(dim=2)
        if self.downsample == "max":
            return pairs.amax(dim=2)
        conv: Any = self.temporal_downsamples[step]
        if is_plain(conv, nn.Conv1d):  # a linear map of each pair
            weight = conv.weight.transpose(1, 2).flatten(1)  # (D, 2D)
            return linear(pairs.transpose(2, 3).flatten(3), weight, conv.bias)
        series = x.permute(0, 2, 3, 1)  # (B, S, D, T)
        return conv(series.flatten(0, 1)).unflatten(0, series.shape[:2]).permute(0, 3, 1, 2)

    def check_mask(self, mask: Tensor) -> None:
        """Raise ValueError unless `mask` (B, N) hides the same places of every frame."""
        frames = mask.unflatten(1, (self.grid[0], -1))  # (B, T, S)
        if bool((frames != frames[:, :1]).any()):
            raise ValueError("TPSBT needs a tube mask, which hides the same places at every time step")

    def layer_of(self, name: str, published: bool = False) -> int | None:
        """As for every encoder; a down-sampling module belongs to the stage it opens (as published: to the end)."""
        if name.startswith(("temporal_downsamples.", "spatial_downsamples.")) and not published:
            return self.starts[int(name.split(".")[1]) + 1] + 1
        return super().layer_of(name, published)


def _stages(depth: int, stages: Sequence[int] | None) -> list[int]:
    if stages is None:
        last, middle = max(round(depth / 7), 1), max(round(2 * depth / 7), 1)
        stages = [depth - middle - last, middle, last]
    if min(stages) < 1:
        raise ValueError(f"every stage needs a block: stages={tuple(stages)} (depth at least 3)")
    return list(stages)
