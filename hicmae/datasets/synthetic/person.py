"""Who is filmed, where, and what the face does: the parameters of a generated talking face."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from hicmae.datasets.synthetic.shapes import Array, column, ellipse, rounded_box, smoothstep

__all__ = ["HAIR_STYLES", "Colour", "Expression", "Identity", "Scene"]

Colour = tuple[float, float, float]

HAIR_STYLES = ("short", "parted", "bob", "long", "bun", "curly", "bald")
_SKIN = ((0.98, 0.84, 0.75), (0.93, 0.74, 0.61), (0.83, 0.62, 0.46), (0.66, 0.46, 0.33), (0.47, 0.32, 0.23))
_HAIR = (
    (0.08, 0.07, 0.07),
    (0.24, 0.14, 0.08),
    (0.45, 0.27, 0.13),
    (0.82, 0.64, 0.33),
    (0.6, 0.24, 0.1),
    (0.6, 0.6, 0.6),
)
_IRIS = ((0.25, 0.14, 0.07), (0.38, 0.25, 0.1), (0.25, 0.42, 0.65), (0.28, 0.5, 0.32), (0.42, 0.46, 0.5))


def _hue(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def _mixed(rng: np.random.Generator, palette: tuple[Colour, ...]) -> Colour:
    """A colour between two neighbours of the palette."""
    place = rng.uniform(0, len(palette) - 1)
    low, share = int(place), place - int(place)
    red, green, blue = ((1 - share) * np.array(palette[low]) + share * np.array(palette[low + 1])).tolist()
    return (red, green, blue)


def _times(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that stays with a person: features in face units (chin at 1), colours, and the voice."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    cloth: Colour
    trim: Colour
    hair_style: str
    width: float
    jaw: float
    eye_spacing: float
    eye_width: float
    brow_thickness: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_fullness: float
    hairline: float
    part: float
    beard: float
    glasses: bool
    collar: bool
    pitch: float
    """Middle of the pitch range in Hz."""
    tract: float
    """Factor on the formant frequencies (short vocal tracts have high formants)."""
    breath: float
    """Share of aspiration noise in the voice."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Identity:
        """A random person; the same generator state gives the same person."""
        skin = _mixed(rng, _SKIN)
        register = rng.uniform()
        return cls(
            skin=skin,
            hair=_HAIR[rng.integers(len(_HAIR))],
            iris=_IRIS[rng.integers(len(_IRIS))],
            lips=_times((skin[0], skin[1] * rng.uniform(0.3, 0.5), skin[2] * rng.uniform(0.35, 0.6)), 0.7),
            cloth=_hue(rng, (0.2, 0.8), (0.25, 0.9)),
            trim=_hue(rng, (0.0, 0.5), (0.6, 1.0)),
            hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
            width=rng.uniform(0.7, 0.84),
            jaw=rng.uniform(0.08, 0.28),
            eye_spacing=rng.uniform(0.33, 0.38),
            eye_width=rng.uniform(0.225, 0.26),
            brow_thickness=rng.uniform(0.032, 0.052),
            brow_tilt=rng.uniform(-0.12, 0.12),
            nose_length=rng.uniform(0.2, 0.3),
            nose_width=rng.uniform(0.1, 0.16),
            mouth_width=rng.uniform(0.35, 0.42),
            lip_fullness=rng.uniform(0.07, 0.1),
            hairline=rng.uniform(0.62, 0.72),
            part=rng.uniform(-0.4, 0.4),
            beard=float(rng.choice([0.0, 0.0, 0.0, 0.35, 0.75])),
            glasses=bool(rng.uniform() < 0.2),
            collar=bool(rng.uniform() < 0.5),
            pitch=float(125 * 2 ** (register + rng.uniform(-0.1, 0.1))),
            tract=0.95 + 0.2 * register + rng.uniform(-0.04, 0.04),
            breath=rng.uniform(0.02, 0.12),
        )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What surrounds the head in one take: light and background."""

    light: tuple[float, float, float]
    """Unit vector towards the light: right, down, out of the picture."""
    ambient: Colour
    glow: Colour
    wall: Colour
    floor: Colour
    clutter: tuple[tuple[float, float, float, float, float, Colour], ...]
    """Things in the background: x, y, half-width, half-height, blur (picture units), colour."""
    drift: tuple[float, float, float]
    """Amplitude (picture units), frequency (Hz) and phase of the first thing, which moves."""
    unit: float
    """Size of one face unit in picture units (half the picture is 1)."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scene:
        """A random place and light."""
        side, up = rng.uniform(-0.75, 0.75), rng.uniform(-0.7, 0.1)
        light = np.array([side, up, 0.8])
        light /= np.linalg.norm(light)
        warm = rng.uniform(-0.06, 0.06)
        strength, base = rng.uniform(0.5, 0.65), rng.uniform(0.45, 0.55)
        wall = _hue(rng, (0.05, 0.45), (0.35, 0.9))
        clutter = tuple(
            (
                rng.uniform(-1, 1),
                rng.uniform(-1, 0.6),
                rng.uniform(0.06, 0.3),
                rng.uniform(0.06, 0.4),
                rng.uniform(0.02, 0.12),
                _mixed(rng, (wall, _hue(rng, (0.1, 0.6), (0.2, 0.95)))),
            )
            for _ in range(rng.integers(4, 9))
        )
        return cls(
            light=(float(light[0]), float(light[1]), float(light[2])),
            ambient=(base * (1 - warm), base, base * (1 + warm)),
            glow=(strength * (1 + warm), strength, strength * (1 - warm)),
            wall=wall,
            floor=_times(wall, rng.uniform(0.5, 0.9)),
            clutter=clutter,
            drift=(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.8), rng.uniform(0, 2 * np.pi)),
            unit=rng.uniform(0.75, 0.8),
        )

    def background(self, size: int, seconds: Array) -> Array:
        """The scene without the person; times (T,) -> (3, T, size, size)."""
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        y, x = axis[:, None], axis[None, :]
        wall, floor = np.array(self.wall, np.float32), np.array(self.floor, np.float32)
        still = wall[:, None, None] + (floor - wall)[:, None, None] * smoothstep((y + 1) / 2) + 0 * x
        for left, top, width, height, blur, colour in self.clutter[1:]:
            alpha = np.clip(0.5 - rounded_box(x - left, y - top, width, height, 0.5 * min(width, height)) / blur, 0, 1)
            still += alpha * (np.array(colour, np.float32)[:, None, None] - still)
        canvas = np.repeat(still[:, None].astype(np.float32), len(seconds), axis=1)
        left, top, width, _, blur, colour = self.clutter[0]
        amplitude, frequency, phase = self.drift
        moved = column(left + amplitude * np.sin(2 * np.pi * frequency * seconds + phase))
        alpha = np.clip(0.5 - ellipse(x - moved, y - top, width, width) / blur, 0, 1)
        canvas += alpha * (np.array(colour, np.float32).reshape(3, 1, 1, 1) - canvas)
        return canvas


@dataclass(frozen=True, kw_only=True)
class Expression:
    """What the face does, per frame; every array is (T,).

    `brow`, `corner` (of the mouth) and `lid` lie in [-1, 1] from low to high, frowning to smiling, narrow to wide.
    `mouth` is the opening by speech in [0, 1], `blink` closes the lids in [0, 1], `gain` is the flicker of the light,
    `x`, `y`, `yaw`, `nod` are in face units and `roll` in radians.
    """

    seconds: Array
    brow: Array
    corner: Array
    lid: Array
    mouth: Array
    blink: Array
    gain: Array
    x: Array
    y: Array
    yaw: Array
    nod: Array
    roll: Array
