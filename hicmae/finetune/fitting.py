"""How a fine-tuning recipe fits a card; `hicmae.runtime.fitting` says how that is estimated, and tried on a GPU.

Neither shards nor weights to start from need be here: the labels are stand-ins, since outputs weigh next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.engine import build_model, learner
from hicmae.finetune.inputs import Inputs, sound_of
from hicmae.models.base import Model
from hicmae.runtime import fitting
from hicmae.runtime.fitting import Fitted, Made, Need
from hicmae.runtime.loop import Batch

__all__ = ["example", "fit_to", "need_of"]

CLASSES, SPEAKERS = 7, 1000
"""Stand-ins for what the shards say: an output more weighs some kilobytes."""


def need_of(config: FinetuneConfig) -> Need:
    """What a recipe needs for weights, gradients, moments and averages, and for each clip, by the engine `single`."""
    return fitting.need_of(_made(config), config.loop)


def fit_to(config: FinetuneConfig, limit: float, *, processes: int = 1, find_batch: bool = False) -> Fitted:
    """The recipe with micro-batch and recomputing chosen so that a process needs at most `limit` bytes.

    Where `init` is not here, the model has the sizes that the recipe states, and its defaults.

    Raises:
        ConfigError: arguments or a way to adapt that the model does not take; UserError, ValueError: as
            `hicmae.runtime.fitting.fit_recipe`.
    """
    found = fitting.fit_recipe(
        *(config, partial(_made, config), limit),
        processes=processes,
        find_batch=find_batch,
        remedy="take a smaller model, or learn less of it (adapt.kind)",
    )
    return dataclasses.replace(found, notes=tuple(_notes(config, found)))


def example(config: FinetuneConfig, model: Model, clips: int) -> Batch:
    """A batch of empty clips, as large as the recipe's, with stand-ins of labels and targets."""
    inputs, sound, task = Inputs.of(model), sound_of(model, config.sound), config.task
    keys = [str(number) for number in range(clips)]
    batch: Batch = {"key": keys, "epoch": 0, "label": torch.zeros(clips, dtype=torch.long)}
    if inputs.video:
        batch["video"] = torch.zeros(clips, 3, config.data.frames, config.data.size, config.data.size)
    if sound is not None:
        batch["audio"] = torch.zeros(clips, 1, sound.length, sound.bins)
        batch["has_audio"] = torch.ones(clips, dtype=torch.bool)
    if task.columns:
        width = CLASSES if task.kind == "soft" else len(task.columns)
        batch["target"] = torch.full((clips, width), 1 / width)
    if config.adapt.adversary:
        batch["speaker"] = torch.zeros(clips, dtype=torch.long)
    return batch


def _made(config: FinetuneConfig) -> Made:
    if _absent(config):
        config = dataclasses.replace(config, init=None, init_ema=False)
    model, _ = build_model(config, config.task.outputs([str(number) for number in range(CLASSES)]))
    config.missing.check(Inputs.of(model), model.name)
    speakers = SPEAKERS if config.adapt.adversary else 0
    trained, task, groups = learner(config, model, [1] * CLASSES, speakers)
    return Made(
        model=trained.train(),  # what is frozen stays in evaluation mode, as in a run
        objective=task,
        example=partial(example, config, model),
        groups=groups,
        least=2 if _correlates(config) else 1,
    )


def _notes(config: FinetuneConfig, found: Fitted) -> Iterator[str]:
    if _absent(config):
        yield f"{config.init} (init) is not here: a model of other sizes than the recipe's needs more, or less"
    if _correlates(config) and found.divided:
        yield f"{config.task.loss} is that of the {found.clips} clips of a micro-batch, no more"
    augment = config.augment
    if found.clips == 1 and augment.mix and (augment.mixup > 0 or augment.cutmix > 0):
        yield "mixup and cutmix do nothing with one clip at a time"


def _absent(config: FinetuneConfig) -> bool:
    return config.init is not None and not Path(config.init).exists()


def _correlates(config: FinetuneConfig) -> bool:
    """The loss compares the clips of a micro-batch, which takes two."""
    return bool(config.task.values) and config.task.loss in ("ccc", "pcc")
