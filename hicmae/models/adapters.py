"""Low-rank adapters in the encoders of a model (LoRA, Hu et al. 2022), and plain weights of files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.models.base import Model
from hicmae.models.blocks import Attention
from hicmae.models.products import LINEAR

__all__ = ["add_adapters", "plain_weights"]


def add_adapters(model: Model, parts: Sequence[str], *, rank: int, alpha: float, everywhere: bool = False) -> list[str]:
    """Put adapters into the linear layers of the `parts` of a model: of its attentions, or of everything.

    `W x` becomes `W x + alpha / rank * B A x`; B starts at 0. Layers that learn nothing get none, whatever they are
    (the last block of an LGI-Former has attentions that nobody reads). Returns the names of the layers.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError('adapt.kind lora needs the package peft: pip install "hicmae[lora]"') from None
    inside = tuple(f"{part}." for part in parts)
    parents = dict(model.named_modules())
    names = [
        name
        for name, layer in parents.items()
        if type(layer) in LINEAR and name.startswith(inside) and layer.weight.requires_grad
        if everywhere or isinstance(parents[name.rpartition(".")[0]], Attention)
    ]
    learning = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith(inside)}
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name in learning)
    return names


def plain_weights(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of a file in which adapters, where it has any, are added to the layers they belong to.

    `meta` is the file's header, whose `lora` holds `alpha`.
    """
    plain = {}
    for name, value in state.items():
        layer, adapted, kind = name.partition(".base_layer.")
        if adapted and kind == "weight":
            a, b = (state[f"{layer}.lora_{x}.default.weight"] for x in "AB")  # (rank, in), (out, rank)
            value = value + meta["lora"]["alpha"] / len(a) * (b @ a)
        if ".lora_" not in name:
            plain[f"{layer}.{kind}" if adapted else name] = value
    return plain
