"""Reading (and, from `recording`, writing) video files: frames by their timestamps, sound on the video's time axis.

Every failure to read is a `MediaError` that says what is wrong with which file, and what to do. Files are not trusted:
what is too large is refused (`limits`), and a file is never a reason to open another one, here or in the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from hicmae.datasets.containers import FORMATS, declared_bytes, describe, sniff, sniff_sound
from hicmae.datasets.limits import LEAST_SOUND_RATE, MediaLimits
from hicmae.datasets.recording import SOUND_RATE, write_video

__all__ = [
    "SOUND_RATE",
    "MediaError",
    "VideoInfo",
    "open_video",
    "read_audio",
    "read_frames",
    "stream_audio",
    "write_video",
]

LONGEST_GAP = 3600
"""Seconds of silence in a sound track that are still believed."""
_DRIFT = 0.0015  # seconds between what timestamps say and what samples sum up to; ticks of Matroska are 1 ms
_AGAIN = "copy, download or record it again"
_SOUND_AGAIN = "convert its sound with ffmpeg"


class MediaError(ValueError):
    """A file that cannot be used as a video: which, why, and what to do about it.

    `reason` starts with a fixed phrase; what differs from file to file stands in brackets after it.
    """

    def __init__(self, path: str | Path, reason: str, remedy: str) -> None:
        super().__init__(path, reason, remedy)
        self.path, self.reason, self.remedy = str(path), reason, remedy

    def __str__(self) -> str:
        return f"{self.path} {self.reason}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file says of itself, with the first frame decoded to be sure that it can be."""

    container: str
    """`mov` (mp4 too), `matroska` (webm too), `avi` or `flv`."""
    codec: str
    frames: int | None
    """Number of frames where the container declares it."""
    seconds: float | None
    fps: float
    """Average frame rate as declared; some avi files declare nonsense."""
    width: int
    """Pixels, as shown (after rotation)."""
    height: int
    rotation: int
    """Degrees by which stored frames are turned counter-clockwise to be shown: 0, 90, 180 or 270."""
    has_audio: bool


def open_video(path: str | Path) -> VideoInfo:
    """Look at a video without reading all of it.

    Raises:
        MediaError: the file is missing, cut off, no video, or cannot be decoded.
    """
    with _opened(path) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise MediaError(path, "holds no frame that can be decoded", _AGAIN)
        rotation = int(frame.rotation) % 360
        sideways = rotation in (90, 270)
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            container=sniff(_head(path)) or "",
            codec=stream.codec_context.name,
            frames=stream.frames or None,
            seconds=_declared_seconds(container, stream),
            fps=float(rate) if rate else 25.0,
            width=frame.height if sideways else frame.width,
            height=frame.width if sideways else frame.height,
            rotation=rotation,
            has_audio=bool(container.streams.audio),
        )


def read_frames(
    path: str | Path, *, start: float | None = None, stop: float | None = None, threads: int = 1
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a video with their presentation times, turned upright.

    Args:
        start, stop: seconds on the file's clock; only frames with start <= time < stop, reached by seeking.
        threads: decoder threads; 0 lets the decoder choose.

    Yields:
        (seconds, (H, W, 3) uint8 RGB); times rise strictly. A file that is read to its end is also compared with the
        duration it declares.

    Raises:
        MediaError: the file is missing, cut off, no video, or damaged.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if start is not None:
            # half a frame early: timestamps are rounded to the container's ticks
            container.seek(int(max(0.0, start - 0.5 / rate) / float(stream.time_base)), stream=stream)
        first = last = end = None
        limits = MediaLimits.current()
        for frame in container.decode(stream):
            time = frame.time
            if time is None or (last is not None and time <= last):
                time = 0.0 if last is None else last + 1 / rate
            if frame.is_corrupt:
                raise MediaError(path, f"is damaged (at {time:.2f} s)", _AGAIN)
            if stop is not None and time >= stop:
                return
            first, last = time if first is None else first, time
            _within(path, limits.too_long(time - first))
            end = time + (float(frame.duration * frame.time_base) if frame.duration else 1 / rate)
            if start is None or time >= start:
                pixels = frame.reformat(format="rgb24", threads=1).to_ndarray()  # the same on any number of cores
                yield time, np.rot90(pixels, int(frame.rotation) // 90) if frame.rotation else pixels
        if start is not None:
            return
        if first is None or end is None:
            raise MediaError(path, "holds no frame that can be decoded", _AGAIN)
        declared = _declared_seconds(container, stream)
        if declared is not None and end - first < declared - max(0.5, 0.05 * declared):
            raise MediaError(path, f"is cut off ({end - first:.2f} of {declared:.2f} s are there)", _AGAIN)


def read_audio(path: str | Path) -> tuple[np.ndarray, float] | None:
    """The first sound track of a video, an m4a or a wav file as 16 kHz mono, placed by timestamps.

    Returns:
        ((S,) float32 in [-1, 1), time of its first sample in seconds on the clock of `read_frames`), or None where
        the file has no sound. Gaps in the track are silence.

    Raises:
        MediaError: the file is missing, cut off, neither video nor sound, or damaged.
    """
    runs: list[tuple[float, list[np.ndarray]]] = []
    for time, part in stream_audio(path):
        if time is not None:
            runs.append((time, []))
        runs[-1][1].append(part)
    if not runs:
        return None
    begin = min(time for time, _ in runs)
    placed = [(round((time - begin) * SOUND_RATE), np.concatenate(parts)) for time, parts in runs]
    length = max((at + len(part) for at, part in placed if len(part)), default=0)
    if length > sum(len(part) for _, part in placed) + LONGEST_GAP * SOUND_RATE:
        raise MediaError(path, f"is damaged (its sound is placed over {length / SOUND_RATE:.0f} s)", _AGAIN)
    wave = np.zeros(length, np.float32)
    for at, part in placed:
        wave[at : at + len(part)] = part
    return (wave, begin) if len(wave) else None


def stream_audio(path: str | Path) -> Iterator[tuple[float | None, np.ndarray]]:
    """The sound of `read_audio` piece by piece, so that little of it is held at a time.

    Yields:
        (seconds, (S,) float32): where the track begins, and wherever it jumps, the time at which the piece lies (it may
        be empty); None where the piece follows the one before. Nothing where the file has no sound.

    Raises:
        MediaError: as `read_audio`.
    """
    with _opened(path, sound=True) as (container, _):
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError(path, "has sound that cannot be decoded", "convert its sound to AAC with ffmpeg")
        stream.codec_context.thread_count = 1
        resampler: Any = None
        expected = before = seconds = 0.0
        drifted = 0
        limits = MediaLimits.current()
        for frame in container.decode(stream):
            if frame.sample_rate < LEAST_SOUND_RATE:
                raise MediaError(path, f"has sound of too few samples ({frame.sample_rate} per second)", _SOUND_AGAIN)
            time = expected if frame.time is None else frame.time
            off = time - expected
            # a new run where the track jumps (half a frame of jitter is rounding), and where it has drifted for a while
            drifted = drifted + 1 if abs(off) > _DRIFT and off * before >= 0 else 0
            before = off
            if resampler is None or drifted > 8 or abs(off) > max(0.005, 0.5 * frame.samples / frame.sample_rate):
                if resampler is not None:
                    yield None, _samples(resampler.resample(None))
                # 16 bits, because only then FFmpeg's mix of two channels is their mean
                resampler = av.AudioResampler(format="s16", layout="mono", rate=SOUND_RATE)
                yield time, np.zeros(0, np.float32)
                expected, before, drifted = time, 0.0, 0
            try:
                part = _samples(resampler.resample(frame))
            except ValueError as error:
                raise MediaError(path, "changes its sound format midway", _SOUND_AGAIN) from error
            yield None, part
            expected += frame.samples / frame.sample_rate
            seconds += frame.samples / frame.sample_rate
            _within(path, limits.too_long(seconds))
        if resampler is not None:
            yield None, _samples(resampler.resample(None))


def _samples(frames: Sequence[Any]) -> np.ndarray:
    parts = [frame.to_ndarray().reshape(-1).astype(np.float32) / 32768 for frame in frames]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _head(path: str | Path) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(16)


def _declared_seconds(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION")  # how Matroska writers state the length of one track
    if tag:
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = tag.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if container.duration and not container.streams.audio:
        return container.duration / av.time_base
    return None


@contextlib.contextmanager
def _opened(path: str | Path, *, sound: bool = False) -> Iterator[tuple[Any, Any]]:
    """The open container and its first moving-picture stream; whatever goes wrong inside becomes a `MediaError`.

    With `sound`, files without pictures are opened too.
    """
    unsized = False
    path = Path(path).absolute()  # absolute, so that no name reads as a protocol ("pipe:", "http:")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise MediaError(path, "is not a file that holds data", "name a video")
        head = _head(path)
        kind = sniff_sound(head) if sound else sniff(head)
        if not head:
            raise MediaError(path, "is empty", _AGAIN)
        if kind is None:
            remedy = "give mp4, mov, mkv, webm, avi or flv files, or convert it with ffmpeg"
            raise MediaError(path, f"is not a video that can be read (it is {describe(head)})", remedy)
        there, declared = path.stat().st_size, declared_bytes(path, kind)
        if declared is not None and there < declared:
            raise MediaError(path, f"is cut off ({there:,} of {declared:,} bytes are there)", _AGAIN)
        limits = MediaLimits.current()
        with _demuxed(path, FORMATS[kind], limits) as container:
            pictures = [s for s in container.streams.video if not s.disposition & _COVER]
            if not pictures and not sound:
                raise MediaError(path, "holds no video", "leave it out")
            if pictures and pictures[0].codec_context is None:
                raise MediaError(path, "uses a codec that cannot be decoded", "convert it to H.264 with ffmpeg")
            _check(path, container, pictures[0] if pictures else None, limits)
            unsized = bool(pictures) and not pictures[0].codec_context.width
            yield container, pictures[0] if pictures else None
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(path, "does not exist", "check the path") from error
    except IsADirectoryError as error:
        raise MediaError(path, "is a folder", "name the video inside it") from error
    except PermissionError as error:
        raise MediaError(path, "cannot be read (permission denied)", "change its permissions with chmod") from error
    except av.FFmpegError as error:
        if unsized:  # FFmpeg forgets the size of pictures that it refused to decode
            raise MediaError(path, *limits.not_sized()) from error
        raise MediaError(path, f"is damaged or cut off ({error.strerror})", _AGAIN) from error
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror or error})", "check the disk it lies on") from error


def _demuxed(path: Path, kind: str, limits: MediaLimits) -> Any:
    """The open container. Decoders are told the limit before the first frame, which FFmpeg decodes on opening."""
    guards = {
        "max_pixels": str(limits.pixels),
        "max_streams": str(limits.tracks + 1),
        "protocol_whitelist": "file",
        "format_whitelist": kind,
    }
    try:
        return av.open(str(path), "r", format=kind, options=guards, metadata_errors="replace")
    except av.error.MemoryError:  # how FFmpeg says that there are more tracks than it may open
        raise MediaError(path, *limits.too_many()) from None


def _check(path: Path, container: Any, pictures: Any, limits: MediaLimits) -> None:
    """What the container declares lies within the limits; the decoder will hold itself to that of pixels."""
    if len(container.streams) > limits.tracks:
        raise MediaError(path, *limits.too_many())
    if pictures is None:
        _within(path, limits.too_long(container.duration / av.time_base if container.duration else 0.0))
        return
    context = pictures.codec_context
    _within(path, limits.too_large(context.width, context.height))
    _within(path, limits.too_fast(float(pictures.average_rate or 0)))
    _within(path, limits.too_long(_declared_seconds(container, pictures) or 0.0))
    context.options = {"max_pixels": str(limits.pixels)}


def _within(path: str | Path, refusal: tuple[str, str] | None) -> None:
    if refusal is not None:
        raise MediaError(path, *refusal)


_COVER = av.stream.Disposition.attached_pic
