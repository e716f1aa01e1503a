"""Checkpoints of a run: written whole or not at all, read back after writing, verified before they are used.

run/checkpoints/step-00001200/weights.safetensors   the model, with its name, arguments and labels as metadata
                              ema.safetensors       the averaged weights, where a run keeps them
                              state.pt              optimiser, random generators, position in the stream
                              deepspeed/            what each process of DeepSpeed wrote, in place of an optimiser
                              manifest.json         sha256 and size of each of them
run/chosen/weights.safetensors                      the best epoch's, where a run chooses one
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from hicmae.runtime.digest import sha256
from hicmae.runtime.log import UserError, say

__all__ = [
    "CHOSEN",
    "CheckpointError",
    "Saved",
    "Writer",
    "folder_of",
    "newest",
    "part_of",
    "read",
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


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def part_of(run: Path, step: int) -> Path:
    """Where it is while it is written."""
    return folder_of(run, step).with_name(f"step-{step:08d}.part")


def save_weights(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors as safetensors; `meta` (JSON-able) goes into the header under the key `hicmae`."""
    path.write_bytes(_as_bytes(weights, meta))


def _as_bytes(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    seen: set[int] = set()
    tensors = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses two names for one storage (models that share layers have them)
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return serialise(tensors, metadata={"hicmae": json.dumps(meta, sort_keys=True)})


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


class Saved(NamedTuple):
    """What a run goes on from."""

    weights: Mapping[str, Tensor]
    averages: Mapping[str, Tensor] | None
    """The averaged weights."""
    state: Mapping[str, Any]
    """The optimiser's, and the loop's: tensors and plain values."""
    folder: Path | None = None
    """Where it was read."""


def save(
    run: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    state: Mapping[str, Any],
    ema: Mapping[str, Tensor] | None = None,
    keep: int = 2,
    keep_every: int | None = None,
) -> Path:
    """Write the checkpoint of `step`, then remove all but the newest `keep` and those at multiples of `keep_every`.

    The files are written to a folder of another name, read back and compared, and renamed at once, so that a
    checkpoint is there whole or not at all; an error (a full disk, say) leaves the earlier ones untouched. Returns the
    folder.
    """
    with Writer(run, keep=keep, keep_every=keep_every) as writer:
        writer.open(step)
        writer.submit(step, Saved(weights, ema, state), meta)
        problem = writer.wait()
    if problem is not None:
        raise CheckpointError(problem)
    return folder_of(run, step)


class Writer:
    """Writes the checkpoints of a run, one at a time, in a thread of its own: `open`, `submit`, later `wait`."""

    def __init__(self, run: Path, *, keep: int = 2, keep_every: int | None = None) -> None:
        self.run, self.keep, self.keep_every = run, keep, keep_every
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._thread.shutdown()

    @property
    def failed(self) -> bool:
        """The last one could not be written, as far as is known now."""
        return self._written is not None and self._written.done() and self._written.exception() is not None

    def wait(self) -> str | None:
        """Wait until the last one is written; returns what went wrong with it."""
        error = None if self._written is None else self._written.exception()
        if error is not None and not isinstance(error, CheckpointError):
            raise error
        return None if error is None else str(error)

    def open(self, step: int) -> Path:
        """An empty folder for the files of the checkpoint of `step`; an error is kept for `wait`."""
        part = part_of(self.run, step)
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):  # found again by the first file
            part.mkdir(parents=True)
        return part

    def submit(self, step: int, saved: Saved, meta: Mapping[str, Any]) -> None:
        """Write tensors that nothing changes any more, beside what lies in the folder that `open` made."""
        self._written = self._thread.submit(self._write, step, saved, meta)

    def _write(self, step: int, saved: Saved, meta: Mapping[str, Any]) -> None:
        folder, part = folder_of(self.run, step), part_of(self.run, step)
        try:
            in_parts = [file for file in sorted(part.rglob("*")) if file.is_file()]
            files = {str(f.relative_to(part)): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in in_parts}
            files["weights.safetensors"] = _put(
                part / "weights.safetensors", _as_bytes(saved.weights, {**meta, "step": step})
            )
            if saved.averages is not None:
                content = _as_bytes(saved.averages, {**meta, "step": step, "ema": True})
                files["ema.safetensors"] = _put(part / "ema.safetensors", content)
            buffer = io.BytesIO()
            torch.save(dict(saved.state), buffer)
            files["state.pt"] = _put(part / "state.pt", buffer.getvalue())
            _put(part / MANIFEST, json.dumps({"step": step, "files": files}, indent=1).encode())
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
            raise CheckpointError(
                f"{folder}: could not be written ({reason}); earlier checkpoints are untouched. "
                "Make room or choose another --out, then run the same command to continue."
            ) from None
        for old in _folders(self.run)[self.keep :]:
            if not (self.keep_every and int(old.name.removeprefix("step-")) % self.keep_every == 0):
                shutil.rmtree(old, ignore_errors=True)


def _put(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file, read it back from the disk, and describe it for the manifest."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # else the system answers from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256(content).hexdigest()
    if sha256(path) != digest:
        raise OSError(f"{path.name} reads otherwise than it was written")
    return {"bytes": len(content), "sha256": digest}


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


def read(folder: Path) -> Saved:
    """A verified checkpoint folder; its state is tensors and plain values only."""
    averages = folder / "ema.safetensors"
    return Saved(
        read_weights(folder / "weights.safetensors")[0],
        read_weights(averages)[0] if averages.is_file() else None,
        torch.load(folder / "state.pt", map_location="cpu", weights_only=True),
        folder,
    )


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
