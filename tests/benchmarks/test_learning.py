"""The measurement of learning: its clips give nothing away, its figures are right, and it continues."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import learning
from benchmarks.learning_data import PAIRS, TASKS, Sizes, speaking, turning
from benchmarks.learning_jobs import PARTS, SIZES, plan
from benchmarks.learning_report import interval, summarise, write_report

from hicmae.datasets.synthetic import ceilings


def test_each_task_can_be_answered_and_agreement_by_neither_modality_alone() -> None:
    best = {name: ceilings(task) for name, task in TASKS.items()}
    assert all(found["both"] == 1 for found in best.values())
    assert best["motion"] == {"video": 1.0, "audio": 0.5, "both": 1.0}
    assert best["sound"] == {"video": 0.5, "audio": 1.0, "both": 1.0}
    assert best["agreement"]["video"] == best["agreement"]["audio"] == 0.5
    assert best["pairs"]["video"] == best["pairs"]["audio"] == 0.5
    assert sorted(PAIRS) == [(m, v) for m in range(2) for v in range(2)]


def test_single_frames_of_both_motions_are_alike_and_pairs_of_frames_are_not() -> None:
    sizes = Sizes(noise=0.0)
    angle = np.arctan2(*np.meshgrid(*[np.arange(32) - 15.5] * 2, indexing="ij"))

    def phases(motion: int) -> np.ndarray:
        clips = [turning(motion, sizes, np.random.default_rng((motion, n)))[:2, ..., 0] for n in range(300)]
        return np.angle((np.array(clips, float) * np.exp(1j * angle)).sum((2, 3)))  # (clips, frames)

    left, right = phases(0), phases(1)
    for found in (
        left,
        right,
    ):  # evenly over the circle, whatever the motion: no mean direction of first or second order
        assert all(abs(np.exp(1j * order * found[:, 1]).mean()) < 0.15 for order in (1, 2))
    assert (np.sin(np.diff(left)) < 0).all() and (np.sin(np.diff(right)) > 0).all()


def test_clips_are_functions_of_their_draw() -> None:
    for make, kinds in ((turning, 2), (speaking, 2)):
        one, same, other = (make(kind, Sizes(), np.random.default_rng(3)) for kind in (0, 0, kinds - 1))
        assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(speaking(0, Sizes(), np.random.default_rng(0))) == 20 / 12.5 * 16000


def test_every_job_comes_after_those_it_needs_and_both_starts_see_the_same_labels(tmp_path: Path) -> None:
    jobs = plan(SIZES["cpu"], tmp_path, range(5), PARTS)
    place = {job.name: n for n, job in enumerate(jobs)}
    assert len(place) == len(jobs)
    assert all(place[need] < place[job.name] for job in jobs for need in job.needs)
    by_name = {job.name: job.values for job in jobs}
    for share in ("1", "10", "100"):
        one, two = (dict(by_name[f"seed-3/motion-{share}-{start}"]) for start in ("pretrained", "scratch"))
        assert two.pop("init") == f"{one.pop('init')}/untrained.safetensors"
        assert one.pop("out") != two.pop("out") and one == two


def test_intervals_are_students_and_seeds_without_a_result_are_left_out() -> None:
    found = interval([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6) and found.high == pytest.approx(0.6 + 4.303 * 0.1 / 3**0.5)
    results = {f"seed-{n}/motion-10-pretrained": {"uar": 0.8 + 0.01 * n, "cpu": 60, "wall": 90} for n in range(3)}
    results |= {f"seed-{n}/motion-10-scratch": {"uar": 0.6 + 0.01 * n, "cpu": 60, "wall": 90} for n in range(2)}
    (table,) = summarise(results, range(3), ["labels"]).tables
    (row,) = table.rows
    assert row[:4] == ("motion", "10 %", "50", "2") and row[-1] == "better" and len(row) == len(table.head)
    assert table.data["motion 10 % 50"]["difference"]["mean"] == pytest.approx(0.2)
    assert len(table.data["motion 10 % 50"]["one"]["values"]) == 2  # the third seed has no partner


def test_tables_replace_those_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: controls -->\nold\n<!-- end -->\nafter <!-- table: labels -->\n")
    results = {"seed-0/motion-single-frame": {"uar": 0.49, "cpu": 6, "wall": 6}}
    write_report(summarise(results, range(1), ["controls"]), tmp_path / "out", page)
    told = page.read_text()
    assert "| motion | a single frame | 50 | 49.0 |\n<!-- end -->\nafter" in told and "old" not in told
    assert json.loads((tmp_path / "out" / "results.json").read_text())["cost"]["pieces"] == 1


def test_a_part_runs_and_is_read_back_when_it_is_run_again(tmp_path: Path) -> None:
    learning.main(["--smoke", "--seeds", "1", "--jobs", "0", "--only", "motion", "--out", str(tmp_path)])
    results = sorted(tmp_path.glob("seed-0/*/result.json"))
    assert len(results) == 7 and "core-min" not in (tmp_path / "results.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in results}
    results[0].unlink()  # as if it had been interrupted
    learning.main(["--smoke", "--seeds", "1", "--jobs", "0", "--only", "motion", "--out", str(tmp_path)])
    assert results[0].is_file() and all(path.stat().st_mtime_ns == before[path] for path in results[1:])


@pytest.mark.slow  # about 40 seconds on one core
@pytest.mark.timeout(600)
def test_everything_runs_side_by_side(tmp_path: Path) -> None:
    learning.main(["--smoke", "--seeds", "2", "--out", str(tmp_path)])
    tables = json.loads((tmp_path / "results.json").read_text())["tables"]
    assert set(tables) == {"labels", "motion", "pieces", "areas", "curves", "controls", "contrast"}
    assert (tmp_path / "figure.png").stat().st_size > 10_000
