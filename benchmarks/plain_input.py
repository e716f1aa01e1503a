"""The input pipeline as the published code has it, frame by frame: the baseline of `pipeline.py`.

From the description of VoxCeleb2's loader (sections 6.2 and 7 of the reference): an mp4 and a wav beside it; the span
from the first to the last wanted frame decoded by PyAV as it comes, each wanted frame a Pillow image, cropped and
resized by Pillow, then floats over 255, mean and deviation off; the filter bank by torchaudio, built for every clip.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from PIL import Image
from torch import Tensor

from hicmae.datasets.draws import Draws

__all__ = ["PlainClip", "plain_sample"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PlainClip:
    """A clip as files: a video of `frames` frames, each `side` pixels square, shown at `times` (s), and its sound."""

    video: Path
    sound: Path | None
    side: int
    times: np.ndarray


def plain_sample(
    clip: PlainClip, draws: Draws, *, size: int = 160, length: int = 16, stride: int = 4
) -> tuple[Tensor, Tensor | None]:
    """A clip of `length` frames: (3, T, size, size) float32 normalised, and (1, 256, 128) of its sound."""
    count = len(clip.times)
    room = count - length * stride + 1
    start = draws.integer(room) if room > 0 else 0
    wanted, at = [], start + 1  # counted from 1, as published
    for _ in range(length):
        wanted.append(at - 1)
        if at + stride < count:
            at += stride
    top, left, height, width = _box(clip.side, size, draws)
    tensors = []
    for pixels in _decoded(clip, wanted):
        image = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        tensors.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255))
    video = torch.stack(tensors, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    video = (video - mean) / std
    return video, None if clip.sound is None else _picture(clip, wanted, stride, draws)


def _box(side: int, size: int, draws: Draws) -> tuple[int, int, int, int]:
    """One of the crops of TSN: top, left, height, width."""
    sizes = [int(side * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sizes = [size if abs(each - size) < 3 else each for each in sizes]
    pairs = [(h, w) for i, h in enumerate(sizes) for j, w in enumerate(sizes) if abs(i - j) <= 1]
    height, width = pairs[draws.integer(len(pairs))]
    right, down = (side - width) // 4, (side - height) // 4
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]  # (right, down) in quarters of the room
    edges, quarters = [(0, 2), (4, 2), (2, 4), (2, 0)], [(1, 1), (3, 1), (1, 3), (3, 3)]
    across, along = [*corners, *edges, *quarters][draws.integer(13)]
    return along * down, across * right, height, width


def _decoded(clip: PlainClip, wanted: list[int]) -> list[np.ndarray]:
    """Frames by number, each (H, W, 3) uint8: everything from the key frame before to the last one is decoded."""
    found: dict[int, np.ndarray] = {}
    with av.open(str(clip.video)) as container:
        stream = container.streams.video[0]
        tick = 1 / (stream.average_rate * stream.time_base)  # ticks between frames
        container.seek(round(wanted[0] * tick), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.pts / tick)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= wanted[-1]:
                break
    return [found[number] for number in wanted]


def _picture(clip: PlainClip, wanted: list[int], stride: int, draws: Draws) -> Tensor:
    """Log-mel energies of the time from the first frame to the end of the last one but `stride`."""
    times = clip.times
    last = min(wanted[-1] + stride, len(times) - 1)
    end = times[last + 1] if last + 1 < len(times) else 2 * times[last] - times[last - 1]
    begin = int(times[wanted[0]] * 16000)
    with wave.open(str(clip.sound), "rb") as file:
        file.setpos(begin)
        data = file.readframes(int((end - times[wanted[0]]) * 16000))
    sound = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)[None]
    sound = sound * (0.5 + draws.beta(10, 10))
    sound = sound - sound.mean()
    energies = torchaudio.compliance.kaldi.fbank(
        sound,
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    picture = torch.zeros(256, 128)
    picture[: len(energies)] = energies[:256]
    return ((picture + 4.2677393) / (2 * 4.5689974))[None]
