"""The report: what a person reads, and files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.finetune import Report
from hicmae.runtime.metrics import bootstrap, confusion_matrix, scores

LABELS = ("calm & <quiet>", "happy", "sad")


def report(wrong: int = 6, clips: int = 30, **changes: Any) -> Report:
    truth = np.arange(clips) % 3
    guess = np.where(np.arange(clips) < wrong, (truth + 1) % 3, truth)
    probabilities = np.full((clips, 3), 0.1)
    probabilities[np.arange(clips), guess] = 0.8 + np.arange(clips) / 1000
    matrix = confusion_matrix(truth, guess, 3)
    values: dict[str, Any] = {
        "title": "model on data",
        "labels": LABELS,
        "scores": scores(matrix),
        "intervals": bootstrap(truth, guess, None, 3),
        "confusion": matrix,
        "keys": [f"k{i}" for i in range(clips)],
        "sources": [f"v{i}.mp4" for i in range(clips)],
        "groups": None,
        "truth": truth,
        "guess": guess,
        "probabilities": probabilities,
        "protocol": {"weights": "weights of step 9", "segments": 2, "samples": clips, "clips": clips},
        "notes": ["people <unknown>"],
        "config": {"model": "mae_dfer_base", "seed": 0},
    }
    return Report(**{**values, **changes})


def test_the_text_says_the_figures_their_intervals_and_every_class() -> None:
    text = str(report())
    assert "UAR           80.00   95 % interval" in text
    assert "30 clips, 3 classes, chance 33.3 %" in text
    assert all(name in text for name in LABELS)
    assert "note: people <unknown>" in text


def test_the_protocol_heads_the_report_and_published_numbers_stand_beside_it() -> None:
    protocol = {"protocol": "dfew/7class-perceived/official-5fold/last", "samples": 30, "clips": 30}
    shown = report(protocol=protocol)
    assert "dfew/7class-perceived/official-5fold/last: 30 clips" in str(shown)
    html = shown.page().html()
    assert protocol["protocol"] in html[: html.index("Confusion matrix")]
    assert "UAR 63.41, WAR 74.43" in html and "repository" in html
    assert "Published" not in report().page().html()


def test_the_most_confident_mistakes_come_first() -> None:
    html = report().page().html()
    table = html[html.index("Most confident mistakes") :]
    places = [table.index(f"v{i}.mp4") for i in (5, 4, 3, 2, 1, 0)]
    assert places == sorted(places)
    assert "6 of 6 mistakes" in table
    assert "v6.mp4" not in table
    assert "every clip was recognised" in report(wrong=0).page().html()


def test_the_page_escapes_names_and_shows_the_recipe(tmp_path: Path) -> None:
    html = report(skipped=[("k99", "cut short")]).page().html()
    assert "calm &amp; &lt;quiet&gt;" in html and "calm & <quiet>" not in html
    assert "model: mae_dfer_base" in html
    assert "cut short" in html


def test_training_curves_are_drawn_from_the_log_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"step": i, "loss": 2 / i, "accuracy": 0.1 * i, "lr": 1e-3} for i in range(1, 6)]
    log.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 6, "lo')
    html = report().page(log).html()
    assert html.count("<path ") == 3
    assert "Learning rate" in html
    assert "Training" not in report().page(tmp_path / "none.jsonl").html()


def test_a_log_with_a_loss_that_was_not_finite_is_drawn_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"step": i, "loss": float("nan") if i == 2 else 1.0 / i}) + "\n" for i in (1, 2, 3))
    )
    assert report().page(log).html().count("<path ") == 1


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report().write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report(wrong=0).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_json_is_valid_for_every_reader(tmp_path: Path) -> None:
    truth, guess = np.array([0, 0, 1]), np.array([0, 1, 1])
    matrix = confusion_matrix(truth, guess, 3)
    absent = report(
        clips=3,
        truth=truth,
        guess=guess,
        confusion=matrix,
        scores=scores(matrix),
        intervals=bootstrap(truth, guess, None, 3),
    )
    absent.write(tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    stored = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=refuse)
    assert stored["absent"] == ["sad"] and stored["per_class"]["sad"]["recall"] is None
