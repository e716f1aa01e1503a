"""Where a process stands among the processes of a run, and the device it computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

    @property
    def first(self) -> bool:
        """True in the one process that writes files and speaks to the user."""
        return self.rank == 0

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
def process_group(device: str = "auto") -> Iterator[Place]:
    """This process's `Place`; inside, the process group is up when `torchrun` started several processes.

    `device` is `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`. Backends: NCCL on GPUs, gloo on CPUs.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    place = Place(rank=rank, world=world, device=chosen)
    if world == 1:
        yield place
        return
    td.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield place
    finally:
        td.destroy_process_group()
