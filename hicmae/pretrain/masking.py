"""Masks as functions of (seed, epoch, sample number): which tokens are hidden, which of those are decoded.

Every token gets a 64-bit integer hash and the smallest hashes of a sample (or of a window) are hidden. Integers behave
alike everywhere and ranking makes counts exact, so a sample's mask is the same on every device, rank and batch size,
and no random state has to be saved or shared. Nothing here waits for the GPU.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["decoded_mask", "hidden_count", "hidden_index", "random_mask", "tube_mask"]

Grid = tuple[int, int, int]

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the increment of splitmix64
_BITS = (1 << 64) - 1
# one word per kind of draw, so that a sample's video, audio and decoder draws are independent
_TUBE, _RANDOM, _DECODED, _CELL = 1, 2, 3, 4


def _signed(word: int) -> int:
    word &= _BITS
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically; the hash wants zeros


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): int64 -> int64, one to one; products wrap around."""
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _mix_word(word: int) -> int:
    word &= _BITS
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _BITS
    return word ^ (word >> 31)


def _hashes(numbers: Tensor, tokens: int, *, seed: int, epoch: int, kind: int) -> Tensor:
    """Uniform 64-bit hashes of (seed, epoch, kind, number, token): (B,) -> (B, tokens) int64."""
    if numbers.dtype != torch.int64 or numbers.dim() != 1:
        raise ValueError(f"numbers must be int64 of shape (B,), not {numbers.dtype} of shape {tuple(numbers.shape)}")
    run = 0
    for word in (seed, epoch, kind):  # chained, so that (1, 2) and (2, 1) differ
        run = _mix_word(run + _GOLDEN + word)
    state = _mix(_mix(numbers * _signed(_GOLDEN) + _signed(run)))
    counter = torch.arange(1, tokens + 1, device=numbers.device) * _signed(_GOLDEN)
    return _mix(state[:, None] + counter)


def _smallest(hashes: Tensor, count: int) -> Tensor:
    """True at the `count` smallest entries of the last axis; equal entries rank by position."""
    order = hashes.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(hashes, dtype=torch.bool).scatter_(-1, order, True)


def hidden_count(tokens: int, ratio: float) -> int:
    """How many of `tokens` a ratio hides: the floor of the exact product, so 0.29 of 100 is 29 and 0.9 of 50 is 45.

    Raises ValueError unless at least one token is hidden and one stays visible.
    """
    # `int(ratio * tokens)` loses a token whenever the product lands a rounding error below a whole number
    count = int(Fraction(ratio).limit_denominator(1_000_000) * tokens)
    if not 0 < count < tokens:
        raise ValueError(
            f"a mask ratio of {ratio} hides {count} of {tokens} tokens; it must hide at least one and leave one"
        )
    return count


def tube_mask(
    numbers: Tensor, grid: Grid, ratio: float, *, seed: int, epoch: int, windows: tuple[int, int] | None = None
) -> Tensor:
    """Tube masks (VideoMAE): one spatial mask per sample, repeated over time.

    Args:
        numbers: int64 (B,), the samples' numbers in their data set, on the device where the mask is wanted.
        grid: tokens in (time, height, width).
        ratio: share of the tokens that is hidden, in (0, 1).
        seed, epoch: with `numbers` all that the mask depends on.
        windows: (height, width) in tokens of the windows that must hide the same number each, as encoders with local
            regions need (MAE-DFER); None leaves the spatial mask free.

    Returns:
        bool (B, T*H*W), True = hidden, the same number in every row, `hidden_count(window, ratio)` in every window.

    Raises:
        ValueError: a window that does not divide the frame, or a ratio that hides all or nothing.
    """
    time, height, width = grid
    wh, ww = windows or (height, width)
    if height % wh or width % ww:
        raise ValueError(f"mask windows of {wh} x {ww} tokens do not divide a frame of {height} x {width} tokens")
    rows, columns, inside = height // wh, width // ww, wh * ww
    hashes = _hashes(numbers, height * width, seed=seed, epoch=epoch, kind=_TUBE)
    frame = _smallest(hashes.view(-1, rows * columns, inside), hidden_count(inside, ratio))
    frame = frame.view(-1, rows, columns, wh, ww).transpose(2, 3).reshape(-1, 1, height * width)
    return frame.expand(-1, time, -1).reshape(-1, time * height * width)


def random_mask(numbers: Tensor, tokens: int, ratio: float, *, seed: int, epoch: int) -> Tensor:
    """Masks without structure, as HiCMAE hides audio patches: int64 (B,) -> bool (B, tokens), True = hidden.

    Arguments and errors as in `tube_mask`; independent of the tube masks of the same samples.
    """
    hashes = _hashes(numbers, tokens, seed=seed, epoch=epoch, kind=_RANDOM)
    return _smallest(hashes, hidden_count(tokens, ratio))


def decoded_mask(
    mask: Tensor,
    numbers: Tensor,
    ratio: float,
    *,
    seed: int,
    epoch: int,
    grid: Grid | None = None,
    hidden: int | None = None,
) -> Tensor:
    """Decoder masking (VideoMAE v2): which hidden tokens are decoded and learnt from.

    With `grid`, a running cell: in each 2 x 2 cell of every frame a ring of four places takes turns, one step per time
    step from a start drawn per sample, so that a place is decoded in the given share of the time steps and no tube
    stays undecoded. Without `grid`, a random subset. Either way the count is exact: where turns alone do not give it
    (a share that is no quarter, or clips that do not hold whole rounds), hashes choose within the turn at the margin.

    Args:
        mask: bool (B, N), True = hidden, the same number in every row.
        numbers, seed, epoch: as in `tube_mask`.
        ratio: share of the hidden tokens that is decoded, in (0, 1).
        grid: tokens in (time, height, width), for the running cell.
        hidden: hidden tokens per row; read from `mask` (which waits for the GPU) when absent.

    Returns:
        bool (B, N), a subset of `mask` with `hidden_count(hidden, ratio)` tokens in every row.
    """
    hidden = int(mask[0].sum()) if hidden is None else hidden
    batch, tokens = mask.shape
    rank = _shift(_hashes(numbers, tokens, seed=seed, epoch=epoch, kind=_DECODED), 4)
    if grid is not None:
        time, height, width = grid
        if time * height * width != tokens:
            raise ValueError(f"a grid of {time} x {height} x {width} does not hold the mask's {tokens} tokens")
        device = mask.device
        row = torch.arange(height, device=device)[:, None] % 2
        column = torch.arange(width, device=device) % 2
        ring = 2 * row + (row ^ column)  # 0 1 / 3 2: clockwise round the cell
        start = _shift(_hashes(numbers, 1, seed=seed, epoch=epoch, kind=_CELL), 62)
        turn = (ring + torch.arange(time, device=device)[:, None, None]).view(1, tokens) + start
        rank = rank + ((turn % 4) << 60)
    rank = rank.masked_fill(~mask, torch.iinfo(torch.int64).max)
    return _smallest(rank.view(batch, tokens), hidden_count(hidden, ratio))


def hidden_index(mask: Tensor, hidden: int | None = None) -> Tensor:
    """The hidden tokens' places in ascending order: bool (B, N) -> int64 (B, M).

    `hidden` (M) is the number per row; without it the mask is read, which waits for the GPU.
    """
    hidden = int(mask[0].sum()) if hidden is None else hidden
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :hidden]
