"""Commands that use what was trained: reconstruct."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hicmae.cli.words import Add, device_option, write

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`reconstruct`."""
    sub = add("reconstruct", _reconstruct, "draw original, masked and reconstructed frames of a video as one picture")
    sub.add_argument("clip", metavar="CLIP", help="a video file")
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file of a pretrained model"
    )
    sub.add_argument("--out", metavar="PNG", help="the picture (default: CLIP-reconstruction.png)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the mask (%(default)s)")
    device_option(sub)


def _reconstruct(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference import reconstruct_clip

    out = arguments.out or f"{Path(arguments.clip).stem}-reconstruction.png"
    how: dict[str, Any] = {"out": out, "seed": arguments.seed, "device": arguments.device}
    write(str(reconstruct_clip(arguments.clip, arguments.checkpoint, **how)))
    return 0
