"""Models by name: `list_models`, `create_model`, and the same names in timm's registry."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.models import load_pretrained, register_model
from torch import nn

from hicmae.models.base import Model
from hicmae.models.systems import Stage, system
from hicmae.runtime import checkpoint
from hicmae.runtime.checkpoint import read_weights

__all__ = ["STAGES", "arguments_for", "create_model", "list_models", "model_arguments", "read_weights", "save_weights"]

STAGES: tuple[Stage, ...] = ("finetune", "pretrain")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A registered name: which system, and the arguments in which it differs from that system's defaults."""

    system: str
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pretraining form only (its decoder)."""
    source: str
    """Where the published code lies."""
    paper: str
    """arXiv number."""
    licence: str = "MIT (code); none is stated for the weights"


_SVFAP: dict[str, Any] = {"system": "tpsbt", "source": "https://github.com/sunlicai/SVFAP", "paper": "2401.00416"}
_HICMAE = {"source": "https://github.com/sunlicai/HiCMAE", "paper": "2401.05698"}
_SIZES = {  # width, heads, decoder width (unpublished for the tiny one: half its width, as the small one's)
    "tiny": (256, 4, 128),
    "small": (384, 6, 192),
    "base": (512, 8, 384),
}

_VARIANTS: dict[str, Variant] = {
    "videomae_base": Variant(
        system="vit",
        source="https://github.com/MCG-NJU/VideoMAE",
        paper="2203.12602",
        licence="CC-BY-NC-4.0 (most of the code); none is stated for the weights",
    ),
    "mae_dfer_base": Variant(system="lgi", source="https://github.com/sunlicai/MAE-DFER", paper="2307.02227"),
    "svfap_small": Variant(args={"dim": 384, "heads": 6, "depth": 14}, pretrain={"decoder_dim": 192}, **_SVFAP),
    "svfap_base": Variant(**_SVFAP),
} | {
    f"hicmae_{size}{form}": Variant(
        system=f"hicmae{form}", args={"dim": dim, "heads": heads}, pretrain={"decoder_dim": decoder}, **_HICMAE
    )
    for form in ("", "_video", "_audio")
    for size, (dim, heads, decoder) in _SIZES.items()
}


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, in the order of the table."""
    return [name for name in _VARIANTS if fnmatch.fnmatchcase(name, pattern)]


def model_arguments(name: str, stage: Stage = "finetune") -> dict[str, Any]:
    """Every argument that `create_model(name, stage)` takes, with its default.

    Raises:
        ValueError: no such model or stage; the message names what there is.
    """
    if name not in _VARIANTS:
        raise ValueError(f"no model is called {name!r}{_meant(name, _VARIANTS)}; there are {', '.join(_VARIANTS)}")
    if stage not in STAGES:
        raise ValueError(f"stage={stage!r} is not one of {', '.join(map(repr, STAGES))}")
    variant = _VARIANTS[name]
    changed = {**variant.args, **(variant.pretrain if stage == "pretrain" else {})}
    defaults = system(variant.system, stage)[1]
    return {**defaults, **{key: value for key, value in changed.items() if key in defaults}}


def arguments_for(name: str, stage: Stage, args: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model's stored `args` that its form for another `stage` takes too (to fine-tune a pretrained one)."""
    known = model_arguments(name, stage)
    return {key: value for key, value in args.items() if key in known}


def create_model(name: str, stage: Stage = "finetune", **args: Any) -> Model:
    """Build a model with fresh weights.

    Args:
        name: one of `list_models()`.
        stage: `"finetune"` (logits) or `"pretrain"` (masked autoencoder).
        args: what differs from the name's defaults (`model_arguments(name, stage)` lists them all). Any size can
            be built: `create_model("mae_dfer_base", dim=96, depth=4, heads=3, size=64, patch=(2, 8, 8))`.

    Returns:
        the model, with `name`, `stage` and JSON-able `args` from which it can be built again.

    Raises:
        ValueError: an unknown name, stage or argument, or sizes that do not fit; the message names alternatives.
    """
    known = model_arguments(name, stage)
    for key in args:
        if key not in known:
            raise ValueError(
                f"{name} ({stage}) takes no argument {key!r}{_meant(key, known)}; it takes {', '.join(sorted(known))}"
            )
    resolved = {key: _tuple(args.get(key, default)) for key, default in known.items()}
    model = system(_VARIANTS[name].system, stage)[0](**resolved)
    model.name, model.stage = name, stage
    model.args = {key: _jsonable(value) for key, value in resolved.items()}
    return model


def save_weights(path: str | Path, model: Model, meta: Mapping[str, Any] | None = None) -> None:
    """Write a model as safetensors; name, stage and arguments go into the header, `meta` (JSON-able) beside them."""
    described = {"name": model.name, "stage": model.stage, "args": model.args}
    checkpoint.save_weights(Path(path), model.state_dict(), {**described, **(meta or {})})


def _meant(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return type(value).__name__  # a tower brought along: it must be given again to build the model again
    return list(value) if isinstance(value, tuple) else value


def _register(name: str) -> None:
    """Make `timm.create_model(name)` build what `create_model(name)` builds."""

    def build(pretrained: bool = False, stage: Stage = "finetune", pretrained_cfg: Any = None, **args: Any) -> Model:
        given = pretrained_cfg if isinstance(pretrained_cfg, dict) else {}
        if pretrained and not given.get("source"):
            raise ValueError(f"timm knows no weights of {name}: build it, then `hicmae.load_checkpoint(model, path)`")
        for key in ("pretrained_cfg_overlay", "cache_dir", "pretrained_model_args"):
            args.pop(key, None)
        model = create_model(name, stage, **args)
        if pretrained:  # a folder, or a repository of the Hub, that `hicmae zoo publish` filled
            classes = model.args.get("num_classes", 0)
            load_pretrained(model, given, num_classes=classes, in_chans=given["input_size"][0])
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}, as `hicmae.create_model` builds it."
    globals()[name] = build
    register_model(build)


_LABELS = {  # in the order of the published lists, for a head of that many classes
    7: ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"),  # DFEW, and FERV39k as used there
    6: ("anger", "disgust", "fear", "happy", "neutral", "sad"),  # CREMA-D
}
_VIDEO = {
    "input_size": (3, 160, 160),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "encoder.patch_embed.proj",
}
_AUDIO = {  # log-mel values become (x - mean) / (2 * 4.5689974)
    "input_size": (1, 256, 128),
    "mean": (-4.2677393,),
    "std": (9.1379948,),
    "first_conv": "encoder_audio.patch_embed.proj",
}


def _timm_config(name: str, variant: Variant) -> dict[str, Any]:
    """What timm's registry tells of a name; there is no weights URL, since none may be passed on."""
    classes = model_arguments(name)["num_classes"]
    return {
        **(_AUDIO if name.endswith("_audio") else _VIDEO),
        "num_classes": classes,
        "label_names": _LABELS[classes],
        "fixed_input_size": True,
        "classifier": "head",
        "license": variant.licence,
        "origin_url": variant.source,
        "paper_ids": f"arXiv:{variant.paper}",
    }


default_cfgs = {name: _timm_config(name, variant) for name, variant in _VARIANTS.items()}
for _name in _VARIANTS:
    _register(_name)
