"""Where a process stands among the processes of a run, and the device it computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td

__all__ = ["Place", "process_group"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Rank, number of processes and device of this process."""

    rank: int = 0
    world: int = 1
    device: torch.device
    grouped: bool = False
    """The process group is up, be it of one process."""

    @property
    def first(self) -> bool:
        """True in the one process that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def hardware(self) -> str:
        """What all processes together compute on, in words."""
        gpu = self.device.type == "cuda"
        threads = torch.get_num_threads()
        name = torch.cuda.get_device_name(self.device) if gpu else f"CPU, {threads} thread{'s' * (threads != 1)}"
        return f"{self.world} x {name}"

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process in the order of their ranks (plain Python objects; for rare, small things)."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        td.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            td.barrier()


@contextmanager
def process_group(device: str = "auto", timeout: float = 600) -> Iterator[Place]:
    """This process's `Place`; inside, the process group is up when `torchrun` started us.

    `device` is `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`. Backends: NCCL between GPUs, gloo between
    CPUs and for plain Python objects. A process that waits `timeout` seconds for another one gives up.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    grouped = "MASTER_ADDR" in os.environ and "RANK" in os.environ
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    place = Place(rank=rank, world=world, device=chosen, grouped=grouped)
    if not grouped:
        yield place
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    td.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield place
    finally:
        td.destroy_process_group()
