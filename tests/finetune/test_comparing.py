"""Two runs compared from what their evaluations stored, and the commands of folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hicmae.cli import main
from hicmae.configs import as_dict
from hicmae.configs.errors import UserError
from hicmae.finetune import FinetuneConfig
from hicmae.finetune.comparing import against, told_against
from hicmae.runtime.comparison import compare
from tests.finetune.conftest import changed
from tests.finetune.test_folds import three_folds, whole  # noqa: F401  (fixtures)


def stored(folder: Path, truth: np.ndarray, guess: np.ndarray, **changes: Any) -> Path:
    """A run with an evaluation of clips of five people in two classes."""
    rows = [
        {"key": f"k{n}", "source": f"v{n}", "group": f"p{n % 5}", "truth": "ab"[t], "prediction": "ab"[g]}
        for n, (t, g) in enumerate(zip(truth, guess, strict=True))
    ]
    found = {"labels": ["a", "b"], "predictions": rows, "protocol": {}, **changes}
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_runs_are_compared_clip_by_clip_whatever_their_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 60)
    one, two = (np.where(generator.random(60) < share, truth, 1 - truth) for share in (0.9, 0.5))
    first, second = stored(tmp_path / "one", truth, one), stored(tmp_path / "two", truth, two)
    found = json.loads((second / "evaluation" / "evaluation.json").read_text())
    found["predictions"].reverse()
    (second / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    figures, notes = against(first, second)
    groups = [f"p{n % 5}" for n in range(60)]
    wanted = compare(truth, one, two, groups, 2)
    for name in wanted:
        assert figures[name].difference == pytest.approx(wanted[name].difference, abs=0.02)
        assert figures[name].p == pytest.approx(wanted[name].p, abs=0.02)
    assert "60 clips" in notes[0] and "5 groups" in notes[0]
    text = told_against(first, second)
    assert "UAR" in text and f"{100 * wanted['war'].difference.value:+.2f}" in text


def test_runs_that_cannot_be_compared_are_refused_in_words(tmp_path: Path) -> None:
    truth = np.arange(10) % 2
    run = stored(tmp_path / "run", truth, truth)
    with pytest.raises(UserError, match=r"not measured on the same clips: 2 are in the first alone, 0 in the second"):
        against(run, stored(tmp_path / "fewer", truth[:8], truth[:8]))
    with pytest.raises(UserError, match="other labels of the same clips"):
        against(run, stored(tmp_path / "turned", 1 - truth, truth))
    with pytest.raises(UserError, match="other labels: a, b; a, c"):
        against(run, stored(tmp_path / "named", truth, truth, labels=["a", "c"]))
    with pytest.raises(UserError, match="measure it first"):
        against(run, tmp_path / "nowhere")
    (run / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="no evaluation of a classifier"):
        against(run, run)


def test_folds_and_their_comparison_from_the_command_line(
    whole: FinetuneConfig,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(as_dict(changed(whole, loop__epochs=1))))
    assert main(["finetune", str(recipe), "--folds", "all", "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "pooled" in told and "mean ± sd" in told and "recall: " in told
    assert main(["finetune", str(recipe), "--folds=1,2,3", "--out", str(tmp_path / "b"), "--seed", "1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 0
    assert "24 clips; both tests are over 8 groups" in capsys.readouterr().out
    assert main(["finetune", str(recipe), "--seeds", "0,1"]) == 2
    assert "--seeds goes with --folds" in capsys.readouterr().err
    assert main(["finetune", str(recipe), "--folds", "7"]) == 2
    assert "--folds 7: the folds of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["finetune", str(recipe), "--folds", "1", "--seeds", "x"])
    assert "must be whole numbers" in capsys.readouterr().err
