"""Engines: several processes equal one, whatever divides the work; a run goes on with another engine and size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hicmae.runtime import checkpoint

WORKER = Path(__file__).with_name("engine_worker.py")
ROOT = WORKER.parents[2]


def start(out: Path, engines: str, *options: str, processes: int = 1) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    alone = engines == "single"
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_EXTENSIONS_DIR": str(out.parent / "extensions")},
    }
    done = subprocess.run(
        [sys.executable, *([] if alone else launcher), str(WORKER), str(out), engines, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def furthest(a: Path, b: Path) -> float:
    """The largest difference between the last weights of two runs."""
    one, other = (checkpoint.read_weights(checkpoint.weights_file(run))[0] for run in (a, b))
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


ENGINES = ("ddp", "fsdp", "zero1", "zero2")


@pytest.mark.slow  # 50 s of one core
def test_two_processes_equal_one_with_every_engine_and_go_on_with_another(tmp_path: Path) -> None:
    start(tmp_path / "one", "single")
    start(tmp_path / "two", ",".join(ENGINES), "stop=6", processes=2)
    (tmp_path / "two" / "fsdp").rename(tmp_path / "two" / "changed")  # divided state, gone on with whole
    (tmp_path / "two" / "ddp").rename(tmp_path / "two" / "fsdp")
    (tmp_path / "two" / "changed").rename(tmp_path / "two" / "ddp")
    start(tmp_path / "two", ",".join(ENGINES), processes=2)
    expected = losses(tmp_path / "one" / "single")
    assert len(expected) == 10
    for engine in ENGINES:
        found = losses(tmp_path / "two" / engine)
        assert found == pytest.approx(expected, abs=1e-5), engine
        assert furthest(tmp_path / "one" / "single", tmp_path / "two" / engine) < 1e-4, engine
