"""Which emotion a video expresses: probabilities, or numbers as valence, per window and over the whole clip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import crop_detector
from hicmae.datasets.fingerprint import Gauge, differences, sum_up
from hicmae.datasets.media import MediaError, open_video
from hicmae.datasets.transforms import normalise
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.outputs import Outputs
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.loading import Loaded, opened
from hicmae.inference.windows import Preprocessing, Window, windows
from hicmae.models.base import Model

__all__ = ["Prediction", "WindowPrediction", "predict_clip"]


@dataclass(frozen=True, repr=False)
class WindowPrediction:
    """What a model makes of one stretch of a video."""

    start: float
    """Seconds on the file's clock."""
    end: float
    probabilities: dict[str, float]
    """By label, in the checkpoint's order; they sum to 1, unless the labels are independent of each other. Empty for a
    model that gives numbers alone."""
    values: dict[str, float] = field(default_factory=dict)
    """Numbers by name, as valence, of models that give them."""

    @property
    def label(self) -> str | None:
        """The most probable label; None without any."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)

    def __repr__(self) -> str:
        return f"<{self.start:.2f}-{self.end:.2f} s: {_shortly(self.probabilities, self.values, 1)}>"


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a model makes of a video.

    >>> parts = (WindowPrediction(0.0, 2.0, {"happy": 0.75, "sad": 0.25}),
    ...          WindowPrediction(1.0, 3.0, {"happy": 0.25, "sad": 0.75}))
    >>> result = Prediction("clip.mp4", "mae_dfer_base", parts)
    >>> result.probabilities
    {'happy': 0.5, 'sad': 0.5}
    """

    clip: str
    model: str
    windows: tuple[WindowPrediction, ...]
    """In order of time; they overlap."""
    note: str = ""
    """What a reader must know: that there was no sound to be heard, say."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Mean over the windows, by label in the checkpoint's order."""
        return _mean([window.probabilities for window in self.windows])

    @property
    def values(self) -> dict[str, float]:
        """Mean over the windows of the numbers by name."""
        return _mean([window.values for window in self.windows])

    @property
    def label(self) -> str | None:
        """The most probable label of the whole clip; None for a model that gives numbers alone."""
        probabilities = self.probabilities
        return max(probabilities, key=probabilities.__getitem__, default=None)

    @property
    def seconds(self) -> float:
        """From the begin of the first window to the end of the last."""
        return self.windows[-1].end - self.windows[0].start

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "clip": self.clip,
            "model": self.model,
            "seconds": round(self.seconds, 3),
            **_plain(self),
            "note": self.note,
            "windows": [
                {"start": round(window.start, 3), "end": round(window.end, 3), **_plain(window)}
                for window in self.windows
            ],
        }

    def table(self) -> str:
        """Text for a terminal: the whole clip, labels by probability with bars, then a line per window."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        names = [*(name for name, _ in ranked), *self.values]
        width = max(map(len, names))
        best = f"{self.label} ({ranked[0][1]:.1%}); " if ranked else ""
        lines = [f"{self.clip}: {best}{self.seconds:.2f} s, {self.model}"]
        lines += [f"  note: {self.note}"] if self.note else []
        lines += [f"  {name:<{width}} {value:6.1%} {'█' * round(30 * value)}".rstrip() for name, value in ranked]
        lines += [f"  {name:<{width}} {value:+.3f}" for name, value in self.values.items()]
        if len(self.windows) > 1:
            columns = [max(len(name), 6) for name in names]
            heads = " ".join(f"{name:>{column}}" for name, column in zip(names, columns, strict=True))
            lines += ["", f"  {'seconds':>17}  {heads}"]
            for window in self.windows:
                told = {name: f"{value:.1%}" for name, value in window.probabilities.items()}
                cells = [told[name] for name, _ in ranked] + [f"{value:+.3f}" for value in window.values.values()]
                shown = (f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
                lines.append(f"  {window.start:7.2f} - {window.end:7.2f}  {' '.join(shown)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        told, count = _shortly(self.probabilities, self.values, 3), len(self.windows)
        told += f"; {self.seconds:.2f} s in {count} window{'s' * (count != 1)}"
        return f"Prediction({self.clip!r}: {told}{'; ' * bool(self.note)}{self.note})"

    __str__ = __repr__


def predict_clip(
    clip: str | Path,
    model: Loaded | Model | str | Path,
    *,
    window: float | None = None,
    hop: float | None = None,
    batch_size: int = 8,
    device: str | torch.device = "auto",
) -> Prediction:
    """Probabilities or numbers of a video's windows and, as their mean, of the whole video.

    Frames are cropped, scaled and normalised as the checkpoint says its training clips were. The file is decoded as a
    stream, `batch_size` windows at a time, so that memory does not grow with its length, but for sound, of which
    models that hear keep all (0.2 GB per hour). A window without sound is shown to an audio-visual model as frames
    alone, and the prediction says so.

    Args:
        clip: a video file (mp4, mov, mkv, webm, avi).
        model: what `load_model` gives, or a run folder, checkpoint folder or weights file; a bare model is taken to
            have been trained on centre squares, and its classes are numbered.
        window: seconds that a window spans; None is what the model was trained on.
        hop: seconds from one window's start to the next; None is half a window. Both are rounded to whole frames.
        batch_size: windows per forward pass.
        device: where a checkpoint's model is put; a model that was loaded before stays where it is.

    Raises:
        MediaError: the clip cannot be used, or has no sound for a model that only hears; the message says why.
        UserError: the checkpoint cannot be used, or has no classes to predict (fine-tune it first).
    """
    net, meta = opened(model, "finetune", device=device)
    _check_classifier(net)
    how, inputs, outputs = Preprocessing.of(net, meta), Inputs.of(net), Outputs.of(meta)
    if window is not None or hop is not None or batch_size < 1:
        how, step = _timing(clip, how, window, hop, batch_size)
    else:
        step = None
    track = Soundtrack.of(clip) if inputs.audio else None
    names: tuple[str, ...] | None = None
    mute, gauge = 0, _gauge(meta)
    parts: list[WindowPrediction] = []
    training = net.training
    net.eval()
    try:
        for batch in _batches(windows(clip, how, hop=step, gauge=gauge), batch_size):
            sounds = [_sound(each, track, how) for each in batch]
            mute += sum(sound is None for sound in sounds)
            if inputs.need_audio:
                batch = [each for each, sound in zip(batch, sounds, strict=True) if sound is not None]
                sounds = [sound for sound in sounds if sound is not None]
                if not batch:
                    continue
            found = _found(net, inputs, outputs, torch.stack([each.frames for each in batch]), sounds, how)
            names = names or _names(meta, found.shape[1])
            for each, row in zip(batch, found.tolist(), strict=True):
                named = list(zip(names, row, strict=True))
                classes = len(named) - outputs.numbers
                parts.append(WindowPrediction(each.start, each.end, dict(named[:classes]), dict(named[classes:])))
    finally:
        net.train(training)
    if not parts:
        raise MediaError(clip, "has no sound", f"{meta.get('name') or 'the model'} only hears: name one that sees")
    notes = [_note(inputs, mute, len(parts))] if inputs.audio and mute else []
    notes += [how.note] if how.note else []
    notes += _unlike(clip, how, gauge, track, meta)
    return Prediction(str(clip), str(meta.get("name", "")), tuple(parts), "; ".join(notes))


def _gauge(meta: Mapping[str, Any]) -> Gauge:
    """It looks for eyes where the checkpoint says where its clips had them, if there is a detector."""
    stated = meta.get("preprocessing") or {}
    if (stated.get("fingerprint") or {}).get("eye_distance") and stated["crop"]["kind"] not in ("mtcnn", "boxes"):
        with contextlib.suppress(UserError):
            return Gauge(crop_detector())
    return Gauge()


def _unlike(
    clip: str | Path, how: Preprocessing, gauge: Gauge, track: Soundtrack | None, meta: Mapping[str, Any]
) -> list[str]:
    """What is measured of the clip and lies outside what was measured of the clips that the model was trained on."""
    trained = (meta.get("preprocessing") or {}).get("fingerprint")
    if not trained:
        return []
    here = {**gauge.measures(track.wave if track else None), "fps": how.rate(open_video(clip).fps)}
    told = differences(sum_up({name: np.array([value]) for name, value in here.items()}), trained)
    return [f"unlike the clips it was trained on: {'; '.join(told)}"] if told else []


def _note(inputs: Inputs, mute: int, count: int) -> str:
    if inputs.need_audio:
        return f"{mute} window{'s' * (mute != 1)} without sound left out"
    if mute == count:
        return "there is no sound: recognised from frames alone"
    return f"{mute} of {count} windows have no sound: recognised from frames alone"


def _check_classifier(model: Model) -> None:
    if model.stage == "pretrain":
        raise UserError("a pretraining model has no classes to predict; fine-tune it first (hicmae finetune --help)")
    if getattr(model, "num_classes", None) == 0:
        raise UserError("the model was made with num_classes=0: it gives features, not probabilities of classes")


def _sound(window: Window, track: Soundtrack | None, how: Preprocessing) -> Tensor | None:
    """What is heard during a window, (1, F, K)."""
    return None if track is None or how.sound is None else track.between(window.start, window.end, how.sound)


@torch.inference_mode()
def _found(
    model: Model,
    inputs: Inputs,
    outputs: Outputs,
    frames: Tensor,
    sounds: Sequence[Tensor | None],
    how: Preprocessing,
) -> Tensor:
    """(B, 3, T, H, W) uint8, B x (1, F, K) -> probabilities and numbers (B, K) on the CPU."""
    device = next(model.parameters()).device
    audio = heard = None
    if how.sound is not None:
        silence = torch.zeros(1, how.sound.length, how.sound.bins)
        audio = torch.stack([silence if sound is None else sound for sound in sounds]).to(device)
        heard = torch.tensor([sound is not None for sound in sounds], device=device)
    video = normalise(frames.to(device)) if inputs.video else None
    return outputs(inputs.of_evaluation(model, video, audio, heard).float()).cpu()


def _names(meta: dict[str, Any], count: int) -> tuple[str, ...]:
    names = tuple(meta.get("labels") or (f"class {i}" for i in range(count)))
    if len(names) != count:
        raise UserError(
            f"{meta.get('file', 'the model')}: names {len(names)} labels for {count} outputs; train it again"
        )
    return names


def _timing(
    clip: str | Path, how: Preprocessing, window: float | None, hop: float | None, batch_size: int
) -> tuple[Preprocessing, int | None]:
    """Seconds as whole frames: the stride that makes a window last so long, and the hop in frames of a window."""
    for name, value in (("window", window), ("hop", hop), ("batch_size", batch_size)):
        if value is not None and not value > 0:
            raise UserError(f"{name} must be positive, not {value}")
    fps = how.rate(open_video(clip).fps)
    if window is not None:
        how = Preprocessing(**{**vars(how), "stride": max(1, round(window * fps / how.frames))})
    return how, None if hop is None else max(1, round(hop * fps / how.stride))


def _batches(items: Iterable[Window], size: int) -> Iterator[list[Window]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _plain(found: Prediction | WindowPrediction) -> dict[str, Any]:
    """What was found, ready for JSON; what a model does not give is left out."""
    named = {"probabilities": found.probabilities, "values": found.values}
    rounded = {key: {name: round(x, 6) for name, x in part.items()} for key, part in named.items() if part}
    return {"label": found.label, **rounded} if found.probabilities else rounded


def _shortly(probabilities: dict[str, float], values: dict[str, float], top: int) -> str:
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])[:top]
    return ", ".join(
        [*(f"{n} {value:.0%}" for n, value in ranked), *(f"{n} {value:+.2f}" for n, value in values.items())]
    )
