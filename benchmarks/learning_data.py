"""Generated clips whose answers are known, as shards: the data of `learning.py`.

A clip shows a pattern that turns to the left or to the right, in much noise, and sounds like a voice that says one of
two vowels, in much hiss. The angle at which the pattern begins is drawn evenly from the circle, so that every single
frame has the same distribution whatever the class: which way it turns is visible over time only.

One set of clips serves all tasks. It holds the four pairs of a motion and a vowel, equally often, and each task asks
another question of the same clips:

motion     what the pattern does; the sound says nothing
sound      which vowel it is; the frames say nothing
agreement  whether they belong together (left and "oh", right and "eh"); either modality alone says nothing
pairs      the pair itself; either modality alone leaves two of four
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.synthetic import RATE, Task
from hicmae.datasets.synthetic.clip import write_clip

__all__ = ["FPS", "MOTIONS", "PAIRS", "TASKS", "VOWELS", "Sizes", "make_data", "shards", "speaking", "turning"]

MOTIONS = ("left", "right")
VOWELS = ("oh", "eh")
TOGETHER = ((0, 0), (1, 1))
"""Pairs that belong together. Unlabelled clips hold these alone: as a face and its voice do, they agree."""
APART = ((0, 1), (1, 0))
PAIRS = (*TOGETHER, *APART)

TASKS: Mapping[str, Task] = {
    "motion": {name: tuple(pair for pair in PAIRS if pair[0] == m) for m, name in enumerate(MOTIONS)},
    "sound": {name: tuple(pair for pair in PAIRS if pair[1] == v) for v, name in enumerate(VOWELS)},
    "agreement": {"agree": TOGETHER, "differ": APART},
    "pairs": {f"{MOTIONS[m]} {VOWELS[v]}": ((m, v),) for m, v in PAIRS},
}
FPS = 12.5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is generated for one seed, and how well it can be seen and heard."""

    train: int = 400
    """Clips with labels."""
    test: int = 240
    """Clips that models are measured on."""
    unlabeled: int = 480
    """Clips for pretraining."""
    pixels: int = 32
    """Height and width."""
    frames: int = 20
    """At 12.5 per second."""
    speed: tuple[float, float] = (0.15, 0.3)
    """Slowest and fastest turn, in radians per frame."""
    noise: float = 0.7
    """Amplitude of the noise in each pixel of each frame; the pattern's is about 1."""
    hiss: float = 1.0
    """Amplitude of the noise in the sound; the voice's is 1."""


def turning(motion: int, sizes: Sizes, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A pattern of light and dark around the middle, which turns: (T, size, size, 3) uint8."""
    axis = (np.arange(sizes.pixels) + 0.5) / sizes.pixels * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = np.arctan2(y, x) - rng.uniform(0, 2 * np.pi)
    turned = (2 * motion - 1) * rng.uniform(*sizes.speed) * np.arange(sizes.frames)
    out = np.zeros((sizes.frames, sizes.pixels, sizes.pixels))
    for order, share in ((1, 1.0), (2, 0.5)):
        out += share * np.cos(order * (angle - turned[:, None, None]))
    out *= rng.uniform(0.7, 1.2) * np.clip(2 * np.hypot(x, y), 0, 1)
    grey = out + sizes.noise * rng.standard_normal(out.shape) + rng.normal(0, 0.3)
    return np.clip(128 + 36 * grey[..., None].repeat(3, -1), 0, 255).astype(np.uint8)


def speaking(vowel: int, sizes: Sizes, rng: np.random.Generator) -> NDArray[np.float32]:
    """A voice that says a vowel in syllables, in hiss, as long as the frames: mono float32 at 16 kHz.

    Pitch, pace, loudness and the exact place of the formants are drawn for each clip.
    """
    seconds = np.arange(round(sizes.frames / FPS * RATE)) / RATE
    pitch = rng.uniform(100, 250)
    formants = np.array(((450.0, 1100.0), (620.0, 1700.0))[vowel]) * 2 ** rng.normal(0, 0.12, 2)
    sound = np.zeros(len(seconds))
    for k in range(1, int(4000 / pitch)):
        loud = sum(np.exp(-0.5 * ((k * pitch - formant) / (0.18 * formant)) ** 2) for formant in formants)
        sound += (loud + 0.05) * np.cos(2 * np.pi * k * pitch * seconds + rng.uniform(0, 2 * np.pi))
    pace = rng.uniform(2.5, 4.5)
    sound *= np.clip(np.sin(2 * np.pi * (pace * seconds + rng.uniform())) + 0.4, 0, 1)
    sound = sound / sound.std() + sizes.hiss * rng.standard_normal(len(sound))
    return (rng.uniform(0.05, 0.15) * sound).clip(-1, 1).astype(np.float32)


def shards(home: Path, task: str, role: str = "train") -> str:
    """The folder of a task's training or test shards, or of unlabelled ones (task `together` or `mixed`)."""
    return str(home / "shards" / (f"{task}-{role}" if task in TASKS else task))


def make_data(home: Path, sizes: Sizes, seed: int, unlabeled: Sequence[str] = ("together",)) -> None:
    """Write and shard the clips of one seed below `home`.

    Without labels: `together`, pairs that belong together, and `mixed`, all motions with all vowels.
    """
    roles = {"train": (sizes.train, PAIRS), "test": (sizes.test, PAIRS), "together": (sizes.unlabeled, TOGETHER)}
    roles["mixed"] = (sizes.unlabeled, PAIRS)
    for number, (role, (count, pairs)) in enumerate(roles.items()):
        if role not in ("train", "test", *unlabeled):
            continue
        rows: list[dict[str, object]] = []
        (home / role).mkdir(parents=True, exist_ok=True)
        for clip in range(count):
            rng = np.random.default_rng((seed, number, clip))
            motion, vowel = pairs[clip % len(pairs)]
            path = home / role / f"{clip:05d}.mp4"
            write_clip(path, turning(motion, sizes, rng), FPS, speaking(vowel, sizes, rng))
            rows.append({"path": f"{role}/{path.name}", "motion": MOTIONS[motion], "vowel": VOWELS[vowel]})
        if role not in ("train", "test"):
            _shard(home, role, rows, sizes)
            continue
        for task, classes in TASKS.items():
            name = {pair: label for label, own in classes.items() for pair in own}
            labelled = [{**row, "label": name[pairs[clip % len(pairs)]]} for clip, row in enumerate(rows)]
            _shard(home, f"{task}-{role}", labelled, sizes)


def _shard(home: Path, name: str, rows: list[dict[str, object]], sizes: Sizes) -> None:
    path = home / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    config = ShardConfig(size=sizes.pixels, list=str(path), faces="none")
    write_shards([], home / "shards" / name, config=config, progress=False)
