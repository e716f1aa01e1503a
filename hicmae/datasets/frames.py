"""The frames of a sample, decoded only where asked for: a strip of JPEGs, H.264 video, or plain bytes.

Measured on four real clips at 224 x 224, one thread, 16 frames with stride 4: `benchmarks/pipeline.py`. Frames come as
(T, 3, H, W) whose colours lie together in memory, as decoders write and as the resizing of bytes wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from hicmae.datasets.limits import MediaLimits

__all__ = ["Format", "Frames", "JpegStrip", "RawFrames", "SampleError", "VideoFrames", "checksum"]

Format = Literal["jpeg", "mp4", "raw"]


class SampleError(ValueError):
    """A sample of a shard that cannot be used; a stream skips it, counts it and lists it with this reason."""


class Frames:
    """Random access to decoded frames.

    Attributes:
        times: (frames,) float64, seconds since the first frame.
    """

    def __init__(self, times: np.ndarray) -> None:
        if not len(times):
            raise SampleError("its frame offsets and times do not fit each other")
        self.times = times

    def __len__(self) -> int:
        return len(self.times)

    def take(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Frames at `indices` (repeats are decoded once) -> (T, 3, H, W) uint8 RGB.

        Raises:
            SampleError: a frame cannot be decoded.
            IndexError: an index is out of range.
        """
        wanted = [int(i) for i in indices]
        for i in wanted:
            if not 0 <= i < len(self):
                raise IndexError(f"frame {i} of a clip of {len(self)} frames")
        once = list(dict.fromkeys(wanted))
        frames = self.decode(once)
        return (frames if once == wanted else frames[[once.index(i) for i in wanted]]).permute(0, 3, 1, 2)

    def decode(self, wanted: list[int]) -> Tensor:
        """Frames by number, none of which occurs twice: (T, H, W, 3) uint8."""
        raise NotImplementedError


class JpegStrip(Frames):
    """JPEGs one after another in `data`, frame i from `offsets[i]` to `offsets[i + 1]`."""

    def __init__(self, data: bytes | memoryview, offsets: Sequence[int], times: np.ndarray) -> None:
        super().__init__(times)
        if len(offsets) != len(times) + 1 or list(offsets) != sorted(offsets):
            raise SampleError("its frame offsets and times do not fit each other")
        if offsets[-1] != len(data):
            raise SampleError(f"its frames take {len(data)} bytes, not {offsets[-1]}")
        self.data, self.offsets, self.limits = memoryview(data), offsets, MediaLimits.current()

    def coded(self, i: int) -> Tensor:
        """The JPEG of frame i, (bytes,) uint8.

        Raises:
            SampleError: its head is none, or declares more pixels than are read (`MediaLimits`).
        """
        data = bytearray(self.data[self.offsets[i] : self.offsets[i + 1]])
        size = _declared(data)
        if size is None:
            raise SampleError(f"its frame {i} is no JPEG that can be decoded")
        if (refused := self.limits.too_large(*size)) is not None:
            raise SampleError(f"its frame {i} {'; '.join(refused)}")
        return torch.frombuffer(data, dtype=torch.uint8)

    def decode(self, wanted: list[int]) -> Tensor:
        """See `Frames`."""
        decoded = []
        for i in wanted:
            try:
                decoded.append(decode_jpeg(self.coded(i), mode=ImageReadMode.RGB).permute(1, 2, 0))
            except RuntimeError as error:
                raise SampleError(f"its frame {i} is no JPEG that can be decoded") from error
        return torch.stack(decoded)


class RawFrames(Frames):
    """Frames of `side` x `side` pixels as they are, each with a checksum; `read(at, buffer)` fills a buffer with what
    lies from byte `at` of them on."""

    def __init__(
        self, read: Callable[[int, memoryview], Any], side: int, checks: Sequence[int], times: np.ndarray
    ) -> None:
        super().__init__(times)
        if len(checks) != len(times):
            raise SampleError("its frame checksums and times do not fit each other")
        self.read, self.side, self.checks = read, side, checks

    def decode(self, wanted: list[int]) -> Tensor:
        """See `Frames`."""
        frames = np.empty((len(wanted), 3 * self.side**2), np.uint8)
        for i, frame in zip(wanted, frames, strict=True):
            self.read(i * len(frame), frame.data)
            if checksum(frame) != self.checks[i]:
                raise SampleError(f"the bytes of its frame {i} are not those that were written")
        return torch.from_numpy(frames).view(-1, self.side, self.side, 3)


class VideoFrames(Frames):
    """H.264 in `data`. `packets` (frames, 4) tells of each packet, in the order of decoding: where it begins, its
    bytes, the number of its frame, and 2 where decoding may begin, 1 where others refer to it, 0 where none does.

    Of each group of pictures that holds wanted frames, those packets are decoded that they need: what nothing refers
    to is left out, which changes no bit of the others.
    """

    def __init__(
        self, data: bytes | memoryview, packets: Sequence[Sequence[int]], head: bytes, times: np.ndarray
    ) -> None:
        super().__init__(times)
        self.data, self.head, self.packets = memoryview(data), head, np.asarray(packets, np.int64).reshape(-1, 4)
        if not np.array_equal(np.sort(self.packets[:, 2]), np.arange(len(times))) or self.packets[0, 3] != 2:
            raise SampleError("its frames and times do not fit each other")

    def decode(self, wanted: list[int]) -> Tensor:
        """See `Frames`."""
        asked, kind = np.isin(self.packets[:, 2], wanted), self.packets[:, 3]
        group = np.cumsum(kind == 2)
        last = np.zeros(group[-1] + 1, np.int64) - 1
        np.maximum.at(last, group[asked], np.flatnonzero(asked))
        needed = (np.arange(len(group)) <= last[group]) & (asked | (kind > 0))
        codec: Any = av.CodecContext.create("h264", "r")
        codec.extradata, codec.thread_count = self.head, 1
        codec.options = {"max_pixels": str(MediaLimits.current().pixels)}
        decoded: dict[int, Tensor] = {}
        try:
            for at, size, number, _ in [*self.packets[needed].tolist(), (0, 0, 0, 0)]:
                packet = av.Packet(bytes(self.data[at : at + size])) if size else None
                if packet is not None:
                    packet.pts = number
                for frame in codec.decode(packet):
                    if asked[self.packets[:, 2] == frame.pts].any():
                        decoded[int(frame.pts)] = torch.from_numpy(
                            frame.reformat(format="rgb24", threads=1).to_ndarray()
                        )
        except av.FFmpegError as error:
            raise SampleError(f"its video cannot be decoded ({error.strerror})") from error
        if lost := set(wanted) - decoded.keys():
            raise SampleError(f"its frame {min(lost)} cannot be decoded")
        return torch.stack([decoded[i] for i in wanted])


def _declared(jpeg: bytearray) -> tuple[int, int] | None:
    """Width and height that the head of a JPEG declares (ITU-T T.81, B.1 and B.2.2); None where it does not."""
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        kind = jpeg[at + 1]
        if kind in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
            return int.from_bytes(jpeg[at + 7 : at + 9], "big"), int.from_bytes(jpeg[at + 5 : at + 7], "big")
        at += 1 if kind == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None


def checksum(data: np.ndarray) -> int:
    """Of bytes (N,) uint8 the sum of the 8-byte words, modulo 2^64, and of what remains: a tenth of a CRC's time."""
    whole = len(data) // 8 * 8
    words = int(data[:whole].view("<u8").sum(dtype=np.uint64))
    return (words + int(data[whole:].sum(dtype=np.uint64))) % 2**64
