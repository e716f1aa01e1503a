"""How a pretraining recipe fits a card; `hicmae.runtime.fitting` says how that is estimated, and tried on a GPU."""

from __future__ import annotations

import dataclasses
from functools import partial

from hicmae.pretrain.config import PretrainConfig
from hicmae.pretrain.engine import build_model
from hicmae.pretrain.objectives import objective_for
from hicmae.pretrain.planning import example
from hicmae.runtime import fitting
from hicmae.runtime.fitting import Fitted, Made, Need
from hicmae.runtime.optim import parameter_groups

__all__ = ["fit_to", "need_of"]


def need_of(config: PretrainConfig) -> Need:
    """What a recipe needs for weights, gradients, moments and averages, and for each clip, by the engine `single`."""
    return fitting.need_of(_made(config), config.loop)


def fit_to(config: PretrainConfig, limit: float, *, processes: int = 1, find_batch: bool = False) -> Fitted:
    """The recipe with micro-batch and recomputing chosen so that a process needs at most `limit` bytes.

    Raises:
        UserError, ValueError: as `hicmae.runtime.fitting.fit_recipe`.
    """
    found = fitting.fit_recipe(
        *(config, partial(_made, config), limit),
        processes=processes,
        find_batch=find_batch,
        remedy="take a smaller model, or the engine fsdp",
    )
    hears = "hicmae" in config.model and not config.model.endswith(("_video", "_audio"))  # and has a contrast
    if config.contrast.weight and found.divided and hears:
        note = f"contrast compares the {found.clips} clips of a micro-batch with each other, no more"
        return dataclasses.replace(found, notes=(note,))
    return found


def _made(config: PretrainConfig) -> Made:
    model = build_model(config)
    both = model.grid is not None and model.audio_grid is not None
    return Made(
        model=model,
        objective=objective_for(
            model, mask=config.mask, target=config.target, contrast=config.contrast, seed=config.seed
        ),
        example=partial(example, config, model),
        groups=parameter_groups(model, weight_decay=config.optim.weight_decay, published=False),
        least=2 if both else 1,  # a contrast needs two
    )
