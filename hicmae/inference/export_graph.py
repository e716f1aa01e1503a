"""A fine-tuned model together with what prepares its input, as one module: bytes and samples in, probabilities out.

Only what differs from the library's own preparation is written anew here, in forms that graphs can hold: resizing is
two matrix products, the filter bank a third one (a discrete Fourier transform is a matrix).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hicmae.datasets.fbank import FFT, HOP, WINDOW, SoundConfig, mel_bands
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.outputs import Outputs
from hicmae.inference.processor import Processor
from hicmae.models.base import Model

__all__ = ["Deployed", "Hearing", "Sight", "samples_of"]


class Sight(nn.Module):
    """Frames as decoders give them -> a model's input: bilinear resizing with antialiasing, then normalisation.

    Two passes, across and down, rounded to whole grey levels after each: the library's resizing of bytes, to the bit.

    Shapes:
        frames: (B, T, S, S, 3) uint8 -> (B, 3, T, size, size)
    """

    def __init__(self, stored: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        weights = None if stored == size else torch.as_tensor(antialias(stored, size).T.copy())
        self.register_buffer("weights", weights)
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None, None])
        self.register_buffer("std", 255 * torch.tensor(std)[:, None, None, None])

    weights: Tensor | None
    mean: Tensor
    std: Tensor

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, S, S, 3) uint8 -> (B, 3, T, size, size)."""
        x = frames.permute(0, 4, 1, 2, 3).float()  # (B, 3, T, S, S)
        if self.weights is not None:
            x = (x @ self.weights + 0.5).floor()  # (B, 3, T, S, size)
            x = (x.transpose(-1, -2) @ self.weights + 0.5).floor().transpose(-1, -2)  # (B, 3, T, size, size)
        return (x - self.mean) / self.std


def antialias(source: int, target: int) -> np.ndarray:
    """Weights of a triangle filter that is as wide as a pixel of the coarser grid, (target, source) float32.

    They are multiples of a power of a half, as few as bytes are resized with in integers of 16 bits (torchvision), so
    that sums of them are exact here too.
    """
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target) + 0.5)[:, None] * scale
    place = np.arange(source)[None] + 0.5
    # Pillow's limits: whole pixels whose middles lie nearest to the filter's ends
    first, last = np.floor(centre - width + 0.5).clip(0), np.floor(centre + width + 0.5).clip(None, source)
    inside = (np.arange(source)[None] >= first) & (np.arange(source)[None] < last)
    weights = np.where(inside, np.clip(1 - np.abs(place - centre) / width, 0, None), 0)
    weights /= weights.sum(1, keepdims=True)
    scale = next(2.0**p for p in range(22) if weights.max() * 2 ** (p + 1) + 0.5 >= 2**15)
    return (np.floor(weights * scale + 0.5) / scale).astype(np.float32)


class Hearing(nn.Module):
    """Sound -> the normalised log-mel picture, as `datasets.fbank.log_mel` gives it, in double precision.

    Shapes:
        sound: (B, S) at 16 kHz, filled up at its end, samples: (B,) int64, how many of them count -> (B, 1, F, K)
    """

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config
        start = torch.arange(config.length)[:, None] * HOP
        self.register_buffer("index", start + torch.arange(WINDOW))  # (F, WINDOW)
        # mean removal, pre-emphasis, window and Fourier transform are linear maps of a frame: one matrix
        centre = np.eye(WINDOW) - 1 / WINDOW
        emphasis = np.eye(WINDOW) - 0.97 * np.eye(WINDOW, k=-1)
        emphasis[0, 0] -= 0.97  # the first sample precedes itself
        window = np.hanning(WINDOW)[:, None]
        turn = 2 * np.pi / FFT * np.outer(np.arange(FFT // 2 + 1), np.arange(WINDOW))
        both = np.concatenate([np.cos(turn), np.sin(turn)])  # (2 (FFT / 2 + 1), WINDOW)
        self.register_buffer("transform", torch.as_tensor((both @ (window * (emphasis @ centre))).T.copy()))
        self.register_buffer("mel", mel_bands(config.bins, torch.device("cpu"), torch.float64))  # (FFT / 2 + 1, K)

    index: Tensor
    transform: Tensor
    mel: Tensor

    def forward(self, sound: Tensor, samples: Tensor) -> Tensor:
        """(B, S), (B,) -> (B, 1, F, K)."""
        sound = sound.double() * (torch.arange(sound.shape[1], device=sound.device) < samples[:, None])
        real, imaginary = (sound[:, self.index] @ self.transform).chunk(2, dim=-1)  # (B, F, FFT / 2 + 1)
        energies = (real * real + imaginary * imaginary) @ self.mel  # (B, F, K)
        energies = energies.clamp_min(torch.finfo(torch.float32).eps).log()
        frames = torch.arange(self.config.length, device=sound.device)
        whole = frames <= torch.div(samples[:, None] - WINDOW, HOP, rounding_mode="floor")
        energies = energies * whole[..., None]
        return ((energies - self.config.mean) / (2 * self.config.std))[:, None].float()


def samples_of(config: SoundConfig) -> int:
    """How many samples (at 16 kHz) fill the picture of sound: S."""
    return (config.length - 1) * HOP + WINDOW


class Deployed(nn.Module):
    """A fine-tuned model from frames and sound, as they are decoded, to what its outputs mean.

    Args:
        model: fine-tuned, with a head.
        meta: what its checkpoint says.
        processor: what prepares its input.
        modality: `video` or `audio`: an audio-visual model that is given this alone.

    Shapes:
        frames: (B, T, S, S, 3) uint8, sound: (B, samples) float32, samples: (B,) int64; those that the model takes
        -> probabilities (B, classes) and values (B, numbers), those that it has, features (B, D) before the head
    """

    def __init__(self, model: Model, meta: Mapping[str, Any], processor: Processor, modality: Any = None) -> None:
        super().__init__()
        how, self.model = processor.how, model
        self.takes, self.outputs = Inputs.of(model, modality), Outputs.of(meta)
        self.sight = Sight(how.stored, how.size, processor.mean, processor.std) if self.takes.video else None
        self.hearing = Hearing(how.sound) if self.takes.audio and how.sound is not None else None
        self.frames, self.stored, self.stride = how.frames, how.stored, how.stride

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> (type, shape without the batch), in order."""
        seen: dict[str, Any] = {"frames": ("uint8", (self.frames, self.stored, self.stored, 3))} if self.sight else {}
        if self.hearing is not None:
            seen |= {"sound": ("float32", (samples_of(self.hearing.config),)), "samples": ("int64", ())}
        return seen

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs, in order."""
        classes = getattr(self.model, "num_classes", 0) - self.outputs.numbers
        return (*(("probabilities",) if classes else ()), *(("values",) if self.outputs.numbers else ()), "features")

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        video = self.sight(given[0]) if self.sight is not None else None
        audio = self.hearing(*given[-2:]) if self.hearing is not None else None
        return self.told(video, audio)

    def told(self, video: Tensor | None, audio: Tensor | None) -> tuple[Tensor, ...]:
        """What the model makes of its own input, (B, 3, T, H, W) and (B, 1, F, K)."""
        model: Any = self.model
        features = model.forward_features(
            *((video, audio) if self.takes.both else (video if audio is None else audio,))
        )
        found = self.outputs(model.head(features))  # (B, K)
        classes = found.shape[-1] - self.outputs.numbers
        parts = {"probabilities": found[:, :classes], "values": found[:, classes:], "features": features}
        return tuple(parts[name] for name in self.names)
