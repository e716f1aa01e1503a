"""Samples per core-second of the input pipeline: shards of three formats beside the plain pipeline on the same mp4.

A sample is a pretraining clip: 16 frames with stride 4 cropped to 160 pixels out of faces of 224, with or without its
2.56 s of log-mel. The plain pipeline (`plain_input.py`) reads the very mp4 that lies in the mp4 shards; jpeg and raw
shards hold its frames. Ours gives bytes, which become floats where the model is; the plain one floats. Both draw
the same frames, crops and gains, and what they give is compared before anything is timed.

    python benchmarks/pipeline.py                     # generated faces
    python benchmarks/pipeline.py --videos FOLDER     # your own
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.measuring import Row, Spread, compare, row
from benchmarks.plain_input import PlainClip, plain_sample
from hicmae.configs.errors import UserError
from hicmae.datasets.coding import CRF
from hicmae.datasets.draws import Draws
from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig
from hicmae.datasets.frames import VideoFrames
from hicmae.datasets.index import Index
from hicmae.datasets.samples import parts_of
from hicmae.datasets.sampling import pretrain_view
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.store import ClipStore
from hicmae.datasets.synthetic import make_corpus
from hicmae.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise

__all__ = ["TARGETS", "difference", "main", "make", "measure"]

TARGETS = {"mp4": 1.5, "jpeg": 4.0, "raw": 10.0}
"""How many times the samples per core-second of the plain pipeline each format gives."""
BATCH = 8
"""Samples that are put together, as they are for a step."""

Batch = dict[str, torch.Tensor]


def make(folder: Path, videos: Path | None = None, *, people: int = 6, seconds: float = 8.0) -> dict[str, Index]:
    """Shards of each format of the same frames: those of the mp4."""
    if videos is None:
        corpus = make_corpus(
            folder / "videos",
            train_identities=1,
            test_identities=1,
            unlabeled=people,
            size=224,
            fps=25.0,
            seconds=(seconds, seconds),
            progress=False,
        )
        videos = corpus.root / "clips" / "unlabeled"
    found = {"mp4": write_shards([videos], folder / "mp4", config=ShardConfig(format="mp4"), progress=False)}
    for kind in ("jpeg", "raw"):
        config = ShardConfig(format=kind)  # type: ignore[arg-type]
        found[kind] = write_shards([folder / "mp4"], folder / kind, config=config, progress=False)
    return found


def files_of(index: Index, folder: Path) -> list[PlainClip]:
    """The clips of mp4 shards as files that the plain pipeline reads."""
    folder.mkdir(parents=True)
    store, clips = ClipStore(index), []
    for number in range(len(index)):
        clip = store[number]
        assert isinstance(clip.frames, VideoFrames)
        video, sound = folder / f"{number}.mp4", folder / f"{number}.wav"
        video.write_bytes(clip.frames.data)
        raw = store._read(int(index.shard[number]), int(index.offset[number]), int(index.size[number]))
        if clip.audio is not None:
            sound.write_bytes(parts_of(raw)[0]["wav"])
        side = int(index.preprocessing["size"])
        clips.append(PlainClip(video, sound if clip.audio is not None else None, side, clip.frames.times))
    return clips


def ours(index: Index, seeds: int, *, hears: bool) -> Iterator[Batch]:
    """Every clip of an index as `seeds` samples, through the view that training has, in batches of `BATCH`."""
    sound = SoundConfig() if hears else None
    view = pretrain_view(16, 4, 160, sound, SoundAugmentConfig(), need_sound=hears)
    store = ClipStore(index)
    for numbers in _batches(len(index), seeds):
        rows = [view(store[number], _generator(number, seed)) for number, seed in numbers]
        yield {name: torch.stack([one[name] for one in rows]) for name in ("video", "audio") if name in rows[0]}


def plain(clips: list[PlainClip], seeds: int, *, hears: bool) -> Iterator[Batch]:
    """The same samples by the plain pipeline."""
    deaf = [clip if hears else replace(clip, sound=None) for clip in clips]
    for numbers in _batches(len(clips), seeds):
        rows = [plain_sample(deaf[number], Draws(_generator(number, seed))) for number, seed in numbers]
        yield {name: torch.stack([one[k] for one in rows]) for k, name in enumerate(("video", "audio")[: 1 + hears])}


def _batches(clips: int, seeds: int) -> list[list[tuple[int, int]]]:
    pairs = [(number, seed) for number in range(clips) for seed in range(seeds)]
    return [pairs[at : at + BATCH] for at in range(0, len(pairs), BATCH)]


def _all(make: Callable[..., Iterator[Batch]], source: Any, seeds: int, hears: bool) -> Callable[[], None]:
    def run() -> None:
        for _ in make(source, seeds, hears=hears):
            pass

    return run


def _generator(number: int, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * number + seed)


def difference(index: Index, clips: list[PlainClip], seeds: int = 2) -> tuple[float, float]:
    """The greatest difference of the two pipelines: in grey levels of 255, and in normalised log-mel."""
    levels, sound = 0.0, 0.0
    deviation = torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    for one, other in zip(ours(index, seeds, hears=True), plain(clips, seeds, hears=True), strict=True):
        apart = (normalise(one["video"], IMAGENET_MEAN, IMAGENET_STD) - other["video"]).abs() * deviation * 255
        levels = max(levels, float(apart.max()))
        sound = max(sound, float((one["audio"] - other["audio"]).abs().max()))
    return levels, sound


def measure(found: dict[str, Index], clips: list[PlainClip], *, pairs: int, seeds: int, show: bool = True) -> list[Row]:
    """Rows of every format, with sound (which the targets are about) and without."""
    rows = []
    levels, sound = difference(found["mp4"], clips)
    same = f"samples are equal to {levels:.1f} grey levels and {sound:.0e} in log-mel"
    kilobytes = {kind: index.size.sum() / index.frames.sum() / 1000 for kind, index in found.items()}
    for hears in (True, False):
        works = {"plain": _all(plain, clips, seeds, hears)}
        works |= {kind: _all(ours, index, seeds, hears) for kind, index in found.items()}
        compared = compare(works, pairs=pairs, label="with sound" if hears else "frames alone", show=show)
        what = "16 x 160, log-mel" if hears else "16 x 160"
        count = len(clips) * seeds

        def per_second(name: str, compared: measuring.Comparison = compared, count: int = count) -> Spread:
            return Spread.of([count / seconds for seconds in compared.times[name]])

        rate = per_second("plain")
        rows.append(row("samples per core-second", f"plain, mp4, {what}", rate, unit="/s"))
        for kind in found:
            note = f"{kilobytes[kind]:.1f} KB per frame with sound; {same}" if hears else ""
            rows.append(row("samples per core-second", f"{kind}, {what}", per_second(kind), unit="/s", note=note))
            target = TARGETS[kind] if hears else None
            rows.append(
                row("input pipeline, over the plain one", f"{kind}, {what}", compared.ratio("plain", kind), target)
            )
    return rows


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__)
    parser.add_argument("--videos", type=Path, help="a folder of videos with sound, in place of generated faces")
    given = parser.parse_args()
    measuring.prepare(given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = make(folder, given.videos, **({"people": 2, "seconds": 3.0} if given.quick else {}))
        audible = found["mp4"].audible & (found["mp4"].frames >= 64)
        if not audible.any():
            raise UserError("--videos: there is no clip of 64 frames with sound among them")
        found = {kind: index.select(np.asarray(audible)) for kind, index in found.items()}
        clips = files_of(found["mp4"], folder / "files")
        seeds = 1 if given.quick else max(1, 48 // len(clips))
        rows = measure(found, clips, pairs=given.pairs, seeds=seeds)
    measuring.write(rows, given.out, pairs=given.pairs, quick=given.quick, crf=CRF)


if __name__ == "__main__":
    measuring.script(main)
