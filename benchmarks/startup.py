"""How long `import hicmae` and `hicmae --help` take: real processes, by turns with an interpreter that does nothing.

    python benchmarks/startup.py --pairs 15 --out runs/bench/startup.json

Times are by the clock on the wall, since that is what one waits for; on a busy machine they are longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Row, compare, row

__all__ = ["COMMANDS", "main", "measure"]

ROOT = Path(__file__).resolve().parents[1]

COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "bare interpreter": (["-c", "pass"], None),
    "import hicmae": (["-c", "import hicmae"], 0.15),
    "hicmae --help": (["-m", "hicmae", "--help"], 0.5),
}
"""What is started, and the seconds it may take."""


def measure(pairs: int, show: bool = True) -> list[Row]:
    """Rows of all commands; the first start of each, which reads files into the cache, does not count."""
    works = {name: _process(arguments) for name, (arguments, _) in COMMANDS.items()}
    found = compare(works, pairs=pairs, clock=measuring.wall_clock, label="startup", show=show)
    bare = found.spread("bare interpreter").value
    rows = []
    for name, (_, target) in COMMANDS.items():
        note = "" if target is None else f"{bare:.3f} s of it are the interpreter's own"
        common: dict[str, Any] = {"unit": "s", "better": "lower", "note": note}
        rows.append(row("start of a process", name, found.spread(name), target, **common))
    return rows


def _process(arguments: Sequence[str]) -> Callable[[], None]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start() -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)

    return start


def main() -> None:
    """The command."""
    given = measuring.options(__doc__, pairs=15).parse_args()
    measuring.prepare(given)
    pairs = 2 if given.quick else max(given.pairs, 5)  # a process is short: few pairs would be noise
    measuring.write(measure(pairs), given.out, pairs=pairs, quick=given.quick)


if __name__ == "__main__":
    measuring.script(main)
