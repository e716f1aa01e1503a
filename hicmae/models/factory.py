"""Models by name: `list_models`, `create_model`, and the same names in timm's registry."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from timm.models import register_model
from torch import nn

from hicmae.models.base import Model
from hicmae.models.encoder import Encoder
from hicmae.models.heads import Classifier
from hicmae.models.lgi import LGI
from hicmae.models.mae import MaskedAutoencoder
from hicmae.models.vit import ViT
from hicmae.runtime import checkpoint
from hicmae.runtime.checkpoint import read_weights

__all__ = ["STAGES", "arguments_for", "create_model", "list_models", "model_arguments", "read_weights", "save_weights"]

Stage = Literal["finetune", "pretrain"]
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


_MAE_DFER = ("https://github.com/sunlicai/MAE-DFER", "2307.02227")
_VIDEOMAE = ("https://github.com/MCG-NJU/VideoMAE", "2203.12602")

_VARIANTS: dict[str, Variant] = {
    "videomae_base": Variant(system="vit", source=_VIDEOMAE[0], paper=_VIDEOMAE[1]),
    "mae_dfer_base": Variant(system="lgi", source=_MAE_DFER[0], paper=_MAE_DFER[1]),
}

_ENCODERS: dict[str, type[Encoder]] = {"vit": ViT, "lgi": LGI}


def _plain(system: str, stage: Stage) -> tuple[Callable[..., Model], dict[str, Any]]:
    """Builder and default arguments of a single-encoder system."""
    encoder = _ENCODERS[system]
    inner = _defaults(encoder)
    if stage == "finetune":
        outer = _defaults(Classifier)
        return lambda **args: Classifier(encoder(**_only(args, inner)), **_only(args, outer)), {**inner, **outer}
    outer = _defaults(MaskedAutoencoder)
    fixed: dict[str, Any] = {"pool": "local"} if "pool" in inner else {}  # a masked encoder returns patches
    inner = {key: value for key, value in inner.items() if key not in fixed}

    def pretraining(**args: Any) -> Model:
        built = encoder(**_only(args, inner), **fixed, norm=True)
        return MaskedAutoencoder({"video": built}, **_only(args, outer))

    return pretraining, {**inner, **outer}


def _system(system: str, stage: Stage) -> tuple[Callable[..., Model], dict[str, Any]]:
    return _plain(system, stage)


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
    defaults = _system(variant.system, stage)[1]
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
    model = _system(_VARIANTS[name].system, stage)[0](**resolved)
    model.name, model.stage = name, stage
    model.args = {key: _jsonable(value) for key, value in resolved.items()}
    return model


def save_weights(path: str | Path, model: Model, meta: Mapping[str, Any] | None = None) -> None:
    """Write a model as safetensors; name, stage and arguments go into the header, `meta` (JSON-able) beside them."""
    described = {"name": model.name, "stage": model.stage, "args": model.args}
    checkpoint.save_weights(Path(path), model.state_dict(), {**described, **(meta or {})})


def _defaults(build: Callable[..., Any]) -> dict[str, Any]:
    """Keyword defaults that a user may set; what the assembly decides is left out."""
    decided = {"norm", "order", "skips"}
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in decided}


def _only(args: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: args[key] for key in keys}


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

    def build(pretrained: bool = False, stage: Stage = "finetune", **args: Any) -> Model:
        if pretrained:
            raise ValueError(f"timm knows no weights of {name}: build it, then `hicmae.load_checkpoint(model, path)`")
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            args.pop(key, None)
        return create_model(name, stage, **args)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}, as `hicmae.create_model` builds it."
    globals()[name] = build
    register_model(build)


default_cfgs = {
    name: {
        "num_classes": 7,
        "input_size": (3, 160, 160),
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "encoder.patch_embed.proj",
        "classifier": "head",
        "license": "mit (code; none is stated for the weights)",
        "origin_url": variant.source,
        "paper_ids": f"arXiv:{variant.paper}",
    }
    for name, variant in _VARIANTS.items()
}
for _name in _VARIANTS:
    _register(_name)
