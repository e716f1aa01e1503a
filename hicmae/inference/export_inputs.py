"""What an exported model is tried on: windows of clips or shards, or of generated talking faces."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import RATE, WINDOW, SoundConfig, log_mel, widen
from hicmae.datasets.listing import find_videos
from hicmae.datasets.media import MediaError, read_audio
from hicmae.datasets.synthetic import Identity, Take
from hicmae.datasets.transforms import normalise, resize
from hicmae.inference.export_graph import Deployed, samples_of
from hicmae.inference.processor import Processor
from hicmae.inference.windows import windows

__all__ = ["Given", "clips", "generated", "prepared"]

Given = tuple[Tensor, ...]
"""Inputs of a graph, with a batch axis: frames, sound, samples, those that it takes."""


def generated(deployed: Deployed, count: int, seed: int = 0) -> Given:
    """Talking faces with a voice, one window each (`hicmae.datasets.synthetic`)."""
    rng = np.random.default_rng(seed)
    found = []
    fps = 25 / deployed.stride
    for number in range(count):
        seconds = deployed.frames / fps
        take = Take.draw(rng, Identity.draw(rng), seconds=max(1.0, seconds), fps=fps)  # words take their time
        parts: list[Tensor] = []
        if deployed.sight is not None:
            size = max(32, deployed.stored + deployed.stored % 2)
            frames = take.video(number % 3, size)[: deployed.frames, : deployed.stored, : deployed.stored]
            parts.append(torch.from_numpy(frames.copy()))
        if deployed.hearing is not None:
            parts += filled(take.sound(number % 3)[: round(seconds * RATE)], deployed.hearing.config)
        found.append(tuple(parts))
    return stacked(found)


def clips(deployed: Deployed, processor: Processor, inputs: Sequence[str | Path], most: int) -> Given:
    """Windows of videos, the first `most` of them, cropped as the checkpoint says but not scaled to the model's size.

    Raises:
        UserError: no window can be had of them.
    """
    found = list(islice(_windows(deployed, processor, inputs), most))
    if not found:
        raise UserError(f"{', '.join(map(str, inputs))}: holds no clip that the model can be tried on")
    return stacked(found)


def _windows(deployed: Deployed, processor: Processor, inputs: Sequence[str | Path]) -> Iterator[Given]:
    how = dataclasses.replace(processor.how, size=processor.how.stored)
    for item in find_videos(inputs)[0]:
        try:
            track = read_audio(item.path) if deployed.hearing is not None else None
            for window in windows(item.path, how, hop=how.frames):
                parts = [window.frames.permute(1, 2, 3, 0)] if deployed.sight is not None else []
                if deployed.hearing is not None:
                    if track is None:
                        break
                    wave, begin = track
                    first = int((window.start - begin) * RATE)
                    first, last = widen(first, first + int((window.end - window.start) * RATE), len(wave))
                    if last - first < WINDOW:
                        continue
                    parts += filled(wave[first:last], deployed.hearing.config)
                yield tuple(parts)
        except MediaError:
            continue


def filled(wave: np.ndarray, config: SoundConfig) -> list[Tensor]:
    """Sound (S,) as a graph takes it: cut or filled up with zeros, and how many samples count."""
    most = samples_of(config)
    sound = np.zeros(most, np.float32)
    sound[: len(wave)] = wave[:most]
    return [torch.from_numpy(sound), torch.tensor(min(len(wave), most))]


def stacked(found: Iterable[Given]) -> Given:
    """One batch of several windows."""
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


@torch.inference_mode()
def prepared(deployed: Deployed, processor: Processor, given: Given) -> tuple[Tensor, ...]:
    """Outputs by the library's own way: bytes resized and normalised, Kaldi's filter bank, the eager model."""
    video = audio = None
    if deployed.sight is not None:
        frames = given[0].permute(0, 1, 4, 2, 3)  # (B, T, 3, S, S)
        small = torch.stack([resize(each, processor.how.size) for each in frames])
        video = normalise(small.transpose(1, 2), processor.mean, processor.std)
    if deployed.hearing is not None:
        sound, samples = given[-2:]
        config = deployed.hearing.config
        rows = [
            log_mel(wave[: int(n)], length=config.length, bins=config.bins, mean=config.mean, std=config.std)
            for wave, n in zip(sound, samples, strict=True)
        ]
        audio = torch.cat(rows)
    return deployed.told(video, audio)
