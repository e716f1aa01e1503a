"""Commands that use what was trained: predict, reconstruct."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hicmae.cli.words import Add, device_option, write

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`predict` and `reconstruct`."""
    sub = add("predict", _predict, "emotion probabilities of videos, per window and over the whole clip")
    sub.add_argument("clips", nargs="+", metavar="CLIP", help="video files")
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file of a fine-tuned model"
    )
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    device_option(sub)

    sub = add("reconstruct", _reconstruct, "draw original, masked and reconstructed frames of a video as one picture")
    sub.add_argument("clip", metavar="CLIP", help="a video file")
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file of a pretrained model"
    )
    sub.add_argument("--out", metavar="PNG", help="the picture (default: CLIP-reconstruction.png)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the mask (%(default)s)")
    device_option(sub)


def _predict(arguments: argparse.Namespace, _: list[str]) -> int:
    import json

    from hicmae.inference import load_model, predict_clip

    model = load_model(arguments.checkpoint, stage="finetune", device=arguments.device)
    results = [predict_clip(clip, model) for clip in arguments.clips]
    if arguments.json:
        write(json.dumps([result.to_dict() for result in results], indent=1, ensure_ascii=False))
    else:
        write("\n\n".join(result.table() for result in results))
    return 0


def _reconstruct(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference import reconstruct_clip

    out = arguments.out or f"{Path(arguments.clip).stem}-reconstruction.png"
    how: dict[str, Any] = {"out": out, "seed": arguments.seed, "device": arguments.device}
    write(str(reconstruct_clip(arguments.clip, arguments.checkpoint, **how)))
    return 0
