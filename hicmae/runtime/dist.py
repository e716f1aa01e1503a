"""Where a process stands among the processes of a run, and the device it computes on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td

from hicmae.configs.errors import Continuable

__all__ = ["Lost", "Place", "contact", "process_group"]

# what gloo and NCCL say of a peer that went away
_GONE = re.compile(r"[Cc]onnection (closed|reset|refused)|[Tt]imed out|[Tt]imeout|peer|NCCL|gloo")

# Groups stay referred to: the destructor waits, holding Python's lock, for threads that may wait for that lock, and it
# would run wherever the last traceback or model is let go.
_ENDED: list[Any] = []


class Lost(Continuable):
    """Another process of the run ended, or does not answer."""


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
def contact(place: Place, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Errors that a lost process or reader raises in others, as `Continuable` naming this process and the cause."""
    here = f"process {place.rank} of {place.world}"
    again = "The same command continues from the last checkpoint"
    try:
        yield
    except Continuable as error:
        if place.world == 1 or type(error) is not Continuable or str(error).startswith(here):
            raise
        raise Continuable(f"{here}: {error}") from None
    except RuntimeError as error:
        told = str(error).splitlines()[0][:200] if str(error) else ""
        if "DataLoader worker" in told:  # its death may interrupt anything
            raise Continuable(f"{here} lost a reader{where()} ({told}). {again}") from None
        if place.world == 1 or not _GONE.search(str(error)):
            raise
        raise Lost(
            f"{here} lost another one{where()} ({told}); the process that ended first says why. {again}"
        ) from None


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
    with contact(place):
        td.init_process_group(backend, timeout=timedelta(seconds=timeout))
        try:
            yield place
        finally:
            _ENDED.extend(td.distributed_c10d._world.pg_map)
            td.destroy_process_group()
