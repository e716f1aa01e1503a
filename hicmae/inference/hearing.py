"""The sound of a stretch of a video file, placed by time, and decoded only as far as it is asked for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from pathlib import Path

import numpy as np
from torch import Tensor

from hicmae.datasets.fbank import RATE, USUAL, WINDOW, SoundConfig, clip_sound
from hicmae.datasets.media import LONGEST_GAP, MediaError, stream_audio

__all__ = ["Soundtrack"]

_KEPT = 60 * RATE  # samples behind what was last asked for that are kept; who asks for older ones makes it begin again
_PIECE = 10 * RATE  # of a long silence


class Soundtrack:
    """The sound of a file as 16 kHz mono, decoded as time passes: at most a few minutes of it are held."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.begin = 0.0
        """Seconds on the file's clock at which it begins."""
        self._count, self._power = 0, 0.0
        self._restart()

    @classmethod
    def of(cls, path: str | Path) -> Soundtrack | None:
        """The sound of a video file; None where there is none, or less than 25 ms.

        Raises:
            MediaError: the file cannot be used. What is damaged later in its sound is found when it is reached.
        """
        track = cls(path)
        track._decode(WINDOW)
        return track if track._end >= WINDOW else None

    def between(self, start: float, end: float, config: SoundConfig) -> Tensor | None:
        """What is heard between two times on the file's clock, (1, F, K); None where the track is not there.

        As in shards, a track that begins late begins with silence.

        Raises:
            MediaError: the sound is damaged.
        """
        first = int((start - self.begin) * RATE)
        last = first + int((end - start) * RATE)
        least = first - USUAL  # a short stretch is widened by up to this much
        if least < self._first and self._first:
            self._restart()
        self._decode(last + USUAL)
        if min(last, self._end) - max(first, 0) < WINDOW:
            return None
        self._forget(least - _KEPT)
        pieces = list(self._pieces)
        late = max(0, -first)
        wave = np.concatenate([np.zeros(late, np.float32), *pieces]) if late else np.concatenate(pieces)
        shift = late - self._first
        return clip_sound(wave, (first + shift, last + shift), config)

    def loudness(self) -> float | None:
        """Root mean square of all of it in dB below full scale; None of silence. Decodes it to its end."""
        while self._decode(self._end + _PIECE):
            self._forget(self._end - _KEPT)
        power = self._power / max(1, self._count)
        return 10 * math.log10(power) if power > 1e-8 else None

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def _restart(self) -> None:
        self._source = _placed(self.path)
        self._pieces: deque[np.ndarray] = deque()
        self._first = self._end = 0  # samples since the begin

    def _decode(self, end: int) -> bool:
        """Read on until sample `end` is there; whether there is more."""
        while self._end < end:
            found = next(self._source, None)
            if found is None:
                return False
            begin, at, part = found
            self.begin = begin
            if at < self._end:  # it jumps back: what is said last counts, as far as the rest is still there
                part = part[max(0, self._first - at) :]
                whole, at = np.concatenate(self._pieces), max(0, at - self._first)
                self._pieces = deque([np.concatenate([whole[:at], part, whole[at + len(part) :]])])
                self._end = self._first + len(self._pieces[0])
            else:
                self._pieces.append(part)
                self._end += len(part)
            if self._end > self._count:
                self._count = self._end
                self._power += float(np.square(part, dtype=np.float64).sum())
        return True

    def _forget(self, first: int) -> None:
        while len(self._pieces) > 1 and self._first + len(self._pieces[0]) <= first:
            self._first += len(self._pieces.popleft())


def _placed(path: str | Path) -> Generator[tuple[float, int, np.ndarray], None, None]:
    """Time of the track's begin, sample since then, and samples; gaps are pieces of silence."""
    begin: float | None = None
    at = last = 0
    for time, part in stream_audio(path):
        if time is not None:
            begin = time if begin is None else begin
            at = round((time - begin) * RATE)
            if at > last + LONGEST_GAP * RATE:
                reason = f"is damaged (its sound is placed over {at / RATE:.0f} s)"
                raise MediaError(path, reason, "copy, download or record it again")
        if begin is None or not len(part):
            continue
        while at - last > 0:
            silence = min(at - last, _PIECE)
            yield begin, last, np.zeros(silence, np.float32)
            last += silence
        if at + len(part) > 0:
            yield begin, max(0, at), part[max(0, -at) :]
        at += len(part)
        last = max(last, at)
