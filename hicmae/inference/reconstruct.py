"""What a masked autoencoder makes of hidden patches, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.media import MediaError
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.loading import Loaded, opened
from hicmae.inference.windows import Preprocessing, Window, middle_window
from hicmae.models.base import Model
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.pretrain.objectives import AudioPart, VideoPart
from hicmae.pretrain.picture import COLUMNS, Row, draw, footnote, frames_shown
from hicmae.pretrain.rebuilt import Part, parts_of, rebuild

__all__ = ["reconstruct_clip"]


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
    net, meta = opened(model, "pretrain", device=device)
    if net.stage != "pretrain":
        raise UserError(f"{net.name}: a fine-tuned model has no decoder; give the pretraining run it came from")
    how = Preprocessing.of(net, meta)
    window = middle_window(clip, how, start=start)
    sound = None if how.sound is None else _sound(clip, window, how, net.name)
    rows, part = _reconstructed(net, meta, window, seed=seed, ratio=ratio, sound=sound)
    steps = f"{int(meta['step']):,} steps" if "step" in meta else "an unknown number of steps"
    shown = frames_shown(window.frames.shape[1])
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
        footnote=footnote(part.target.normalise),
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


def _reconstructed(
    model: Model,
    meta: Mapping[str, Any],
    window: Window,
    *,
    seed: int,
    ratio: float | None,
    sound: Tensor | None = None,
) -> tuple[list[Row], Part]:
    """The rows of the picture (`rebuild`), and what was asked for first: of the video or, without one, of the sound
    (1, 1, F, K)."""
    parts = _parts(model, meta, seed, ratio)
    device = next(model.parameters()).device
    inputs = {"video": window.frames[None].to(device)}
    if sound is not None:
        inputs["audio"] = sound.to(device)
    try:
        return rebuild(model, parts, inputs), parts[0]
    except ValueError as error:
        raise UserError(str(error)) from None


def _parts(model: Model, meta: Mapping[str, Any], seed: int, ratio: float | None) -> Sequence[Part]:
    """What the model was trained to reconstruct, as its checkpoint states it: video, sound, or both in this order."""
    config = meta.get("config") or {}
    target = TargetConfig(**config.get("target", {}))
    shares = {name: config.get("mask", {}).get(name, getattr(MaskConfig(), name)) for name in ("video", "audio")}
    try:
        mask = MaskConfig(**(shares if ratio is None else dict.fromkeys(shares, ratio)))
    except ValueError:
        raise UserError(f"ratio must lie between 0 and 1, not {ratio}") from None
    return parts_of(model, mask=mask, target=target, seed=seed)
