"""Two pretrained checkpoints, two corpora, three seeds: the whole way by the command line."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.benchmark.corpora import FINETUNING, PRETRAINING, TINY, TINY_LGI, half_seen_half_heard

WAYS = ["finetune", "linear", "cross"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hicmae", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def hicmae(*words: str) -> str:
    process = start(*words)
    told, complaint = process.communicate(timeout=900)
    assert process.returncode == 0, complaint
    return told


@pytest.mark.slow  # 80 s of processor time in all: three minutes on a busy machine
@pytest.mark.timeout(2400)
def test_two_checkpoints_two_corpora_three_seeds_killed_once_and_shared_by_two_processes(tmp_path: Path) -> None:
    studio = half_seen_half_heard(tmp_path / "studio", 24, 1)
    street = half_seen_half_heard(tmp_path / "street", 24, 2, warmth=15.0, split=True)
    for name, args in (("hicmae_tiny", TINY), ("mae_dfer_base", TINY_LGI)):
        recipe = {"hicmae_tiny": "demo", "mae_dfer_base": "mae_dfer_small"}[name]
        out = ["--out", str(tmp_path / name), "--loop.epochs", "10", "--args", args]
        hicmae("pretrain", recipe, "--data.shards", studio, *out, *PRETRAINING)
    out = tmp_path / "table"
    words = ["benchmark", str(tmp_path / "hicmae_tiny"), str(tmp_path / "mae_dfer_base"), "--data", studio, street]
    words += [
        "--seeds",
        "0,1,2",
        "--ways",
        "finetune,linear,cross",
        "--out",
        str(out),
        "--loop.epochs",
        "12",
        *FINETUNING,
    ]
    killed = start(*words)
    while killed.poll() is None and len(list(out.glob("**/done.json"))) < 2:
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    complaint = killed.communicate()[1]
    before = {path: path.stat().st_mtime_ns for path in out.glob("**/done.json")}
    assert before and not (out / "benchmark.json").exists(), complaint
    both = [start(*words) for _ in range(2)]
    told = [process.communicate(timeout=2000)[0] for process in both]
    assert 0 in [process.returncode for process in both]  # the last to finish has the whole table
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    stored = json.loads((out / "benchmark.json").read_text())
    assert stored["failures"] == [] and stored["waiting"] == 0 and stored["gaps"] == []
    rows = stored["rows"]
    # 2 checkpoints x 2 corpora, or directions, x ways
    assert len(rows) == 4 * len(WAYS) and all(len(row["seeds"]) == 3 for row in rows)
    assert len(list(csv.reader((out / "benchmark.csv").read_text().splitlines()))) == 1 + len(rows) * 3
    uar = {(row["checkpoint"], row["way"], row["tested"]): row["figures"]["uar"]["mean"] for row in rows}
    for corpus in ("studio", "street"):  # frames tell half, sound the other half
        assert uar["hicmae_tiny", "finetune", corpus] > uar["mae_dfer_base", "finetune", corpus] > 1 / 3
    ranks = stored["mean_ranks"]["finetune"]
    assert ranks == {"hicmae_tiny": 1.0, "mae_dfer_base": 2.0}
    spreads = [row["figures"]["war"]["sd"] for row in rows]
    assert all(0 <= sd < 0.2 for sd in spreads) and np.mean(spreads) > 0
    assert any("| hicmae_tiny" in text and "±" in text for text in told)
