"""JPEG strips decoded where the model is: workers only read, a GPU decodes, crops and resizes (torchvision, nvJPEG).

Written for GPUs and not yet tried on one; on a CPU it gives the bits that workers give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from hicmae.datasets.draws import Draws
from hicmae.datasets.frames import JpegStrip, SampleError
from hicmae.datasets.transforms import Box, multi_scale_box, resize

__all__ = ["CodedClip", "OnDevice", "coded_clip"]


@dataclass(frozen=True)
class CodedClip:
    """JPEGs of a clip, by number, and which part of them is wanted."""

    jpegs: dict[int, Tensor]
    indices: list[int]
    box: Box


def coded_clip(frames: Any, indices: list[int], draws: Draws, *, side: int, size: int) -> CodedClip:
    """The frames at `indices` as they lie in a sample, each `side` pixels square, and a crop drawn for `size` pixels.

    Raises:
        SampleError: they are no JPEGs.
    """
    if not isinstance(frames, JpegStrip):
        raise SampleError("its frames are no JPEGs, which alone a GPU decodes: set data.decode to cpu")
    box = multi_scale_box(side, side, size, draws)
    return CodedClip({i: frames.coded(i) for i in dict.fromkeys(indices)}, indices, box)


@dataclass(frozen=True)
class OnDevice:
    """Makes `video` (B, 3, T, size, size) uint8 of the coded clips of a batch, on `device`."""

    size: int
    device: torch.device

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its clips decoded, all at once."""
        clips: list[CodedClip] = batch.get("video", [])
        coded = [jpeg for clip in clips for jpeg in clip.jpegs.values()]
        decoded = iter(decode_jpeg(coded, mode=ImageReadMode.RGB, device=self.device))
        videos = []
        for clip in clips:
            frames = dict(zip(clip.jpegs, decoded, strict=False))
            top, left, height, width = clip.box
            whole = torch.stack([frames[i] for i in clip.indices])[..., top : top + height, left : left + width]
            videos.append(resize(whole, self.size).transpose(0, 1))
        return {**batch, "video": torch.stack(videos)} if videos else batch
