"""What a masked autoencoder makes of hidden sound, as rows of a picture."""

from __future__ import annotations

import matplotlib
import torch
from torch import Tensor

from hicmae.inference.picture import Row
from hicmae.pretrain import losses, targets
from hicmae.pretrain.objectives import AudioPart, Hidden

__all__ = ["sound_rows"]

GREY = 0.5


def sound_rows(audio: Tensor, prediction: Tensor, drawn: Hidden, part: AudioPart) -> list[Row]:
    """Log-mel bands as they are, as the model hears them, and with its prediction; one wide frame each.

    A prediction of standardised patches borrows each patch's mean and standard deviation from the true one.

    Args:
        audio: (1, 1, F, K) log-mel picture.
        prediction: (1, M, P) what was predicted of the hidden patches.
    """
    grid, patch = part.grid, part.patch
    f, k = patch
    shape = (1, grid[0], grid[1], f, k)
    patches = audio.reshape(1, grid[0], f, grid[1], k).transpose(2, 3).flatten(1, 2).flatten(2)  # (1, N, P)
    true = patches[drawn.mask].view_as(prediction)
    goal = targets.spectrogram(audio, drawn.mask, patch=(f, k), normalise=part.target.normalise, hidden=drawn.hidden)
    values = prediction
    if part.target.normalise:
        values = prediction * (true.std(2, keepdim=True) + targets.EPS) + true.mean(2, keepdim=True)
    rebuilt = patches.clone()
    rebuilt[drawn.mask] = values.flatten(0, 1)
    hidden = drawn.mask[..., None].expand_as(patches)

    def picture(x: Tensor) -> Tensor:
        """(1, N, P) -> (F, K)."""
        return x.view(shape).transpose(2, 3).reshape(grid[0] * f, grid[1] * k).cpu()

    low, high = audio.min(), audio.max()
    note = f"error {losses.masked_mse(prediction, goal):.2f}"
    if part.target.normalise:
        note += f"\nflat patches {losses.masked_mse(torch.zeros_like(goal), goal):.2f}"
    covered = _coloured(picture(patches), low, high)
    covered[picture(hidden.float()).T.flip(0)[None] > 0] = GREY
    return [
        Row("sound", _coloured(picture(patches), low, high), "log-mel, low bands at the bottom"),
        Row("what the model hears", covered),
        Row("reconstruction", _coloured(picture(rebuilt), low, high), note),
    ]


def _coloured(picture: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(F, K) -> (1, K, F, 3) in [0, 1]: time to the right, high bands at the top, loud is bright."""
    share = ((picture - low.cpu()) / (high - low).clamp_min(1e-6).cpu()).clamp(0, 1)
    colours = matplotlib.colormaps["magma"](share.T.flip(0).numpy())[..., :3]
    return torch.from_numpy(colours).float()[None]
