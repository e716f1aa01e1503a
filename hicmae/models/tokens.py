"""From pictures and spectrograms to tokens: patches, positions, and which of them are visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hicmae.models.blocks import is_plain
from hicmae.models.products import linear

__all__ = ["Parts", "PatchEmbed", "gather", "grid_of", "sinusoid", "split"]


def grid_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """How many patches fit along each axis; an axis that does not divide evenly is an error naming valid sizes."""
    for size, step in zip(shape, patch, strict=True):
        if size < step or size % step:
            near = sorted({max(size // step, 1) * step, (size // step + 1) * step})
            raise ValueError(f"{size} is not a multiple of the patch size {step}; nearest are {near}")
    return tuple(size // step for size, step in zip(shape, patch, strict=True))


def sinusoid(n: int, dim: int) -> Tensor:
    """Fixed positions over the flattened token index: sine on even, cosine on odd channels; () -> (n, dim).

    Computed in float64 by numpy (torch differs in the last place), rounded to float32.
    """
    angle = np.arange(n)[:, None] / np.power(10000.0, 2 * (np.arange(dim) // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.as_tensor(angle.astype(np.float32))


class PatchEmbed(nn.Module):
    """A strided convolution over patches, computed as what it is: a linear map of each patch.

    Only the patches asked for are read and multiplied, so a masked input costs its visible part.

    Args:
        shape: input sizes, video (T, H, W) or filter bank (F, K).
        patch: patch sizes along the same axes.
        channels: input channels.
        dim: width D of a token.

    Shapes:
        x: (B, channels, *shape), index: (B, V) or None -> (B, V, D), or (B, N, D) in raster order
    """

    def __init__(self, shape: Sequence[int], patch: Sequence[int], channels: int, dim: int) -> None:
        super().__init__()
        self.shape, self.patch, self.channels = tuple(shape), tuple(patch), channels
        self.grid = grid_of(shape, patch)
        conv: type[Any] = nn.Conv3d if len(self.shape) == 3 else nn.Conv2d
        self.proj = conv(channels, dim, kernel_size=self.patch, stride=self.patch)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, channels, *shape), index (B, V) -> (B, V, D)."""
        patches = self._patches(x)  # (B, *grid, C, *patch), a view
        if index is None:
            patches = patches.flatten(1, len(self.grid))  # (B, N, C, *patch)
        else:
            batch = torch.arange(x.shape[0], device=x.device)[:, None]  # (B, 1)
            patches = patches[tuple([batch, *self._unravel(index)])]  # (B, V, C, *patch)
        if is_plain(self.proj, nn.Conv2d, nn.Conv3d):
            return linear(patches.flatten(2), self.proj.weight.flatten(1), self.proj.bias)  # (B, V, D)
        return self.proj(patches.flatten(0, 1)).flatten(1).unflatten(0, patches.shape[:2])

    def _patches(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (self.channels, *self.shape):
            raise ValueError(
                f"this model takes inputs of shape (batch, {', '.join(map(str, (self.channels, *self.shape)))}), "
                f"not {tuple(x.shape)}; create it with other frames=, size= or patch= to change that"
            )
        for axis, (n, step) in enumerate(zip(self.grid, self.patch, strict=True)):
            x = x.unflatten(2 + 2 * axis, (n, step))  # (B, C, n0, p0, n1, p1, ...)
        rank = len(self.grid)
        return x.permute(0, *range(2, 2 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2))

    def _unravel(self, index: Tensor) -> list[Tensor]:
        """Token index -> one index per axis of the grid."""
        axes: list[Tensor] = []
        for n in reversed(self.grid):
            axes.insert(0, index % n)
            index = index // n
        return axes


class Parts(NamedTuple):
    """Which tokens are seen and which are to be predicted, as integer indices in ascending order."""

    visible: Tensor
    """(B, V)"""
    hidden: Tensor
    """(B, M)"""


def split(mask: Tensor, hidden: int | None = None) -> Parts:
    """Indices of the visible (False) and hidden (True) tokens of `mask` (B, N); every row must hide equally many.

    Reading the count off the mask synchronises with the device; a caller that knows it passes `hidden`, and is
    believed.

    Raises:
        ValueError: rows that hide different numbers of tokens, or all or none of them.
    """
    if hidden is None:
        counts = mask.sum(dim=1).tolist()
        hidden = int(counts[0])
        if min(counts) != max(counts):
            raise ValueError(f"every sample of a batch must hide equally many tokens, not {min(counts)}-{max(counts)}")
    if not 0 < hidden < mask.shape[1]:
        raise ValueError(f"a mask must hide some but not all of the {mask.shape[1]} tokens, not {hidden}")
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)  # visible first, both in ascending order
    visible = mask.shape[1] - hidden
    return Parts(order[:, :visible], order[:, visible:])


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of `x` (B, N, D) at `index` (B, M) -> (B, M, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
