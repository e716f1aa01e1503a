"""The sound of a stretch of a video file, placed by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from hicmae.datasets.fbank import RATE, WINDOW, SoundConfig, clip_sound
from hicmae.datasets.media import read_audio

__all__ = ["Soundtrack"]


@dataclass(frozen=True)
class Soundtrack:
    """All sound of a file: 64 KB per second."""

    wave: np.ndarray
    """(S,) float32 mono at 16 kHz."""
    begin: float
    """Seconds on the file's clock at which it begins."""

    @classmethod
    def of(cls, path: str | Path) -> Soundtrack | None:
        """The sound of a video file; None where there is none, or less than 25 ms.

        Raises:
            MediaError: the file cannot be used.
        """
        found = read_audio(path)
        return cls(*found) if found is not None and len(found[0]) >= WINDOW else None

    def between(self, start: float, end: float, config: SoundConfig) -> Tensor | None:
        """What is heard between two times on the file's clock, (1, F, K); None where the track is not there.

        As in shards, a track that begins late begins with silence.
        """
        first = int((start - self.begin) * RATE)
        last = first + int((end - start) * RATE)
        if min(last, len(self.wave)) - max(first, 0) < WINDOW:
            return None
        late = max(0, -first)
        wave = np.concatenate([np.zeros(late, np.float32), self.wave]) if late else self.wave
        return clip_sound(wave, (first + late, last + late), config)
