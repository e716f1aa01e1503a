"""Sound as models see it: Kaldi's log-mel filter bank on CPU and GPU alike, and which stretch of it belongs to a clip.

Settings are HiCMAE's: 16 kHz mono, windows of 25 ms every 10 ms, no dither, 'hanning' window, pre-emphasis 0.97, power
spectrum. 256 frames of 128 bands stand for 2.575 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hicmae.datasets.draws import Draws

__all__ = [
    "SoundAugmentConfig",
    "SoundConfig",
    "clip_sound",
    "filter_bank",
    "log_mel",
    "mask_bands",
    "mel_bands",
    "span_by_relative_time",
    "span_by_time",
    "widen",
]

RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
LEAST = 1024
"""Stretches of no more samples than this are too short to be heard."""
USUAL = 40_960
"""2.56 s: what a clip of 16 frames and stride 4 spans at 25 frames per second."""


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """The log-mel picture of a clip's sound."""

    length: int = 256
    """Frames of 10 ms; shorter sound is padded, longer cut."""
    bins: int = 128
    """Mel bands from 20 Hz to 8 kHz."""
    mean: float = -4.2677393
    """Mean of log-mel energies (published, AudioSet)."""
    std: float = 4.5689974
    """Their standard deviation; values become (x - mean) / (2 std)."""

    def __post_init__(self) -> None:
        for name in ("length", "bins", "std"):
            if getattr(self, name) <= 0:
                raise ValueError(f"sound.{name} must be positive, not {getattr(self, name)}")

    def sized(self, *, length: int | None = None, bins: int | None = None) -> SoundConfig:
        """The same, as large as a model takes it; None where that is not known.

        Raises:
            ValueError: `length` or `bins` was set here to something else.
        """
        for name, value in (("length", length), ("bins", bins)):
            own = getattr(self, name)
            if value is not None and own not in (value, getattr(SoundConfig, name)):
                raise ValueError(f"sound.{name} is {own}, and the model takes {value}: state it in one place only")
        return replace(self, length=length or self.length, bins=bins or self.bins)

    def shaped(self, grid: Sequence[int], patch: Sequence[int]) -> SoundConfig:
        """`sized` for a model of so many patches of such a size, along (time, frequency)."""
        length, bins = (count * size for count, size in zip(grid, patch, strict=True))
        return self.sized(length=length, bins=bins)


@dataclass(frozen=True, kw_only=True)
class SoundAugmentConfig:
    """Augmentation of sound, in training only; the defaults are what the published code really does."""

    gain: bool = True
    """Multiply by 0.5 + Beta(10, 10), which is 1 on average."""
    roll: bool = False
    """Rotate the stretch of sound by a random number of samples."""
    frequency_mask: int = 0
    """SpecAugment: fewer than this many neighbouring bands are blanked; 0 for none."""
    time_mask: int = 0
    """SpecAugment: fewer than this many neighbouring frames are blanked; 0 for none."""
    noise: bool = False
    """Add noise of a random strength up to 0.1 to the normalised picture, and shift it by up to 10 frames."""

    def __post_init__(self) -> None:
        for name in ("frequency_mask", "time_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"sound_augment.{name} must not be negative, not {getattr(self, name)}")


@lru_cache(maxsize=8)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept must be usable in training too
        return torch.hann_window(WINDOW, periodic=False, dtype=torch.float32).to(device, dtype)


@lru_cache(maxsize=8)
def mel_bands(bins: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Triangles evenly spaced on the mel scale, 20 Hz to 8 kHz, in Kaldi's float32: (FFT/2 + 1, bins)."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    low, high = mel(20.0), mel(RATE / 2)
    step = (high - low) / (bins + 1)
    with torch.inference_mode(False):
        place = torch.arange(bins)[:, None]
        left, centre, right = (low + (place + k) * step for k in (0.0, 1.0, 2.0))
        here = (1127.0 * (1.0 + RATE / FFT * torch.arange(FFT // 2) / 700.0).log())[None]
        triangles = torch.minimum((here - left) / (centre - left), (right - here) / (right - centre)).clamp_min(0)
        return F.pad(triangles, (0, 1)).T.contiguous().to(device, dtype)  # nothing of the Nyquist frequency


def filter_bank(waveform: Tensor, bins: int = 128) -> Tensor:
    """Log-mel energies, not normalised: (B, S) at 16 kHz -> (B, frames, K), one frame per whole window.

    Equals `torchaudio.compliance.kaldi.fbank` on CPU (1e-5); other float32 Fourier transforms, a GPU's among them,
    differ by up to 4e-3.

    Raises:
        ValueError: fewer samples than one window of 25 ms.
    """
    if waveform.shape[-1] < WINDOW:
        raise ValueError(f"sound of {waveform.shape[-1]} samples is shorter than one window of {WINDOW} (25 ms)")
    kind = waveform.device.type
    half = torch.is_autocast_enabled(kind)  # entering takes longer than some of what is inside
    with torch.autocast(kind, enabled=False) if half else nullcontext():  # half precision would drown quiet bands
        waveform = waveform if waveform.dtype == torch.float64 else waveform.float()
        frames = waveform.unfold(-1, WINDOW, HOP)  # (B, frames, WINDOW)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        frames = (frames - 0.97 * previous) * _window(waveform.device, waveform.dtype)
        real, imaginary = torch.view_as_real(torch.fft.rfft(frames, n=FFT)).unbind(-1)
        power = real.square().addcmul_(imaginary, imaginary)  # (B, frames, FFT/2 + 1); a fifth of the time of abs
        # on a GPU in double precision: single may mean 10 bits there (TF32)
        precise = torch.float64 if power.is_cuda else power.dtype
        energies = (power.to(precise) @ mel_bands(bins, waveform.device, precise)).to(power.dtype)
        return energies.clamp_min_(torch.finfo(torch.float32).eps).log_()


def log_mel(
    waveform: Tensor,
    *,
    length: int | None = 256,
    bins: int = 128,
    mean: float = -4.2677393,
    std: float = 4.5689974,
    samples: Tensor | None = None,
) -> Tensor:
    """The normalised log-mel picture (HiCMAE): (B, S) or (S,) at 16 kHz -> (B, 1, F, K).

    The waveform's mean is removed first, over all of it. Of more than `length` frames the first are kept, fewer are
    padded at the end by log energies of 0, as published (that is loud: silence is at -15.9). None takes what there is.

    Args:
        length: F, frames of 10 ms.
        bins: K.
        mean, std: statistics of the log energies; the result is (x - mean) / (2 std).
        samples: int64 (B,), the samples that count of each waveform in a padded batch; at least one window each.

    Raises:
        ValueError: fewer samples than one window.
    """
    waveform = waveform[None] if waveform.dim() == 1 else waveform
    if samples is None:
        energies = filter_bank(waveform - waveform.mean(-1, keepdim=True), bins)
    else:
        counts = torch.arange(waveform.shape[1], device=waveform.device) < samples[:, None]
        centre = (waveform * counts).sum(-1, keepdim=True) / samples[:, None]
        energies = filter_bank((waveform - centre) * counts, bins)
        whole = torch.arange(energies.shape[1], device=waveform.device) < 1 + (samples[:, None] - WINDOW) // HOP
        energies = energies * whole[..., None]
    if length is not None:
        energies = F.pad(energies, (0, 0, 0, max(0, length - energies.shape[1])))[:, :length]
    return ((energies - mean) / (2 * std))[:, None]


def mask_bands(picture: Tensor, augment: SoundAugmentConfig, draws: Draws, fill: float = 0.0) -> Tensor:
    """SpecAugment: one run of bands and one of frames set to `fill`; (..., F, K) -> a copy of the same shape."""
    picture = picture.clone()
    for dim, most in ((-1, augment.frequency_mask), (-2, augment.time_mask)):
        if most:
            size = picture.shape[dim]
            width = min(int(draws.uniform(0, most)), size)
            start = int(draws.uniform(0, size - width))
            picture.narrow(dim, start, width).fill_(fill)
    return picture


def clip_sound(
    waveform: np.ndarray | Tensor,
    span: tuple[int, int],
    config: SoundConfig,
    augment: SoundAugmentConfig | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """The picture of a clip's stretch of sound: (S,) at 16 kHz -> (1, F, K) float32.

    `span` is (begin, end) in samples, widened if it is too short. Augmentation needs both `augment` and `draws`.

    Raises:
        ValueError: the whole sound is shorter than one window of 25 ms.
    """
    begin, end = widen(*span, len(waveform))
    sound = torch.as_tensor(waveform[begin:end]).float()
    if augment is not None and draws is not None:
        if augment.roll:
            sound = sound.roll(draws.integer(len(sound)))
        if augment.gain:
            sound = sound * (0.5 + draws.beta(10, 10))
    picture = log_mel(sound, length=config.length, bins=config.bins, mean=config.mean, std=config.std)[0]
    if augment is not None and draws is not None:
        # blanked before normalisation by 0, like the padding
        picture = mask_bands(picture, augment, draws, fill=-config.mean / (2 * config.std))
        if augment.noise:
            noise = torch.rand(picture.shape, generator=draws.generator)
            picture = (picture + noise * (draws.uniform() / 10)).roll(draws.integer(20) - 10, 1)
    return picture


def span_by_time(times: Sequence[float] | np.ndarray, first: int, last: int, stride: int = 4) -> tuple[int, int]:
    """Samples heard while frames `first` to `last` are shown, as in pretraining: from the beginning of the first to the
    end of the frame `stride` after the last, or of the last there is.

    `times` (frames,) are the seconds at which frames begin, on the sound's clock; the last lasts like its neighbour.
    """
    final = min(last + stride, len(times) - 1)
    if final + 1 < len(times):
        end = float(times[final + 1])
    else:
        end = float(times[final]) + (float(times[-1]) - float(times[-2]) if len(times) > 1 else 0.0)
    start = float(times[first])
    return int(start * RATE), int(start * RATE) + int((end - start) * RATE)


def span_by_relative_time(first: int, end: int, frames: int, samples: int) -> tuple[int, int]:
    """Samples between frames `first` and `end`, as in fine-tuning: video and sound are taken to last equally long.

    Published choices of `end`, both limited to the last frame: first + clip * stride in training, the last frame taken
    plus stride in tests.
    """
    final = frames - 1
    begin, end = min(first, final), min(end, final)
    return (int(begin / final * samples), int(end / final * samples)) if final else (0, 0)


def widen(begin: int, end: int, samples: int) -> tuple[int, int]:
    """A stretch of more than 1024 samples as it is; a shorter one becomes the 2.56 s around it, within the sound.

    The published code takes the whole sound if it is shorter than 2.56 s, as happens here too, and fails otherwise.
    """
    begin, end = max(0, begin), min(end, samples)
    if end - begin > LEAST:
        return begin, end
    begin = max(0, min((begin + end - USUAL) // 2, samples - USUAL))
    return begin, min(begin + USUAL, samples)
