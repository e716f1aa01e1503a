"""Modules that only training needs, beside the model that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hicmae.models.base import Model

__all__ = ["Accompanied"]


class Accompanied(nn.Module):
    """A model with further heads on its features, for losses of training alone (an adversary, a predictor).

    The loop trains all of it, and keeps and averages the weights of `core` as those of any run of that model; the
    heads lie in the checkpoint's state, so that a run continues bit for bit. A task calls it as it calls the model, and
    gets a pair; it may do so several times before the backward pass, as long as every head is in the loss at least
    once (otherwise DDP waits for its gradient for ever).

    Args:
        core: what is kept.
        heads: modules of the features (B, D) or (B, T, D) before the model's own head.

    Shapes:
        as `core` -> (what `core` returns, outputs of the heads by name)
    """

    def __init__(self, core: Model, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.core = core
        self.heads = nn.ModuleDict(heads)

    def forward(self, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass through the model, and its features through each head."""
        core: Any = self.core
        features = core.forward_features(*inputs)
        return core.head(features), {name: head(features) for name, head in self.heads.items()}
