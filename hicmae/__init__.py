"""Self-supervised audio-visual pretraining and emotion recognition: MAE-DFER, SVFAP, HiCMAE and VideoMAE."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicmae import benchmark, configs, datasets, finetune, inference, models, pretrain, runtime, zoo
    from hicmae.inference.embed import embed_clip as embed
    from hicmae.inference.predict import predict_clip as predict
    from hicmae.models import create_model, list_models
    from hicmae.models.profile import profile
    from hicmae.zoo.pretrained import from_pretrained
    from hicmae.zoo.sources import load_checkpoint

__version__ = "0.1.0.dev0"

# Names resolve on first use, so that `import hicmae` (and `hicmae --help`) need not wait for torch.
_HOME = {
    "create_model": ("hicmae.models", "create_model"),
    "embed": ("hicmae.inference.embed", "embed_clip"),
    "from_pretrained": ("hicmae.zoo.pretrained", "from_pretrained"),
    "list_models": ("hicmae.models", "list_models"),
    "load_checkpoint": ("hicmae.zoo.sources", "load_checkpoint"),
    "predict": ("hicmae.inference.predict", "predict_clip"),
    "profile": ("hicmae.models.profile", "profile"),
}
_PACKAGES = ("benchmark", "configs", "datasets", "finetune", "inference", "models", "pretrain", "runtime", "zoo")

__all__ = [
    "benchmark",
    "configs",
    "create_model",
    "datasets",
    "embed",
    "finetune",
    "from_pretrained",
    "inference",
    "list_models",
    "load_checkpoint",
    "models",
    "predict",
    "pretrain",
    "profile",
    "runtime",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, member = _HOME[name]
        return getattr(importlib.import_module(module), member)
    if name in _PACKAGES:
        return importlib.import_module(f"hicmae.{name}")
    raise AttributeError(f"module 'hicmae' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
