"""Measuring: callables take turns, medians come with quartiles, ratios are taken within pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import measuring
from benchmarks.measuring import MATRIX, MatrixProduct, Row, Spread, compare

from hicmae.runtime.log import UserError


def told(times: dict[str, list[float]]) -> tuple[dict[str, Callable[[], str]], Callable[[Any], float], list[str]]:
    """Callables, a clock that says of each what it is told to, and the order in which they were called."""
    series: dict[str, Iterator[float]] = {name: iter(values) for name, values in times.items()}
    order: list[str] = []

    def clock(work: Callable[[], str]) -> float:
        order.append(work())
        return next(series[order[-1]])

    return {name: (lambda name=name: name) for name in times}, clock, order


def test_callables_take_turns_and_the_warm_up_does_not_count() -> None:
    works, clock, order = told({"a": [99, 1, 2, 3], "b": [99, 4, 5, 6]})
    found = compare(works, pairs=3, clock=clock, show=False)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert found.times == {"a": [1, 2, 3], "b": [4, 5, 6]}


def test_a_figure_is_the_median_with_its_quartiles() -> None:
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_ratio_is_taken_within_pairs_so_that_a_machine_that_slows_down_does_not_matter() -> None:
    works, clock, _ = told({"plain": [2, 20, 200], "ours": [1, 10, 100]})
    found = compare(works, pairs=3, warm_up=0, clock=clock, show=False)
    assert found.ratio("plain", "ours") == Spread(2, 2, 2)
    assert found.spread("plain") == Spread(20, 11, 110)


def test_a_rate_is_a_fraction_of_the_matrix_product_beside_it() -> None:
    product = MatrixProduct(size=8)
    assert product.flops == 1024
    clock = iter([1.0, 4.0, 2.0, 1.0])  # work, product; product, work
    found = compare(
        {"work": lambda: None, MATRIX: product}, pairs=2, warm_up=0, clock=lambda _: next(clock), show=False
    )
    assert found.times == {"work": [1.0, 1.0], MATRIX: [4.0, 2.0]}
    assert found.rate(MATRIX) == Spread.of([256, 512])
    assert found.fraction("work", 512.0) == Spread.of([512 / 256, 512 / 512])


def test_processor_time_counts_work_and_not_waiting() -> None:
    import time

    def work() -> None:
        sum(range(300_000))

    assert measuring.cpu_clock(lambda: time.sleep(0.05)) < 0.03 < 0.05 <= measuring.wall_clock(lambda: time.sleep(0.05))
    found = compare({"once": work, "four times": lambda: [work() for _ in range(4)]}, pairs=5, show=False)
    assert 2.5 < found.ratio("four times", "once").value < 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_a_matrix_product_is_measured(dtype: torch.dtype) -> None:
    assert measuring.matrix_rate(dtype, pairs=3, size=256).value > 1e8
    product = MatrixProduct(dtype, size=16)
    product()
    torch.testing.assert_close(product.out, product.a @ product.b)


@pytest.mark.parametrize(
    ("better", "value", "target", "met"),
    [
        ("higher", 1.2, 1.15, True),
        ("higher", 1.1, 1.15, False),
        ("lower", 0.7, 0.75, True),
        ("lower", 0.8, 0.75, False),
        ("higher", 1.0, None, None),
    ],
)
def test_a_row_says_whether_its_target_is_met(better: Any, value: float, target: float | None, met: bool) -> None:
    assert Row("step", "svfap", value, target=target, better=better).met is met


def test_rows_are_shown_aligned_and_kept_with_machine_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "benchmarks" / "step.py"), "--pairs", "3"])
    rows = [
        measuring.row("pretraining step", "SVFAP", Spread(1.2, 1.1, 1.3), 1.10, note="with its decoder"),
        measuring.row("import", "hicmae", Spread(0.2, 0.19, 0.21), 0.15, unit="s", better="lower"),
        measuring.row("matrix product", "fp32", 1.234e11, unit="FLOP/s"),
    ]
    measuring.write(rows, tmp_path / "sub" / "step.json", pairs=3)
    shown = capsys.readouterr().err.splitlines()
    assert shown[2].split("  ")[0] == "pretraining step"
    assert [cell.strip() for cell in shown[2].split("  ") if cell][2:] == ["1.2x", "1.1–1.3", ">= 1.1x", "met"]
    assert "NOT MET" in shown[3] and "<= 0.15 s" in shown[3]
    assert shown[2].index("1.2x") == shown[3].index("0.2 s") == shown[4].index("123,400,000,000")
    assert "with its decoder" in shown[-1]
    kept = json.loads((tmp_path / "sub" / "step.json").read_text())
    assert kept["command"] == "python benchmarks/step.py --pairs 3"
    assert [row["met"] for row in kept["rows"]] == [True, False, None]
    assert {"cpu", "cores", "threads", "torch", "flags"} <= kept["hardware"].keys()


def test_what_cannot_be_measured_is_told() -> None:
    parser = measuring.options("what it does")
    with pytest.raises(UserError, match="--pairs must be at least 1, not 0"):
        measuring.prepare(parser.parse_args(["--pairs", "0"]))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            measuring.prepare(parser.parse_args(["--device", "cuda"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_timed_by_its_own_events() -> None:
    found = measuring.matrix_rate(torch.bfloat16, "cuda", pairs=3)
    assert found.value > 1e12
