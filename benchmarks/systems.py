"""Every system at its published size, ours beside the plain formulation with the same weights, on the same input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain import MOVING, loss_of, plain
from hicmae.datasets.transforms import normalise
from hicmae.models import create_model, model_arguments
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.pretrain.objectives import objective_for

__all__ = ["STAGES", "SYSTEMS", "Twins", "twins"]

SYSTEMS = {"mae_dfer_base": "MAE-DFER", "svfap_base": "SVFAP", "hicmae_base": "HiCMAE"}
STAGES = {"pretrain": "pretraining", "finetune": "fine-tuning"}

_QUICK: dict[str, Any] = {
    **{"dim": 32, "depth": 4, "heads": 2, "frames": 8, "size": 32, "patch": (2, 8, 8), "stages": (1, 2, 1)},
    **{"tokens": 2, "audio_frames": 64, "mels": 32, "fusion_depth": 1, "decoder_dim": 16, "decoder_heads": 2},
}


@dataclass(frozen=True)
class Twins:
    """A model of ours and its plain twin, each with the loss of one batch."""

    model: Any
    twin: nn.Module
    ours: Callable[[], Tensor]
    """The loss, with masks, targets and normalising where they belong to a step."""
    theirs: Callable[[], Tensor]
    """The same of the twin."""


def twins(name: str, stage: str, batch: int, device: torch.device | str = "cpu", *, quick: bool = False) -> Twins:
    """Both in training mode, without stochastic depth, on a random batch (bytes of video, a filter bank).

    Args:
        name: `mae_dfer_base`, `svfap_base` or `hicmae_base`.
        stage: `pretrain` or `finetune` (7 classes).
        quick: a tiny model.
    """
    torch.manual_seed(0)
    known = model_arguments(name, stage)
    args = {key: value for key, value in _QUICK.items() if key in known} if quick else {}
    args |= {"num_classes": 7} if stage == "finetune" else {}
    model = create_model(name, stage, **args).to(device).train()
    twin = plain(model)
    size, frames = model.args["size"], model.args["frames"]
    raw = torch.randint(0, 256, (batch, 3, frames, size, size), dtype=torch.uint8, device=device)
    video = normalise(raw)
    hears = model.audio_grid is not None
    sound = [torch.randn(batch, 1, model.args["audio_frames"], model.args["mels"], device=device)] if hears else []
    if stage == "finetune":
        labels = torch.arange(batch, device=device) % 7
        return Twins(
            model,
            twin,
            lambda: F.cross_entropy(model(normalise(raw), *sound), labels),
            lambda: F.cross_entropy(twin(video, *sound), labels),
        )
    target = TargetConfig(difference=2 if name.startswith(MOVING) else None)
    objective: Any = objective_for(model, mask=MaskConfig(video=0.75 if quick else 0.9), target=target)
    numbers = torch.arange(batch, device=device)
    given: dict[str, Any] = {"video": raw, "number": numbers, "source": numbers, "epoch": 0}
    parts = [objective.video, objective.audio] if hears else [objective.part]
    masks = [part.hide(numbers, 0).mask for part in parts]
    if hears:
        given["audio"] = sound[0]
    return Twins(
        model, twin, lambda: objective(model, given).loss, lambda: loss_of(model, twin, [video, *sound], masks)
    )
