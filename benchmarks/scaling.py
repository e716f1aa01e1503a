"""How the time of a step grows from 16 to 64 frames: LGI (MAE-DFER's encoder) against plain attention, same shape.

    python benchmarks/scaling.py --pairs 5 --out runs/bench/scaling.json

One clip of 160 x 160 pixels, width 512, 8 heads, forward and backward, fp32. Blocks are alike, so that the growth does
not depend on how many there are: `--depth` is 4 here and 16 in the model. Plain attention is this library's own fused
one; spelt out, it grows faster still.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Comparison, Row, Spread, compare, row
from hicmae.models.encoder import Encoder
from hicmae.models.lgi import LGI
from hicmae.models.vit import ViT

__all__ = ["SHAPE", "growth", "main", "measure"]

SHAPE: dict[str, Any] = {"dim": 512, "depth": 4, "heads": 8, "size": 160}
FRAMES = (16, 64)
KINDS: Mapping[str, tuple[type[Encoder], float, str]] = {
    "LGI": (LGI, 4.3, "lower"),
    "plain attention": (ViT, 6.0, "higher"),
}
"""Encoder, growth to be reached, and which side of it is good: that of plain attention says what there is to gain."""


def measure(
    pairs: int,
    device: torch.device,
    frames: tuple[int, int] = FRAMES,
    shape: Mapping[str, Any] = SHAPE,
    show: bool = True,
) -> list[Row]:
    """Seconds of a step by encoder and length, and how they grow."""
    works = {
        f"{name}, {count} frames": step(kind, count, shape, device)
        for name, (kind, _, _) in KINDS.items()
        for count in frames
    }
    clock = measuring.clock_for(device)
    found = compare(works, pairs=pairs, clock=clock, label="scaling", show=show)
    note = f"forward and backward, batch 1, {shape['size']} px, width {shape['dim']}, depth {shape['depth']}"
    rows = []
    for name, (_, target, better) in KINDS.items():
        what = f"{name}, {frames[0]} -> {frames[1]} frames"
        rows.append(row("growth of time", what, growth(found, name, frames), target, better=better, note=note))
    rows += [row("seconds of a step", name, found.spread(name), unit="s", better="lower") for name in works]
    gain = found.ratio(f"plain attention, {frames[1]} frames", f"LGI, {frames[1]} frames")
    return [*rows, row("LGI as fast as plain attention", f"{frames[1]} frames", gain)]


def growth(found: Comparison, name: str, frames: tuple[int, int] = FRAMES) -> Spread:
    """Time at the longer length over that at the shorter."""
    return found.ratio(f"{name}, {frames[1]} frames", f"{name}, {frames[0]} frames")


def step(kind: type[Encoder], frames: int, shape: Mapping[str, Any], device: torch.device) -> Callable[[], None]:
    """Forward and backward of one clip."""
    torch.manual_seed(0)
    encoder = kind(**shape, frames=frames, norm=True).to(device)
    encoder.init_weights("finetune")
    video = torch.randn(1, 3, frames, shape["size"], shape["size"], device=device)

    def run() -> None:
        encoder(video).tokens.mean().backward()
        encoder.zero_grad()

    return run


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__)
    parser.add_argument("--depth", type=int, default=SHAPE["depth"], help="blocks (16 in MAE-DFER)")
    given = parser.parse_args()
    device = measuring.prepare(given)
    small = {"dim": 32, "heads": 2, "size": 32} if given.quick else {}
    shape = {**SHAPE, "depth": given.depth, **small}
    rows = measure(given.pairs, device, shape=shape)
    measuring.write(rows, given.out, device=device, pairs=given.pairs, quick=given.quick)


if __name__ == "__main__":
    measuring.script(main)
