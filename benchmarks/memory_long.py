"""Memory over a long epoch: a real pretraining of a tiny audio-visual model that reads 100,000 samples from shards.

Part of `memory.py`, which calls it with `--long`. A hundred generated clips stand in the shards; the recipe names the
folder a thousand times, so that the index, the order and the pipeline are those of 100,000 samples.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Row, row
from hicmae import configs
from hicmae.datasets.media import write_video
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, run
from hicmae.runtime.log import UserError

__all__ = ["drift", "measure"]

CLIPS, FRAMES, SIZE = 100, 8, 32
MIB = 2**20
RECIPE: dict[str, Any] = {
    "model": "hicmae_tiny",
    "args": {
        **{"dim": 32, "depth": 2, "heads": 2, "patch": [2, 8, 8], "fusion_depth": 1},
        **{"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 1},
    },
    "mask": {"video": 0.75, "audio": 0.75},
    "sound": {"length": 32, "bins": 32},
    "data": {"frames": FRAMES, "stride": 1, "size": SIZE, "workers": 1},
    "loop": {"batch_size": 50, "epochs": 1, "log_every": 100},
    "device": "cpu",
}


def measure(samples: int, every: float = 1.0, show: bool = True) -> list[Row]:
    """Rows of one epoch of so many samples.

    Args:
        samples: a multiple of 100.
        every: seconds between two looks at the processes' memory.
    """
    if not Path("/proc/self/statm").is_file():
        raise UserError("--long reads /proc, which this system has not")
    with tempfile.TemporaryDirectory() as folder:
        shards = _shards(Path(folder))
        options = [f"--out={folder}/run"]
        recipe = {**RECIPE, "data": {**RECIPE["data"], "shards": [str(shards)] * max(samples // CLIPS, 1)}}
        config = configs.load(PretrainConfig, recipe, options)
        with _Watch(every) as watch:
            begun = time.monotonic()
            run(config, show=show)
            seconds = time.monotonic() - begun
    found, whole = drift(watch.sizes), watch.sizes
    count = len(config.data.shards) * CLIPS
    note = (
        f"training and reading process together: {whole[len(whole) // 10] / MIB:.0f} MiB after a tenth, "
        f"{whole[-1] / MIB:.0f} at the end, {max(whole) / MIB:.0f} at most; {len(whole)} looks in {seconds:.0f} s"
    )
    what = f"an epoch of {count:,} samples, tiny HiCMAE"
    return [row("drift of memory", what, 100 * found, 5.0, unit="%", better="lower", note=note)]


def drift(sizes: Sequence[float]) -> float:
    """By which share memory grew: the median of the last tenth over that of the second tenth, less one.

    The first tenth is left out: caches fill, and allocators find their size.
    """
    tenth = len(sizes) // 10
    if not tenth:
        raise UserError(f"{len(sizes)} looks at memory are too few to tell a drift: take more samples")
    return float(np.median(sizes[-tenth:]) / np.median(sizes[tenth : 2 * tenth])) - 1


class _Watch:
    """Notes the resident size of this process and its children until it is left."""

    def __init__(self, every: float) -> None:
        self.every, self.sizes = every, list[int]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        children = 0
        while not self._stop.wait(self.every):
            found = [_resident(child) for child in _children(os.getpid())]
            if len(found) < children:  # the reading process has ended: so has the epoch
                return
            children = len(found)
            if children:  # before, the model is still being made
                self.sizes.append(sum(found) + _resident(os.getpid()))


def _children(process: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text(encoding="ascii").split())
        except OSError:  # a thread that has just ended
            continue
    return found


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _shards(folder: Path) -> Path:
    """Small clips with sound, sharded."""
    draw = np.random.default_rng(0)
    (folder / "clips").mkdir()
    for number in range(CLIPS):
        pixels = draw.integers(0, 255, (FRAMES + 2, SIZE, SIZE, 3), dtype=np.uint8)
        wave = 0.1 * draw.standard_normal(16_000 * (FRAMES + 2) // 25).astype(np.float32)
        write_video(folder / "clips" / f"{number:03}.mp4", pixels, 25, wave)
    write_shards([folder / "clips"], folder / "shards", config=ShardConfig(size=SIZE, per_shard=50), progress=False)
    return folder / "shards"
