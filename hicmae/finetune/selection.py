"""Which epoch's weights count: the last ones, or the best on clips kept out of training, or (stamped) on the test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hicmae.datasets.index import Index
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.evaluation import report_on
from hicmae.runtime.checkpoint import CHOSEN, save_weights
from hicmae.runtime.dist import Place
from hicmae.runtime.loop import Stream
from hicmae.runtime.page import write_file

__all__ = ["Chooser"]

FIGURES = ("uar", "ccc")  # the first that a task has decides


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Measures the model after an epoch and keeps the best weights, in `run/chosen/weights.safetensors`.

    Which epoch is best so far follows from the scores of the epochs up to it, so that a run that was killed and
    redoes some of them chooses the same.
    """

    out: Path
    index: Index
    """The clips it is measured on."""
    place: Place
    meta: Mapping[str, Any]
    """What the checkpoints say of themselves."""
    unit: str
    """What those clips are, in words."""
    config: FinetuneConfig
    stream: Stream
    """What is trained on, which tells the steps of an epoch."""

    @property
    def file(self) -> Path:
        """The chosen weights."""
        return self.out / CHOSEN / "weights.safetensors"

    def __call__(self, epoch: int, model: nn.Module) -> dict[str, float]:
        """Measure after epoch number `epoch`, keep the weights where they are the best; what is to be logged."""
        if (epoch + 1) % self.config.val_every and epoch + 1 < self.config.loop.epochs:
            return {}
        report = report_on(model, self.meta, self.index, self.place, segments=1, show=False)
        name = next(figure for figure in FIGURES if figure in report.intervals)
        score = report.intervals[name].value
        if self.place.first:
            before = {int(e): s for e, s in self._scores().items() if int(e) < epoch}
            if not before or score > max(before.values()):
                self._keep(model, epoch, name, score)
            write_file(self.file.with_name("scores.json"), json.dumps({**before, epoch: score}) + "\n")
        return {f"{self.config.select}_{name}": score}

    def _scores(self) -> dict[str, float]:
        path = self.file.with_name("scores.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _keep(self, model: nn.Module, epoch: int, name: str, score: float) -> None:
        place = {"by": self.config.select, "epoch": epoch + 1, "epochs": self.config.loop.epochs}
        selected = {**place, "figure": name, "score": score, "unit": self.unit}
        part = self.file.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        step = (epoch + 1) * self.stream.steps_per_epoch
        save_weights(part, model.state_dict(), {**self.meta, "step": step, "selected": selected})
        part.replace(self.file)
