"""What a masked autoencoder makes of the hidden patches of a clip, as rows of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import torch
from torch import Tensor

from hicmae.datasets.transforms import normalise
from hicmae.models.base import Model
from hicmae.pretrain import losses, targets
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.pretrain.masking import hidden_index
from hicmae.pretrain.objectives import AudioPart, AudioVisual, Hidden, VideoPart, objective_for
from hicmae.pretrain.picture import Row
from hicmae.runtime.log import UserError

__all__ = ["Part", "coloured", "parts_of", "rebuild"]

GREY = 0.5

Part = VideoPart | AudioPart


def parts_of(model: Model, *, mask: MaskConfig, target: TargetConfig, seed: int) -> Sequence[Part]:
    """What the model is trained to reconstruct: video, sound, or both in this order.

    Raises:
        UserError: motion is asked for over other groups of frames than a patch can be divided into.
    """
    whole = objective_for(model, mask=mask, target=target, seed=seed)
    parts = (whole.video, whole.audio) if isinstance(whole, AudioVisual) else (whole.part,)
    for part in parts:
        if isinstance(part, VideoPart) and target.difference is not None and part.patch[0] % target.difference:
            raise UserError(
                f"{model.name}: its motion target spans {target.difference} frames and its patches {part.patch[0]}; "
                "a picture can only be drawn where the one divides the other"
            )
    return parts


@torch.no_grad()
def rebuild(model: Model, parts: Sequence[Part], inputs: Mapping[str, Tensor], number: int = 0) -> list[Row]:
    """The rows of a picture of one clip, each (T, H, W, 3) in [0, 1] or, for sound, (1, K, F, 3).

    What a model predicts are patches of mean 0 and standard deviation 1, so a prediction says nothing of brightness
    and contrast: each hidden patch borrows those of the true one. Visible patches are pasted in.

    Args:
        inputs: `video` (1, 3, T, H, W) uint8, `audio` (1, 1, F, K), as `parts` need them, on the model's device.
        number: of the clip; with the parts' seed it decides what is hidden.

    Raises:
        ValueError: the parts hide all or nothing.
    """
    device = next(model.parameters()).device
    drawn = [part.hide(torch.tensor([number], device=device), 0) for part in parts]  # masks (1, N)
    given = [normalise(inputs["video"]) if part.share == "video" else inputs["audio"] for part in parts]
    training = model.training
    out = model.eval()(*given, *(each.mask for each in drawn))
    model.train(training)
    rows: list[Row] = []
    for part, hidden in zip(parts, drawn, strict=True):
        prediction, x = getattr(out, part.share).float(), inputs[part.share]  # (1, M, P)
        if isinstance(part, VideoPart):
            rows += _video_rows(x, prediction, hidden, part)
        else:
            rows += _sound_rows(x, prediction, hidden, part)
    return rows


def _video_rows(video: Tensor, prediction: Tensor, drawn: Hidden, objective: VideoPart) -> list[Row]:
    """(1, 3, T, H, W) uint8, (1, M, P) -> original, masked, rebuilt, and motion where it was asked for."""
    index = hidden_index(drawn.mask, drawn.hidden)
    target, moving = objective.goal(video, drawn), objective.moving(drawn)
    group = objective.target.difference
    still_error, motion_error = losses.split_mse(prediction, target, moving)
    still_guess, motion_guess = losses.split_mse(torch.zeros_like(target), target, moving)

    true = video.float() / 255
    covered = targets.place_patches(torch.full_like(prediction, GREY), index, true, objective.patch)
    values = _pixels(prediction, video, drawn, objective)
    rebuilt = targets.place_patches(values, index, true, objective.patch).clamp(0, 1)
    rows = [
        Row("original", _frames(true)),
        Row("what the model sees", _frames(covered)),
        Row(
            "reconstruction",
            _frames(rebuilt),
            _error(still_error, "flat patches", still_guess if objective.target.normalise else None),
        ),
    ]
    if group is not None:
        scale = target[..., moving].abs().quantile(0.98).clamp_min(1e-6)
        notes = ("difference from the frame before", _error(motion_error, "no motion", motion_guess))
        for title, motion, note in zip(
            ("motion to predict", "predicted motion"), (target, prediction), notes, strict=True
        ):
            # hues around grey, on one scale; visible patches are not asked for and stay grey
            shown = torch.where(moving, (GREY + GREY * motion / scale).clamp(0, 1), GREY)
            rows.append(
                Row(
                    title,
                    _frames(targets.place_patches(shown, index, torch.full_like(true, GREY), objective.patch)),
                    note,
                )
            )
    return rows


def _pixels(prediction: Tensor, video: Tensor, drawn: Hidden, objective: VideoPart) -> Tensor:
    """What was predicted, as pixels in [0, 1]: (1, M, P) -> (1, M, P)."""
    asked, patch = objective.target, objective.patch
    group = asked.difference or 1
    if not asked.normalise or (group > 1 and asked.motion == "raw"):
        # bring what was predicted in pixels to the scale that `restore` takes back
        true = targets.gather_patches(video, hidden_index(drawn.mask, drawn.hidden), patch).float() / 255
        mean, std = true.mean(2, keepdim=True), true.std(2, keepdim=True) + targets.EPS
        values = prediction.unflatten(2, true.shape[2:])  # (1, M, p0*p1*p2, 3)
        moves = (torch.arange(patch[0], device=video.device) % group != 0).repeat_interleave(patch[1] * patch[2])
        still = values if asked.normalise else (values - mean) / std
        prediction = torch.where(moves[:, None], values / std, still).flatten(2)
    return targets.restore(prediction, video, drawn.mask, patch=patch, group=group)


def _error(error: Tensor, guess: str, by_guess: Tensor | None) -> str:
    digits = 2 if error >= 0.1 else 4  # errors of plain pixels are small
    told = f"error {error:.{digits}f}"
    return told if by_guess is None else f"{told}\n{guess} {by_guess:.{digits}f}"


def _frames(video: Tensor) -> Tensor:
    """(1, 3, T, H, W) -> (T, H, W, 3) on the CPU."""
    return video[0].permute(1, 2, 3, 0).cpu()


def _sound_rows(audio: Tensor, prediction: Tensor, drawn: Hidden, part: AudioPart) -> list[Row]:
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
    covered = coloured(picture(patches), low, high)
    covered[picture(hidden.float()).T.flip(0)[None] > 0] = GREY
    return [
        Row("sound", coloured(picture(patches), low, high), "log-mel, low bands at the bottom"),
        Row("what the model hears", covered),
        Row("reconstruction", coloured(picture(rebuilt), low, high), note),
    ]


def coloured(picture: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log-mel bands between two values as colours, (F, K) -> (1, K, F, 3) in [0, 1]: time to the right, high bands at
    the top, loud is bright."""
    share = ((picture - low.cpu()) / (high - low).clamp_min(1e-6).cpu()).clamp(0, 1)
    colours = matplotlib.colormaps["magma"](share.T.flip(0).numpy())[..., :3]
    return torch.from_numpy(colours).float()[None]
