"""A model together with what prepares its input, from a folder, the Hugging Face Hub, or the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hicmae.inference.loading import load_model
from hicmae.inference.processor import Processor
from hicmae.models.base import Model

__all__ = ["Pretrained", "from_pretrained"]


class Pretrained(NamedTuple):
    """A model ready to be used, what prepares its input, and what its checkpoint says."""

    model: Model
    """In evaluation mode, on its device."""
    processor: Processor
    """`processor(clip)` yields the windows of a video file as the model takes them."""
    meta: dict[str, Any]
    """Name, stage, args, labels, preprocessing, ... and the file as `file`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs, in their order; empty where they are not known."""
        return tuple(self.meta.get("labels") or ())


def from_pretrained(
    source: str | Path,
    stage: Literal["finetune", "pretrain"] | None = None,
    *,
    device: str | torch.device = "auto",
) -> Pretrained:
    """The model and its processor, from whatever `hicmae.inference.load_model` takes.

    Args:
        source: a folder that `hicmae zoo publish` wrote, a run, a weights file, a name of the zoo (`hicmae zoo list`),
            or a repository of the Hugging Face Hub, as `owner/name` or `owner/name@revision`.
        stage: the form that is needed; None takes either.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: it cannot be had or used; the message says why, and what to do.
    """
    model, meta = load_model(source, stage, device=device)
    beside = Path(meta["file"]).with_name("processor.json")
    return Pretrained(model, Processor.load(beside) if beside.is_file() else Processor.of(model, meta), meta)
