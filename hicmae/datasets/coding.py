"""Coding the frames of samples: JPEG strips, H.264 or plain bytes; what `frames` reads."""

from __future__ import annotations

import base64
import io
import json
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from hicmae.datasets.frames import Format, checksum
from hicmae.datasets.recording import SOUND_RATE, write_video
from hicmae.datasets.samples import PIXELS

__all__ = ["CRF", "Coded", "Coder", "pack"]

CRF = 20
"""Constant rate factor of H.264: about a tenth of the bytes of a JPEG strip of quality 90."""

# A key frame every 48, and between frames that others refer to three that nothing refers to, evenly: every fourth
# frame decodes alone, and other strides leave out what they do not want.
_X264 = {
    **{"g": "48", "keyint_min": "48", "sc_threshold": "0", "bf": "3", "b_strategy": "0"},
    **{"x264-params": "b-pyramid=none:open-gop=0", "refs": "2"},
}


@dataclass(frozen=True)
class Coded:
    """The frames of a sample as its part of a tar, and what a reader must know of them."""

    suffix: str
    data: bytes
    meta: dict[str, Any]


@dataclass
class Coder:
    """Takes the frames of a sample one after another, each (H, W, 3) uint8, and codes them."""

    format: Format
    quality: int
    """Of JPEGs."""
    _parts: list[bytes] = field(default_factory=list)
    _frames: list[np.ndarray] = field(default_factory=list)

    def add(self, pixels: np.ndarray) -> None:
        """The next frame."""
        if self.format == "jpeg":
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality)
            self._parts.append(buffer.getvalue())
        else:
            self._frames.append(np.ascontiguousarray(pixels))

    def finish(self, fps: float) -> Coded:
        """All of them; `fps` is what players of the video are told."""
        if self.format == "jpeg":
            return Coded("jpgs", b"".join(self._parts), {"offsets": np.cumsum([0, *map(len, self._parts)]).tolist()})
        if self.format == "mp4":
            data, packets, head = _video(self._frames, fps)
            told: dict[str, Any] = {"format": "mp4", "packets": packets, "head": base64.b64encode(head).decode()}
            return Coded("mp4", data, told)
        told = {"format": "raw", "checks": [checksum(frame.reshape(-1)) for frame in self._frames]}
        return Coded(PIXELS, b"".join(frame.tobytes() for frame in self._frames), told)


def _video(frames: Sequence[np.ndarray], fps: float) -> tuple[bytes, list[list[int]], bytes]:
    """The mp4, its packets as `VideoFrames` takes them, and what its decoder must be told first."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "clip.mp4", frames, min(max(fps, 1.0), 240.0), quality=CRF, options=_X264)
        data = path.read_bytes()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        head = bytes(stream.codec_context.extradata or b"")
        found: list[Any] = [packet for packet in container.demux(stream) if packet.size]
        order = np.argsort(np.argsort(np.array([packet.pts for packet in found]))).tolist()
        packets: list[list[int]] = []
        for packet, number in zip(found, order, strict=True):
            packets.append([packet.pos, packet.size, number, _kind(packet)])
        return data, packets, head


def _kind(packet: Any) -> int:
    """2 for a packet where decoding may begin, 1 for one that others refer to, 0 for one that nothing refers to."""
    if packet.is_keyframe:
        return 2
    data, at = bytes(packet), 0
    while at + 4 < len(data):  # units, each after its length in 4 bytes; 1 and 5 are slices (ITU-T H.264, 7.3.1, 7.4.1)
        if data[at + 4] & 31 in (1, 5):
            return int(data[at + 4] >> 5 & 3 > 0)
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return 1


def pack(meta: dict[str, Any], coded: Coded, sound: np.ndarray | bytes | None) -> bytes:
    """A sample as its part of a tar, always the same bytes for the same arguments.

    Parts one after another, followed by two empty blocks, are a tar. `sound` is (S,) float32 at 16 kHz, or the bytes
    of a part `wav`.
    """
    # imported here because it brings torch.utils.data and more, which listing and checking do not need
    from webdataset import TarWriter

    text = json.dumps({**meta, **coded.meta}, separators=(",", ":"))
    sample: dict[str, Any] = {"__key__": meta["key"], coded.suffix: coded.data, "json": text.encode()}
    if sound is not None:
        sample["wav"] = sound if isinstance(sound, bytes) else _wav(sound)
    tar = io.BytesIO()
    writer = TarWriter(tar, encoder=False, mtime=0, compress=False)
    writer.write(sample)
    size = writer.tarstream.offset
    writer.close()
    tar.truncate(size)
    return tar.getvalue()


def _wav(sound: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_RATE)
        file.writeframes(np.clip(np.round(sound * 32768), -32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue()
