"""How everything here is measured: side by side in one run, in pairs, by medians.

Callables take turns (A B, B A, A B, …) after a warm-up, so that whatever slows the machine for a while slows all of
them. A figure is the median over the pairs with its quartiles; a ratio is the median of the ratios *within* pairs. On
a CPU one thread computes and its processor time counts, on a GPU the time between two events of its own; a script
whose subject is waiting (processes that start, files that load) hands in `wall_clock`.

    found = compare({"plain": plain_step, "ours": our_step, "matrix": MatrixProduct()}, pairs=5)
    found.ratio("plain", "ours")            # how many times as fast
    found.fraction("ours", flops, MATRIX)   # of the rate of the matrix product beside it
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hicmae.models.products import Library, library, linear, products_by
from hicmae.runtime.log import UserError, progress, say

__all__ = [
    *("MATRIX", "Comparison", "MatrixProduct", "Row", "Spread", "clock_for", "compare", "cpu_clock", "cuda_clock"),
    *("figure", "hardware", "matrix_rate", "options", "prepare", "row", "script", "table", "wall_clock", "write"),
]

Work = Callable[[], Any]
Clock = Callable[[Work], float]

MATRIX = "matrix product"
"""The name under which scripts let a `MatrixProduct` take part in a comparison."""

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles beside it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of several measurements; quartiles lie between neighbours where they fall there."""
        low, value, high = np.percentile(np.asarray(values, float), [25, 50, 75]).tolist()
        return cls(value, low, high)


@dataclass(frozen=True)
class Comparison:
    """What several callables took, pair by pair."""

    times: Mapping[str, Sequence[float]]
    """Seconds of each callable, one number per pair."""
    flops: Mapping[str, float]
    """FLOP of the callables that state them."""

    def spread(self, name: str) -> Spread:
        """Seconds of a callable."""
        return Spread.of(self.times[name])

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times the seconds of `fast` those of `slow` are; the median of the ratios within pairs."""
        return Spread.of([a / b for a, b in zip(self.times[slow], self.times[fast], strict=True)])

    def rate(self, name: str, flops: float | None = None) -> Spread:
        """FLOP/s of a callable that takes `flops` operations (by default what it states itself)."""
        flops = self.flops[name] if flops is None else flops
        return Spread.of([flops / seconds for seconds in self.times[name]])

    def fraction(self, name: str, flops: float, of: str = MATRIX) -> Spread:
        """FLOP/s of a callable over those of the matrix product of the same pair."""
        pairs = zip(self.times[name], self.times[of], strict=True)
        return Spread.of([flops / a / (self.flops[of] / b) for a, b in pairs])


def compare(
    works: Mapping[str, Work],
    *,
    pairs: int = 3,
    warm_up: int = 1,
    clock: Clock | None = None,
    label: str = "",
    show: bool = True,
) -> Comparison:
    """Time callables by turns.

    Args:
        works: what to time, by name.
        pairs: how often each is timed; the order turns round from one to the next.
        warm_up: calls of each before, not counted.
        clock: returns the seconds of a callable; by default processor time (`cpu_clock`).
        label: shown beside the progress bar.
    """
    if pairs < 1:
        raise UserError(f"--pairs must be at least 1, not {pairs}")
    clock = cpu_clock if clock is None else clock
    names = list(works)
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds = [(n, name) for n in range(warm_up) for name in names]
    rounds += [(n, name) for n in range(pairs) for name in (names if n % 2 == 0 else names[::-1])]
    for number, (_, name) in enumerate(progress(rounds, desc=label, unit="call", show=show)):
        gc.collect()
        seconds = clock(works[name])
        if number >= warm_up * len(names):
            times[name].append(seconds)
    return Comparison(times, {name: work.flops for name, work in works.items() if hasattr(work, "flops")})


def cpu_clock(work: Work) -> float:
    """Seconds of processor time of this process, all its threads together: other programs hardly disturb it."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def wall_clock(work: Work) -> float:
    """Seconds by the clock on the wall."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def cuda_clock(work: Work) -> float:
    """Seconds between two events on the GPU, which is idle before."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def clock_for(device: torch.device | str) -> Clock:
    """The clock that measures computing on a device."""
    return cuda_clock if torch.device(device).type == "cuda" else cpu_clock


class MatrixProduct:
    """The product of two large square matrices: what the machine can do, to be timed beside what a model does.

    `library` computes it: PyTorch's choice, or oneDNN (fp32 on a CPU; see `hicmae.models.products`).
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        size: int | None = None,
        library: Library = "torch",
    ) -> None:
        size = size or (8192 if torch.device(device).type == "cuda" else 2048)
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
        self.out = torch.empty_like(self.a)
        self.library = library
        self.flops = 2.0 * size**3

    def __call__(self) -> None:
        """Multiply once."""
        if self.library == "torch":
            torch.mm(self.a, self.b, out=self.out)
            return
        with products_by(self.library):
            linear(self.a, self.b)


def matrix_rate(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    pairs: int = 5,
    size: int | None = None,
    clock: Clock | None = None,
) -> Spread:
    """FLOP/s of a large matrix product by itself; where ratios are wanted, let a `MatrixProduct` take turns instead."""
    works = {MATRIX: MatrixProduct(dtype, device, size)}
    return compare(works, pairs=pairs, clock=clock or clock_for(device), show=False).rate(MATRIX)


# -- what is told -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One figure beside its target."""

    measure: str
    """What is measured, in the words of the targets: "fine-tuning step"."""
    what: str
    """Of what: a system, a format, a size."""
    value: float
    low: float | None = None
    """Lower quartile."""
    high: float | None = None
    """Upper quartile."""
    target: float | None = None
    """None: told for information."""
    unit: str = "x"
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median is as good as the target; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def row(measure: str, what: str, value: Spread | float, target: float | None = None, **rest: Any) -> Row:
    """A `Row` of a spread, or of a number that does not vary."""
    if isinstance(value, Spread):
        return Row(measure, what, value.value, value.low, value.high, target, **rest)
    return Row(measure, what, float(value), None, None, target, **rest)


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What computed: processor, instructions that matter, cores, memory, versions, and the GPU where it is used."""
    info = _cpu_info()
    found: dict[str, Any] = {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in info.get("flags", info.get("Features", "")).split()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_memory() / 2**30, 1),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "products": library(),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
    return found


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    pairs = (line.partition(":") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    found: dict[str, str] = {}
    for name, _, value in pairs:
        found.setdefault(name.strip(), value.strip())
    return found


def _memory() -> int:
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    return os.sysconf(names[0]) * os.sysconf(names[1]) if all(name in os.sysconf_names for name in names) else 0


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text."""
    cells = [("measure", "of", "value", "quartiles", "target", "")]
    for one in rows:
        sign = {"higher": ">=", "lower": "<="}[one.better]
        cells.append(
            (
                *(one.measure, one.what, figure(one.value, one.unit)),
                "" if one.low is None or one.high is None else f"{figure(one.low)}–{figure(one.high)}",
                "" if one.target is None else f"{sign} {figure(one.target, one.unit)}",
                {True: "met", False: "NOT MET", None: ""}[one.met],
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def figure(value: float, unit: str = "") -> str:
    """Three significant digits, large numbers with a thousands separator, with the unit.

    >>> figure(1.2345, "x"), figure(123456.0), figure(0.0123, "s")
    ('1.23x', '123,456', '0.0123 s')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text + ("" if not unit else unit if unit in ("x", "%") else f" {unit}")


def write(rows: Sequence[Row], out: Path | None, *, device: torch.device | str = "cpu", **settings: Any) -> None:
    """Show the rows, and keep them as JSON with machine, date and command where `out` names a file."""
    say(table(rows))
    for one in rows:
        if one.note:
            say(f"  {one.measure}, {one.what}: {one.note}")
    if out is None:
        return
    kept = {
        "script": Path(sys.argv[0]).name,
        "command": " ".join(["python", *(_relative(word) for word in sys.argv)]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        **settings,
        "rows": [{**asdict(one), "met": one.met} for one in rows],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(kept, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def _relative(word: str) -> str:
    """A path below the current folder without what lies above it: a result file names no machine's folders."""
    path = Path(word)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else word


# -- a script's options -----------------------------------------------------------------------------------------------


def options(description: str | None, *, pairs: int = 5) -> argparse.ArgumentParser:
    """A parser with what every script here takes; a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=pairs, help=f"how often each is timed (default {pairs})")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? (figures mean nothing)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def prepare(given: argparse.Namespace) -> torch.device:
    """One thread, a fixed seed, and the device that was asked for.

    Raises:
        UserError: a device this machine has not, or no pairs at all.
    """
    if given.pairs < 1:
        raise UserError(f"--pairs must be at least 1, not {given.pairs}")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU on this machine")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return device


def script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a mistake in what was asked for is one message, as at the command line."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
