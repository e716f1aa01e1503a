"""Does pretraining help, and which part of it? Measured on generated clips with known answers, over seeds.

    python benchmarks/learning.py                   # everything, on two CPU cores; continues where it was stopped
    python benchmarks/learning.py --only labels     # one part of labels, motion, pieces, missing, controls, contrast
    python benchmarks/learning.py --write docs/learning.md    # also puts the tables into a page, figures beside it
    python benchmarks/learning.py --size gpu        # larger

Every pretraining and fine-tuning is a run of the library in a folder of its own below `--out`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.learning_jobs import PARTS, SIZES, Job, carry_out, plan
from benchmarks.learning_report import summarise, write_report
from hicmae.runtime.log import progress, say

__all__ = ["main", "measure"]


def measure(out: Path, size: str, seeds: Sequence[int], parts: Sequence[str], jobs: int) -> dict[str, dict[str, Any]]:
    """Do what is not yet done of some parts, `jobs` pieces at a time with one thread each; job name -> result."""
    todo = plan(SIZES[size], out, seeds, parts)
    found = {job.name: result for job in todo if (result := job.result(out)) is not None}
    if found:
        say(f"{len(found)} of {len(todo)} pieces are done already")
    waiting = [job for job in todo if job.name not in found]
    total = sum(job.cost for job in todo)
    done = total - sum(job.cost for job in waiting)
    with progress(total=total, initial=done, desc=size, unit="core-s") as bar:
        if jobs < 1:
            for job in waiting:
                found[job.name] = carry_out(job, out)
                bar.update(job.cost)
        else:
            _side_by_side(waiting, found, out, jobs, bar)
    return found


def _side_by_side(waiting: list[Job], found: dict[str, dict[str, Any]], out: Path, jobs: int, bar: Any) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # taken over by the processes
        os.environ[name] = "1"
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _leave_with, (os.getpid(),))
    running: dict[Future[dict[str, Any]], Job] = {}
    try:
        while waiting or running:
            for job in [job for job in waiting if all(need in found for need in job.needs)][: jobs - len(running)]:
                running[pool.submit(carry_out, job, out)] = job
                waiting.remove(job)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                found[job.name] = future.result()
                bar.update(job.cost)
                bar.set_postfix_str(job.name)
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_with(parent: int) -> None:
    """Ends this process when its parent has been killed; what it was doing continues when it is done again."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder of all runs")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything: does it run?")
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, …")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=2, help="pieces at a time; 0: in this process")
    parser.add_argument("--write", type=Path, help="a Markdown page whose marked tables are replaced")
    given = parser.parse_args(arguments)
    parts = given.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    size = "smoke" if given.smoke else given.size
    started = time.monotonic()
    found = measure(given.out, size, range(given.seeds), parts, given.jobs)
    summary = summarise(found, range(given.seeds), parts)
    write_report(summary, given.out, given.write)
    say(f"{summary.text()}\n{given.out / 'results.md'}; this call took {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
