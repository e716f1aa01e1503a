"""A benchmark: every cell once, failures and gaps named, a table that says what the runs say."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae import benchmark
from hicmae.benchmark.plan import cells_of, open_checkpoints, open_corpora
from hicmae.cli import main
from hicmae.configs.errors import ConfigError, UserError
from hicmae.datasets import Index, ShardConfig, write_shards
from hicmae.models.factory import save_weights
from hicmae.runtime.checkpoint import save_weights as runtime_weights
from tests.finetune.conftest import COLOURS, make_shards, rows, tinted
from tests.models.small import build

QUICK = [
    *("--loop.epochs=2", "--loop.batch_size=8", "--loop.log_every=100", "--optim.lr=0.3", "--optim.warmup_epochs=0"),
    *("--data.workers=0", "--data.segments=1", "--args.init_scale=1.0", "--device=cpu"),
    *("--augment.policy=", "--augment.mix=0", "--augment.erase=0"),
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights files of pretraining forms that take milliseconds."""
    root = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for name, model in (("lgi", "mae_dfer_base"), ("vit", "videomae_base"), ("ears", "hicmae_tiny_audio")):
        files[name] = str(root / f"{name}.safetensors")
        meta = {"config": {"data": {"frames": 8, "stride": 1, "size": 16}}}
        more = {"region": (2, 4, 4)} if name == "lgi" else {}
        save_weights(files[name], build(model, "pretrain", depth=2, **more), meta)
    return files


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two corpora without sound: 24 clips of 8 people without division, and 12 with a split."""
    one = tmp_path_factory.mktemp("one")
    other = tmp_path_factory.mktemp("other")
    lines = ["path,label,group,split"]
    for number, (name, colour, person) in enumerate(rows(4, "q")):
        tinted(other / "clips" / name, colour, seed=100 + number)
        lines.append(f"clips/{name},{colour},{person},{'test' if person == 'q0' else 'train'}")
    (other / "list.csv").write_text("\n".join(lines) + "\n")
    write_shards([], other / "split", config=ShardConfig(size=16, list=str(other / "list.csv")), progress=False)
    return make_shards(one, rows(8), size=16), str(other / "split")


@pytest.fixture(scope="module")
def made(
    checkpoints: dict[str, str], corpora: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[benchmark.Benchmark, Path]:
    """Three checkpoints, one of which only hears, on both corpora with two seeds."""
    out = tmp_path_factory.mktemp("benchmark")
    files = [checkpoints[name] for name in ("lgi", "vit", "ears")]
    ways = ("finetune", "cross")
    return benchmark.compare(files, corpora, seeds=(0, 1), ways=ways, options=QUICK, out=out, show=False), out


def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())


def test_every_row_says_what_its_runs_say(made: tuple[benchmark.Benchmark, Path]) -> None:
    table, out = made
    assert table.ok and table.seeds == (0, 1) and table.ways == ["finetune", "cross"]
    row = next(row for row in table.rows if (row.checkpoint, row.way, row.tested) == ("lgi", "finetune", "shards"))
    wars = [
        evaluation(out / "lgi/shards/finetune" / f"seed{k}" / "quarter1")["numbers"]["war"]["value"] for k in (0, 1)
    ]
    assert [row.seeds[k]["war"] for k in (0, 1)] == pytest.approx(wars)
    assert row.figures["war"] == pytest.approx({"mean": np.mean(wars), "sd": np.std(wars, ddof=1)})
    assert row.clips == 6
    crossed = next(row for row in table.rows if (row.checkpoint, row.way, row.tested) == ("vit", "cross", "split"))
    found = evaluation(out / "vit/split/from-shards/seed1")
    assert crossed.trained == "shards" and crossed.seeds[1]["uar"] == pytest.approx(found["numbers"]["uar"]["value"])
    assert crossed.clips == 12 == len(found["predictions"])


def test_nobody_who_is_tested_was_trained_on(made: tuple[benchmark.Benchmark, Path], corpora: tuple[str, str]) -> None:
    trained, tested = (Index.load(f"{corpora[0]}@quarter{sign}=1") for sign in ("!", ""))
    assert not set(trained.groups) & set(tested.groups)
    assert sorted([*trained.keys, *tested.keys]) == sorted(Index.load(corpora[0]).keys)
    assert set(COLOURS) == set(np.array(tested.classes)[tested.labels])
    rows = evaluation(made[1] / "lgi/shards/finetune/seed0/quarter1")["predictions"]
    assert {row["group"] for row in rows} == set(tested.groups)
    assert "2 of 8 groups, 6 clips, tested" in made[0].corpora["shards"]["division"]


def test_what_a_checkpoint_cannot_do_is_a_named_gap(made: tuple[benchmark.Benchmark, Path]) -> None:
    table = made[0]
    assert [gap.split(":")[0] for gap in table.gaps] == ["ears on shards", "ears on split"]
    assert "none of its 24 clips has sound, and hicmae_tiny_audio hears" in table.gaps[0]
    assert not table.failures
    assert table.costs["ears"]["parameters"] is None and table.costs["lgi"]["parameters"] > 0


def test_ranks_are_by_the_mean_and_equal_ones_share_theirs() -> None:
    def row(checkpoint: str, tested: str, uar: float) -> benchmark.Row:
        return benchmark.Row(
            **dict(checkpoint=checkpoint, way="finetune", trained=tested, tested=tested, clips=3, seconds=1.0),
            figures={"uar": {"mean": uar, "sd": None}}, seeds={0: {"uar": uar}}, missing={},
        )  # fmt: skip

    from hicmae.benchmark.collecting import _ranked

    scores = {"a": (0.9, 0.5, 0.4), "b": (0.8, 0.5, 0.3), "c": (0.1, 0.6, None)}
    given = [row(k, f"d{n}", v) for k, values in scores.items() for n, v in enumerate(values) if v is not None]
    table = benchmark.Benchmark(rows=tuple(_ranked(given)), costs={}, corpora={}, seeds=(0,), notes=())
    assert {(r.checkpoint, r.tested): r.rank for r in table.rows if r.tested == "d1"} == {
        ("a", "d1"): 2.5, ("b", "d1"): 2.5, ("c", "d1"): 1,
    }  # fmt: skip
    assert table.mean_ranks("finetune") == {"a": 1.75, "b": 2.25, "c": 2.0}  # over d0 and d1, which all have


def test_the_files_hold_the_table(made: tuple[benchmark.Benchmark, Path]) -> None:
    table, out = made
    stored = json.loads((out / "benchmark.json").read_text())
    assert stored["mean_ranks"]["finetune"] == table.mean_ranks("finetune")
    lines = list(csv.DictReader((out / "benchmark.csv").read_text().splitlines()))
    figures = [line for line in lines if line["uar"]]
    assert len(figures) == 2 * 2 * 2 + 2 * 2 * 2  # fine-tuned and crossed: checkpoints, corpora, seeds
    assert sum("has sound" in line["note"] for line in lines) == 2
    text, html = (out / "benchmark.md").read_text(), (out / "benchmark.html").read_text()
    for shown in (text, html):
        assert "split UAR" in shown and "trained on" in shown and "mean rank" in shown and "±" in shown
        assert "none of its 24 clips has sound" in shown


def test_finished_cells_are_not_run_again_and_other_data_are_not_mixed_in(
    made: tuple[benchmark.Benchmark, Path], checkpoints: dict[str, str], corpora: tuple[str, str], tmp_path: Path
) -> None:
    out = made[1]
    files = [checkpoints[name] for name in ("lgi", "vit", "ears")]
    before = {path: path.stat().st_mtime_ns for path in out.glob("**/evaluation.json")}
    again = benchmark.compare(files, corpora, seeds=(0, 1), ways=("cross",), options=QUICK, out=out, show=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before and again.rows == made[0].rows
    with pytest.raises(ConfigError, match=r"another recipe \(loop.epochs: 2 -> 3\)"):
        benchmark.compare(
            files, corpora, seeds=(0,), ways=("finetune",), options=[*QUICK, "--loop.epochs=3"], out=out, show=False
        )
    same_name = tmp_path / "shards"
    same_name.symlink_to(corpora[0])
    with pytest.raises(ConfigError, match="holds the result of another train"):
        benchmark.compare(
            files, [same_name, corpora[1]], seeds=(0,), ways=("finetune",), options=QUICK, out=out, show=False
        )


def test_a_cell_that_fails_leaves_the_others_and_is_tried_again(
    checkpoints: dict[str, str], corpora: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", checkpoints["lgi"], "--data", *corpora, "--out", str(tmp_path), "--seeds", "0"]
    words += [
        "--ways",
        "finetune,cross",
        *QUICK,
        "--loop.epochs=1",
        "--loop.batch_size=10",
    ]  # there are 9 clips in split
    assert main(words) == 1
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    assert [text.split(":")[0] for text in stored["failures"]] == [
        "lgi, finetune, split, seed 0",
        "lgi, cross, split -> shards, seed 0",
    ]
    assert "loop.batch_size" in stored["failures"][0] and "needs failed" in stored["failures"][1]
    done = {(row["way"], row["trained"], row["tested"]) for row in stored["rows"] if row["figures"]}
    assert done == {("finetune", "shards", "shards"), ("cross", "shards", "split")}
    told = capsys.readouterr().out
    assert "| failed" in told and "## Failed" in told
    assert "Traceback" in (tmp_path / "lgi/split/finetune/seed0/test/failed.json").read_text()
    assert benchmark.compare(
        [checkpoints["lgi"]], corpora, seeds=(0,), ways=("finetune",), out=tmp_path, show=False,
        options=[*QUICK, "--loop.epochs=1", "--loop.batch_size=10"],
    ).failures  # fmt: skip


def test_a_cell_at_which_another_process_works_is_waited_for_by_nobody(
    checkpoints: dict[str, str], corpora: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "lgi/split/finetune/seed0/test"
    place.mkdir(parents=True)
    script = "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", script + "; print(True, flush=True); time.sleep(100)", str(place / "claim.lock")]
    words = ["benchmark", checkpoints["lgi"], "--data", corpora[1], "--out", str(tmp_path), "--seeds", "0"]
    words += ["--ways", "finetune", *QUICK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "True"
        assert main(words) == 1
        holder.kill()
    assert "1 cells are not there yet" in capsys.readouterr().out
    assert main(words) == 0


def test_forms_and_fresh_weights_can_be_named(checkpoints: dict[str, str], tmp_path: Path) -> None:
    pair = str(tmp_path / "pair.safetensors")
    save_weights(pair, build("hicmae_tiny", "pretrain", decoder_depth=4))
    opened = open_checkpoints(
        [pair, f"hicmae_tiny_video={pair}", "svfap_small", checkpoints["lgi"], checkpoints["lgi"]]
    )
    assert [c.name for c in opened] == ["pair", "pair-hicmae_tiny_video", "svfap_small-fresh", "lgi-1", "lgi-2"]
    assert [c.modalities for c in opened[:3]] == [("video", "audio"), ("video",), ("video",)]
    assert opened[2].file is None
    (tmp_path / "strange.safetensors").write_bytes((tmp_path / "pair.safetensors").read_bytes())
    runtime_weights(tmp_path / "bare.safetensors", {"w": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="does not say which model it holds; name it as MODEL="):
        open_checkpoints([tmp_path / "bare.safetensors"])


def test_ways_and_recipes_reach_the_runs_they_are_for(checkpoints: dict[str, str], corpora: tuple[str, str]) -> None:
    opened, there = open_checkpoints([checkpoints["vit"]]), open_corpora(corpora[:1])
    recipes = {
        "finetune": {"optim": {"lr": 0.5}, "args": {"region": [1, 1, 1], "drop_path": 0.1}, "data": {"stride": 3}}
    }
    cells = cells_of(opened, there, ["finetune", "linear"], [4], Path("out"), recipes, ["--loop.epochs=7"])
    tuned, probe = (cell.config for cell in cells)
    assert tuned is not None and probe is not None
    assert (tuned.optim.lr, tuned.args, tuned.data.stride, tuned.seed) == (0.5, {"drop_path": 0.1}, 3, 4)
    assert (probe.optim.lr, probe.args, probe.data.stride, probe.data.frames) == (1e-3, {}, 1, 8)
    assert (tuned.adapt.kind, probe.adapt.kind) == ("full", "linear")
    assert tuned.loop.epochs == probe.loop.epochs == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": ("tuned",)}, "--ways tuned: there are finetune, linear"),
        ({"data": ()}, "--data: name at least one"),
        ({"options": ["--model=videomae_base"]}, "--model is decided by the benchmark"),
        ({"options": ["--data.train", "x"]}, "--data.train is decided"),
        ({"options": ["--loop.epoch=3"]}, "unknown option --loop.epoch"),
        ({"recipes": {"tuned": "demo"}}, "--recipe tuned"),
        ({"checkpoints": ["nowhere"]}, "nowhere: no such checkpoint"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(
    change: dict[str, Any], message: str, checkpoints: dict[str, str], corpora: tuple[str, str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"checkpoints": [checkpoints["lgi"]], "data": corpora[:1], "options": QUICK, **change}
    with pytest.raises(UserError, match=message):
        benchmark.compare(**given, out=tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()
