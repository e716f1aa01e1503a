"""Folds: each run once, shared out among processes, continued after any kill to the same result, and summed up."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.configs import ConfigError, as_dict
from hicmae.configs.errors import UserError
from hicmae.datasets import Index, ShardConfig, write_shards
from hicmae.finetune import FinetuneConfig
from hicmae.finetune.folds import claim, jobs_of, run_folds
from hicmae.finetune.published import published_results
from hicmae.finetune.summary import Fold, summarise
from hicmae.runtime.checkpoint import read_weights, weights_file
from hicmae.runtime.metrics import confusion_matrix, scores
from tests.finetune.conftest import COLOURS, changed, rows, tinted


def folded(root: Path, column: str, value_of: Any, per_colour: int = 8) -> str:
    """Shards of clips of several people with a column of folds or parts."""
    lines = [f"path,label,group,sex,{column}"]
    for number, (name, colour, person) in enumerate(rows(per_colour)):
        tinted(root / "clips" / name, colour, seed=number)
        part, sex = value_of(int(str(person)[1:])), "female" if number % 2 else "male"
        lines.append(f"clips/{name},{colour},{person},{sex},{part}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    config = ShardConfig(size=32, per_shard=8, list=str(root / "list.csv"))
    write_shards([], root / "shards", config=config, progress=False)
    return str(root / "shards")


@pytest.fixture(scope="module")
def three_folds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 clips of 8 people in folds 1, 2 and 3."""
    return folded(tmp_path_factory.mktemp("folds"), "fold", lambda person: person % 3 + 1)


@pytest.fixture
def whole(recipe: FinetuneConfig, three_folds: str) -> FinetuneConfig:
    """A recipe whose folds take a second or two."""
    return changed(recipe, data__train=[f"{three_folds}@fold!=1"], data__test=[f"{three_folds}@fold=1"], loop__epochs=2)


def predictions(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())["predictions"]


def test_every_clip_is_tested_once_by_a_model_that_has_not_seen_its_person(
    whole: FinetuneConfig, three_folds: str
) -> None:
    summary = run_folds(whole, show=False)
    assert summary is not None
    out, index = Path(whole.out), Index.load(three_folds)
    found = [row for k in (1, 2, 3) for row in predictions(out / f"fold{k}")]
    assert sorted(row["key"] for row in found) == sorted(index.keys)
    for k in (1, 2, 3):
        meta = read_weights(weights_file(out / f"fold{k}"))[1]
        trained = Index.load(meta["config"]["data"]["train"][0])
        assert not set(trained.groups) & {row["group"] for row in predictions(out / f"fold{k}")}
        assert len(trained) + len(predictions(out / f"fold{k}")) == 24
    # pooled, by hand
    truth, guess = ([COLOURS.index(row[side]) for row in found] for side in ("truth", "prediction"))
    by_hand = scores(confusion_matrix(truth, guess, 3))
    stored = json.loads((out / "summary.json").read_text())
    assert stored["pooled"]["0"]["uar"]["value"] == pytest.approx(by_hand.uar) == stored["headline"]["uar"]
    assert stored["confusion"] == confusion_matrix(truth, guess, 3).tolist()
    assert [stored["per_class"][name]["recall"] for name in COLOURS] == pytest.approx(list(by_hand.recall))
    # over folds, by hand
    wars = [np.mean([r["truth"] == r["prediction"] for r in predictions(out / f"fold{k}")]) for k in (1, 2, 3)]
    assert [fold["war"] for fold in stored["folds"]] == pytest.approx(wars)
    over = stored["over_folds"]["0"]["war"]
    assert (over["mean"], over["sd"]) == pytest.approx((np.mean(wars), np.std(wars, ddof=1)))
    assert over["weighted"] == pytest.approx(by_hand.war)
    assert "8 groups" in stored["protocol"]["intervals"]
    text, html = str(summary), (out / "summary.html").read_text()
    assert "pooled" in text and "mean ± sd" in text and "pooled" in html and "mean ± sd" in html
    assert len((out / "summary.csv").read_text().splitlines()) == 4


def test_folds_that_are_done_are_not_run_again_and_one_that_is_not_is(whole: FinetuneConfig) -> None:
    assert run_folds(whole, ["1", "3"], show=False) is not None
    out = Path(whole.out)
    assert not (out / "fold2").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("fold*/*/evaluation.json")}
    assert len(before) == 2
    first = run_folds(whole, show=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert first is not None and [fold.name for fold in first.folds] == ["1", "2", "3"]


def test_seeds_have_folders_of_their_own_and_a_spread(whole: FinetuneConfig) -> None:
    summary = run_folds(changed(whole, loop__epochs=1), ["1", "2"], seeds=[0, 1], show=False)
    out = Path(whole.out)
    assert {str(path.parent.relative_to(out)) for path in out.glob("*/*/done.json")} == {
        f"seed{seed}/fold{fold}" for seed in (0, 1) for fold in (1, 2)
    }
    assert summary is not None
    each = [summary.pooled[seed]["uar"].value for seed in (0, 1)]
    assert summary.over_seeds["uar"].mean == pytest.approx(np.mean(each))
    assert summary.over_seeds["uar"].sd == pytest.approx(np.std(each, ddof=1))
    assert "2 seeds: 0, 1" in str(summary) and "all" in str(summary)


def test_a_corpus_with_one_split_is_one_run(whole: FinetuneConfig, tmp_path: Path) -> None:
    parts = ["train", "train", "train", "test", "validation"]
    shards = folded(tmp_path, "split", lambda person: parts[person % 5], per_colour=5)
    (job,) = jobs_of(changed(whole, data__train=[shards], data__test=[]))
    assert job.out.name == "test"
    data = job.config.data
    assert (data.train, data.test) == ([f"{shards}@split=train"], [f"{shards}@split=test"])
    assert data.val == [f"{shards}@split=validation"]
    summary = run_folds(changed(whole, data__train=[shards], data__test=[], select="val"), show=False)
    assert summary is not None and summary.over_folds[0]["uar"].sd is None
    assert "on data.val" in summary.protocol["selection"]
    with pytest.raises(ConfigError, match=r"--folds 2: the splits of .* are test"):
        jobs_of(changed(whole, data__train=[shards], data__test=[]), ["2"])


def test_other_conditions_of_the_data_are_kept(whole: FinetuneConfig, three_folds: str) -> None:
    given = changed(whole, data__train=[f"{three_folds}@sex=female@fold!=1"], data__test=[f"{three_folds}@sex=female"])
    job = jobs_of(given, ["2"])[0]
    assert job.config.data.train == [f"{three_folds}@sex=female@fold!=2"]
    assert job.config.data.test == [f"{three_folds}@sex=female@fold=2"]


def test_mistakes_are_told_before_anything_is_run(
    whole: FinetuneConfig, three_folds: str, train_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"--folds 9: the folds of .* are 1, 2, 3"):
        run_folds(whole, ["1", "9"], show=False)
    with pytest.raises(ConfigError, match="no column fold or split"):
        run_folds(changed(whole, data__train=[train_shards], data__test=[]), show=False)
    with pytest.raises(ConfigError, match=r"data\.train is empty"):
        run_folds(changed(whole, data__train=[], data__test=[]), show=False)
    with pytest.raises(ConfigError, match="there is one fold"):
        run_folds(changed(whole, data__train=[f"{three_folds}@sex=male@group=p0"], data__test=[]), show=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="once per GPU"):
        run_folds(whole, show=False)
    assert not Path(whole.out).exists()


def test_folds_of_another_recipe_are_not_mixed_in(whole: FinetuneConfig) -> None:
    run_folds(changed(whole, loop__epochs=1), ["1"], show=False)
    with pytest.raises(ConfigError, match=r"another recipe \(loop.epochs: 1 -> 2\)"):
        run_folds(whole, show=False)


def test_averaged_weights_have_a_summary_of_their_own(whole: FinetuneConfig) -> None:
    run_folds(changed(whole, loop__ema=0.5, loop__epochs=1), ["1", "2"], show=False)
    for name in ("summary", "summary-ema"):
        assert all((Path(whole.out) / f"{name}.{kind}").is_file() for kind in ("json", "csv", "html"))


def test_a_choice_on_the_test_clips_is_stamped_on_every_figure(whole: FinetuneConfig) -> None:
    summary = run_folds(changed(whole, select="test", loop__epochs=1), ["1", "2"], show=False)
    out, stamp = Path(whole.out), "CHOSEN ON THE TEST CLIPS"
    assert summary is not None
    assert all(stamp in line for line in str(summary).splitlines() if any(c.isdigit() for c in line) and "." in line)
    assert stamp in json.loads((out / "summary.json").read_text())["title"]
    assert all(stamp in line for line in (out / "summary.csv").read_text().splitlines()[1:])
    html = (out / "summary.html").read_text()
    assert stamp in html[html.index("<title>") : html.index("</title>")]


COMMAND = """
import json, sys
from hicmae import configs
from hicmae.finetune import FinetuneConfig
from hicmae.finetune.folds import run_folds
summary = run_folds(configs.load(FinetuneConfig, json.loads(sys.argv[1])), show=False)
print("summed up" if summary is not None else "not all there")
"""


def start(config: FinetuneConfig) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", COMMAND, json.dumps(as_dict(config))]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    told, complaint = process.communicate(timeout=200)
    assert process.returncode == 0, complaint
    return told.strip()


def test_processes_share_the_folds_out_and_the_last_sums_up(whole: FinetuneConfig) -> None:
    both = [start(changed(whole, loop__epochs=12)) for _ in range(2)]
    told = [finish(process) for process in both]
    assert "summed up" in told
    out = Path(whole.out)
    assert (out / "summary.json").is_file()
    for k in (1, 2, 3):  # a fold that two processes had trained would have logged steps twice
        steps = [json.loads(line)["step"] for line in (out / f"fold{k}" / "log.jsonl").read_text().splitlines()]
        assert steps in (list(range(1, 13)), list(range(1, 25)))  # one or two steps per epoch


def result_of(out: Path) -> dict[str, Any]:
    """Everything a run leaves that tells its result; paths aside."""
    summary = json.loads((out / "summary.json").read_text())
    summary["config"].pop("out")
    weights = {str(k): read_weights(weights_file(out / f"fold{k}")) for k in (1, 2, 3)}
    return {
        "summary": summary,
        "predictions": {k: predictions(out / f"fold{k}") for k in (1, 2, 3)},
        "weights": {k: {name: tensor.numpy().tobytes() for name, tensor in w.items()} for k, (w, _) in weights.items()},
        "selected": {k: meta.get("selected") for k, (_, meta) in weights.items()},
    }


def kill_and_finish(config: FinetuneConfig, kills: int, seed: int) -> int:
    """Kill a run at random moments, then let it end; returns how often a kill met it at work."""
    moments, met = random.Random(seed), 0
    for _ in range(kills):
        process = start(config)
        out = Path(config.out)
        deadline = time.monotonic() + 60
        # wait for work to begin: the import alone takes seconds
        seen = len(list(out.glob("fold*/log.jsonl"))), sum(p.stat().st_size for p in out.glob("fold*/log.jsonl"))
        while process.poll() is None and time.monotonic() < deadline:
            now = len(list(out.glob("fold*/log.jsonl"))), sum(p.stat().st_size for p in out.glob("fold*/log.jsonl"))
            if now != seen:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        met += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finish(start(config)) == "summed up"
    return met


def undisturbed(config: FinetuneConfig) -> dict[str, Any]:
    # in a process too: other numbers of threads round otherwise
    finish(start(changed(config, out=config.out + "-undisturbed")))
    return result_of(Path(config.out + "-undisturbed"))


def test_a_fold_run_that_is_killed_comes_to_the_same_result_bit_for_bit(whole: FinetuneConfig) -> None:
    config = changed(whole, loop__epochs=5, select="val", val_share=0.3)
    wanted = undisturbed(config)
    assert kill_and_finish(config, kills=1, seed=1) > 0
    assert result_of(Path(config.out)) == wanted


@pytest.mark.slow  # 90 s on idle cores, 180 s beside others: ten kills at random moments, each start imports torch
def test_a_fold_run_killed_ten_times_comes_to_the_same_result_bit_for_bit(whole: FinetuneConfig) -> None:
    config = changed(whole, loop__epochs=25, loop__save_every=5, select="val", val_share=0.3)
    wanted = undisturbed(config)
    met = kill_and_finish(config, kills=10, seed=int(os.environ.get("HICMAE_SEED", 0)))
    assert met >= 8
    assert result_of(Path(config.out)) == wanted


def test_a_dead_process_holds_no_fold_a_living_one_does(tmp_path: Path) -> None:
    script = "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX)"
    command = [
        sys.executable,
        "-c",
        script + "; print(True, flush=True); time.sleep(100)",
        str(tmp_path / "claim.lock"),
    ]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline().strip() == "True"
    with claim(tmp_path) as mine:
        assert not mine
    holder.kill()
    holder.communicate()
    with claim(tmp_path) as mine:
        assert mine


def evaluation(labels: tuple[str, ...] = COLOURS, **changes: Any) -> dict[str, Any]:
    """An evaluation.json of three clips, two of them recognised."""
    rows = [
        {"key": f"k{n}", "group": f"p{n}", "truth": labels[n], "prediction": labels[0 if n == 2 else n]}
        for n in range(3)
    ]
    numbers = {name: {"value": 2 / 3, "low": 0.0, "high": 1.0} for name in ("uar", "war")}
    found = {"labels": list(labels), "numbers": numbers, "predictions": rows, "notes": [], "config": {"model": "m"}}
    return {**found, "protocol": {"protocol": "own/x/last", "data": ["d"], "selection": "last checkpoint"}, **changes}


def test_evaluations_that_are_no_folds_of_one_corpus_are_refused() -> None:
    other = evaluation(("red", "green", "blue"))
    with pytest.raises(UserError, match="folds 1 and 2 differ in labels"):
        summarise([Fold(name="1", seed=0, found=evaluation()), Fold(name="2", seed=0, found=other)])
    strange = evaluation(numbers={"exact": {"value": 0.5, "low": 0, "high": 1}})
    with pytest.raises(UserError, match="exact: these figures of folds cannot be pooled"):
        summarise([Fold(name="1", seed=0, found=strange)])


def test_a_clip_that_is_tested_twice_is_pointed_out_and_unknown_groups_are_too() -> None:
    summary = summarise([Fold(name=k, seed=0, found=evaluation()) for k in "12"])
    assert any("more than one fold" in note for note in summary.notes)
    nobody = evaluation()
    nobody["predictions"] = [{**row, "group": None} for row in nobody["predictions"]]
    assert "clip-level (groups unknown)" in summarise([Fold(name="1", seed=0, found=nobody)]).protocol["intervals"]


def test_predicted_numbers_are_pooled_too() -> None:
    generator = np.random.default_rng(0)
    folds = []
    for k in range(3):
        pairs = [(float(t), float(t + e)) for t, e in generator.normal(0, 1, (20, 2))]
        rows = [
            {"key": f"{k}-{n}", "group": f"{k}-{n % 4}", "truth": {"valence": t}, "prediction": {"valence": p}}
            for n, (t, p) in enumerate(pairs)
        ]
        from hicmae.runtime.metrics import regression

        own = regression(*(np.array(side) for side in zip(*pairs, strict=True))).mean
        numbers = {name: {"value": own[name], "low": 0, "high": 0} for name in ("mae", "ccc")}
        found = evaluation(predictions=rows, numbers=numbers, outputs=["valence"])
        found.pop("labels")
        folds.append(Fold(name=str(k), seed=0, found=found))
    summary = summarise(folds)
    truth, predicted = (
        np.array([row[side]["valence"] for fold in folds for row in fold.found["predictions"]])
        for side in ("truth", "prediction")
    )
    assert summary.headline == pytest.approx({n: regression(truth, predicted).mean[n] for n in ("mae", "ccc")})
    assert "CCC" in str(summary) and summary.scores is None and "CCC" in summary.page().html()


def test_independent_classes_are_pooled_too() -> None:
    from hicmae.runtime.multilabel import multilabel

    generator = np.random.default_rng(0)
    folds, truths, guesses = [], [], []
    for k in range(2):
        truth, guess = generator.integers(0, 2, (12, 2)), generator.random((12, 2))
        rows = [
            {"key": f"{k}-{n}", "group": None, "truth": dict(zip("ab", t, strict=True)), "prediction": {"a": p, "b": q}}
            for n, (t, (p, q)) in enumerate(zip(truth.tolist(), guess.tolist(), strict=True))
        ]
        own = {n: e._asdict() for n, e in multilabel(truth > 0.5, guess > 0.5, None).intervals.items()}
        found = evaluation(predictions=rows, numbers=own, config={"model": "m", "task": {"kind": "multi"}})
        found.pop("labels")
        folds.append(Fold(name=str(k), seed=0, found=found))
        truths.append(truth)
        guesses.append(guess)
    pooled = multilabel(np.concatenate(truths) > 0.5, np.concatenate(guesses) > 0.5, None).intervals
    assert summarise(folds).headline == pytest.approx({name: e.value for name, e in pooled.items()})


def test_published_rows_stand_beside_a_result_of_their_corpus_with_their_source() -> None:
    head, found = published_results("hicmae_base", "crema_d/6class-intended/subject-5fold/last")
    assert head[0] == "published" and any("84.94" in " ".join(row) for row in found)
    assert all(row[-1] for row in found)
    assert published_results("hicmae_base", None)[1] == published_results("unknown", "crema_d/x")[1] == []
    known = evaluation(config={"model": "mae_dfer_base"})
    known["protocol"]["protocol"] = "dfew/7class-perceived/official-5fold/last"
    text = str(summarise([Fold(name="1", seed=0, found=known)]))
    assert "published: UAR 63.41, WAR 74.43" in text and "repository" in text
