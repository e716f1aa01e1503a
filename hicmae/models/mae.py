"""The masked autoencoder: encode what is visible, predict what is hidden (VideoMAE, MAE-DFER, SVFAP, HiCMAE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hicmae.models.base import Model
from hicmae.models.blocks import init_tokens, init_weights
from hicmae.models.decoder import Decoder
from hicmae.models.encoder import Encoder
from hicmae.models.products import Linear
from hicmae.models.tokens import Parts, split

__all__ = ["SUFFIX", "MaskedAutoencoder", "Reconstruction"]

SUFFIX = {"video": "", "audio": "_audio"}
"""How a modality's modules are told apart by name in the published checkpoints."""


@dataclass
class Reconstruction:
    """What a masked autoencoder predicts, hidden tokens in ascending order; None for a modality it has not."""

    video: Tensor | None = None
    """(B, M, P) with P = t * h * w * 3 values per patch, channels fastest."""
    audio: Tensor | None = None
    """(B, M, P) with P = f * k values per patch."""
    levels: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Pooled (video, audio) features (B, D) of each contrastive level, not normalised."""
    temperature: Tensor | None = None
    """() learnt contrastive temperature; None where the objective fixes it."""


class MaskedAutoencoder(Model):
    """One masked autoencoder per modality: encoder, linear map, decoder, mask token.

    Args:
        encoders: by modality, `"video"` or `"audio"` (HiCMAE's pretraining form has both); each ends in a norm.
        decoder_dim: width of the decoders.
        decoder_depth: their blocks.
        decoder_heads: their heads; by default of width 64.
        decoder_mlp_ratio: hidden width of their MLPs over theirs.
        skips: decoders take `decoder_depth - 1` skip features.
        decoder_order: `"raster"` gives every visible token its own position in the decoder; `"published"` keeps
            MAE-DFER's order by region, with which its released decoder was trained. None is `"raster"`, until a
            published checkpoint is loaded.

    Shapes:
        x: (B, C, *shape), mask: (B, N), True = hidden -> `Reconstruction` of (B, M, P)
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int | None = None,
        decoder_mlp_ratio: float = 4.0,
        skips: bool = False,
        decoder_order: Literal["raster", "published"] | None = None,
    ) -> None:
        super().__init__()
        self.modalities = tuple(encoders)
        for modality in self.modalities:
            setattr(self, f"mask_token{SUFFIX[modality]}", nn.Parameter(torch.zeros(1, 1, decoder_dim)))
        for modality, encoder in encoders.items():
            end = SUFFIX[modality]
            values = prod(encoder.patch) * encoder.patch_embed.channels
            decoder = Decoder(
                *(decoder_dim, decoder_depth, decoder_heads or max(decoder_dim // 64, 1)),
                out=values,
                tokens=len(encoder.pos),
                mlp_ratio=decoder_mlp_ratio,
                skips=skips,
            )
            setattr(self, f"encoder{end}", encoder)
            setattr(self, f"decoder{end}", decoder)
            # keeps PyTorch's default initialisation, as published
            setattr(self, f"encoder_to_decoder{end}", Linear(encoder.dim, decoder_dim, bias=False))
            self.describe(modality, encoder)
            encoder.init_weights("pretrain")
            init_weights(decoder, "pretrain")
            init_tokens(getattr(self, f"mask_token{end}"), "pretrain")
        self.set_decoder_order(decoder_order or "raster")

    def set_decoder_order(self, order: Literal["raster", "published"]) -> None:
        """Choose in which order LGI encoders hand tokens to the decoder (other encoders have one order only)."""
        if order not in ("raster", "published"):
            raise ValueError(f"decoder_order={order!r} is not one of 'raster', 'published'")
        self.decoder_order = order
        for modality in self.modalities:
            encoder = getattr(self, f"encoder{SUFFIX[modality]}")
            if hasattr(encoder, "order"):
                encoder.order = "region" if order == "published" else "raster"

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        decode: Tensor | None = None,
        hidden: int | None = None,
        asked: int | None = None,
    ) -> Reconstruction:
        """Predict hidden patches of one modality.

        Args:
            x: (B, C, *shape) normalised input.
            mask: (B, N), True = hidden from the encoder; every row hides equally many.
            decode: (B, N), True = hidden and to be predicted (decoder masking); all hidden ones when None.
            hidden: how many tokens each row of `mask` hides, where the caller knows: nothing is read back from
                the device then, and the mask is not checked.
            asked: how many tokens each row of `decode` asks for, likewise.

        Raises:
            ValueError: a mask that the encoder cannot use.
        """
        (modality,) = self.modalities
        parts = self.parts(modality, mask, decode, hidden, asked)
        tokens = self.part("encoder", modality)(x, parts.visible).tokens  # (B, V, D)
        predicted = self.reconstruct(modality, tokens, parts)  # (B, M, P)
        return Reconstruction(video=predicted) if modality == "video" else Reconstruction(audio=predicted)

    def part(self, name: str, modality: str) -> Any:
        """The module called `name` of a modality."""
        return getattr(self, name + SUFFIX[modality])

    def parts(
        self,
        modality: str,
        mask: Tensor,
        decode: Tensor | None = None,
        hidden: int | None = None,
        asked: int | None = None,
    ) -> Parts:
        """Visible and to-be-predicted token indices, (B, V) and (B, M)."""
        encoder = self.part("encoder", modality)
        if mask.dim() != 2 or mask.shape[1] != len(encoder.pos):
            raise ValueError(
                f"the {modality} mask must have shape (batch, {len(encoder.pos)}), not {tuple(mask.shape)}"
            )
        parts = split(mask, hidden)
        if hidden is None:
            encoder.check_mask(mask)
        return parts if decode is None else Parts(parts.visible, split(decode & mask, asked).hidden)

    def reconstruct(self, modality: str, tokens: Tensor, parts: Parts, levels: Sequence[Tensor] = ()) -> Tensor:
        """Visible tokens (B, V, D), and skip levels of the same shape, to predicted patches (B, M, P)."""
        project = self.part("encoder_to_decoder", modality)
        mask_token = getattr(self, f"mask_token{SUFFIX[modality]}")
        return self.part("decoder", modality)(
            project(tokens), mask_token, parts, [project(level) for level in levels]
        )  # (B, M, P)

    def no_weight_decay(self, published: bool = False) -> set[str]:
        """The video's mask token, and what the encoders name (as published: not the messengers)."""
        names = {"mask_token"} if "video" in self.modalities else set()
        if not published:
            for modality in self.modalities:
                encoder = self.part("encoder", modality)
                names |= {f"encoder{SUFFIX[modality]}.{name}" for name in encoder.no_weight_decay()}
        return names

    def layer_of(self, name: str, published: bool = False) -> int:
        """Pretraining has one learning rate: every parameter is in the last layer."""
        return self.num_layers + 1
