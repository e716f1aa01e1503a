"""A trained model as a function from windows of a video to probabilities and numbers by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.transforms import normalise
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.outputs import Outputs
from hicmae.inference.people import WindowPrediction
from hicmae.inference.windows import Preprocessing, Window
from hicmae.models.base import Model

__all__ = ["Recogniser"]


class Recogniser:
    """Tells what windows express.

    Raises:
        UserError: the model has no classes to predict, or the checkpoint cannot be understood.
    """

    def __init__(self, model: Model, meta: Mapping[str, Any]) -> None:
        _check_classifier(model)
        self.model, self.meta = model, meta
        self.how = Preprocessing.of(model, meta)
        """How a clip becomes the model's input."""
        self.inputs, self.outputs = Inputs.of(model), Outputs.of(meta)
        self._names: tuple[str, ...] = ()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode; afterwards as it was."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def __call__(self, windows: Sequence[Window], sounds: Sequence[Tensor | None]) -> list[WindowPrediction]:
        """One forward pass over windows and what is heard in each, (1, F, K); None where nothing is."""
        found = self._found(torch.stack([each.frames for each in windows]), sounds)
        self._names = self._names or _names(self.meta, found.shape[1])
        classes = found.shape[1] - self.outputs.numbers
        made = []
        for each, row in zip(windows, found.tolist(), strict=True):
            named = list(zip(self._names, row, strict=True))
            made.append(WindowPrediction(each.start, each.end, dict(named[:classes]), dict(named[classes:])))
        return made

    @torch.inference_mode()
    def _found(self, frames: Tensor, sounds: Sequence[Tensor | None]) -> Tensor:
        """(B, 3, T, H, W) uint8 and B x (1, F, K) -> probabilities and numbers (B, K) on the CPU."""
        device = next(self.model.parameters()).device
        audio = heard = None
        if self.how.sound is not None:
            silence = torch.zeros(1, self.how.sound.length, self.how.sound.bins)
            audio = torch.stack([silence if sound is None else sound for sound in sounds]).to(device)
            heard = torch.tensor([sound is not None for sound in sounds], device=device)
        video = normalise(frames.to(device)) if self.inputs.video else None
        return self.outputs(self.inputs.of_evaluation(self.model, video, audio, heard).float()).cpu()


def _check_classifier(model: Model) -> None:
    if model.stage == "pretrain":
        raise UserError("a pretraining model has no classes to predict; fine-tune it first (hicmae finetune --help)")
    if getattr(model, "num_classes", None) == 0:
        raise UserError("the model was made with num_classes=0: it gives features, not probabilities of classes")


def _names(meta: Mapping[str, Any], count: int) -> tuple[str, ...]:
    names = tuple(meta.get("labels") or (f"class {i}" for i in range(count)))
    if len(names) != count:
        raise UserError(
            f"{meta.get('file', 'the model')}: names {len(names)} labels for {count} outputs; train it again"
        )
    return names
