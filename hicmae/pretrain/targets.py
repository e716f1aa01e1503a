"""What a masked autoencoder is asked to predict, computed for the hidden tokens alone.

A token's values run over (p0, p1, p2, c): frame, row and column within the patch, colour channel fastest. Only hidden
patches are gathered (by integer index), un-normalised and standardised; the rest of the clip is never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hicmae.pretrain.masking import hidden_index

__all__ = [
    "appearance_motion",
    "gather_patches",
    "motion_part",
    "pixels",
    "place_patches",
    "restore",
    "spectrogram",
    "standardise",
]

Patch = tuple[int, int, int]
Motion = Literal["normalised", "raw"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS = 1e-6  # added to the standard deviation of a patch (reference: VideoMAE)


def _grid(video: Tensor, patch: Patch) -> tuple[int, int, int]:
    sizes = video.shape[2:]
    if any(size % p for size, p in zip(sizes, patch, strict=True)):
        raise ValueError(f"patches of {patch} do not divide a video of {tuple(sizes)} (frames, height, width)")
    nt, nh, nw = (size // p for size, p in zip(sizes, patch, strict=True))
    return nt, nh, nw


def _split(video: Tensor, patch: Patch) -> Tensor:
    """A view, (B, C, T, H, W) -> (B, nt, nh, nw, p0, p1, p2, C); nothing is copied."""
    nt, nh, nw = _grid(video, patch)
    p0, p1, p2 = patch
    parts = video.view(video.shape[0], video.shape[1], nt, p0, nh, p1, nw, p2)
    return parts.permute(0, 2, 4, 6, 3, 5, 7, 1)


def gather_patches(video: Tensor, index: Tensor, patch: Patch = (2, 16, 16)) -> Tensor:
    """The patches of the tokens at `index`: (B, C, T, H, W), (B, M) int64 -> (B, M, p0*p1*p2, C), in video's dtype."""
    parts = _split(video.contiguous(), patch)
    nh, nw = parts.shape[2:4]
    row = torch.arange(len(video), device=video.device)[:, None]
    hidden = parts[row, index // (nh * nw), index // nw % nh, index % nw]  # (B, M, p0, p1, p2, C)
    return hidden.reshape(*index.shape, -1, video.shape[1])


def place_patches(patches: Tensor, index: Tensor, video: Tensor, patch: Patch = (2, 16, 16)) -> Tensor:
    """A copy of `video` with the patches at `index` replaced: (B, M, P), (B, M), (B, C, T, H, W) -> (B, C, T, H, W)."""
    out = video.to(patches.dtype, copy=True, memory_format=torch.contiguous_format)
    parts = _split(out, patch)
    nh, nw = parts.shape[2:4]
    row = torch.arange(len(video), device=video.device)[:, None]
    values = patches.reshape(*index.shape, *patch, video.shape[1])
    parts[row, index // (nh * nw), index // nw % nh, index % nw] = values  # writes through the view into `out`
    return out


def _constant(values: Sequence[float], like: Tensor) -> Tensor:
    """(C,) made on the device: sending it there would wait for the GPU."""
    return torch.stack([torch.full((), value, device=like.device, dtype=like.dtype) for value in values])


def _unit(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in [0, 1] from bytes, or from values normalised by `mean` and `std`; channels last."""
    if patches.dtype == torch.uint8:
        return patches.float().div_(255)
    if not patches.is_floating_point():
        raise ValueError(f"video must be uint8 or floating point, not {patches.dtype}")
    patches = patches if patches.dtype == torch.float64 else patches.float()  # half precision would round the targets
    return patches * _constant(std, patches) + _constant(mean, patches)


def standardise(x: Tensor, dim: int = -1) -> Tensor:
    """(x - mean) / (sqrt(unbiased variance) + 1e-6) along `dim`; constant input gives exact zeros.

    The published code turns the rounding error of a constant patch's mean (padding) into values of up to 0.03.
    """
    # Subtracting one of the values first changes nothing in exact arithmetic, and makes constants vanish in floats.
    x = x - x.narrow(dim, 0, 1)
    x -= x.mean(dim, keepdim=True)
    # the norm of centred values, in place: a tenth of the time of torch.var on a CPU
    deviation = torch.linalg.vector_norm(x, dim=dim, keepdim=True) / (x.shape[dim] - 1) ** 0.5
    return x.div_(deviation + EPS)


def pixels(
    video: Tensor,
    mask: Tensor,
    *,
    patch: Patch = (2, 16, 16),
    normalise: bool = True,
    hidden: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Pixels of the hidden tokens (VideoMAE), standardised per token and colour channel when `normalise`.

    Args:
        video: (B, 3, T, H, W), uint8, or floating point normalised by `mean` and `std`.
        mask: bool (B, N), True = hidden, the same number in every row.
        patch: (frames, height, width) of a token.
        hidden: hidden tokens per row (M); read from `mask` (which waits for the GPU) when absent.

    Returns:
        (B, M, P), tokens in ascending order, P = p0*p1*p2*3; float64 for float64 video, else float32.
    """
    x = _unit(gather_patches(video, hidden_index(mask, hidden), patch), mean, std)  # (B, M, p0*p1*p2, 3)
    return (standardise(x, 2) if normalise else x).flatten(2)


def appearance_motion(
    video: Tensor,
    mask: Tensor,
    *,
    group: int = 2,
    motion: Motion = "normalised",
    patch: Patch = (2, 16, 16),
    normalise: bool = True,
    hidden: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Appearance and motion of the hidden tokens (MAE-DFER): (B, 3, T, H, W), (B, N) -> (B, M, P).

    The frames of a group [f0, f1, f2, ...] become [f0, f1 - f0, f2 - f0, ...]. With `motion="normalised"` (the
    published code) the frames subtracted are the standardised ones, each by its own token; with `"raw"` (the paper's
    text) motion is the difference of pixels in [0, 1], and `normalise` concerns appearance only.

    Other arguments and the order of values as in `pixels`. Raises ValueError when `group` does not divide the frames.
    """
    frames, (p0, p1, p2) = video.shape[2], patch
    if group < 1 or frames % group:
        raise ValueError(f"groups of {group} frames do not divide a clip of {frames} frames")
    index = hidden_index(mask, hidden)
    plain = _unit(gather_patches(video, index, patch), mean, std)  # (B, M, p0*p1*p2, 3)
    shown = standardise(plain, 2) if normalise else plain
    values, source = (x.unflatten(2, (p0, p1 * p2)) for x in (shown, shown if motion == "normalised" else plain))
    if p0 % group == 0:  # every group lies within one token: its first frame is at hand
        values, source = (x.unflatten(2, (p0 // group, group)) for x in (values, source))
        return torch.cat([values[:, :, :, :1], source[:, :, :, 1:] - source[:, :, :, :1]], 3).flatten(2)

    _, nh, nw = _grid(video, patch)
    place, time = index % (nh * nw), index // (nh * nw)
    slots = []
    for slot in range(p0):
        begin = (time * p0 + slot) // group * group  # first frame of this frame's group, which another token may hold
        there = _unit(gather_patches(video, begin // p0 * (nh * nw) + place, patch), mean, std)
        if motion == "normalised" and normalise:
            there = standardise(there, 2)
        there = there.unflatten(2, (p0, p1 * p2))
        pick = (begin % p0)[:, :, None, None, None].expand(-1, -1, 1, *there.shape[3:])
        moved = source[:, :, slot] - there.gather(2, pick).squeeze(2)
        slots.append(torch.where((begin == time * p0 + slot)[:, :, None, None], values[:, :, slot], moved))
    return torch.stack(slots, 2).flatten(2)


def motion_part(
    mask: Tensor, grid: Patch, *, group: int = 2, patch: Patch = (2, 16, 16), hidden: int | None = None
) -> Tensor:
    """Which values of `appearance_motion` are motion: bool (P,), or (B, M, P) where groups span several tokens.

    `mask` bool (B, N) matters only in the second case; `grid` holds the tokens in (time, height, width), `hidden` the
    hidden tokens per row.
    """
    p0, p1, p2 = patch
    slot, inside = torch.arange(p0, device=mask.device), p1 * p2 * 3
    if p0 % group == 0:
        return (slot % group != 0).repeat_interleave(inside)
    frame = hidden_index(mask, hidden)[:, :, None] // (grid[1] * grid[2]) * p0 + slot
    return (frame % group != 0).repeat_interleave(inside, 2)


def restore(
    prediction: Tensor,
    video: Tensor,
    mask: Tensor,
    *,
    patch: Patch = (2, 16, 16),
    group: int = 1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Pixels in [0, 1] from a prediction of standardised targets, for looking at: (B, M, P) -> (B, M, P).

    A prediction carries no brightness or contrast; each patch borrows those of the original `video`. `group` > 1 undoes
    the frame differences of `appearance_motion` and must divide the frames of a token.
    """
    if patch[0] % group:
        raise ValueError(f"groups of {group} frames do not divide a token of {patch[0]} frames")
    truth = _unit(gather_patches(video, hidden_index(mask, prediction.shape[1]), patch), mean, std)
    values = prediction.to(truth.dtype).unflatten(2, (patch[0] // group, group, -1))
    first = values[:, :, :, :1]
    values = torch.cat([first, values[:, :, :, 1:] + first], 3).reshape(truth.shape)
    return (values * (truth.std(2, keepdim=True) + EPS) + truth.mean(2, keepdim=True)).flatten(2)


def spectrogram(
    audio: Tensor,
    mask: Tensor,
    *,
    patch: tuple[int, int] = (16, 16),
    normalise: bool = True,
    hidden: int | None = None,
) -> Tensor:
    """Hidden patches of a log-mel spectrogram (HiCMAE): (B, 1, F, K), (B, N) -> (B, M, p1*p2).

    Tokens run time-major, values over (p1, p2) = (time, frequency); `normalise` standardises each patch.
    """
    audio = audio if audio.dtype == torch.float64 else audio.float()
    x = gather_patches(audio[:, :, None], hidden_index(mask, hidden), (1, *patch)).flatten(2)
    return standardise(x) if normalise else x
