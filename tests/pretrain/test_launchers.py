"""The launchers as they are given: torchrun on one machine and several, SLURM with stubs in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hicmae.runtime import checkpoint
from tests.pretrain import fault_worker as worker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worker.make(tmp_path_factory.mktemp("launched"), 12, 5)


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def workers(file: Path) -> list[int]:
    """Processes that torchrun started for a recipe."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            str(file).encode() in words
            and b"pretrain" in words
            and not any(word.endswith(b"torchrun") for word in words)
        ):
            found.append(int(entry.name))
    return found


def equal(a: Path, b: Path) -> None:
    one, two = (checkpoint.read_weights(checkpoint.weights_file(run))[0] for run in (a, b))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow  # a minute of one core: three starts of two interpreters
@pytest.mark.timeout(600)
def test_torchrun_starts_a_run_again_whose_process_was_killed(shards: Path, tmp_path: Path) -> None:
    launch = ["bash", str(ROOT / "pretrain" / "launch_node.sh")]
    options = ("--loop.epochs=60", "--loop.save_every=3")
    whole, file = (worker.recipe(shards, tmp_path / name, *options) for name in ("a", "b"))
    subprocess.run([*launch, str(whole)], env=environment(PROCESSES="2"), check=True, capture_output=True)
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen([*launch, str(file)], env=environment(PROCESSES="2"), stderr=log)
        while checkpoint.newest(tmp_path / "b") is None and running.poll() is None:
            time.sleep(0.05)
        worker.kill(workers(file)[-1])
        assert running.wait(300) == 0
    said = (tmp_path / "log").read_text()
    assert "continuing" in said and str(-int(signal.SIGKILL)) in said
    equal(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow  # 20 s of one core
@pytest.mark.timeout(600)
def test_two_launchers_that_find_each_other_train_as_one(shards: Path, tmp_path: Path) -> None:
    file = worker.recipe(shards, tmp_path / "run")
    env = environment(NODES="2", FIRST="localhost:29713", PROCESSES="1", RESTARTS="0")
    command = ["bash", str(ROOT / "pretrain" / "launch_nodes.sh"), str(file)]
    running = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate(timeout=300)[1] for process in running)
    assert [process.returncode for process in running] == [0, 0], said
    assert "4 epochs on 2 x cpu" in said and len(worker.losses(tmp_path / "run")) == 12


@pytest.mark.parametrize(
    ("code", "before", "again"),
    [(0, 0, False), (2, 0, False), (75, 0, True), (137, 3, True), (75, 20, False)],
)
def test_slurm_is_asked_to_go_on_where_that_helps(tmp_path: Path, code: int, before: int, again: bool) -> None:
    stubs = {
        "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $@"; fi',
        "srun": 'shift; SLURM_PROCID=3 SLURM_LOCALID=1 "$@"',
        "hicmae": f'echo "$MASTER_ADDR $MASTER_PORT $WORLD_SIZE $RANK $LOCAL_RANK: hicmae $@"; exit {code}',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "99"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": str(before), **slurm}
    command = ["bash", str(ROOT / "pretrain" / "pretrain.slurm.sh"), "recipe", "--out", "my run"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == code
    said = done.stdout.splitlines()
    assert said[0] == "node7 29500 8 3 1: hicmae pretrain recipe --out my run"
    assert ("scontrol requeue 99" in said) is again
