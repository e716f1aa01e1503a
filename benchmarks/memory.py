"""What a forward pass keeps for the backward pass, ours against the plain formulation; and memory over a long run.

    python benchmarks/memory.py --pairs 3 --out runs/bench/memory.json
    python benchmarks/memory.py --list 12               # also the largest tensors kept, and which line made them
    python benchmarks/memory.py --long --out runs/bench/long.json   # an epoch of 100,000 samples (minutes)

Counted are bytes of storages that autograd saves, each once, without parameters and buffers: exact, whatever else the
machine does. The highest resident set of a process that takes one step is told for information, as are the switches of
a recipe's loop that trade time and memory.
"""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Row, compare, row
from benchmarks.systems import STAGES, SYSTEMS, Twins, twins
from hicmae.runtime.engines import blocks_of, offloaded, recompute

__all__ = ["TARGETS", "Kept", "kept", "main", "measure", "switches"]

TARGETS = {
    ("pretrain", "mae_dfer_base"): 0.85,
    ("pretrain", "svfap_base"): 0.75,
    ("pretrain", "hicmae_base"): 0.75,
    ("finetune", "mae_dfer_base"): 0.95,
    ("finetune", "svfap_base"): 0.60,
    ("finetune", "hicmae_base"): 0.60,
}
"""Bytes kept by ours over those kept by the plain formulation."""

MIB = 2**20
_OWN = Path(__file__).resolve().parents[1]


class Kept:
    """Storages that are kept for a backward pass, and which line of ours made autograd keep them."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
        self._held: dict[int, Tensor] = {}  # held, or another would get its address
        self.by_line: Counter[tuple[str, tuple[int, ...], str]] = Counter()

    @property
    def bytes(self) -> int:
        """Of all storages, each counted once and in full."""
        return sum(self.by_line.values())

    def see(self, tensor: Tensor) -> Tensor:
        """The hook that is called with every tensor saved."""
        tensor = tensor.detach()  # the graph holds this hook: holding its outputs in turn would never free either
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own and storage.data_ptr() not in self._held:
            self._held[storage.data_ptr()] = tensor
            self.by_line[_line(), tuple(tensor.shape), str(tensor.dtype)] += storage.nbytes()
        return tensor

    def largest(self, count: int) -> str:
        """The lines that keep most."""
        lines = [
            f"{size / MIB:9.1f} MiB  {'x'.join(map(str, shape)):18} {dtype:14} {line}"
            for (line, shape, dtype), size in self.by_line.most_common(count)
        ]
        return "\n".join(lines)


def _line() -> str:
    """The innermost line of the library, or of the plain formulation, that is being executed."""
    for frame in reversed(traceback.extract_stack(limit=40)):
        file = Path(frame.filename)
        if file.is_relative_to(_OWN) and file != Path(__file__).resolve():
            return f"{file.relative_to(_OWN)}:{frame.lineno} {(frame.line or '')[:60]}"
    return "?"


def kept(model: nn.Module, loss: Callable[[], Tensor]) -> Kept:
    """What a forward pass keeps for its backward pass."""
    seen = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(seen.see, lambda x: x):
        loss()
    return seen


def measure(batch: int, device: torch.device, *, quick: bool = False, listed: int = 0, peaks: bool = True) -> list[Row]:
    """Rows of all systems and stages."""
    rows = []
    for (stage, name), target in TARGETS.items():
        both = twins(name, stage, batch, device, quick=quick)
        ours, theirs = kept(both.model, both.ours), kept(both.twin, both.theirs)
        what, where = f"saved activations, {STAGES[stage]}", SYSTEMS[name]
        note = f"{ours.bytes / MIB / batch:.0f} of {theirs.bytes / MIB / batch:.0f} MiB per clip"
        rows.append(row(what, where, ours.bytes / theirs.bytes, target, better="lower", note=note))
        if listed:
            sys.stderr.write(f"{where}, {stage}, ours:\n{ours.largest(listed)}\nplain:\n{theirs.largest(listed)}\n")
        del ours, theirs
        if peaks:
            rows += _peaks(name, stage, both, batch, device, quick)
    return rows


def _peaks(name: str, stage: str, both: Twins, batch: int, device: torch.device, quick: bool) -> list[Row]:
    """The most memory that a step needs beyond what lay there before it; nothing where the system does not tell."""
    if device.type == "cuda":
        found = [_gpu_peak(loss) for loss in (both.ours, both.theirs)]
        where = "allocated on the GPU"
    elif not Path("/proc/self/status").is_file():
        return []
    else:  # a process of its own for each: what one frees, its allocator keeps
        work = [(name, stage, mine, batch, quick) for mine in (True, False)]
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            found = pool.starmap(_resident_peak, work, chunksize=1)
        where = "resident set, allocator included"
    note = f"{found[0] / MIB:.0f} of {found[1] / MIB:.0f} MiB for a step of {batch} clips; {where}"
    return [row(f"peak memory, {STAGES[stage]}", SYSTEMS[name], found[0] / found[1], better="lower", note=note)]


def _gpu_peak(loss: Callable[[], Tensor]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss().backward()
    return torch.cuda.max_memory_allocated() - before


def _resident_peak(name: str, stage: str, mine: bool, batch: int, quick: bool) -> int:
    """Bytes by which a step lifts the highest resident set of this (fresh) process."""
    torch.set_num_threads(1)
    both = twins(name, stage, batch, quick=quick)
    before = _status("VmRSS")
    (both.ours if mine else both.theirs)().backward()
    return max(_status("VmHWM") - before, 1)


def _status(field: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# -- switches ---------------------------------------------------------------------------------------------------------


def switches(
    pairs: int, device: torch.device, *, quick: bool = False, compiled: bool = True, show: bool = True
) -> list[Row]:
    """What the switches of a recipe's loop make of memory and time, of MAE-DFER: `recompute`, `compile` (of
    pretraining, unless it is left out), and on a GPU `offload`."""
    rows = []
    for stage in STAGES:
        chosen = ["recompute", *(["offload"] if device.type == "cuda" else [])]
        for switch in chosen + (["compile"] if compiled and stage == "pretrain" else []):
            rows += _switch_rows(switch, stage, pairs, device, quick, show)
    return rows


def _switch_rows(switch: str, stage: str, pairs: int, device: torch.device, quick: bool, show: bool) -> list[Row]:
    usual, other = (twins("mae_dfer_base", stage, 1, device, quick=quick) for _ in range(2))
    loss = other.ours
    if switch == "recompute":
        recompute(other.model)
    elif switch == "compile":
        for block in blocks_of(other.model):
            block.compile()
    else:
        loss = _elsewhere(loss)
    where = f"MAE-DFER, {STAGES[stage]}"
    works = {"usual": lambda: usual.ours().backward(), switch: lambda: loss().backward()}
    label = f"{switch}, {stage}"
    found = compare(works, pairs=pairs, warm_up=2, clock=measuring.clock_for(device), label=label, show=show)
    rows = [row(f"loop.{switch}: time of a step", where, found.ratio(switch, "usual"), better="lower")]
    if switch == "offload":
        share, note = _gpu_peak(loss) / _gpu_peak(usual.ours), "highest memory of a step on the GPU"
    else:
        inside = "; the inside of one block at a time is not counted" if switch == "recompute" else ""
        share, note = _kept_by(other, switch) / kept(usual.model, usual.ours).bytes, f"kept for the backward{inside}"
    return [*rows, row(f"loop.{switch}: activations", where, share, better="lower", note=note)]


def _elsewhere(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with offloaded():
            return loss()

    return run


def _kept_by(other: Twins, switch: str) -> int:
    """Bytes kept, with the inputs that blocks are computed again from, which autograd does not list."""
    seen = Kept(other.model)

    def enters(_: nn.Module, given: tuple[Any, ...]) -> None:
        for x in given:
            if isinstance(x, Tensor):
                seen.see(x)

    blocks = blocks_of(other.model) if switch == "recompute" else []
    hooks = [block.register_forward_pre_hook(enters) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(seen.see, lambda x: x):
        other.ours()
    for hook in hooks:
        hook.remove()
    return seen.bytes


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__, pairs=3)
    parser.add_argument("--batch", type=int, default=2, help="clips (contrast needs two)")
    parser.add_argument("--list", type=int, default=0, metavar="N", help="show the N largest kinds of tensors kept")
    parser.add_argument("--long", action="store_true", help="instead: memory over an epoch of 100,000 samples")
    parser.add_argument("--samples", type=int, default=100_000, help="of the long run")
    given = parser.parse_args()
    device = measuring.prepare(given)
    if given.long:
        from benchmarks.memory_long import measure as measure_long

        rows = measure_long(200 if given.quick else given.samples)
    else:
        rows = measure(given.batch, device, quick=given.quick, listed=given.list)
        rows += switches(given.pairs, device, quick=given.quick)
    measuring.write(rows, given.out, device=device, pairs=given.pairs, quick=given.quick)


if __name__ == "__main__":
    measuring.script(main)
