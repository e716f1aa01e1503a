"""One sample of a shard: its frames, 16 kHz sound where there is any, and what is known about both.

Frames are a strip of JPEGs, unless something else is asked for. Measured on four real clips at 224 x 224, one thread,
16 frames with stride 4. JPEG quality 90: 2.6 ms and 9.6 KB per frame. H.264 (x264, crf 20, GOP 8): 17 ms and 1.2 KB per
frame; GOP 4 or 16 are no faster. Decoding is what a training machine lacks, so the strip wins; it is also lossless to
cut.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from hicmae.datasets.frames import Frames, JpegStrip, RawFrames, SampleError, VideoFrames
from hicmae.datasets.media import SOUND_RATE

__all__ = ["PIXELS", "Clip", "JpegStrip", "SampleError", "parts_of", "unpack"]

PIXELS = "xrgb"
"""Suffix of raw frames, the last part of a sample: all before it lies in one piece, which is read and hashed."""

Fill = Callable[[int, memoryview], Any]


@dataclass(frozen=True)
class Clip:
    """One sample as views get it."""

    key: str
    number: int
    """Position in the index."""
    frames: Frames
    audio: np.ndarray | None
    """(S,) float32 mono at 16 kHz in [-1, 1) on the clock of `frames.times`: element i sounds at i / 16000 s; None
    where the video has no sound. A track that begins late begins with zeros."""
    label: int
    """Position in the index's classes, -1 without a label."""
    source: str
    """The recording it was cut from: the list's column `video`, else the file relative to what was sharded."""
    group: str | None
    """What must not be split between training and test: a person, a session."""
    start: float
    """Seconds on the source's clock at which the first frame is shown."""
    turn: int = 0
    """How often it was taken before in this epoch, where it is taken several times."""
    crop: dict[str, Any] = field(default_factory=dict)
    """How it was cut out of its video, as far as is told."""


def unpack(raw: bytes | bytearray, *, number: int, label: int, read: Fill | None = None) -> Clip:
    """The sample in a tar's bytes `raw`, its frames still coded.

    Of a sample of raw frames `raw` may end where they begin; `read(at, buffer)` then fills a buffer from byte `at` of
    them on.

    Raises:
        SampleError: the bytes are not a whole sample.
    """
    try:
        parts, begin = parts_of(raw)
        meta = json.loads(bytes(parts["json"]))
        audio = _wave(parts["wav"], meta["audio"]["offset"]) if meta["audio"] is not None else None
        group, start = meta.get("group"), float(meta["start"])
        source = meta.get("extra", {}).get("video") or meta["source"]
        frames = _frames(meta, parts, read or partial(_fill, raw, begin))
        return Clip(meta["key"], number, frames, audio, label, source, group, start, crop=meta.get("crop") or {})
    except SampleError:
        raise
    except (KeyError, TypeError, ValueError, EOFError, wave.Error, tarfile.TarError) as error:
        raise SampleError(f"its bytes are damaged ({type(error).__name__}: {error})") from error


def parts_of(raw: bytes | bytearray) -> tuple[dict[str, memoryview], int]:
    """The parts of a sample by their suffix, not copied, but for raw frames, and where those begin.

    Raises:
        tarfile.TarError, EOFError: the bytes are damaged.
    """
    parts, end, view = {}, 0, memoryview(raw)
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        while (member := tar.next()) is not None:
            end = member.offset_data
            if member.name.endswith(f".{PIXELS}"):
                break
            parts[member.name.rpartition(".")[2]] = view[end : end + member.size]
    return parts, end


def _fill(raw: bytes | bytearray, begin: int, at: int, buffer: memoryview) -> None:
    buffer[:] = raw[begin + at : begin + at + len(buffer)]


def _frames(meta: dict[str, Any], parts: dict[str, memoryview], read: Fill) -> Frames:
    times, kind = np.asarray(meta["times"], np.float64) / 1000, meta.get("format", "jpeg")
    if kind == "raw":
        return RawFrames(read, meta["size"], meta["checks"], times)
    if kind == "mp4":
        return VideoFrames(parts["mp4"], meta["packets"], base64.b64decode(meta["head"]), times)
    return JpegStrip(parts["jpgs"], meta["offsets"], times)


def _wave(data: memoryview, offset: float) -> np.ndarray:
    with wave.open(io.BytesIO(data), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SOUND_RATE, 1, 2):
            raise SampleError("its sound is not 16 kHz mono of 16 bits")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return np.concatenate([np.zeros(round(offset * SOUND_RATE), np.float32), samples]) if offset > 0 else samples
