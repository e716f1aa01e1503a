"""How encoders, decoders and heads are put together: one builder per system and stage.

A system's arguments are those of its parts, by their own names and defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from hicmae.models.base import Model
from hicmae.models.encoder import Encoder
from hicmae.models.features import OneTower
from hicmae.models.fusion import Fusion
from hicmae.models.heads import Classifier
from hicmae.models.hicmae import HiCMAE, HiCMAEPretraining
from hicmae.models.lgi import LGI
from hicmae.models.mae import MaskedAutoencoder
from hicmae.models.tpsbt import TPSBT
from hicmae.models.vit import ViT

__all__ = ["Builder", "Stage", "system"]

Stage = Literal["finetune", "pretrain"]
Builder = Callable[..., Model]

_ENCODERS: dict[str, type[Encoder]] = {"vit": ViT, "lgi": LGI, "tpsbt": TPSBT}
_MODALITIES = {"hicmae": ("video", "audio"), "hicmae_video": ("video",), "hicmae_audio": ("audio",)}

_LGI = {"first": "self", "second": True, "third": "cross", "share": "none"}
_TOWER = {"encoder": "vit", "dim": 512, "depth": 10, "heads": 8, "mlp_ratio": 4.0, "drop_path": 0.0, **_LGI}
_INPUT: dict[str, dict[str, Any]] = {
    "video": {"frames": 16, "size": 160, "patch": (2, 16, 16), "region": None},
    "audio": {"audio_frames": 256, "mels": 128, "audio_patch": (16, 16), "audio_region": None},
}
_PAIR = {"audio_encoder": None, "audio_dim": None, "audio_depth": None, "audio_heads": None, "fusion_depth": 2}
"""What an audio-visual model adds; None: as the video tower."""


def system(name: str, stage: Stage) -> tuple[Builder, dict[str, Any]]:
    """The builder of a system in a stage, and every argument it takes with its default.

    Systems: `vit`, `lgi`, `tpsbt` (one video encoder), `hicmae`, `hicmae_video`, `hicmae_audio`.
    """
    return _hicmae(_MODALITIES[name], stage) if name in _MODALITIES else _single(_ENCODERS[name], stage)


def _single(encoder: type[Encoder], stage: Stage) -> tuple[Builder, dict[str, Any]]:
    """MAE-DFER, SVFAP and VideoMAE: an encoder with a head, or with a decoder."""
    inner = _defaults(encoder, "norm", "order", "multiscale")
    if stage == "finetune":
        outer = _defaults(Classifier)
        return lambda **args: Classifier(encoder(**_only(args, inner)), **_only(args, outer)), {**inner, **outer}
    outer = _defaults(MaskedAutoencoder, "skips")
    fixed: dict[str, Any] = {"norm": True}
    if encoder is LGI:
        fixed["pool"] = "local"  # a masked encoder returns patches
    if encoder is TPSBT:
        fixed["multiscale"] = True
    inner = {key: value for key, value in inner.items() if key not in fixed}

    def build(**args: Any) -> Model:
        return MaskedAutoencoder({"video": encoder(**_only(args, inner), **fixed)}, **_only(args, outer))

    return build, {**inner, **outer}


def _hicmae(modalities: Sequence[str], stage: Stage) -> tuple[Builder, dict[str, Any]]:
    """HiCMAE with both towers, or one of them with a head or decoder of its own."""
    both = len(modalities) == 2
    inner = {
        **_TOWER,
        **{key: value for m in modalities for key, value in _INPUT[m].items()},
        **(_PAIR if both else {}),
    }
    if stage == "finetune":
        assembly: Any = HiCMAE if both else OneTower
    else:
        assembly = HiCMAEPretraining if both else MaskedAutoencoder
    outer = _defaults(assembly, *([] if both else ["skips"]))

    def build(**args: Any) -> Model:
        towers = {modality: _tower(modality, args) for modality in modalities}
        if stage == "pretrain" and not all(isinstance(tower, Encoder) for tower in towers.values()):
            raise ValueError("a foreign tower cannot be masked: it has a fine-tuning form only")
        fusion = (_fusion(args, **towers),) if both else ()
        return assembly(towers, *fusion, **_only(args, outer))

    return build, {**inner, **outer}


def _tower(modality: str, args: Mapping[str, Any]) -> Any:
    """The encoder of one modality, or the module brought in its place."""
    audio = modality == "audio"

    def own(key: str) -> Any:
        value = args.get(f"audio_{key}") if audio else None
        return args[key] if value is None else value

    encoder = own("encoder")
    if isinstance(encoder, nn.Module):
        if not hasattr(encoder, "depth"):
            raise ValueError(f"wrap the module in hicmae.models.Tower, which says how wide {type(encoder).__name__} is")
        return encoder
    if encoder not in ("vit", "lgi"):
        raise ValueError(f"encoder={encoder!r} is not 'vit', 'lgi' or a hicmae.models.Tower")
    switches = {key: args[key] for key in _LGI}
    region = args["audio_region" if audio else "region"]
    kwargs: dict[str, Any] = {key: own(key) for key in ("dim", "depth", "heads")}
    kwargs |= {"mlp_ratio": args["mlp_ratio"], "drop_path": args["drop_path"], "norm": True}
    names = ("audio_frames", "mels", "audio_patch") if audio else ("frames", "size", "patch")
    kwargs |= dict(zip(("frames", "size", "patch"), (args[name] for name in names), strict=True))
    if encoder == "lgi":
        return LGI(**kwargs, **switches, region=region, pool="local")
    if region is not None or (switches != _LGI and "lgi" not in (args["encoder"], args.get("audio_encoder"))):
        raise ValueError("region=, first=, second=, third= and share= are switches of encoder='lgi'")
    return ViT(**kwargs)


def _fusion(args: Mapping[str, Any], video: Any, audio: Any) -> Fusion:
    return Fusion(
        *(video.dim, audio.dim, args["fusion_depth"], video.heads, audio.heads),
        mlp_ratio=args["mlp_ratio"],
        drop_path=args["drop_path"],
    )


def _defaults(build: Callable[..., Any], *decided: str) -> dict[str, Any]:
    """Keyword defaults of a part that a user may set; `decided` ones follow from the system and the stage."""
    parameters = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in (*decided, "fusion")}


def _only(args: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: args[key] for key in keys}
