"""Any module as a tower of HiCMAE: a speech model, say, in place of the audio encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from hicmae.models.blocks import LayerNorm, Stage
from hicmae.models.encoder import Encoded

__all__ = ["Tower"]


class Tower(nn.Module):
    """Wraps a module that turns inputs into tokens, so that HiCMAE's fine-tuning form can use it.

    Args:
        module: anything that `read` understands, with whatever weights it has: they are kept.
        dim: width D of its tokens.
        depth: how many levels `read` returns.
        read: `(module, x)` to the levels, a sequence of (B, N, D), the last being the final tokens. By default the
            module is called, and returns that sequence or, at depth 1, the tokens themselves.

    All levels pass through one LayerNorm, as those of the native towers do.

    >>> import torch
    >>> Tower(nn.Linear(4, 8), dim=8)(torch.zeros(2, 5, 4)).tokens.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        module: nn.Module,
        dim: int,
        depth: int = 1,
        read: Callable[[nn.Module, Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.depth, self.read = dim, depth, read
        self.module = module
        self.norm = LayerNorm(dim)
        self.heads = max(dim // 64, 1)
        self.slots: int | None = None  # every token is a time step

    def forward(self, x: Tensor, visible: Tensor | None = None, levels: Sequence[int] = ()) -> Encoded:
        """(B, ...) -> tokens and levels (B, N, D)."""
        if visible is not None:
            raise ValueError("a foreign tower cannot be masked: it has a fine-tuning form only")
        found: Any = self.module(x) if self.read is None else self.read(self.module, x)
        found = [found] if isinstance(found, Tensor) else list(found)
        if len(found) != self.depth or found[-1].shape[-1] != self.dim:
            raise ValueError(
                f"the tower returned {len(found)} levels {found[-1].shape[-1]} wide; it was declared with "
                f"depth={self.depth}, dim={self.dim}"
            )
        return Encoded(self.norm(found[-1]), tuple(self.norm(found[i]) for i in levels))

    def init_weights(self, stage: Stage) -> None:
        """Nothing: the module brings its own weights."""

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond the usual."""
        return set()

    def layer_of(self, name: str, published: bool = False) -> int | None:
        """By the first `layers.k.` or `blocks.k.` in the name; parts outside such a list come before it."""
        if name.startswith("norm."):
            return None
        found = re.search(r"\b(?:layers?|blocks?)\.(\d+)\.", name)
        return min(int(found[1]) + 1, self.depth) if found else 0
