"""One person in one scene saying one thing, performed with any of three facial motions and any of three voices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hicmae.datasets.synthetic.face import render_face
from hicmae.datasets.synthetic.person import Expression, Identity, Scene
from hicmae.datasets.synthetic.shapes import Array
from hicmae.datasets.synthetic.voice import Speech, synthesise_voice

__all__ = ["MOTIONS", "Take"]

MOTIONS = ("brows", "mouth corners", "lids")
"""Which part of the face moves; the other two hold still."""

_SWAY = {"x": 0.02, "y": 0.015, "yaw": 0.05, "nod": 0.04, "roll": 0.04}
"""Amplitudes of the head's sway, in face units and radians."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """All that the performances of one take share: words, lips, sway of the head, blinks, flicker of the light.

    Each part of the face is the sine of a uniform phase, which runs on if the part moves and stands still if it does
    not. In any single frame the three parts are thus independent and distributed alike (arcsine) whatever the motion:
    which part moves is visible over time only. All motions of a take begin in the same frame.
    """

    identity: Identity
    scene: Scene
    speech: Speech
    frames: int
    fps: float
    phases: tuple[float, float, float]
    rate: float
    """Oscillations per second of the part that moves: about a third of one per frame at 12.5 frames per second, so that
    two neighbouring frames, and two that are two frames apart, differ as much as possible."""
    sway: dict[str, tuple[float, float]]
    """Frequency (Hz) and phase of each degree of freedom of the head."""
    blinks: tuple[float, ...]
    """When the eyes are shut, in seconds."""
    flicker: tuple[float, float]
    """Frequency (Hz) and phase of the light."""

    @classmethod
    def draw(cls, rng: np.random.Generator, identity: Identity, *, seconds: float, fps: float = 12.5) -> Take:
        """A random take of about `seconds`, a whole number of frames."""
        frames = max(2, round(seconds * fps))
        one, two, three = rng.uniform(0, 2 * np.pi, 3).tolist()
        return cls(
            identity=identity,
            scene=Scene.draw(rng),
            speech=Speech.draw(rng, frames / fps),
            frames=frames,
            fps=fps,
            phases=(one, two, three),
            rate=rng.uniform(3.2, 4.4),
            sway={name: (rng.uniform(0.15, 0.6), rng.uniform(0, 2 * np.pi)) for name in _SWAY},
            blinks=tuple(rng.uniform(0, frames / fps, rng.poisson(0.3 * frames / fps)).tolist()),
            flicker=(rng.uniform(0.3, 3.0), rng.uniform(0, 2 * np.pi)),
        )

    def expression(self, motion: int) -> Expression:
        """What the face does with this motion (0, 1 or 2 of `MOTIONS`)."""
        if motion not in range(len(MOTIONS)):
            raise ValueError(f"motion must be 0, 1 or 2 ({', '.join(MOTIONS)}), not {motion}")
        seconds = np.arange(self.frames) / self.fps
        turn = 2 * np.pi * seconds
        parts = [np.sin(phase + self.rate * turn * (part == motion)) for part, phase in enumerate(self.phases)]
        blink = np.zeros(self.frames)
        for moment in self.blinks:
            blink = np.maximum(blink, np.clip(1.5 - np.abs(seconds - moment) / 0.08, 0, 1))
        head: dict[str, Array] = {
            name: _SWAY[name] * np.sin(frequency * turn + phase) for name, (frequency, phase) in self.sway.items()
        }
        return Expression(
            seconds=seconds,
            brow=parts[0],
            corner=parts[1],
            lid=parts[2],
            mouth=self.speech.opening(seconds),
            blink=blink,
            gain=1 + 0.02 * np.sin(self.flicker[0] * turn + self.flicker[1]),
            **head,
        )

    def video(self, motion: int, size: int = 96) -> NDArray[np.uint8]:
        """The take performed with this motion: (T, size, size, 3) uint8."""
        return render_face(self.identity, self.scene, self.expression(motion), size)

    def sound(self, voice: int) -> Array:
        """The take spoken with this voice: mono float32 at 16 kHz, as long as the video."""
        return synthesise_voice(self.identity, self.speech, voice)
