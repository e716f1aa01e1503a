"""The scripts that measure, at tiny sizes: every row is there, with its target."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from benchmarks import measuring, memory, memory_long, scaling, startup
from torch.nn import functional as F

from hicmae.runtime.log import UserError

CPU = torch.device("cpu")


def test_the_start_of_processes_is_measured_beside_a_bare_interpreter() -> None:
    rows = startup.measure(1, show=False)
    assert [(row.what, row.target) for row in rows] == [
        ("bare interpreter", None),
        ("import hicmae", 0.15),
        ("hicmae --help", 0.5),
    ]
    assert rows[0].value < rows[2].value  # which loads a hundred modules


def test_growth_is_measured_of_both_encoders() -> None:
    shape = {"dim": 32, "depth": 1, "heads": 2, "size": 64}
    rows = scaling.measure(2, CPU, frames=(4, 64), shape=shape, show=False)
    grown = [row for row in rows if row.measure == "growth of time"]
    assert [(row.target, row.better) for row in grown] == [(4.3, "lower"), (6.0, "higher")]
    assert all(row.value > 1 for row in grown)


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_weights() -> None:
    layer, x = torch.nn.Linear(16, 32), torch.randn(8, 16)
    made: list[weakref.ref[torch.Tensor]] = []

    def loss() -> torch.Tensor:
        y = layer(x)  # keeps x
        made.append(weakref.ref(y))
        return (F.gelu(y) + F.gelu(y)).sum()  # keeps y, once

    found = memory.kept(layer, loss)
    assert found.bytes == 4 * (8 * 16 + 8 * 32)
    assert "8x32" in found.largest(1)
    del found
    assert made[0]() is None  # nothing outlives the count


def test_memory_is_measured_of_all_systems_and_the_switch_pays() -> None:
    rows = memory.measure(2, CPU, quick=True, peaks=False)
    assert [row.target for row in rows] == list(memory.TARGETS.values())
    assert all(row.value < 1 for row in rows)
    switch = memory.switches(1, CPU, quick=True, compiled=False, show=False)
    assert [row.value < 0.5 for row in switch if row.measure == "loop.recompute: activations"] == [True, True]


@pytest.mark.slow  # 30 s of one core: forward passes at the published sizes; bytes do not vary
def test_all_systems_keep_as_little_as_is_aimed_for() -> None:
    rows = memory.measure(2, CPU, peaks=False)
    assert {row.what + row.measure: row.value for row in rows if not row.met} == {}


def test_drift_is_that_of_the_end_over_the_beginning_without_the_start() -> None:
    flat = [50.0] * 10 + [100.0] * 90
    assert memory_long.drift(flat) == 0
    assert memory_long.drift(flat[:90] + [110.0] * 10) == pytest.approx(0.1)
    with pytest.raises(UserError, match="too few"):
        memory_long.drift([1.0] * 9)


@pytest.mark.slow  # 10 s of one core
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the resident size")
def test_memory_is_watched_over_an_epoch_of_a_real_run() -> None:
    (found,) = memory_long.measure(800, every=0.05, show=False)
    assert (found.target, found.unit) == (5.0, "%")
    assert "800 samples" in found.what and abs(found.value) < 50


def test_a_script_refuses_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["scaling.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="no GPU"):
        measuring.script(scaling.main)
