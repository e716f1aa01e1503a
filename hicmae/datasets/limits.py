"""How much an unknown file may ask of this machine: checked by what it declares, and again while it is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hicmae.configs.errors import ConfigError

__all__ = ["LEAST_SOUND_RATE", "MediaLimits"]

LEAST_SOUND_RATE = 1000
"""Samples per second of sound; a slower track grows many times over when it is brought to 16 kHz."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What is refused, with a reason, before memory is taken. Each is raised by the environment variable named here.

    A file of 300 KB can hold pictures that take 300 MB each, or a day of silence.
    """

    pixels: int = 50_000_000
    """Pixels of a picture or of a video's frames; 8K video has 33 million. `HICMAE_MAX_PIXELS`."""
    fps: int = 1000
    """Frames per second. `HICMAE_MAX_FPS`."""
    seconds: int = 6 * 3600
    """Length of a video or a sound track; sound takes 0.23 GB per hour, and twice that while it is read.
    `HICMAE_MAX_SECONDS`."""
    tracks: int = 64
    """Tracks in one file: pictures, sound in several languages, subtitles. `HICMAE_MAX_TRACKS`."""

    @classmethod
    def current(cls) -> MediaLimits:
        """The defaults, or what the environment says.

        Raises:
            ConfigError: a variable holds no whole number above 0.
        """
        found = {}
        for name in ("pixels", "fps", "seconds", "tracks"):
            variable = f"HICMAE_MAX_{name.upper()}"
            text = os.environ.get(variable)
            if text is not None:
                if not text.isdecimal() or int(text) < 1:
                    raise ConfigError(f"{variable} must be a whole number above 0, not {text!r}")
                found[name] = int(text)
        return cls(**found)

    def too_large(self, width: int, height: int) -> tuple[str, str] | None:
        """Reason and remedy for a picture of so many pixels; None where it is read."""
        if width * height <= self.pixels:
            return None
        reason = f"is too large ({width:,} x {height:,} pixels; up to {self.pixels:,} pixels are read)"
        return reason, "scale it down, or raise the limit by HICMAE_MAX_PIXELS"

    def not_sized(self) -> tuple[str, str]:
        """Reason and remedy for pictures that were refused before their size was told."""
        reason = f"is too large, or damaged (pictures of up to {self.pixels:,} pixels are read)"
        return reason, "scale it down, or raise the limit by HICMAE_MAX_PIXELS"

    def too_fast(self, fps: float) -> tuple[str, str] | None:
        """Reason and remedy for a frame rate."""
        if fps <= self.fps:
            return None
        reason = f"has too many frames per second ({fps:,.0f}; up to {self.fps:,} are read)"
        return reason, "write it at its true rate with ffmpeg, or raise the limit by HICMAE_MAX_FPS"

    def too_long(self, seconds: float) -> tuple[str, str] | None:
        """Reason and remedy for a length."""
        if seconds <= self.seconds:
            return None
        reason = f"is too long ({seconds:,.0f} s; up to {self.seconds:,} s are read)"
        return reason, "cut it into parts, or raise the limit by HICMAE_MAX_SECONDS"

    def too_many(self) -> tuple[str, str]:
        """Reason and remedy for too many tracks."""
        reason = f"holds too many tracks (more than {self.tracks})"
        return reason, "leave some out with ffmpeg, or raise the limit by HICMAE_MAX_TRACKS"
