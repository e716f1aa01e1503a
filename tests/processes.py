"""Processes of a distributed run, started from a server that has imported torch already: seconds become tenths."""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.runtime.engine_worker", "tests.pretrain.fault_worker"])


def start(world: int, function: Callable[..., Any], *given: Any, log: Path | None = None) -> list[BaseProcess]:
    """`function(*given)` in `world` processes that find each other as those of torchrun do; stderr goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        _CONTEXT.Process(target=_child, args=(rank, world, port, log, function, given)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes; -9 and the like for signals. What is not through in time is killed, and has None."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.join()
    return codes


def run(world: int, function: Callable[..., Any], *given: Any, log: Path | None = None, seconds: float = 120) -> None:
    """All of it; every process must end well."""
    codes = finish(start(world, function, *given, log=log), seconds)
    assert codes == [0] * world, (codes, log.read_text()[-3000:] if log and log.exists() else "")


def _child(
    rank: int, world: int, port: int, log: Path | None, function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    import torch

    multiprocessing.set_start_method("fork", force=True)  # readers are children of their process, as under torchrun
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    os.environ |= dict(zip(names, map(str, (rank, rank, world, "127.0.0.1", port, 1)), strict=True))
    torch.set_num_threads(1)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 2)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True)
    try:
        function(*given)
    finally:
        atexit._run_exitfuncs()  # an interpreter's end, which readers are ended by; multiprocessing leaves it out
