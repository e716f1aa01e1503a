"""Which emotion a video expresses: probabilities, or numbers as valence, over time for each person and the clip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
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
from hicmae.finetune.inputs import Inputs
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.joining import people_of
from hicmae.inference.loading import Loaded, opened
from hicmae.inference.people import WindowPrediction
from hicmae.inference.prediction import Prediction
from hicmae.inference.recognising import Recogniser
from hicmae.inference.windows import Preprocessing, Stretch, Window, stretches
from hicmae.models.base import Model

__all__ = ["Prediction", "WindowPrediction", "predict_clip"]

Seen = tuple[Stretch, Window, Tensor | None]
"""A face, a window of it, and what is heard meanwhile, (1, F, K)."""


def predict_clip(
    clip: str | Path,
    model: Loaded | Model | str | Path,
    *,
    window: float | None = None,
    hop: float | None = None,
    batch_size: int = 8,
    device: str | torch.device = "auto",
    show: bool = False,
) -> Prediction:
    """Probabilities or numbers of a video's windows and, as their mean, of the whole video.

    Frames are cropped, scaled and normalised as the checkpoint says its training clips were. Where that was by faces,
    they are followed through the video first, and each has windows of its own (`Prediction.people`). Frames and sound
    are decoded as streams, `batch_size` windows at a time, so that memory does not grow with the file's length. A
    window without sound is shown to an audio-visual model as frames alone, and the prediction says so.

    Args:
        clip: a video file (mp4, mov, mkv, webm, avi).
        model: what `load_model` gives, or a run folder, checkpoint folder or weights file; a bare model is taken to
            have been trained on centre squares, and its classes are numbered.
        window: seconds that a window spans; None is what the model was trained on.
        hop: seconds from one window's start to the next; None is half a window. Both are rounded to whole frames.
        batch_size: windows per forward pass.
        device: where a checkpoint's model is put; a model that was loaded before stays where it is.
        show: a progress bar for each pass over the video.

    Raises:
        MediaError: the clip cannot be used, or has no sound for a model that only hears; the message says why.
        UserError: the checkpoint cannot be used, or has no classes to predict (fine-tune it first).
    """
    recognise = Recogniser(*opened(model, "finetune", device=device))
    how, meta = recognise.how, recognise.meta
    step = None
    if window is not None or hop is not None or batch_size < 1:
        how, step = _timing(clip, how, window, hop, batch_size)
    mute, gauge = 0, _gauge(meta)
    parts: dict[int, list[WindowPrediction]] = {}
    with contextlib.ExitStack() as stack:
        track = Soundtrack.of(clip) if recognise.inputs.audio else None
        if track is not None:
            stack.callback(track.close)
        faces, seen = stretches(clip, how, hop=step, gauge=gauge, show=show)
        stack.enter_context(recognise.evaluating())
        for batch in _batches(_heard(seen, track, how), batch_size):
            mute += sum(sound is None for *_, sound in batch)
            if recognise.inputs.need_audio:
                batch = [each for each in batch if each[2] is not None]
            found = recognise([each for _, each, _ in batch], [sound for *_, sound in batch]) if batch else []
            for (face, _, _), made in zip(batch, found, strict=True):
                parts.setdefault(id(face), []).append(made)
        if not parts:
            raise MediaError(clip, "has no sound", f"{meta.get('name') or 'the model'} only hears: name one that sees")
        info = open_video(clip)
        notes = (
            [_note(recognise.inputs, mute, sum(map(len, parts.values())))] if recognise.inputs.audio and mute else []
        )
        notes += [how.note] if how.note else []
        notes += _unlike(how, gauge, track, meta, info.fps)
    chosen = [face for face in faces if face.run.chosen and id(face) in parts] or faces
    windows = tuple(part for face in chosen for part in parts.get(id(face), ()))
    people = people_of([(face, parts[id(face)]) for face in faces if id(face) in parts], gap=how.crop.gap)
    begin = min(0.0, windows[0].start)
    end = max(begin + (info.seconds or 0.0), *(found[-1].end for found in parts.values()))
    return Prediction(str(clip), str(meta.get("name", "")), windows, "; ".join(notes), people, (begin, end))


def _heard(seen: Iterable[tuple[Stretch, Window]], track: Soundtrack | None, how: Preprocessing) -> Iterator[Seen]:
    """Windows with what is heard in them, taken while the sound is at hand."""
    for face, window in seen:
        heard = None if track is None or how.sound is None else track.between(window.start, window.end, how.sound)
        yield face, window, heard


def _gauge(meta: Mapping[str, Any]) -> Gauge:
    """It looks for eyes where the checkpoint says where its clips had them, if there is a detector."""
    stated = meta.get("preprocessing") or {}
    if (stated.get("fingerprint") or {}).get("eye_distance") and stated["crop"]["kind"] not in ("mtcnn", "boxes"):
        with contextlib.suppress(UserError):
            return Gauge(crop_detector())
    return Gauge()


def _unlike(
    how: Preprocessing, gauge: Gauge, track: Soundtrack | None, meta: Mapping[str, Any], fps: float
) -> list[str]:
    """What is measured of the clip and lies outside what was measured of the clips that the model was trained on."""
    trained = (meta.get("preprocessing") or {}).get("fingerprint")
    if not trained:
        return []
    here = {**gauge.measures(), "fps": how.rate(fps)}
    loudness = track.loudness() if track else None
    if loudness is not None:
        here["loudness"] = loudness
    told = differences(sum_up({name: np.array([value]) for name, value in here.items()}), trained)
    return [f"unlike the clips it was trained on: {'; '.join(told)}"] if told else []


def _note(inputs: Inputs, mute: int, count: int) -> str:
    if inputs.need_audio:
        return f"{mute} window{'s' * (mute != 1)} without sound left out"
    if mute == count:
        return "there is no sound: recognised from frames alone"
    return f"{mute} of {count} windows have no sound: recognised from frames alone"


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


def _batches(items: Iterable[Seen], size: int) -> Iterator[list[Seen]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
