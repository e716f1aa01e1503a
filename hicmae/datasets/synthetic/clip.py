"""Writes a generated clip so that its compression gives nothing away."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from hicmae.datasets.synthetic.shapes import Array
from hicmae.datasets.synthetic.voice import RATE

__all__ = ["write_clip"]

# Every frame is an intra frame at one quantiser: predicted frames would keep a part that stands still sharper than one
# that moves, which is a cue within a single frame (and x264's prediction is not reproducible with threads around it).
_CODING = {"qp": "20", "g": "1", "preset": "fast", "threads": "1"}


def write_clip(path: Path, frames: NDArray[np.uint8], fps: float, sound: Array) -> None:
    """Write (T, H, W, 3) frames and mono sound at 16 kHz as H.264 and AAC in mp4; equal input gives equal bytes."""
    pace = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as out:
        video: Any = out.add_stream("libx264", rate=pace, options=_CODING)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio: Any = out.add_stream("aac", rate=RATE, layout="mono")
        audio.codec_context.bit_rate = 64_000
        for number, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = number, 1 / pace
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        wave = av.AudioFrame.from_ndarray(np.asarray(sound, np.float32)[None], format="flt", layout="mono")
        wave.sample_rate, wave.pts, wave.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(audio.encode(wave))
        out.mux(audio.encode(None))
