"""Pretraining that is disturbed: readers die or stall, disks fill, shards vanish, someone asks it to stop."""

from __future__ import annotations

import functools
import itertools
import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import evaluate_batches, order_of
from hicmae.datasets.samples import Clip
from hicmae.runtime import checkpoint
from tests import processes
from tests.pretrain import fault_worker as worker
from tests.pretrain.fault_worker import losses, pretrain, recipe


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips, one in each shard."""
    return worker.make(tmp_path_factory.mktemp("faults"), 12, 1)


def same(a: Path, b: Path) -> None:
    """Bit for bit: losses, weights, averages."""
    assert losses(a) == losses(b)
    for ema in (False, True):
        one, other = (checkpoint.read_weights(checkpoint.weights_file(run, ema=ema))[0] for run in (a, b))
        assert all(torch.equal(one[key], other[key]) for key in one)


def disturbed(world: int, file: Path, log: Path, **how: object) -> tuple[list[int | None], str, float]:
    """Exit codes of a run, what it said, and its seconds."""
    since = time.monotonic()
    codes = processes.finish(processes.start(world, functools.partial(pretrain, file, **how), log=log), 60)
    return codes, log.read_text(), time.monotonic() - since


def whole(world: int, shards: Path, out: Path, *options: str) -> None:
    processes.run(world, functools.partial(pretrain, recipe(shards, out, *options)), log=out.with_suffix(".log"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_one_process_asked_to_stop_stops_all_with_one_checkpoint(shards: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    harm = functools.partial(worker.ask_to_stop, number)
    codes, said, _ = disturbed(
        2, recipe(shards, out, "--loop.save_every=99"), tmp_path / "log", harm=harm, at=4, rank=1
    )
    assert codes == [75, 75]
    assert said.count("stopped: stopped at step 5 of 12; the same command continues it") == 2
    assert worker.kept(out) == ["step-00000005"]


def test_a_full_disk_stops_all_processes_and_the_run_goes_on_from_before(shards: Path, tmp_path: Path) -> None:
    whole(2, shards, tmp_path / "a")
    file = recipe(shards, tmp_path / "b")
    harm = functools.partial(worker.fill_the_disk, checkpoint.folder_of(tmp_path / "b", 4))
    codes, said, _ = disturbed(2, file, tmp_path / "log", harm=harm, at=4)
    assert codes == [2, 2]
    assert said.count("step-00000006: could not be written (File too large); earlier checkpoints are untouched") == 2
    assert worker.kept(tmp_path / "b") == ["step-00000002", "step-00000004"]
    whole(2, shards, tmp_path / "b")
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow  # 10 s, most of them waiting: a shorter timeout fails where the machine is busy
def test_a_reader_that_stalls_ends_every_process_in_time(shards: Path, tmp_path: Path) -> None:
    order = order_of(Index.load(shards).shard, seed=0, epoch=0)  # of it the second process takes the last two of four
    file = recipe(shards, tmp_path / "run", "--data.workers=1", "--loop.timeout=8", "--loop.epochs=40")
    codes, said, seconds = disturbed(2, file, tmp_path / "log", around=worker.stall(1, int(order[10])))
    assert codes == [75, 75]
    assert "process 1 of 2: reading has stalled: no batch came within 8 s (loop.timeout)" in said
    assert "process 0 of 2 lost another one at step" in said
    assert seconds < 45


@pytest.mark.slow  # 3 and 6 s; a reader killed at its birth is missed only after loop.timeout, 20 s
@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_reader_ends_the_run_and_the_continued_one_is_the_same(
    shards: Path, tmp_path: Path, world: int
) -> None:
    whole(world, shards, tmp_path / "a", "--loop.epochs=8")
    file = recipe(shards, tmp_path / "b", "--data.workers=1", "--loop.epochs=8")
    draw = random.Random(world)
    slowly = functools.partial(pretrain, file, pause=0.03)
    running = processes.start(world, slowly, log=tmp_path / "log")
    victim = draw.randrange(world)
    while not worker.readers(running[victim].pid or 0) and running[victim].exitcode is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.5))
    for reader in worker.readers(running[victim].pid or 0):
        worker.kill(reader)
    codes = processes.finish(running, 60)
    said = (tmp_path / "log").read_text()
    assert codes == [75] * world, said
    assert "DataLoader worker" in said and "The same command continues" in said and "Traceback" not in said
    whole(world, shards, tmp_path / "b", "--loop.epochs=8")
    same(tmp_path / "a", tmp_path / "b")


def skipped(out: Path) -> list[str]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert sum(line["skipped_clips"] for line in lines) == sum(len(line.get("skipped", ())) for line in lines)
    return [clip for line in lines for clip in line.get("skipped", ())]


@pytest.mark.parametrize("kind", ["remove", "overwrite"])
def test_shards_that_vanish_or_are_damaged_in_mid_run_are_skipped_counted_and_named(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = worker.make(tmp_path, 12, 1)
    index = Index.load(shards)
    lost = order_of(index.shard, seed=0, epoch=0)[[5, 9]]  # read by later steps than the first
    tars = [index.shards[index.shard[n]].path for n in lost]
    harm = functools.partial(getattr(worker, kind), *tars)
    file = recipe(shards, tmp_path / "run", "--data.max_bad_share=0.2", "--loop.epochs=3")
    with worker.watched(harm, 0, 0, 0.0, None):
        assert worker.main(["pretrain", str(file)]) == 0
    found = skipped(tmp_path / "run")
    assert len(found) == 6  # two in each of three epochs
    reason = "cannot be read (No such file" if kind == "remove" else "are not those that were written"
    assert all(reason in clip and any(tar.name in clip for tar in tars) for clip in found)
    assert len(losses(tmp_path / "run")) == 9
    assert f"{len(found)} clips and 0 steps skipped" in capsys.readouterr().err


def test_too_many_lost_shards_stop_all_processes(tmp_path: Path) -> None:
    shards = worker.make(tmp_path, 12, 1)
    harm = functools.partial(worker.overwrite, *sorted(shards.glob("*.tar")))
    codes, said, _ = disturbed(2, recipe(shards, tmp_path / "run"), tmp_path / "log", harm=harm, at=4)
    assert set(codes) <= {2, 75} and 2 in codes, codes
    assert "cannot be used, more than max_bad_share = 0.01 of 6 allows" in said and "Traceback" not in said


SIZES = (1, 4, 1, 6, 3, 7, 5)


slow = pytest.mark.slow  # 3 s each


@pytest.mark.parametrize("count", [3, pytest.param(5, marks=slow), pytest.param(7, marks=slow)])
def test_shards_of_unequal_size_are_divided_without_loss_or_repetition(tmp_path: Path, count: int) -> None:
    folders = [worker.make(tmp_path / str(n), size, size, seed=10 * n) for n, size in enumerate(SIZES[:count])]
    file = recipe(folders, tmp_path / "run", "--loop.epochs=2")
    processes.run(2, functools.partial(pretrain, file, seen=tmp_path / "seen"), log=tmp_path / "log")
    given = [json.loads(line) for rank in (0, 1) for line in (tmp_path / f"seen-{rank}").read_text().splitlines()]
    clips = sum(SIZES[:count])
    for epoch in (0, 1):
        numbers = list(itertools.chain(*(batch for at, _, batch in given if at == epoch)))
        assert len(numbers) == len(set(numbers)) == clips // 4 * 4  # but the rest of a batch
        assert set(numbers) <= set(range(clips))
    index = Index.join([Index.load(folder) for folder in folders])
    parts = [evaluate_batches(index, [plain], batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    assert [n for part in parts for batch in part for n in batch["number"].tolist()] == list(range(clips))


def plain(clip: Clip, _: torch.Generator) -> dict[str, torch.Tensor]:
    return {"video": clip.frames.take([0])}


@pytest.mark.slow  # 20 s; measured without workers: 731.4 MiB at step 75, 731.7 at step 675
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the resident size")
def test_memory_stays_flat_over_a_long_run(shards: Path, tmp_path: Path) -> None:
    rss: list[int] = []
    file = recipe(shards, tmp_path / "run", "--loop.epochs=250", "--loop.save_every=25")
    with worker.watched(None, 0, 0, 0.0, None, rss):
        assert worker.main(["pretrain", str(file)]) == 0
    assert len(rss) == 750
    sizes = [size / 2**20 for size in rss]
    assert max(sizes[-50:]) - max(sizes[150:200]) < 8, sizes[::50]
