"""Self-supervised pretraining: masks, targets, losses, objectives, and the run of a recipe."""

from hicmae.pretrain.config import MaskConfig, PretrainConfig, PretrainData, TargetConfig
from hicmae.pretrain.engine import build_model, run
from hicmae.pretrain.objectives import Reconstruction, objective_for
from hicmae.pretrain.planning import plan

__all__ = [
    "MaskConfig",
    "PretrainConfig",
    "PretrainData",
    "Reconstruction",
    "TargetConfig",
    "build_model",
    "objective_for",
    "plan",
    "run",
]
