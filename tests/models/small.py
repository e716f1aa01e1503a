"""Every registered model at a size that takes milliseconds, with inputs and masks that fit it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hicmae.models import create_model, model_arguments
from hicmae.models.base import Model

SIZES: dict[str, Any] = {
    "dim": 32,
    "depth": 4,
    "heads": 2,
    "frames": 8,
    "size": 16,
    "patch": (2, 4, 4),
    "stages": (1, 2, 2),
    "tokens": 2,
    "audio_frames": 32,
    "mels": 16,
    "audio_patch": (8, 8),
    "fusion_depth": 2,
    "decoder_dim": 16,
    "decoder_heads": 2,
}
GRIDS = {"video": (4, 4, 4), "audio": (4, 2)}


def build(name: str, stage: str = "finetune", seed: int = 0, **args: Any) -> Model:
    """`create_model` at the sizes above."""
    torch.manual_seed(seed)
    known = model_arguments(name, stage)
    fitting = {key: value for key, value in SIZES.items() if key in known}
    if "init_scale" in known and "init_scale" not in args:
        args["init_scale"] = 1.0  # so that what reaches the head is seen at the output
    return create_model(name, stage, **{**fitting, **args})


def modalities(name: str) -> list[str]:
    """What a model's forward takes, in order."""
    if name.endswith("_audio"):
        return ["audio"]
    return ["video", "audio"] if name.startswith("hicmae") and not name.endswith("_video") else ["video"]


def inputs(name: str, batch: int = 3, seed: int = 1) -> list[Tensor]:
    """Random inputs of a model."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"video": (batch, 3, 8, 16, 16), "audio": (batch, 1, 32, 16)}
    return [torch.randn(shapes[m], generator=g) for m in modalities(name)]


def masks(name: str, batch: int = 3) -> list[Tensor]:
    """Masks of a model: video tubes with 4 of 8 places hidden in each half frame, audio with one of 2 per row."""
    made = {"video": [], "audio": []}
    for i in range(batch):
        g = torch.Generator().manual_seed(i)
        halves = [torch.randperm(8, generator=g) < 4 for _ in range(2)]
        made["video"].append(torch.cat(halves).repeat(4))
        made["audio"].append(torch.cat([torch.randperm(2, generator=g) < 1 for _ in range(4)]))
    return [torch.stack(made[m]) for m in modalities(name)]


def run(model: Model, stage: str, data: list[Tensor], hiding: list[Tensor]) -> list[Tensor]:
    """All tensors a model puts out."""
    if stage == "finetune":
        return [model(*data)]
    out = model(*data, *hiding)
    return [x for x in (out.video, out.audio, *(feature for level in out.levels for feature in level)) if x is not None]
