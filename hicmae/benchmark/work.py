"""The cells of a benchmark, each carried out once by as many processes as take part, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hicmae import configs
from hicmae.benchmark.plan import Cell
from hicmae.configs.errors import ConfigError
from hicmae.finetune.engine import run
from hicmae.finetune.evaluation import evaluate
from hicmae.finetune.folds import DONE, once
from hicmae.runtime.log import say
from hicmae.runtime.loop import Interrupted
from hicmae.runtime.page import write_file

__all__ = ["carry_out", "failure_of", "found_of", "record_of"]

FAILED = "failed.json"


def carry_out(cells: Sequence[Cell], *, show: bool = True) -> None:
    """Train and measure every cell that is not done; several processes, started alike, share them out.

    A cell that fails leaves its reason in `failed.json` and does not stop the others; a repetition tries it again.

    Raises:
        ConfigError: under torchrun, or where a run was made by another recipe or on other data.
        Interrupted: stopped on request; the same command continues.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "cells are shared out among separate processes: start the command once per GPU, with --device cuda:0, "
            "cuda:1, …, instead of torchrun"
        )
    for cell in cells:
        _check(cell)
    started = time.time()
    for number, cell in enumerate(cells):
        if record_of(cell) or (cell.trained and not record_of(cell.trained)) or _failed_since(cell, started):
            continue
        if show:
            say(f"cell {number + 1} of {len(cells)}: {cell}{_left(cells)}")
        try:
            if once(cell.out, lambda cell=cell: _work(cell, show)):  # type: ignore[misc]
                (cell.out / FAILED).unlink(missing_ok=True)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the other cells can go on; the reason is kept and told
            told = {"error": str(error) or type(error).__name__, "traceback": traceback.format_exc()}
            write_file(cell.out / FAILED, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            if show:
                say(f"failed: {cell}: {told['error']}")


def record_of(cell: Cell) -> dict[str, Any]:
    """What `done.json` of a cell holds: its data, how many seconds it took, on what; empty while it is not done."""
    file = cell.out / DONE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def found_of(cell: Cell) -> dict[str, Any]:
    """The evaluation.json of a cell that is done."""
    return json.loads((cell.out / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))


def failure_of(cell: Cell) -> str:
    """Why a cell that is not done failed; empty where it did not, or was not tried."""
    file = cell.out / FAILED
    if file.is_file():
        return str(json.loads(file.read_text(encoding="utf-8"))["error"])
    if cell.trained and not record_of(cell.trained) and failure_of(cell.trained):
        return "the fine-tuned model that it needs failed"
    return ""


def _work(cell: Cell, show: bool) -> dict[str, Any]:
    begun = time.monotonic()
    if cell.trained is None:
        assert cell.config is not None
        run(cell.config, show=show)
    else:
        assert cell.trained.config is not None
        device = cell.trained.config.device
        evaluate(cell.trained.out, [cell.part.test], out=cell.out / "evaluation", device=device, show=show)
    return {**_data(cell), "seconds": round(time.monotonic() - begun, 1), "device": _device(cell)}


def _data(cell: Cell) -> dict[str, str]:
    return {"checkpoint": str(cell.checkpoint.file), "train": cell.part.train, "test": cell.part.test}


def _check(cell: Cell) -> None:
    """A folder that holds another benchmark's results is never taken for this one's."""
    if cell.config is not None:
        configs.check_recipe(cell.config, cell.out)
    for key, value in (_data(cell) if (before := record_of(cell)) else {}).items():
        if before.get(key) != value:
            raise ConfigError(
                f"{cell.out} holds the result of another {key} ({before.get(key)} -> {value}). Choose another --out, "
                "or remove the folder to start again."
            )


def _failed_since(cell: Cell, started: float) -> bool:
    """Another process has just tried it."""
    file = cell.out / FAILED
    return file.is_file() and file.stat().st_mtime > started


def _left(cells: Sequence[Cell]) -> str:
    """How long the cells that are not done will take, from like ones that are, in words."""
    known: dict[Any, list[float]] = defaultdict(list)
    for cell in cells:
        if seconds := record_of(cell).get("seconds"):
            for key in (cell.row, cell.row[1], cell.trained is None):
                known[key].append(float(seconds))
    left = 0.0
    for cell in cells:
        if not record_of(cell):
            like = next((known[k] for k in (cell.row, cell.row[1], cell.trained is None) if k in known), None)
            if like is not None:
                left += sum(like) / len(like)
            elif cell.trained is None:  # a test alone is short beside a training run
                return ""
    minutes = left / 60
    told = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes" if minutes > 2 else f"{left:.0f} s"
    return f"; about {told} left"


def _device(cell: Cell) -> str:
    import torch

    config = cell.config or (cell.trained and cell.trained.config)
    if config and config.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name(None if config.device == "auto" else config.device)
    return "CPU"
