"""A video, or a sample of shards, as features: of the whole clip, of its windows, or of time steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import RATE, WINDOW, SoundConfig, clip_sound
from hicmae.datasets.media import MediaError, open_video
from hicmae.datasets.samples import Clip
from hicmae.datasets.transforms import normalise, resize
from hicmae.inference.embed_read import Asked, Level, Modality, Reader
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.loading import opened
from hicmae.inference.windows import Preprocessing, Window, windows
from hicmae.models.base import Model

__all__ = ["Embedder", "Embedding", "embed_clip"]


@dataclass(frozen=True, repr=False)
class Embedding:
    """Features of a clip.

    >>> import numpy as np
    >>> Embedding("clip.mp4", "hicmae_base", np.zeros((2, 8), np.float32), np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    Embedding('clip.mp4': 2 rows of 8 features, 0.00-3.00 s, hicmae_base)
    """

    clip: str
    model: str
    features: NDArray[np.float32]
    """(R, D): one row for the clip, or one per window or time step, in order of time."""
    start: NDArray[np.float64]
    """(R,) seconds on the file's clock at which each row begins."""
    end: NDArray[np.float64]
    """(R,) seconds at which it ends."""
    note: str = ""
    """What a reader must know: that windows without sound were left out, say."""

    @property
    def vector(self) -> NDArray[np.float32]:
        """(D,): the mean over the rows; at clip level the only row."""
        return self.features.mean(0, dtype=np.float64).astype(np.float32)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        rows, width = self.features.shape
        told = f"{rows} row{'s' * (rows != 1)} of {width} features, {self.start[0]:.2f}-{self.end[-1]:.2f} s"
        return f"Embedding({self.clip!r}: {told}, {self.model}{'; ' * bool(self.note)}{self.note})"


class Embedder:
    """Turns one clip after another into features of one model.

    Args:
        model: in evaluation mode, on its device.
        meta: what its checkpoint says.
        asked: which features.
        hop: seconds from one window's start to the next; None is half a window.
        batch_size: windows per forward pass.

    Raises:
        UserError: the model has no such features, or a number is out of range.
    """

    def __init__(
        self, model: Model, meta: Mapping[str, Any], asked: Asked, *, hop: float | None = None, batch_size: int = 8
    ) -> None:
        self.reader = Reader(model, asked)
        self.how = Preprocessing.of(model, meta)
        self.name = str(meta.get("name") or model.name)
        self.hop, self.batch_size = hop, batch_size
        for name, value in (("hop", hop), ("batch size", batch_size)):
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, not {value}")
        if hop is not None and self.reader.by_frame:
            raise UserError("hop: windows follow each other at frame level; leave it out")

    def video(self, path: str | Path) -> Embedding:
        """Features of a video file.

        Raises:
            MediaError: it cannot be used, or has no sound where sound is to be heard.
        """
        fps = self.how.rate(open_video(path).fps)
        self.reader.seconds = self.how.frames * self.how.stride / fps
        track = Soundtrack.of(path) if self.reader.inputs.audio else None
        if self.reader.inputs.audio and track is None:
            raise self._mute(path)
        try:
            return self._embedded(str(path), windows(path, self.how, hop=self._hop(fps)), track)
        finally:
            if track is not None:
                track.close()

    def sample(self, clip: Clip) -> Embedding:
        """Features of a sample of shards, whose frames are cropped already.

        Raises:
            MediaError: it has no sound where sound is to be heard.
            SampleError: it is damaged.
        """
        track = None if clip.audio is None or len(clip.audio) < WINDOW else _Heard(clip.audio, clip.start)
        if self.reader.inputs.audio and track is None:
            raise self._mute(clip.key)
        return self._embedded(clip.key, self._windows_of(clip), track)

    def _windows_of(self, clip: Clip) -> Iterator[Window]:
        """As `windows` of a file: the last one ends with the sample."""
        times = clip.frames.times + clip.start
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        self.reader.seconds = self.how.frames * self.how.stride * step
        taken = list(range(0, len(times), self.how.stride))
        hop = self._hop(1 / step) or max(1, self.how.frames // 2)
        last = max(0, len(taken) - self.how.frames)
        for first in [*range(0, last, hop), last]:
            chosen = taken[first : first + self.how.frames]
            after = chosen[-1] + self.how.stride
            end = float(times[after]) if after < len(times) and first < last else float(times[-1]) + step
            chosen += chosen[-1:] * (self.how.frames - len(chosen))
            frames = resize(clip.frames.take(chosen), self.how.size).transpose(0, 1)
            yield Window(float(times[chosen[0]]), end, frames.contiguous(), tuple(times[chosen].tolist()))

    def _hop(self, fps: float) -> int | None:
        """In frames of a window."""
        if self.reader.by_frame:
            return self.how.frames
        return None if self.hop is None else max(1, round(self.hop * fps / self.how.stride))

    def _mute(self, clip: str | Path) -> MediaError:
        sees = "video" in self.reader.towers
        remedy = "--modality video embeds frames alone" if sees else f"{self.name} only hears: name a model that sees"
        return MediaError(clip, "has no sound", remedy)

    def _embedded(self, clip: str, found: Iterator[Window], track: Soundtrack | _Heard | None) -> Embedding:
        rows: list[NDArray[np.float32]] = []
        spans: list[tuple[float, float]] = []
        mute = 0
        for batch in _batches(found, self.batch_size):
            pairs = [(each, self._sound(each, track)) for each in batch]
            if self.reader.inputs.audio:
                mute += sum(sound is None for _, sound in pairs)
                pairs = [(each, sound) for each, sound in pairs if sound is not None]
            if not pairs:
                continue
            features = self._features([each for each, _ in pairs], [sound for _, sound in pairs])  # (B, S, D)
            for (window, _), steps in zip(pairs, features, strict=True):
                for row, (start, end) in zip(steps, self._spans(window, len(steps)), strict=False):
                    if self.reader.by_frame and spans and end < spans[-1][1] + 0.001:
                        continue  # the last window, which ends with the video, goes back
                    rows.append(row)
                    spans.append((start, end))
        if not rows:
            raise self._mute(clip)
        kept = np.stack(rows)
        start, end = np.array(spans, np.float64).T
        if self.reader.asked.level == "clip":
            kept = kept.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
            start, end = start[:1], end[-1:]
        note = f"{mute} window{'s' * (mute != 1)} without sound left out" if mute else ""
        return Embedding(clip, self.name, kept, start, end, "; ".join(filter(None, (note, self.how.note))))

    def _sound(self, window: Window, track: Soundtrack | _Heard | None) -> Tensor | None:
        if track is None or self.how.sound is None or not self.reader.inputs.audio:
            return None
        return track.between(window.start, window.end, self.how.sound)

    def _features(self, batch: Sequence[Window], sounds: Sequence[Tensor | None]) -> NDArray[np.float32]:
        device = next(self.reader.model.parameters()).device
        video = audio = None
        if self.reader.inputs.video:
            video = normalise(torch.stack([each.frames for each in batch]).to(device))
        if self.reader.inputs.audio:
            audio = torch.stack([sound for sound in sounds if sound is not None]).to(device)
        return self.reader(video, audio).cpu().numpy()

    def _spans(self, window: Window, steps: int) -> list[tuple[float, float]]:
        """Seconds of each row of a window; fewer than there are steps where the window is filled up at its end."""
        if not self.reader.by_frame:
            return [(window.start, window.end)]
        if self.reader.modality == "audio":
            tower = self.reader.towers["audio"]
            length = tower.patch[0] * tower.grid[0] / steps * 0.01
            starts = [window.start + i * length for i in range(steps)]
            return [(at, min(at + length, window.end)) for at in starts if at < window.end - 0.001]
        times = list(dict.fromkeys(window.times))  # what fills up repeats the last time
        each = self.how.frames // steps
        ends = [*times, window.end]
        return [(times[i], ends[min(i + each, len(times))]) for i in range(0, len(times), each)]


@dataclass(frozen=True)
class _Heard:
    """The sound of a sample of shards, as `Soundtrack` is that of a file."""

    wave: NDArray[np.float32]
    begin: float

    def between(self, start: float, end: float, config: SoundConfig) -> Tensor | None:
        first, last = int((start - self.begin) * RATE), int((end - self.begin) * RATE)
        if min(last, len(self.wave)) - max(first, 0) < WINDOW:
            return None
        return clip_sound(self.wave, (first, last), config)


def embed_clip(
    clip: str | Path,
    model: Any,
    *,
    level: Level = "clip",
    layer: int | Literal["last", "mix"] = "last",
    modality: Modality | None = None,
    hop: float | None = None,
    batch_size: int = 8,
    device: str | torch.device = "auto",
) -> Embedding:
    """Features of a video: what a model makes of it before its head, or a pretrained encoder, without a mask.

    Frames are cropped, scaled and normalised as the checkpoint says its training clips were, and decoded as a stream.

    How features are pooled:
        window: the mean over all tokens of the layer after the norm that closes the tower; classifiers of frames alone
            (MAE-DFER, SVFAP, VideoMAE) have none there, and their mean passes the norm before their head. Tokens are
            those that the layer gives: messengers of regions in LGI classifiers, bottleneck tokens inside SVFAP's
            later stages. For `last`, an attentive readout takes the place of the mean.
        clip: the mean over the clip's windows, which overlap by half unless `hop` says otherwise.
        frame: the mean over the tokens of each time step of the layer (in the published models two frames of a window,
            8 of the video). Windows follow each other; of the last, which ends with the video, only steps that end
            after those before are kept. Steps that only repeat a short video's last frame are too.
        modality fused: video features, then audio features. `last` is after fusion; a number up to the towers' depth
            is before. At frame level, steps of sound are interpolated linearly to the middles of those of the frames.
        layer mix: means of all layers, weighted by the softmax of the learnt layer weights. With fused it is what
            HiCMAE's head sees: mixed video, mixed audio, fused video, fused audio, through its norm.

    Args:
        clip: a video file (mp4, mov, mkv, webm, avi, flv).
        model: what `load_model` or `from_pretrained` gives, or a run folder, checkpoint folder or weights file, of
            either stage; a bare model is taken to have been trained on centre squares.
        level: `clip` (1, D), `window` or `frame` (R, D).
        layer: `last`, `mix`, or the number of a block from 1; layers of fusion are counted on from the deeper tower's.
        modality: `video`, `audio` or `fused`; None is all that the model takes. A clip without sound has features of
            `video` alone.
        hop: seconds from one window's start to the next.
        batch_size: windows per forward pass.
        device: where a checkpoint's model is put; a model that was loaded before stays where it is.

    Raises:
        MediaError: the clip cannot be used, or has no sound where sound is to be heard.
        UserError: the checkpoint cannot be used, or has no such layer, mix or modality; the message says what there is.
    """
    asked = Asked(level=level, layer=layer, modality=modality)
    net, meta = opened(model, device=device)
    training = net.training
    net.eval()
    try:
        return Embedder(net, meta, asked, hop=hop, batch_size=batch_size).video(clip)
    finally:
        net.train(training)


def _batches(items: Iterable[Window], size: int) -> Iterator[list[Window]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
