"""A model from a file that says what it is: its name, its arguments, how its input is made, what its outputs mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hicmae.configs.errors import UserError
from hicmae.models.adapters import plain_weights
from hicmae.models.base import Model
from hicmae.models.factory import create_model
from hicmae.runtime.checkpoint import CheckpointError, read_weights
from hicmae.zoo.sources import located

__all__ = ["Loaded", "load_model", "opened"]


class Loaded(NamedTuple):
    """A model ready to be used, and what its checkpoint says about it."""

    model: Model
    """In evaluation mode, on its device."""
    meta: dict[str, Any]
    """The weights file's header (name, stage, args, labels, preprocessing, step, config), and its path as `file`."""


def load_model(
    source: str | Path,
    stage: Literal["finetune", "pretrain"] | None = None,
    *,
    device: str | torch.device = "auto",
    ema: bool = False,
) -> Loaded:
    """The model of a run folder (its newest checkpoint), a checkpoint folder, a weights file, a folder that
    `hicmae zoo publish` wrote, a published `.pth` file, or a name of the zoo or of the Hugging Face Hub.

    Args:
        source: any of these; see `hicmae.zoo.located` for names, which are downloaded once.
        stage: the form that is needed; None takes either.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        ema: the averaged weights, where the run kept them.

    Raises:
        UserError: nothing there, damaged, made by another program, or of the other stage; the message says what to do.
    """
    file = located(source, stage, ema=ema)
    state, meta = read_weights(file)
    if not {"name", "stage", "args"} <= meta.keys():
        raise CheckpointError(
            f"{file}: does not say which model it holds; name a run folder or a weights file that hicmae wrote"
        )
    if stage is not None and meta["stage"] != stage:
        raise UserError(_other_stage(source, stage))
    try:
        _check_claims(file, state, meta)
        model = create_model(meta["name"], stage=meta["stage"], **meta["args"])
        model.load_state_dict(plain_weights(state, meta))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file}: does not fit this version's {meta['name']} ({_first(error)})") from None
    return Loaded(model.to(_device(device)).eval(), {**meta, "file": str(file)})


def opened(
    model: Any, stage: Literal["finetune", "pretrain"] | None = None, *, device: str | torch.device = "auto"
) -> Loaded:
    """Whatever a function takes as a model, as a model and what is known of it.

    A source is loaded (see `load_model`); what `load_model` and `from_pretrained` give stays where it is; of a bare
    model nothing is known but its name.
    """
    if isinstance(model, str | Path):
        return load_model(model, stage, device=device)
    if isinstance(model, tuple):  # the model comes first in both, and what is known of it last
        return Loaded(model[0], model[-1])
    return Loaded(model, {"name": model.name})


def _check_claims(file: Path, state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Refuse a small file whose arguments ask for a model that fills memory; a run's own files are trusted."""
    if file.parent.parent.name == "checkpoints":
        return
    args, held = meta["args"], sum(value.numel() for value in state.values())
    most = 4 * held + 50_000_000
    deep = [f"{key} {args[key]:,}" for key in args if key.endswith("depth") and (args[key] or 0) > len(state)]
    sizes = args.get("size", 1)
    high, wide = (sizes, sizes) if isinstance(sizes, int) else sizes
    pixels = args.get("frames", 1) * high * wide // max(1, math.prod(args.get("patch", (1,))))
    pixels += args.get("audio_frames", 1) * args.get("mels", 1) // max(1, math.prod(args.get("audio_patch", (1,))))
    claim = ", ".join(deep) or (f"{pixels:,} patches" if pixels * args.get("dim", 1) > most else "")
    if not claim:
        with torch.device("meta"):  # of no size in memory
            model = create_model(meta["name"], stage=meta["stage"], **args)
        asked = sum(value.numel() for value in (*model.parameters(), *model.buffers()))
        claim = f"{asked:,} numbers" if asked > most else ""
    if claim:
        raise CheckpointError(
            f"{file}: refused. Its {held:,} numbers cannot be the model that its arguments describe ({claim}): it may "
            "be made to fill memory"
        )


def _other_stage(source: str | Path, wanted: str) -> str:
    if wanted == "finetune":
        return (
            f"{source}: is a pretraining checkpoint, which has no classes to predict yet; "
            "fine-tune it on labelled clips first: hicmae finetune RECIPE (hicmae finetune --help)"
        )
    return (
        f"{source}: is a fine-tuned checkpoint, which has no decoder to reconstruct with; "
        "name the pretraining run it came from"
    )


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {name}: there is no usable GPU on this machine; say cpu or auto")
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise UserError(f"device {name}: cannot be used ({_first(error)}); say auto, cpu, cuda or cuda:N") from None
    return device


def _first(error: Exception) -> str:
    """The part of a message that tells the cause: torch puts a headline before its list."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
