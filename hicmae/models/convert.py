"""Weights from files: ours (safetensors) and the published `.pth` layouts, told apart by their keys.

Module names here are the published ones, so converting is one rule: published classifiers of a single encoder are
flat (`blocks.0…`), ours keep them under `encoder.`, as all pretraining forms do.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hicmae.models.adapters import plain_weights
from hicmae.models.base import Model
from hicmae.models.lgi import LGI, region_grid
from hicmae.models.mae import MaskedAutoencoder
from hicmae.models.switches import contradictions
from hicmae.models.tokens import grid_of
from hicmae.runtime.archives import check_tensors, check_zip
from hicmae.runtime.checkpoint import read_weights
from hicmae.runtime.log import UserError

__all__ = ["LoadReport", "from_published", "load_checkpoint", "read_published", "to_published"]

_FLAT = ("patch_embed.", "blocks.", "lg_region_tokens", "temporal_downsamples.", "spatial_downsamples.", "norm.")
_HEAD = ("head.", "fc_norm.", "standard.")
_TOWERS = ("encoder.", "encoder_audio.", "encoder_fusion.", "decoder.", "decoder_audio.")


@dataclass
class LoadReport:
    """What `load_checkpoint` did, tensor by tensor."""

    loaded: list[str]
    """Parameters that now hold the file's values."""
    new: list[str]
    """Parameters the file has nothing for: they keep their fresh values."""
    left_over: list[str]
    """Tensors of the file that the model has no place for."""
    differences: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Arguments that no tensor determines and that differ: (the file's, the model's)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What the file says of itself (name, stage, args, labels, preprocessing, ...)."""

    def __str__(self) -> str:
        counted = (("tensors loaded", self.loaded), ("new", self.new), ("left over", self.left_over))
        counts = (f"{len(names)} {what} ({_parts(names)})" for what, names in counted)
        told = ", ".join(f"{key} {its!r} -> {mine!r}" for key, (its, mine) in self.differences.items())
        return ", ".join(counts) + (f"; the checkpoint had {told}" if told else "")


def read_published(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and training arguments of a published `.pth` file.

    Only tensors, plain containers and `argparse.Namespace` are read; a file that needs more is refused, since a
    pickle can run code, and so is one that would become far larger than it is.

    Raises:
        FileNotFoundError: no such file.
        UserError: a file that is no checkpoint, or that holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    check_zip(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line for line in str(error).splitlines() if "global" in line.lower()), str(error).splitlines()[0]
        )
        raise UserError(
            f"{path}: refused. Only tensors and argparse.Namespace are read from a pickle, and this file needs more "
            f"({reason.strip()}). Save its state dict alone, or as safetensors"
        ) from None
    except Exception as error:  # what a cut or foreign file makes the unpickler raise is not foreseeable
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    state = next((content[key] for key in ("model", "module") if isinstance(content.get(key), Mapping)), content)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    check_tensors(path, (value.numel() * value.element_size() for value in tensors.values()))
    args = content.get("args")
    return tensors, vars(args) if isinstance(args, argparse.Namespace) else {}


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to ours; ours pass unchanged.

    `module.` and `backbone.` prefixes go; a flat layout (a classifier of one encoder) moves under `encoder.`.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        name = name.removeprefix("module.").removeprefix("backbone.")
        renamed[f"encoder.{name}" if name.startswith(_FLAT) else name] = value
    return renamed


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to published ones: classifiers of one encoder become flat, everything else passes unchanged."""
    hicmae = any(name.endswith("_layer_weights") or name.startswith(("encoder.norm.", "encoder_")) for name in state)
    single = "fc_norm.weight" in state and not hicmae
    return {name.removeprefix("encoder.") if single else name: value for name, value in state.items()}


def load_checkpoint(model: Model, path: str | Path, strict_head: bool = False) -> LoadReport:
    """Load what a file has for `model`, and say exactly what was loaded, what is new and what was left over.

    Reads our safetensors, and the published `.pth` layouts of the three systems and VideoMAE (pretraining and
    fine-tuning forms). Messenger tokens of another region grid are resampled. A classifier head of other shape is
    left fresh unless `strict_head`. A published pretraining checkpoint of MAE-DFER switches `decoder_order` to
    `"published"` unless the model was created with an explicit one.

    Raises:
        FileNotFoundError: no such file.
        UserError: an unreadable or unsafe file, tensors whose shapes differ (both are named), switches that the
            file contradicts, or a file with nothing for this model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    ours = path.suffix == ".safetensors"
    state, meta = read_weights(path) if ours else read_published(path)
    state = plain_weights(state, meta)
    state = from_published(state)
    args = meta.get("args", {}) if ours else _published_args(meta)
    differences = _check_switches(path, model, state, args)
    loaded, new, used = _copy(path, model, state, args, strict_head)
    if not any(name.startswith(_TOWERS) for name in loaded):
        raise UserError(
            f"{path}: has nothing for {model.name or type(model).__name__}; its tensors are {_parts(list(state))}"
        )
    if not ours and isinstance(model, MaskedAutoencoder) and "decoder.norm.weight" in loaded:
        _keep_published_order(model)
    return LoadReport(loaded, new, sorted(set(state) - used), differences, meta if ours else {"args": args})


def _check_switches(
    path: Path, model: Model, state: Mapping[str, Tensor], args: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Raise where the file's keys or its heads contradict the model's arguments; return differences that may be."""
    wrong, differences = contradictions(model.args if model.name else {}, state, args)
    if wrong:
        told = ", ".join(f"{key}={a!r} (the model: {b!r})" for key, (a, b) in wrong.items())
        raise UserError(f"{path}: was made with {told}; create the model with the same arguments")
    own = dict(model.named_parameters(remove_duplicate=False))
    for tower in _TOWERS:
        mine = {name for name in own if name.startswith(tower) and not name.startswith(f"{tower}norm.")}
        theirs = {name for name in state if name.startswith(tower) and not name.startswith(f"{tower}norm.")}
        if mine and theirs and mine != theirs:
            lacks, extra = sorted(mine - theirs), sorted(theirs - mine)
            parts = [f"lacks {_few(lacks)}"] if lacks else []
            parts += [f"has {_few(extra)} too many"] if extra else []
            raise UserError(f"{path}: its {tower.rstrip('.')} is built differently: it {' and '.join(parts)}")
    return differences


@torch.no_grad()
def _copy(
    path: Path, model: Model, state: Mapping[str, Tensor], args: Mapping[str, Any], strict_head: bool
) -> tuple[list[str], list[str], set[str]]:
    loaded, new, used = [], [], set()
    plan: list[tuple[Tensor, Tensor]] = []
    aliases = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in aliases.items():
        value: Tensor | None = state.get(name)
        if value is not None and value.shape != parameter.shape and name.endswith("lg_region_tokens"):
            value = _resample(path, model.get_submodule(name.rpartition(".")[0]), value, args)
        if value is None or (value.shape != parameter.shape and name.startswith(_HEAD) and not strict_head):
            new.append(name)
            continue
        if value.shape != parameter.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(value.shape)} there and {tuple(parameter.shape)} in the model; "
                "create the model with the arguments of the file"
            )
        plan.append((parameter, value))
        loaded.append(name)
        used.add(name)
    for own, value in plan:  # only now, so that a refused file changes nothing
        own.copy_(value)
    return loaded, new, used


def _resample(path: Path, encoder: Any, tokens: Tensor, args: Mapping[str, Any]) -> Tensor:
    """Messengers (R, D) of another region grid, interpolated linearly over it -> (R', D)."""
    if not isinstance(encoder, LGI):
        return tokens
    if "patch" in args:
        size = args["size"]
        shape = (args["frames"], size, size) if isinstance(size, int) else (args["frames"], *size)
        counts = region_grid(grid_of(shape, args["patch"]), args.get("region"))
    else:  # a published file: 16 frames, and regions of two time steps over the whole width
        counts = (4, len(tokens) // 4, 1)
    if prod(counts) != len(tokens):
        raise UserError(f"{path}: {len(tokens)} messenger tokens do not lie on a known region grid; cannot resample")
    volume = tokens.T.reshape(1, -1, *counts).float()  # (1, D, nt, nh, nw)
    return F.interpolate(volume, size=encoder.region_grid, mode="trilinear").flatten(2)[0].T


def _keep_published_order(model: MaskedAutoencoder) -> None:
    if model.args.get("decoder_order") is None and isinstance(getattr(model, "encoder", None), LGI):
        model.set_decoder_order("published")
        model.args["decoder_order"] = "published"


def _published_args(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The switches among a published run's arguments, under our names."""
    pool = {"region": "region", "org": "local", "all": "all"}.get(namespace.get("lg_classify_token_type", ""))
    return {} if pool is None else {"pool": pool}


def _parts(names: list[str]) -> str:
    """`encoder.blocks.3.attn.q_bias` is of `encoder`."""
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names)) or "nothing"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
