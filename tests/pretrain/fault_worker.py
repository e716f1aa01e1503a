"""Pretraining runs that are watched and disturbed, in this process or in those of `tests.processes`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hicmae import configs
from hicmae.cli import main
from hicmae.datasets.pipeline import Stream, View
from hicmae.datasets.samples import Clip
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, engine
from tests.media_files import video

TINY: dict[str, Any] = {
    "model": "mae_dfer_base",
    "args": {
        **{"dim": 32, "depth": 2, "heads": 2, "patch": [2, 8, 8], "region": [2, 2, 4]},
        **{"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 1},
    },
    "mask": {"video": 0.75},
    "data": {"frames": 4, "stride": 1, "size": 32, "workers": 0},
    "loop": {"batch_size": 4, "epochs": 4, "log_every": 1, "save_every": 2, "ema": 0.9, "timeout": 20},
    "device": "cpu",
}


def recipe(folders: Path | list[Path], out: Path, *options: str) -> Path:
    """A recipe's file beside the run that it describes."""
    names = [str(folder) for folder in (folders if isinstance(folders, list) else [folders])]
    config = configs.load(PretrainConfig, TINY, [f"--data.shards={json.dumps(names)}", f"--out={out}", *options])
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".yaml")
    file.write_text(configs.to_yaml(config))
    return file


def make(folder: Path, clips: int, per_shard: int, seed: int = 0) -> Path:
    """Shards of so many short clips."""
    for n in range(clips):
        video(folder / "clips" / f"{n:02d}.mp4", frames=6 + n % 3, seed=seed + n, sound=False)
    config = ShardConfig(size=32, per_shard=per_shard)
    write_shards([folder / "clips"], folder / "shards", config=config, progress=False)
    return folder / "shards"


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def kept(out: Path) -> list[str]:
    return sorted(folder.name for folder in (out / "checkpoints").iterdir())


@contextlib.contextmanager
def watched(
    harm: Callable[[], None] | None, at: int, rank: int, pause: float, seen: Path | None, rss: list[int] | None = None
) -> Iterator[None]:
    """Streams of this process call `harm` with the batch of step `at` in hand, pause, and tell what they gave."""
    epoch = Stream.epoch

    def steps(self: Stream, number: int, start: int = 0) -> Iterator[Any]:
        for step, batches in enumerate(epoch(self, number, start), start):
            done = number * self.steps_per_epoch + step
            time.sleep(pause)
            if harm is not None and done == at and self.rank == rank:
                harm()
            if seen is not None:
                with seen.with_name(f"{seen.name}-{self.rank}").open("a") as file:
                    file.write(json.dumps([number, step, [n for b in batches for n in b["number"].tolist()]]) + "\n")
            if rss is not None:
                rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            yield batches

    Stream.epoch = steps  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stream.epoch = epoch  # type: ignore[method-assign]


def pretrain(
    file: Path,
    *,
    harm: Callable[[], None] | None = None,
    at: int = 0,
    rank: int = 0,
    pause: float = 0.0,
    seen: Path | None = None,
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """`hicmae pretrain RECIPE`; leaves with the command's exit code."""
    with around(), watched(harm, at, rank, pause, seen):
        sys.exit(main(["pretrain", str(file)]))


# -- harms ---------------------------------------------------------------------------------------------------------


def readers(process: int) -> list[int]:
    """Loader workers of a process."""
    try:
        return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def stall(process: int, sample: int) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """In this process, whoever reads a sample is never done with it."""
    return functools.partial(_stalled, process, sample)


@contextlib.contextmanager
def _stalled(process: int, sample: int) -> Iterator[None]:
    make_view = engine.pretrain_view

    def stalling(*given: Any, **named: Any) -> View:
        view = make_view(*given, **named)

        def see(clip: Clip, generator: Any) -> Any:
            if clip.number == sample and int(os.environ["RANK"]) == process:
                time.sleep(1000)
            return view(clip, generator)

        return see

    engine.pretrain_view = stalling  # type: ignore[assignment]
    try:
        yield
    finally:
        engine.pretrain_view = make_view


def ask_to_stop(number: int) -> None:
    os.kill(os.getpid(), number)


def fill_the_disk(after: Path) -> None:
    """Files of this process end at 64 KB, once this checkpoint is written: weights do not fit, the log does."""
    until = time.monotonic() + 20
    while not after.exists() and time.monotonic() < until:
        time.sleep(0.01)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))


def remove(*files: Path) -> None:
    for file in files:
        file.unlink()


def overwrite(*files: Path) -> None:
    for file in files:
        with file.open("r+b") as tar:
            tar.write(bytes(file.stat().st_size))


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
