"""The weights file that is meant by a folder, a file or a name, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from hicmae.models import convert
from hicmae.models.base import Model
from hicmae.models.convert import LoadReport
from hicmae.runtime.checkpoint import weights_file

__all__ = ["WEIGHTS", "load_checkpoint", "located"]

WEIGHTS = "model.safetensors"
"""The weights in a published folder, as the Hugging Face Hub and timm look for them."""


def located(source: str | Path, stage: str | None = None, *, ema: bool = False) -> Path:
    """A safetensors file that says what it holds.

    Args:
        source: a run folder (its newest checkpoint), a checkpoint folder, a published folder, or a weights file.
        stage: which form is meant where there are several.
        ema: the averaged weights of a run.

    Raises:
        UserError: there is no such thing; the message says what was looked for.
    """
    path = Path(source)
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    return weights_file(path, ema=ema)


def load_checkpoint(model: Model, source: str | Path, strict_head: bool = False) -> LoadReport:
    """`hicmae.models.load_checkpoint` for whatever can be named: a file, a run, a published folder, a name of the zoo.

    Says exactly what was loaded, what is new and what was left over; see there for the rules and errors.
    """
    path = Path(source)
    file = path if path.is_file() else located(source, model.stage or None)
    return convert.load_checkpoint(model, file, strict_head)
