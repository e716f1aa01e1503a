"""Writing video files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

__all__ = ["SOUND_RATE", "write_video"]

SOUND_RATE = 16_000
"""Samples per second of all sound inside the library."""

_CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "pcm_s16le"),
    ".flv": ("libx264", "aac"),
}


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    audio: np.ndarray | None = None,
    rate: int = SOUND_RATE,
    *,
    times: Sequence[float] | None = None,
    audio_start: float = 0.0,
    codec: str | None = None,
    audio_codec: str | None = None,
    quality: int = 18,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write frames and sound as a video, by default H.264 and AAC; the same input gives the same bytes.

    Args:
        path: .mp4, .mov, .mkv, .flv, .webm (VP9, Opus) or .avi (MPEG-4, PCM).
        frames: each (H, W, 3) uint8 RGB; odd sizes are allowed.
        audio: (S,) mono or (S, 2) stereo float32 in [-1, 1].
        times: seconds of each frame, for a variable frame rate.
        audio_start: seconds at which the sound begins.
        codec, audio_codec: FFmpeg encoders in place of the suffix's.
        quality: constant rate factor, smaller is better.
        options: further options of the video encoder.
    """
    path = Path(path)
    if path.suffix.lower() not in _CODECS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(_CODECS)}")
    default_codec, default_audio = _CODECS[path.suffix.lower()]
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write")
    partial = path.with_name(path.name + ".tmp")
    kind = {".mkv": "matroska"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    pace = Fraction(fps).limit_denominator(1001)
    tick = Fraction(1, 90_000) if times is not None else 1 / pace
    try:
        with av.open(str(partial), "w", format=kind, container_options={"fflags": "+bitexact"}) as out:
            stream = _video_stream(out, codec or default_codec, pace, tick, first.shape, quality, options or {})
            sound = None if audio is None else _sound_stream(out, audio_codec or default_audio, audio, rate)
            for i, pixels in enumerate(itertools.chain([first], pictures)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                # left to the encoder, several threads convert colours, and once in 200 files to other bytes
                frame = frame.reformat(format=stream.pix_fmt, threads=1)
                frame.time_base = tick
                frame.pts = i if times is None else round(times[i] / tick)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
            if sound is not None and audio is not None:
                if kind == "avi":  # its tracks all begin at 0
                    audio = np.concatenate([np.zeros((round(audio_start * rate), *audio.shape[1:]), np.float32), audio])
                    audio_start = 0.0
                _write_sound(out, sound, audio, rate, audio_start)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _video_stream(
    out: Any, codec: str, pace: Fraction, tick: Fraction, shape: tuple[int, ...], quality: int, more: Mapping[str, str]
) -> Any:
    options = {"threads": "1", **more}
    if codec == "libx264":
        options["mbtree"] = "0"  # with it, x264's AVX-512 code gives other bytes for a few of a hundred like videos
    if codec != "mpeg4":
        options["crf"] = str(quality)
    stream = out.add_stream(codec, rate=pace, options=options)
    stream.height, stream.width = shape[:2]
    # 4:2:0 halves the picture, which H.264 cannot do to odd sizes
    stream.pix_fmt = "yuv444p" if codec == "libx264" and (shape[0] % 2 or shape[1] % 2) else "yuv420p"
    if codec == "mpeg4":
        stream.codec_context.bit_rate = 2_000_000
    stream.codec_context.time_base = tick
    return stream


def _sound_stream(out: Any, codec: str, audio: np.ndarray, rate: int) -> Any:
    layout = "stereo" if audio.ndim == 2 and audio.shape[1] == 2 else "mono"
    stream = out.add_stream(codec, rate=rate, layout=layout)
    stream.codec_context.thread_count = 1
    return stream


def _write_sound(out: Any, stream: Any, audio: np.ndarray, rate: int, start: float) -> None:
    wave = np.ascontiguousarray(audio.reshape(1, -1), dtype=np.float32)  # interleaved
    frame = av.AudioFrame.from_ndarray(wave, format="flt", layout=stream.codec_context.layout.name)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate)
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
