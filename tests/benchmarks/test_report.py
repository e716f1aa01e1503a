"""The page of performance: tables come from one run's files, words around them stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks import measuring, report
from benchmarks.measuring import Spread

from hicmae.runtime.log import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/step.py", "--pairs", "3"])
    rows = [
        measuring.row("pretraining step", "SVFAP", Spread(1.2, 1.1, 1.3), 1.10),
        measuring.row("fine-tuning step", "SVFAP", Spread(1.0, 0.9, 1.1), 1.05, note="all blocks"),
        measuring.row("matrix product", "fp32", 123.0, unit="GFLOP/s"),
    ]
    measuring.write(rows, tmp_path / "bench" / "step.json", quick=False)
    return tmp_path / "bench"


def test_rows_become_tables_with_targets_machine_and_command(results: Path) -> None:
    found = report.tables(report.read(results))
    assert found["targets"].startswith("1 of 2 targets met.")
    assert "| pretraining step | SVFAP | 1.2x | 1.1–1.3 | ≥ 1.1x | met |" in found["targets"]
    assert "| fine-tuning step | SVFAP (all blocks) | 1x | 0.9–1.1 | ≥ 1.05x | **not met** |" in found["targets"]
    assert "| matrix product | fp32 | 123 GFLOP/s |  |  |" in found["information"]
    assert "python benchmarks/step.py --pairs 3" in found["machine"]


def test_tables_of_a_page_are_replaced_and_its_words_stay(results: Path) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    content = report.tables(report.read(results))
    filled = report.fill(page, content)
    assert content["targets"] in filled and report.fill(filled, content) == filled
    strip = re.compile(r"(<!-- table: \w+ -->\n).*?(<!-- end -->)", re.DOTALL)
    assert strip.sub(r"\1\2", filled) == strip.sub(r"\1\2", page)
    assert report.fill(filled, content, "-long").count(content["machine"]) == 2
    with pytest.raises(UserError, match="no mark <!-- table: targets-gpu -->"):
        report.fill(page, content, "-gpu")


def test_figures_that_mean_nothing_stay_off_the_page(results: Path) -> None:
    measuring.write([measuring.row("a", "b", 1.0)], results / "quick.json", quick=True)
    with pytest.raises(UserError, match="quick"):
        report.read(results)
    (results / "quick.json").write_text("[]")
    with pytest.raises(UserError, match="was not written by"):
        report.read(results)
    with pytest.raises(UserError, match="no results"):
        report.read(results / "nowhere")
