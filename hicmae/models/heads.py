"""The fine-tuning form of a single encoder: pool, norm, linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hicmae.models.base import Model
from hicmae.models.blocks import LayerNorm, init_weights
from hicmae.models.encoder import Encoder
from hicmae.models.readout import AttentivePool, Readout, Standardise, check_readout, pool

__all__ = ["Classifier", "Layers", "check_layers", "weighted"]

Layers = Literal["last", "weighted"]


def check_layers(layers: str) -> bool:
    """Whether the features are those of all layers."""
    if layers not in ("last", "weighted"):
        raise ValueError(f"layers={layers!r} is not one of 'last', 'weighted'")
    return layers == "weighted"


def weighted(means: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Mean of L features (.., D) by the softmax of `weights` (L,) (SUPERB, Yang et al. 2021; HiCMAE)."""
    return (torch.stack(list(means), dim=-1) * weights.softmax(dim=0).to(means[0].dtype)).sum(dim=-1)


class Classifier(Model):
    """An encoder with a linear head over its pooled tokens (MAE-DFER, SVFAP, VideoMAE).

    Args:
        encoder: a plain, LGI or TPSBT encoder without a final norm.
        num_classes: outputs; 0 gives the pooled, normed features.
        layers: `"last"` as published, or `"weighted"`: the mean of all blocks' pooled outputs by learnt weights.
        readout: how features come from the tokens: `"mean"` as published; `"standard"`, their mean, standardised after
            the norm, for a linear probe; `"attentive"`, by a learnt query.
        keep_temporal: one output per input frame instead of one per clip.
        init_scale: the fresh head's weights are multiplied by it.

    Shapes:
        x: (B, 3, T, H, W) -> (B, classes) or (B, T, classes); (.., D) when `num_classes` is 0
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int = 7,
        layers: Layers = "last",
        readout: Readout = "mean",
        keep_temporal: bool = False,
        init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_classes = num_classes
        self.frames = encoder.patch_embed.shape[0] if keep_temporal else None
        if check_layers(layers):
            self.layer_weights = nn.Parameter(torch.full((encoder.depth,), 1.0 / encoder.depth))
        self.layers = layers
        attentive = check_readout(readout)
        if attentive and layers != "last":
            raise ValueError("readout='attentive' reads the tokens of the last layer: layers='last'")
        self.readout = AttentivePool(encoder.dim, encoder.heads) if attentive else None
        self.fc_norm = LayerNorm(encoder.dim)
        self.standard = Standardise(encoder.dim) if readout == "standard" else nn.Identity()
        self.head: nn.Module = nn.Linear(encoder.dim, num_classes) if num_classes else nn.Identity()
        self.num_layers = encoder.depth
        self.describe("video" if len(encoder.grid) == 3 else "audio", encoder)
        encoder.init_weights("finetune")
        init_weights(self.fc_norm, "finetune")
        init_weights(self.head, "finetune")
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.mul_(init_scale)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D), or (B, T, D) with `keep_temporal`."""
        if self.layers == "last":
            tokens = self.encoder(x).tokens  # (B, N, D)
            return self.standard(self.fc_norm(pool(tokens, self.encoder.slots, self.frames, self.readout)))
        levels = self.encoder(x, None, range(self.encoder.depth)).levels  # (B, N, D) each, N may differ
        means = [pool(level, n, self.frames) for level, n in zip(levels, self.encoder.level_slots, strict=True)]
        return self.standard(self.fc_norm(weighted(means, self.layer_weights)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, classes) or (B, T, classes)."""
        return self.head(self.forward_features(x))

    def no_weight_decay(self, published: bool = False) -> set[str]:
        """Full names, as the encoder says."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def layer_of(self, name: str, published: bool = False) -> int:
        """0 embedding, k + 1 block k, `num_layers` + 1 layer weights, norm and head."""
        layer = self.encoder.layer_of(name.removeprefix("encoder."), published) if name.startswith("encoder.") else None
        return self.num_layers + 1 if layer is None else layer
