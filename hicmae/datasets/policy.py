"""RandAugment for clips: a few random operations, drawn once and applied to every frame alike.

Operations, ranges and the strength scale (0 to 10) are those of timm's 'increasing' set (RandAugment, Cubuk et al.
2020), on uint8 tensors. Statistics (of contrast, equalising) are each frame's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from hicmae.datasets.draws import Draws

__all__ = ["OPERATIONS", "RandAugment"]

FILL = 128  # grey, where an operation moves the frame's border into view
STRONGEST = 10.0

Operation = Callable[[Tensor, float, int], Tensor]
"""(frames (T, 3, H, W) uint8, level from 0 to 10, direction 1 or -1) -> frames."""


def _warp(frames: Tensor, a: float, b: float, c: float, d: float, e: float, f: float) -> Tensor:
    """The pixel at (x, y) is taken, bicubically, from (ax + by + c, dx + ey + f); (T, 3, H, W) uint8 in and out.

    Coordinates have their origin at the frame's corner, pixel centres at .5.
    """
    height, width = frames.shape[-2:]
    x = torch.arange(width) + 0.5
    y = (torch.arange(height) + 0.5)[:, None]
    # grid_sample counts from -1 to 1
    grid = torch.stack(((a * x + b * y + c) * (2 / width) - 1, (d * x + e * y + f) * (2 / height) - 1), -1)
    # Frames as channels, so that coordinates and weights are worked out once; padded zeros become the fill.
    flat = frames.reshape(1, -1, height, width).float().sub_(FILL)
    moved = F.grid_sample(flat, grid[None], mode="bicubic", padding_mode="zeros", align_corners=False)
    return moved.add_(FILL).round_().clamp_(0, 255).to(torch.uint8).view_as(frames)


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Turn counter-clockwise about the middle."""
    height, width = frames.shape[-2:]
    c, s, mx, my = cos(radians(degrees)), sin(radians(degrees)), width / 2, height / 2
    return _warp(frames, c, -s, mx - c * mx + s * my, s, c, my - s * mx - c * my)


def shear_x(frames: Tensor, factor: float) -> Tensor:
    """Shift each row by factor * y to the left."""
    return _warp(frames, 1, factor, 0, 0, 1, 0)


def shear_y(frames: Tensor, factor: float) -> Tensor:
    """Shift each column by factor * x upwards."""
    return _warp(frames, 1, 0, 0, factor, 1, 0)


def translate_x(frames: Tensor, share: float) -> Tensor:
    """Shift to the left by a share of the width."""
    return _warp(frames, 1, 0, share * frames.shape[-1], 0, 1, 0)


def translate_y(frames: Tensor, share: float) -> Tensor:
    """Shift upwards by a share of the height."""
    return _warp(frames, 1, 0, 0, 0, 1, share * frames.shape[-2])


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert values of at least `threshold` (256: none)."""
    # bit arithmetic, a tenth of the time of torch.where on bytes
    return frames ^ ((frames >= threshold).view(torch.uint8) * 255) if threshold < 256 else frames


def solarize_add(frames: Tensor, amount: int) -> Tensor:
    """Add `amount` to values below 128."""
    return frames + (frames < 128).view(torch.uint8) * min(amount, 127)


def sharpen(frames: Tensor, factor: float) -> Tensor:
    """Blend with a smoothed copy, 0 giving the copy, 1 the frames, more a sharper picture; the border stays."""
    # Pillow's filter: ones and a five in the middle, over 13. Sums of shifted slices are far faster than a convolution.
    x = frames.float()
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    inner = x[..., 1:-1, 1:-1]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = smooth.add_(inner, alpha=4).div_(13).round_()
    inner.copy_(smooth.lerp_(inner, factor))
    return x.clamp_(0, 255).to(torch.uint8)


def _enhancement(level: float, sign: int) -> float:
    return max(0.1, 1 + sign * level / STRONGEST * 0.9)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda x, level, sign: V.autocontrast(x),
    "Equalize": lambda x, level, sign: V.equalize(x),
    "Invert": lambda x, level, sign: V.invert(x),
    "Rotate": lambda x, level, sign: rotate(x, sign * level / STRONGEST * 30),
    "PosterizeIncreasing": lambda x, level, sign: V.posterize(x, max(1, 4 - int(level / STRONGEST * 4))),
    "SolarizeIncreasing": lambda x, level, sign: solarize(x, 256 - int(level / STRONGEST * 256)),
    "SolarizeAdd": lambda x, level, sign: solarize_add(x, int(level / STRONGEST * 110)),
    "ColorIncreasing": lambda x, level, sign: V.adjust_saturation(x, _enhancement(level, sign)),
    "ContrastIncreasing": lambda x, level, sign: V.adjust_contrast(x, _enhancement(level, sign)),
    "BrightnessIncreasing": lambda x, level, sign: V.adjust_brightness(x, _enhancement(level, sign)),
    "SharpnessIncreasing": lambda x, level, sign: sharpen(x, _enhancement(level, sign)),
    "ShearX": lambda x, level, sign: shear_x(x, sign * level / STRONGEST * 0.3),
    "ShearY": lambda x, level, sign: shear_y(x, sign * level / STRONGEST * 0.3),
    "TranslateXRel": lambda x, level, sign: translate_x(x, sign * level / STRONGEST * 0.45),
    "TranslateYRel": lambda x, level, sign: translate_y(x, sign * level / STRONGEST * 0.45),
}


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`count` operations drawn with replacement, each done with `probability` at about `magnitude`."""

    count: int = 4
    magnitude: float = 7.0
    std: float = 0.5
    """Standard deviation of the magnitude, drawn anew for every operation."""
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """From timm's notation, such as 'rand-m7-n4-mstd0.5-inc1'.

        Raises:
            ValueError: not that notation, or without inc1 (only the increasing operations exist here).
        """
        values: dict[str, float] = {}
        head, *parts = text.split("-")
        for part in parts:
            found = re.fullmatch(r"(m|n|mstd|inc|p)(\d+(?:\.\d+)?)", part)
            if found is None or found[1] in values:
                head = ""
                break
            values[found[1]] = float(found[2])
        strength = values.get("m", STRONGEST)
        if head != "rand" or values.get("inc") != 1 or strength > STRONGEST or values.get("p", 0.5) > 1:
            raise ValueError(
                "augment.policy must read like 'rand-m7-n4-mstd0.5-inc1' (m: strength up to 10, n: operations, mstd: "
                f"spread of the strength, p: probability, inc1: increasing operations) or be empty, not {text!r}"
            )
        return cls(
            count=int(values.get("n", 2)),
            magnitude=strength,
            std=values.get("mstd", 0.0),
            probability=values.get("p", 0.5),
        )

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """(T, 3, H, W) uint8 -> the same shape and type."""
        names = list(OPERATIONS)
        for name in [names[draws.integer(len(names))] for _ in range(self.count)]:
            if not draws.chance(self.probability):
                continue
            level = min(max(draws.normal(self.magnitude, self.std), 0.0), STRONGEST)
            frames = OPERATIONS[name](frames, level, -1 if draws.chance(0.5) else 1)
        return frames
