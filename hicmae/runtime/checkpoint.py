"""Checkpoints of a run: written whole or not at all, verified before they are read.

run/checkpoints/step-00001200/weights.safetensors   the model, with its name, arguments and labels as metadata
                              ema.safetensors       the averaged weights, where a run keeps them
                              state.pt              optimiser, random generators, position in the stream
                              manifest.json         sha256 and size of each of them
run/chosen/weights.safetensors                      the best epoch's, where a run chooses one
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hicmae.runtime.log import UserError, say

__all__ = [
    "CHOSEN",
    "CheckpointError",
    "folder_of",
    "newest",
    "read_state",
    "read_weights",
    "save",
    "save_weights",
    "sha256",
    "weights_file",
]

CHOSEN = "chosen"
MANIFEST = "manifest.json"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which file and why."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_weights(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors as safetensors; `meta` (JSON-able) goes into the header under the key `hicmae`."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage (models that share layers have them)
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    save_file(tensors, str(path), metadata={"hicmae": json.dumps(meta, sort_keys=True)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a safetensors file; metadata is empty where another program wrote it."""
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            meta = json.loads(header.get("hicmae", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # safetensors raises its own class, json and OS errors beside it
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def save(
    run: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    state: Mapping[str, Any],
    ema: Mapping[str, Tensor] | None = None,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `step`, then remove all but the newest `keep`; returns its folder.

    The files are written to a folder of another name, hashed, and renamed at once, so that a checkpoint is there
    whole or not at all; an error (a full disk, say) leaves the earlier ones untouched.
    """
    folder = folder_of(run, step)
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_weights(part / "weights.safetensors", weights, {**meta, "step": step})
        if ema is not None:
            save_weights(part / "ema.safetensors", ema, {**meta, "step": step, "ema": True})
        torch.save(dict(state), part / "state.pt")
        files = sorted(part.iterdir())
        manifest = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
        with (part / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump({"step": step, "files": manifest}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder}: could not be written ({reason}); earlier checkpoints are untouched. "
            "Make room or choose another --out, then run the same command to continue."
        ) from None
    for old in _folders(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(run: Path) -> Path | None:
    """The newest checkpoint folder whose files match their manifest; damaged ones are passed over with a message."""
    for folder in _folders(run):
        problem = verify(folder)
        if problem is None:
            return folder
        say(f"checkpoint passed over: {problem}")
    return None


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder / MANIFEST} is missing or damaged"
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            return f"{file} is missing or cut"
        if sha256(file) != expected["sha256"]:
            return f"{file} does not match its sha256"
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """Optimiser, generators and position of a verified checkpoint folder (tensors and plain values only)."""
    return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)


def weights_file(source: str | Path, *, ema: bool = False) -> Path:
    """The weights file meant by `source`: a file itself, a checkpoint folder, or a run (the weights it
    chose, else its newest checkpoint)."""
    source = Path(source)
    if source.is_file():
        return source
    if not source.exists():
        raise CheckpointError(f"{source}: no such checkpoint, run folder or weights file")
    folder: Path | None = source
    name = "ema.safetensors" if ema else "weights.safetensors"
    if (source / "checkpoints").is_dir():
        folder = source / CHOSEN if (source / CHOSEN / name).is_file() else newest(source)
    if folder is None or not (folder / name).is_file():
        raise CheckpointError(f"{source}: holds no complete checkpoint with {name}")
    return folder / name


def _folders(run: Path) -> list[Path]:
    found = (run / "checkpoints").glob("step-*")
    return sorted((folder for folder in found if folder.suffix != ".part"), reverse=True)
