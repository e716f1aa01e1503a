"""Features of HiCMAE's towers for fine-tuning: learnt layer weights over all depths, and the one-tower form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.models.base import Model
from hicmae.models.blocks import LayerNorm
from hicmae.models.encoder import Encoded
from hicmae.models.fusion import Fusion
from hicmae.models.heads import Layers, check_layers, weighted
from hicmae.models.mae import SUFFIX
from hicmae.models.readout import AttentivePool, Readout, Standardise, check_readout, pool

__all__ = ["OneTower", "TowerFeatures"]


class TowerFeatures(Model):
    """What HiCMAE's fine-tuning forms share: towers, learnt layer weights, and a head over their features.

    Args:
        towers: `"video"`, `"audio"` or both; encoders that end in a norm, or `Tower`.
        fusion: what lies between the towers and the head, if anything.
        num_classes: outputs; 0 gives the concatenated, normed features.
        layers: `"weighted"` as published, hierarchical feature fusion: the head sees 2C features per tower of width C,
            the layer-weighted and the last (fused) ones; `"last"`: the last ones alone, C per tower.
        readout: as for `Classifier`; `"attentive"` has one query per tower, which reads its last (fused) tokens.
        keep_temporal: one output per video frame (per filter-bank frame without video).
        init_scale: scales the fresh head; None keeps PyTorch's initialisation, as published.
    """

    def __init__(
        self,
        towers: Mapping[str, Any],
        fusion: Fusion | None = None,
        *,
        num_classes: int = 6,
        layers: Layers = "weighted",
        readout: Readout = "mean",
        keep_temporal: bool = False,
        init_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(towers)
        self.num_classes = num_classes
        self.layers = layers
        for modality, tower in towers.items() if check_layers(layers) else ():
            setattr(self, f"{modality}_layer_weights", nn.Parameter(torch.full((tower.depth,), 1.0 / tower.depth)))
        for modality, tower in towers.items():
            setattr(self, f"encoder{SUFFIX[modality]}", tower)
            self.describe(modality, tower)
            tower.init_weights("finetune")
        lengths = [tower.patch_embed.shape[0] for tower in towers.values() if hasattr(tower, "patch_embed")]
        self.frames = lengths[0] if keep_temporal else None
        self.top = max(tower.depth for tower in towers.values())
        self.num_layers = self.top + (0 if fusion is None else len(fusion.blocks))
        if fusion is not None:
            self.encoder_fusion = fusion
            fusion.init_weights()
        widths = sum(tower.dim for tower in towers.values())
        if check_readout(readout):
            self.readout = nn.ModuleDict({m: AttentivePool(tower.dim, tower.heads) for m, tower in towers.items()})
        self.attentive = readout == "attentive"
        width = 2 * widths if layers == "weighted" else widths
        self._add_head(width, init_scale)
        self.standard = Standardise(width) if readout == "standard" else nn.Identity()

    def _add_head(self, width: int, init_scale: float | None) -> None:
        self.fc_norm = LayerNorm(width)
        self.head: nn.Module = nn.Linear(width, self.num_classes) if self.num_classes else nn.Identity()
        if init_scale is not None:
            with torch.no_grad():
                for parameter in self.head.parameters():
                    parameter.mul_(init_scale)

    def tower(self, modality: str) -> Any:
        """The encoder of a modality."""
        return getattr(self, f"encoder{SUFFIX[modality]}")

    def encode(self, modality: str, x: Tensor) -> Encoded:
        """Tokens of a tower and, where features are layer-weighted, every level, (B, N, D) each."""
        tower = self.tower(modality)
        return tower(x, None, range(tower.depth if self.layers == "weighted" else 0))

    def pooled(self, modality: str, tokens: Tensor, reduce: nn.Module | None = None) -> Tensor:
        """Token mean, (B, N, D) -> (B, D), or (B, T, D) with `keep_temporal`."""
        slots = self.tower(modality).slots
        return pool(tokens, tokens.shape[1] if slots is None else min(slots, tokens.shape[1]), self.frames, reduce)

    def read(self, modality: str, tokens: Tensor) -> Tensor:
        """What the head sees of a tower's last tokens, (B, N, D) -> (B, D), or (B, T, D) with `keep_temporal`."""
        return self.pooled(modality, tokens, self.readout[modality] if self.attentive else None)

    def weighted(self, modality: str, levels: Sequence[Tensor]) -> Tensor:
        """Token means of all levels, weighted by the learnt layer weights; each (B, N, D) -> (B, D) or (B, T, D)."""
        means = [self.pooled(modality, level) for level in levels]
        return weighted(means, getattr(self, f"{modality}_layer_weights"))

    def no_weight_decay(self, published: bool = False) -> set[str]:
        """Full names, as the towers say."""
        return {f"encoder{SUFFIX[m]}.{name}" for m in self.modalities for name in self.tower(m).no_weight_decay()}

    def layer_of(self, name: str, published: bool = False) -> int:
        """0 embeddings, k + 1 block k of either tower, then the fusion layers, then norms, layer weights and head."""
        first, _, rest = name.partition(".")
        layer: int | None = None
        if first == "encoder_fusion" and rest.startswith("blocks"):
            layer = self.top + int(rest.split(".")[1]) + 1
        elif first in ("encoder", "encoder_audio"):
            layer = getattr(self, first).layer_of(rest, published)
        return self.num_layers + 1 if layer is None else layer


class OneTower(TowerFeatures):
    """HiCMAE with one modality only: no fusion, a head over layer-weighted mean and last-level mean (by `layers`).

    Shapes:
        x: (B, 3, T, H, W) or (B, 1, F, K) -> (B, classes) or (B, T, classes)
    """

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, 2D) or (B, T, 2D), normed; D where `layers` is last."""
        (modality,) = self.modalities
        encoded = self.encode(modality, x)  # tokens and levels (B, N, D)
        parts = [self.weighted(modality, encoded.levels)] if self.layers == "weighted" else []
        return self.standard(self.fc_norm(torch.cat([*parts, self.read(modality, encoded.tokens)], dim=-1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, classes) or (B, T, classes)."""
        return self.head(self.forward_features(x))
