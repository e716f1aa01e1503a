"""Generated corpora whose classes a tiny model half sees (a tint) and half hears (a tone), and checkpoints for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hicmae.datasets import ShardConfig, write_shards, write_video
from hicmae.datasets.synthetic.clip import write_clip
from tests.finetune.conftest import COLOURS

TINY = (
    "{dim: 32, depth: 2, heads: 2, patch: [2, 8, 8], fusion_depth: 1, audio_frames: 64, mels: 32,"
    " audio_patch: [16, 16], decoder_dim: 16, decoder_depth: 2, decoder_heads: 2}"
)
TINY_LGI = (
    "{dim: 32, depth: 2, heads: 2, patch: [2, 8, 8], region: [2, 2, 4], decoder_dim: 16, decoder_depth: 1,"
    " decoder_heads: 2}"
)
DATA = ["--data.frames", "4", "--data.stride", "2", "--data.size", "32", "--data.workers", "0", "--device", "cpu"]
PRETRAINING = [*DATA, "--loop.batch_size", "16", "--optim.lr", "1.6e-2", "--optim.warmup_epochs", "2"]
FINETUNING = [
    *("--args.init_scale", "1.0", "--data.workers", "0", "--device", "cpu", "--loop.batch_size", "12"),
    *("--optim.lr", "0.08", "--optim.warmup_epochs", "2", "--augment.policy", "", "--augment.erase", "0"),
    *("--augment.mix", "0", "--augment.crop", "[0.7, 1.0]", "--augment.smoothing", "0", "--loop.log_every", "1000"),
]


def half_seen_half_heard(
    root: Path, people: int, seed: int, *, warmth: float = 0.0, split: bool = False, sound: bool = True
) -> str:
    """Shards of two clips per person and class, with sound; returns their folder.

    The tint and the tone of a clip are drawn around those of its class so widely that either alone errs often.

    Args:
        root: where clips and shards go; its name becomes that of the corpus.
        people: how many.
        seed: of all draws.
        warmth: added to red and taken from blue, in all clips: another light.
        split: add a column that makes every fourth person a test person.
        sound: as opposed to clips without a sound track.
    """
    generator = np.random.default_rng(seed)
    lines = ["path,label,group" + (",split" if split else "")]
    (root / "clips").mkdir(parents=True)
    times = np.arange(16000) / 16000
    for person in range(people):
        for take in range(2):
            for number, colour in enumerate(COLOURS):
                channel = ("red", "green", "blue").index(colour)
                tint = 100 + 25 * np.eye(3)[channel] + generator.normal(0, 16, 3) + warmth * np.array([1, 0, -1])
                pixels = (tint + generator.normal(0, 12, (12, 32, 32, 3))).clip(0, 255).astype(np.uint8)
                pitch = 400 * 1.6**number * np.exp(generator.normal(0, 0.22))
                tone = 0.2 * np.sin(2 * np.pi * pitch * times) + generator.normal(0, 0.02, len(times))
                name = f"p{person}-{take}-{colour}.mp4"
                if sound:
                    write_clip(root / "clips" / name, pixels, 12.5, tone)
                else:
                    write_video(root / "clips" / name, pixels, fps=12.5)
                part = f",{'test' if person % 4 == 0 else 'train'}" if split else ""
                lines.append(f"clips/{name},{colour},{root.name}{person}{part}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    out = root.parent / "shards" / root.name
    write_shards([], out, config=ShardConfig(size=32, list=str(root / "list.csv")), progress=False)
    return str(out)
