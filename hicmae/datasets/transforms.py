"""Crops and augmentation of whole clips: one draw per clip, every frame treated alike, on uint8 as long as possible.

Frames are (T, 3, H, W) uint8 on the way, models get (3, T, H, W). Chance comes from explicit generators only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from hicmae.datasets.draws import Draws
from hicmae.datasets.policy import RandAugment

__all__ = [
    "AugmentConfig",
    "Box",
    "Mix",
    "Mixup",
    "augment_clip",
    "erase",
    "multi_scale_box",
    "multi_scale_crop",
    "normalise",
    "random_resized_crop",
    "resize",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""
SCALES = (1.0, 0.875, 0.75, 0.66)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of supervised training; the defaults are the published fine-tuning values (VideoMAE's)."""

    policy: str = "rand-m7-n4-mstd0.5-inc1"
    """RandAugment in timm's notation; empty for none."""
    crop: tuple[float, float] = (0.08, 1.0)
    """Least and greatest area of the random crop, as shares of the frame."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Least and greatest width / height of the random crop."""
    flip: float = 0.5
    """Probability of mirroring left and right."""
    erase: float = 0.25
    """Probability of replacing a box by noise."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Least and greatest area of that box, as shares of the frame."""
    mixup: float = 0.8
    """Alpha of the beta distribution of mixup's weights; 0 turns mixup off."""
    cutmix: float = 1.0
    """Alpha of the beta distribution of cutmix's areas; 0 turns cutmix off."""
    mix: float = 1.0
    """Probability that a batch is mixed at all."""
    switch: float = 0.5
    """Probability of cutmix rather than mixup where both are on."""
    smoothing: float = 0.1
    """Share of a label's weight that is spread over all classes."""

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "mix", "switch", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"augment.{name} must be at least 0, not {getattr(self, name)}")
        for name, most in (("crop", 1.0), ("aspect", math.inf), ("erase_area", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most or high == math.inf:
                bound = f" of at most {most:g}" if most < math.inf else ""
                raise ValueError(
                    f"augment.{name} must hold two positive numbers{bound}, least first, not {low}, {high}"
                )
        if self.policy:
            RandAugment.parse(self.policy)


def normalise(video: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Tensor:
    """(..., 3, T, H, W) uint8, or floats in [0, 1] -> floats of the same shape, (x - mean) / std per channel.

    Works where the video is; uint8 becomes float32.
    """
    scale = 255.0 if video.dtype == torch.uint8 else 1.0
    # contiguous first: the frames of a clip come as (T, 3, H, W), and bytes are cheaper to reorder than floats
    out = video.contiguous().float() if scale != 1 else video.clone()
    # made on the device: sending them there would wait for the GPU
    offset, factor = (
        torch.stack([torch.full((1, 1, 1), scale * x, device=out.device, dtype=out.dtype) for x in values])
        for values in (mean, std)
    )
    return out.sub_(offset).div_(factor)


def resize(frames: Tensor, size: int) -> Tensor:
    """Bilinear resizing to a square, with antialiasing as Pillow does: (T, 3, H, W) uint8 -> (T, 3, size, size)."""
    if frames.shape[-2:] == (size, size):
        return frames
    # channels last is what the resizing of bytes works on
    frames = frames.contiguous(memory_format=torch.channels_last)
    return V.resize(frames, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True)


@lru_cache
def _scaled_sizes(height: int, width: int, size: int) -> tuple[tuple[int, int], ...]:
    """(height, width) of the crops: two of the scales each, at most one step apart, of the shorter side."""
    shorter = min(height, width)
    sides = [int(shorter * scale) for scale in SCALES]
    # nearly the wanted size counts as the wanted size, which spares the resizing
    sides = [size if abs(side - size) < 3 and size <= shorter else side for side in sides]
    return tuple((h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1)


# in quarters of the room (down, right): corners and centre, edge centres, quarters
_PLACES = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))


def multi_scale_box(height: int, width: int, size: int, draws: Draws) -> Box:
    """One of ten crop sizes at one of thirteen places (TSN; VideoMAE): top, left, height, width."""
    sizes = _scaled_sizes(height, width, size)
    h, w = sizes[draws.integer(len(sizes))]
    down, right = _PLACES[draws.integer(len(_PLACES))]
    return down * ((height - h) // 4), right * ((width - w) // 4), h, w


def multi_scale_crop(frames: Tensor, size: int, draws: Draws) -> Tensor:
    """A part of the frames (`multi_scale_box`), resized: (T, 3, H, W) -> (T, 3, size, size)."""
    top, left, h, w = multi_scale_box(frames.shape[-2], frames.shape[-1], size, draws)
    return resize(frames[:, :, top : top + h, left : left + w], size)


def random_resized_crop(
    frames: Tensor, size: int, area: tuple[float, float], aspect: tuple[float, float], draws: Draws
) -> Tensor:
    """A box of random area (shares) and log-uniform aspect (width / height), resized; the centre after 10 misses.

    (T, 3, H, W) uint8 -> (T, 3, size, size).
    """
    height, width = frames.shape[-2:]
    for _ in range(10):
        wanted = draws.uniform(*area) * height * width
        ratio = math.exp(draws.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws.integer(height - h + 1), draws.integer(width - w + 1)
            break
    else:
        # the largest centred box whose aspect is allowed
        ratio = min(max(width / height, aspect[0]), aspect[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        top, left = (height - h) // 2, (width - w) // 2
    return resize(frames[:, :, top : top + h, left : left + w], size)


def erase(video: Tensor, area: tuple[float, float], draws: Draws) -> Tensor:
    """Replace one box, the same in every frame, by fresh normal noise (random erasing, 'pixel'); in place.

    (3, T, H, W) normalised; `area` in shares of the frame, log-uniform aspect from 0.3 to 1 / 0.3.
    """
    channels, frames, height, width = video.shape
    for _ in range(10):
        wanted = draws.uniform(*area) * height * width
        ratio = math.exp(draws.uniform(math.log(0.3), -math.log(0.3)))
        h, w = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = draws.integer(height - h + 1), draws.integer(width - w + 1)
            noise = torch.randn(channels, frames, h, w, generator=draws.generator)
            video[:, :, top : top + h, left : left + w] = noise
            break
    return video


def augment_clip(frames: Tensor, size: int, augment: AugmentConfig, draws: Draws) -> Tensor:
    """Published order: resize, policy, crop, flip, normalise, erase; (T, 3, H, W) uint8 -> (3, T, size, size) float32.

    Mixing needs a batch and is `Mixup`'s.
    """
    frames = resize(frames, size)
    if augment.policy:
        frames = RandAugment.parse(augment.policy)(frames, draws)
    # On bytes, where the published code crops floats: the same to half a grey level, at a fraction of the time.
    frames = random_resized_crop(frames, size, augment.crop, augment.aspect, draws)
    if draws.chance(augment.flip):
        frames = frames.flip(-1)
    video = normalise(frames.transpose(0, 1))
    return erase(video, augment.erase_area, draws) if draws.chance(augment.erase) else video


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed with its own reverse; one draw for all modalities and labels."""

    kind: Literal["none", "mixup", "cutmix"]
    weight: float
    """What a sample keeps; after cutmix exactly the share of the area it keeps."""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Cutmix: top, bottom, left, right of the part taken from the partner."""
    place: float = 0.0
    """Cutmix: where in the sound the partner's part lies, 0 (begin) to 1 (end)."""

    def video(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the same; cutmix replaces a box of height and width in every frame."""
        if self.kind == "none":
            return video
        if self.kind == "mixup":
            return torch.lerp(video.flip(0), video, self.weight)
        top, bottom, left, right = self.box
        video, partner = video.clone(), video.flip(0)
        video[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return video

    def audio(self, audio: Tensor) -> Tensor:
        """(B, 1, F, K) -> the same; cutmix replaces a run of time of the same share."""
        if self.kind == "none":
            return audio
        if self.kind == "mixup":
            return torch.lerp(audio.flip(0), audio, self.weight)
        frames = audio.shape[2]
        length = round((1 - self.weight) * frames)
        begin = round(self.place * (frames - length))
        audio, partner = audio.clone(), audio.flip(0)
        audio[:, :, begin : begin + length] = partner[:, :, begin : begin + length]
        return audio

    def labels(self, label: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
        """(B,) int64, or soft labels (B, classes) -> (B, classes); hard labels are smoothed."""
        if not label.is_floating_point():
            label = F.one_hot(label, classes).float() * (1 - smoothing) + smoothing / classes
        return label * self.weight + label.flip(0) * (1 - self.weight)


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Mixup and cutmix of a batch with its reverse, one draw per batch (timm's 'batch' mode), right for clips.

    Fields as in `AugmentConfig`: `alpha` and `cutmix` are the beta distributions' parameters, `prob` the probability of
    mixing, `switch` that of cutmix rather than mixup, `smoothing` the share spread over all `classes`.
    """

    alpha: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1
    classes: int

    def draw(self, height: int, width: int, generator: torch.Generator) -> Mix:
        """One draw for a batch of frames of the given size."""
        draws = Draws(generator)
        if self.alpha <= 0 >= self.cutmix or not draws.chance(self.prob):
            return Mix("none", 1.0)
        if not (self.cutmix > 0 and (self.alpha <= 0 or draws.chance(self.switch))):
            return Mix("mixup", draws.beta(self.alpha, self.alpha))
        side = math.sqrt(1 - draws.beta(self.cutmix, self.cutmix))
        h, w = int(height * side), int(width * side)
        y, x = draws.integer(height), draws.integer(width)  # the box's centre; what sticks out is cut off
        top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
        left, right = max(x - w // 2, 0), min(x + w // 2, width)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return Mix("cutmix", kept, (top, bottom, left, right), draws.uniform())

    def __call__(self, video: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W), (B,) int64 or (B, classes) -> mixed video, soft targets (B, classes).

        `generator` lives on the CPU, wherever the batch is. For sound as well use `draw` and the `Mix` it gives.
        """
        mix = self.draw(video.shape[-2], video.shape[-1], generator)
        return mix.video(video), mix.labels(label, self.classes, self.smoothing)
