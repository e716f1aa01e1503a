"""What a masked autoencoder makes of hidden patches, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.media import MediaError
from hicmae.datasets.transforms import normalise
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.loading import Loaded, load_model
from hicmae.inference.picture import Row, draw
from hicmae.inference.spectrogram import sound_rows
from hicmae.inference.windows import Preprocessing, Window, middle_window
from hicmae.models.base import Model
from hicmae.pretrain import losses, targets
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.pretrain.masking import hidden_index
from hicmae.pretrain.objectives import AudioPart, AudioVisual, Hidden, VideoPart, objective_for

__all__ = ["reconstruct_clip"]

COLUMNS = 8
GREY = 0.5
BORROWED = "Each hidden patch borrows its mean and contrast from the original; "
FOOTNOTE = "visible patches are pasted in. Errors: mean squares over hidden patches, beside the simplest guess."

Part = VideoPart | AudioPart


def reconstruct_clip(
    clip: str | Path,
    model: Loaded | str | Path,
    *,
    out: str | Path,
    seed: int = 0,
    ratio: float | None = None,
    start: float | None = None,
    device: str | torch.device = "auto",
) -> Path:
    """Draw original, masked and reconstructed frames of a video, the motion that was asked for and predicted, and the
    same of its sound for models that hear.

    What a model predicts are patches of mean 0 and standard deviation 1, so a prediction says nothing of brightness
    and contrast. As is usual in this field, each hidden patch borrows the mean and standard deviation of the true one
    (per colour), frame differences are added to the predicted frame they refer to, and visible patches are pasted in.
    The picture shows 8 of the clip's frames and says how many steps the model was trained.

    Args:
        clip: a video file (mp4, mov, mkv, webm, avi).
        model: what `load_model` gives, or a run folder, checkpoint folder or weights file of a pretrained model.
        out: the picture to write, a PNG.
        seed: of the mask.
        ratio: share of the patches to hide, of either modality; None is the one of training.
        start: seconds at which the stretch shown begins; None takes the middle of the video.
        device: where a checkpoint's model is put; a model that was loaded before stays where it is.

    Returns:
        the path of the picture.

    Raises:
        MediaError: the clip cannot be used, or has no sound for a model that hears; the message says why.
        UserError: the checkpoint has no decoder, the ratio hides all or nothing, the picture cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: the picture is a PNG; give a name that ends in .png")
    net, meta = model if isinstance(model, tuple) else load_model(model, stage="pretrain", device=device)
    if net.stage != "pretrain":
        raise UserError(f"{net.name}: a fine-tuned model has no decoder; give the pretraining run it came from")
    how = Preprocessing.of(net, meta)
    window = middle_window(clip, how, start=start)
    sound = None if how.sound is None else _sound(clip, window, how, net.name)
    rows, part = _reconstructed(net, meta, window, seed=seed, ratio=ratio, sound=sound)
    steps = f"{int(meta['step']):,} steps" if "step" in meta else "an unknown number of steps"
    shown = list(range(1, window.frames.shape[1], 2))[:: max(1, window.frames.shape[1] // (2 * COLUMNS))][:COLUMNS]
    if not shown:
        shown = [0]
    times = [window.times[i] for i in shown]
    if isinstance(part, AudioPart) and how.sound is not None:  # no frames: the middles of as many parts of the sound
        times = [window.start + (i + 0.5) / COLUMNS * how.sound.length / 100 for i in range(COLUMNS)]
    hidden = f"{getattr(part.mask, part.share):.0%} of the patches"
    if how.sound is not None and isinstance(part, VideoPart):
        hidden += f" and {part.mask.audio:.0%} of those of sound"
    draw(
        out,
        rows=[row if len(row.frames) == 1 else Row(row.title, row.frames[shown], row.note) for row in rows],
        columns=[f"{time:.2f} s" for time in times],
        title=f"{Path(clip).name}",
        caption=f"{meta.get('name', net.name)}, trained for {steps}; {hidden} hidden (seed {seed})",
        # a model of plain pixels predicts brightness and contrast itself
        footnote=BORROWED + FOOTNOTE if part.target.normalise else FOOTNOTE[0].upper() + FOOTNOTE[1:],
    )
    return out


def _sound(clip: str | Path, window: Window, how: Preprocessing, model: str) -> Tensor:
    """What is heard during the window, (1, 1, F, K)."""
    track = Soundtrack.of(clip)
    # as in pretraining, to the end of the frame at which the next window frame would be
    end = window.end + (window.end - window.times[-1]) / how.stride
    sound = None if track is None or how.sound is None else track.between(window.start, end, how.sound)
    if sound is None:
        at = f" (from {window.start:.2f} to {end:.2f} s)" if track is not None else ""
        raise MediaError(clip, f"has no sound{at}", f"{model} hears: show it a video with sound")
    return sound[None]


@torch.inference_mode()
def _reconstructed(
    model: Model,
    meta: Mapping[str, Any],
    window: Window,
    *,
    seed: int,
    ratio: float | None,
    sound: Tensor | None = None,
) -> tuple[list[Row], Part]:
    """The rows of the picture, each (T, H, W, 3) in [0, 1] or, for sound, (1, K, F, 3); and what was asked for first:
    of the video or, without one, of the sound (1, 1, F, K)."""
    parts = _parts(model, meta, seed, ratio)
    device = next(model.parameters()).device
    number = torch.zeros(1, dtype=torch.int64, device=device)
    inputs = {"video": window.frames[None].to(device)}
    if sound is not None:
        inputs["audio"] = sound.to(device)
    try:
        drawn = [part.hide(number, 0) for part in parts]  # masks (1, N)
    except ValueError as error:
        raise UserError(str(error)) from None
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
            rows += sound_rows(x, prediction, hidden, part)
    return rows, parts[0]


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


def _parts(model: Model, meta: Mapping[str, Any], seed: int, ratio: float | None) -> Sequence[Part]:
    """What the model was trained to reconstruct, as its checkpoint states it: video, sound, or both in this order."""
    config = meta.get("config") or {}
    target = TargetConfig(**config.get("target", {}))
    shares = {name: config.get("mask", {}).get(name, getattr(MaskConfig(), name)) for name in ("video", "audio")}
    try:
        mask = MaskConfig(**(shares if ratio is None else dict.fromkeys(shares, ratio)))
    except ValueError:
        raise UserError(f"ratio must lie between 0 and 1, not {ratio}") from None
    whole = objective_for(model, mask=mask, target=target, seed=seed)
    parts = (whole.video, whole.audio) if isinstance(whole, AudioVisual) else (whole.part,)
    for part in parts:
        if isinstance(part, VideoPart) and target.difference is not None and part.patch[0] % target.difference:
            raise UserError(
                f"{model.name}: its motion target spans {target.difference} frames and its patches {part.patch[0]}; "
                "a picture can only be drawn where the one divides the other"
            )
    return parts


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
