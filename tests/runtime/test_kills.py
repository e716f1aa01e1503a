"""Processes that die, at any moment: the others end, and the continued run equals an undisturbed one bit for bit."""

from __future__ import annotations

import functools
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from hicmae.runtime import checkpoint
from tests import processes
from tests.runtime.engine_worker import train
from tests.runtime.test_engines import same


def alive(running: list[BaseProcess]) -> bool:
    return all(process.exitcode is None for process in running)


def kill(running: list[BaseProcess], victims: list[int]) -> None:
    for victim in victims:
        running[victim].kill()


def disturbed(tmp_path: Path, engine: str, world: int, kills: int, epochs: int) -> None:
    """A run whose processes are killed so often in the middle, at random moments, then left to end."""
    draw, met = random.Random(1), 0
    slowly = functools.partial(train, tmp_path, engine, wait=0.08, epochs=epochs)
    while met < kills:
        running = processes.start(world, slowly, log=tmp_path / "log")
        until = time.monotonic() + draw.uniform(0.3, 2.5)
        while alive(running) and time.monotonic() < until:
            time.sleep(0.01)
        assert alive(running), "the run ended before all kills: give it more steps"
        met += 1
        kill(running, list(range(world)) if draw.random() < 0.5 else [draw.randrange(world)])
        codes = processes.finish(running, 60)
        assert None not in codes, "a process waited for a dead one"
    processes.run(world, functools.partial(train, tmp_path, engine, epochs=epochs), log=tmp_path / "log")


def test_one_of_three_processes_dies_and_the_run_is_continued_bit_for_bit(tmp_path: Path) -> None:
    processes.run(3, functools.partial(train, tmp_path / "a", "ddp"), log=tmp_path / "a.log")
    running = processes.start(3, functools.partial(train, tmp_path / "b", "ddp", wait=0.1), log=tmp_path / "b.log")
    while checkpoint.newest(tmp_path / "b" / "hicmae_base") is None and alive(running):
        time.sleep(0.02)
    kill(running, [1])
    codes = processes.finish(running, 60)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == codes[2] == 1
    assert "process 0 of 3 lost another one at step" in (tmp_path / "b.log").read_text()
    processes.run(3, functools.partial(train, tmp_path / "b", "ddp"), log=tmp_path / "b.log")
    same(tmp_path / "a" / "hicmae_base", tmp_path / "b" / "hicmae_base")


@pytest.mark.slow  # 107 s with 20 kills, beside one busy process on two cores
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "world", "kills", "epochs"), [("ddp", 3, 20, 40), ("fsdp", 2, 8, 10)])
def test_kills_at_random_moments_change_nothing(
    tmp_path: Path, engine: str, world: int, kills: int, epochs: int
) -> None:
    whole = functools.partial(train, tmp_path / "a", engine, epochs=epochs)
    processes.run(world, whole, log=tmp_path / "a.log")
    disturbed(tmp_path / "b", engine, world, kills, epochs)
    same(tmp_path / "a" / "hicmae_base", tmp_path / "b" / "hicmae_base")
