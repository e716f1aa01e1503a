"""Which constructor arguments a state dict determines, and where they contradict a model's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["contradictions", "determined"]

_ABSENT = object()

_MUST_AGREE = ("heads", "decoder_heads", "audio_heads")
"""Arguments no tensor shows but that no weights survive a change of."""


def determined(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments that follow from the names and shapes of a state dict in our layout.

    >>> determined({"encoder.patch_embed.proj.weight": torch.zeros(8, 3, 2, 4, 4)})
    {'dim': 8, 'patch': [2, 4, 4]}
    """
    found: dict[str, Any] = {}
    for tower, prefix in (("encoder", ""), ("encoder_audio", "audio_")):
        weight = state.get(f"{tower}.patch_embed.proj.weight")
        if weight is not None:
            found[f"{prefix}dim"] = weight.shape[0]
            found[f"{prefix}patch"] = list(weight.shape[2:])
            depth = _count(state, rf"{tower}\.blocks\.(\d+)\.")
            if depth and not any(".cross_attn." in name for name in state if name.startswith(f"{tower}.")):
                found[f"{prefix}depth"] = depth
    if "encoder.lg_region_tokens" in state:
        found |= _lgi(state)
    if any(name.startswith("encoder.blocks.") and ".cross_attn." in name for name in state):
        found |= _tpsbt(state)
    if "decoder.norm.weight" in state:
        found["decoder_dim"] = state["decoder.norm.weight"].shape[0]
        found["decoder_depth"] = _count(state, r"decoder\.blocks\.(\d+)\.")
    if any(name.startswith("encoder_fusion.") for name in state):
        found["fusion_depth"] = _count(state, r"encoder_fusion\.blocks\.(\d+)\.")
    return found


def _lgi(state: Mapping[str, Tensor]) -> dict[str, Any]:
    block = "encoder.blocks.0."
    second = f"{block}second_attn.q_bias" in state
    third = "cross" if f"{block}third_attn_norm1.weight" in state else "self"
    found: dict[str, Any] = {
        "first": "cross" if f"{block}first_attn_norm1.weight" in state else "self",
        "second": second,
        "third": third if f"{block}third_attn.q_bias" in state else None,
    }

    def same(a: str, b: str) -> bool:
        a, b = f"{block}{a}_attn.q.weight", f"{block}{b}_attn.q.weight"
        return a in state and b in state and torch.equal(state[a], state[b])

    if same("first", "third") or same("first", "second"):
        found["share"] = "all" if same("first", "second") else "first_third"
    elif second or found["third"] is not None:
        found["share"] = "none"
    return found


def _tpsbt(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"bottleneck": "encoder.spatial_downsamples.0.mlp.fc2.weight" in state}


def contradictions(
    model: Mapping[str, Any], state: Mapping[str, Tensor], stored: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Arguments of `model` that the tensors (or, for head counts, the stored arguments) contradict, and the rest.

    Returns:
        (contradicted, merely different), each argument -> (the file's value, the model's).
    """
    found = determined(state)
    found |= {key: stored[key] for key in _MUST_AGREE if stored.get(key) is not None}
    both = {key: (value, _own(model, key)) for key, value in found.items()}
    wrong = {key: pair for key, pair in both.items() if pair[1] is not _ABSENT and _plain(pair[0]) != _plain(pair[1])}
    others = {key: (value, model[key]) for key, value in stored.items() if key in model and key not in found}
    return wrong, {key: pair for key, pair in others.items() if _plain(pair[0]) != _plain(pair[1])}


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def _own(model: Mapping[str, Any], key: str) -> Any:
    """The model's argument; that of an audio tower is the video tower's where it has none of its own."""
    if key.startswith("audio_") and key not in model and len(model.get("patch", ())) == 3:
        return _ABSENT  # a model that only sees: what the file says of sound is not about it
    if key.startswith("audio_") and model.get(key) is None:
        key = key.removeprefix("audio_")
    return model.get(key, _ABSENT)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
