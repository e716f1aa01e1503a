"""A synthesised voice: glottal pulses through moving formants, in syllables whose pitch moves in one of three ways.

Only the *movement* of pitch within syllables differs between the three voices. Time within a syllable is measured by
the share of its energy that has passed, so each voice spends equal energy on each pitch of its range, and mean pitch,
pitch range, spectrum, loudness, rhythm and duration say nothing about which voice it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hicmae.datasets.synthetic.person import Identity
from hicmae.datasets.synthetic.shapes import Array

__all__ = ["RATE", "VOICES", "Speech", "synthesise_voice"]

RATE = 16000
"""Samples per second."""

VOICES = ("rising", "falling", "trembling")
"""How pitch moves within a syllable."""

# First three formants in Hz, and how far the mouth opens.
_VOWELS = (
    ((750, 1250, 2600), 1.0),
    ((530, 1800, 2500), 0.75),
    ((300, 2200, 2950), 0.45),
    ((480, 920, 2450), 0.7),
    ((340, 850, 2350), 0.4),
)
_TREMBLES_PER_SECOND = 7.0
_FRAME, _HOP = 512, 128


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What one take says, shared by its three voices and by the lips: syllables and what colours them.

    Shapes:
        start, length (seconds), strength (linear), tilt (triangle phase in cycles), burst, vowel: (S,)
    """

    seconds: float
    start: Array
    length: Array
    strength: Array
    burst: Array
    phase: Array
    vowel: tuple[int, ...]
    depth: float
    """Pitch moves this many semitones up and down from the middle."""
    transpose: float
    """Shift of the whole take in semitones."""
    level: float
    """Loudness of the take: root mean square over full scale."""
    noise_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, seconds: float) -> Speech:
        """Random syllables, two to three and a half per second with pauses, that fit into `seconds`."""
        pace = rng.uniform(0.26, 0.36)
        start, length = [], []
        now = rng.uniform(0.03, 0.15)
        while True:
            duration = pace * rng.uniform(0.85, 1.2)
            if now + duration > seconds - 0.03:
                break
            start.append(now)
            length.append(duration)
            now += duration + (rng.uniform(0.12, 0.28) if rng.uniform() < 0.15 else rng.uniform(0.02, 0.06))
        count = len(start)
        return cls(
            seconds=seconds,
            start=np.array(start),
            length=np.array(length),
            strength=rng.uniform(0.6, 1.0, count),
            burst=rng.choice([0.0, 0.5, 1.0], count) * rng.uniform(0.5, 1.0, count),
            phase=rng.uniform(0, 1, count),
            vowel=tuple(rng.integers(len(_VOWELS), size=count).tolist()),
            depth=rng.uniform(4.0, 5.5),
            transpose=rng.uniform(-1, 1),
            level=float(10 ** (rng.uniform(-26, -18) / 20)),
            noise_seed=int(rng.integers(2**31)),
        )

    def envelope(self, seconds: Array) -> Array:
        """How loudly a voiced sound is made at these times, in [0, 1]."""
        out = np.zeros(len(seconds), np.float32)
        for start, length, strength in zip(self.start, self.length, self.strength, strict=True):
            out += strength * _swell((seconds - start) / length)
        return out

    def opening(self, seconds: Array) -> Array:
        """How far the mouth is open at these times, in [0, 1]: the envelope times the openness of the vowel."""
        out = np.zeros(len(seconds), np.float32)
        for start, length, strength, vowel in zip(self.start, self.length, self.strength, self.vowel, strict=True):
            out += strength * _VOWELS[vowel][1] * _swell((seconds - start) / length)
        return out


def _swell(u: Array) -> Array:
    """A syllable's loudness over its length, the same forwards and backwards."""
    return np.sqrt(np.sin(np.pi * np.clip(u, 0, 1))) * ((u > 0) & (u < 1))


def _semitones(speech: Speech, voice: int, times: Array) -> Array:
    """Pitch movement in semitones at each sample: uniform over [-depth, depth] by energy in every voice."""
    out = np.zeros(len(times))
    for start, length, phase in zip(speech.start, speech.length, speech.phase, strict=True):
        u = np.clip((times - start) / length, 0, 1)
        inside = (times >= start) & (times < start + length)
        passed = (1 - np.cos(np.pi * u[inside])) / 2  # integral of the squared swell, sin(pi u)
        if voice == 2:
            cycles = max(2, round(_TREMBLES_PER_SECOND * length))
            saw = (cycles * passed + phase) % 1.0
            out[inside] = 4 * np.abs(saw - 0.5) - 1
        else:
            out[inside] = (2 * passed - 1) * (1 if voice == 0 else -1)
    return speech.depth * out


def _tract(speech: Speech, identity: Identity, hops: int) -> Array:
    """Magnitude response of the vocal tract per hop, (hops, _FRAME + 1): formants glide from vowel to vowel."""
    centres = speech.start + speech.length / 2
    formants = np.array([_VOWELS[vowel][0] for vowel in speech.vowel]) * identity.tract
    times = np.arange(hops) * _HOP / RATE
    frequency = np.linspace(0, RATE / 2, _FRAME + 1)
    response = np.ones((hops, _FRAME + 1))
    for number, bandwidth in enumerate((80.0, 110.0, 160.0)):
        centre = np.interp(times, centres, formants[:, number])[:, None]
        response *= centre**2 / np.hypot(centre**2 - frequency**2, bandwidth * frequency)
    # vowels are equally loud: unit energy for a source whose spectrum falls as that of the pulses
    weight = np.maximum(frequency, 100.0) ** -2.2
    return response / np.sqrt((response**2 * weight).sum(1, keepdims=True) / weight.sum())


def synthesise_voice(identity: Identity, speech: Speech, voice: int) -> Array:
    """The person saying this with voice 0, 1 or 2 of `VOICES`: mono float32 in [-1, 1] at 16 kHz."""
    if voice not in range(len(VOICES)):
        raise ValueError(f"voice must be 0, 1 or 2 ({', '.join(VOICES)}), not {voice}")
    count = round(speech.seconds * RATE)
    times = np.arange(count) / RATE
    rng = np.random.default_rng(speech.noise_seed)
    pitch = identity.pitch * 2 ** ((speech.transpose + _semitones(speech, voice, times)) / 12)
    cycle = (np.cumsum(pitch) / RATE) % 1.0
    highest = int(0.45 * RATE / (identity.pitch * 2 ** ((speech.depth + 1) / 12)))
    grid = np.arange(2049) / 2048
    pulse = sum(np.sin(2 * np.pi * k * grid) / k**1.1 for k in range(1, highest + 1))
    source = np.interp(cycle, grid, pulse)
    source += identity.breath * rng.standard_normal(count)
    source *= speech.envelope(times)
    # Overlapping frames times the response of the tract: zero phase, so that a syllable played backwards stays one.
    hops = count // _HOP + _FRAME // _HOP
    padded = np.pad(source, (_FRAME, 2 * _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[_FRAME // 2 :: _HOP][:hops]
    window = np.hanning(_FRAME + 1)[:-1] / 2  # four overlapping windows add up to one
    shaped = np.fft.irfft(np.fft.rfft(frames * window, 2 * _FRAME) * _tract(speech, identity, hops))
    shaped = np.roll(shaped, _FRAME // 2, axis=1)
    pieces = 2 * _FRAME // _HOP
    total = np.zeros((hops + pieces, _HOP))
    for piece in range(pieces):
        total[piece : piece + hops] += shaped[:, piece * _HOP : (piece + 1) * _HOP]
    sound = total.reshape(-1)[_FRAME : _FRAME + count]
    sound = np.pad(sound, (0, count - len(sound)))
    hiss = np.diff(rng.standard_normal(count + 1))
    for start, burst in zip(speech.start, speech.burst, strict=True):
        sound += 0.25 * burst * sound.std() * hiss * np.exp(-(((times - start) / 0.02) ** 2))
    sound *= speech.level / np.sqrt((sound**2).mean())
    sound += 0.0015 * rng.standard_normal(count)
    return np.clip(sound, -1, 1).astype(np.float32)
