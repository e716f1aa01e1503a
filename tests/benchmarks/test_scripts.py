"""The scripts that measure, at tiny sizes: every row is there, with its target."""

from __future__ import annotations

import pytest
import torch
from benchmarks import measuring, scaling, startup

CPU = torch.device("cpu")


def test_the_start_of_processes_is_measured_beside_a_bare_interpreter() -> None:
    rows = {row.what: row for row in startup.measure(2, show=False)}
    assert rows["bare interpreter"].value <= rows["import hicmae"].value < rows["hicmae --help"].value
    assert (rows["import hicmae"].target, rows["hicmae --help"].target) == (0.15, 0.5)


def test_growth_is_measured_of_both_encoders() -> None:
    shape = {"dim": 32, "depth": 1, "heads": 2, "size": 32}
    rows = scaling.measure(2, CPU, frames=(4, 16), shape=shape, show=False)
    grown = [row for row in rows if row.measure == "growth of time"]
    assert [(row.target, row.better) for row in grown] == [(4.3, "lower"), (6.0, "higher")]
    assert all(row.value > 1 for row in grown)


@pytest.mark.parametrize("script", [scaling])
def test_a_script_refuses_what_is_not_there(script: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["scaling.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="no GPU"):
        measuring.script(scaling.main)
