"""Engines: several processes equal one, whatever divides the work; a run goes on with another engine and size."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from hicmae.runtime import checkpoint
from hicmae.runtime.config import LoopConfig
from hicmae.runtime.log import UserError
from hicmae.runtime.zero import Zero
from tests import processes
from tests.runtime.engine_worker import SMALL, train

SYSTEMS = tuple(SMALL)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def furthest(a: Path, b: Path) -> float:
    """The largest difference between the last weights of two runs."""
    one, other = (checkpoint.read_weights(checkpoint.weights_file(run))[0] for run in (a, b))
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def same(a: Path, b: Path) -> None:
    """Bit for bit: losses, weights, averages."""
    assert losses(a) == losses(b)
    for name in ("weights", "ema"):
        one, other = (checkpoint.read_weights(checkpoint.weights_file(run, ema=name == "ema"))[0] for run in (a, b))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_equal_one_in_all_systems(tmp_path: Path) -> None:
    whole = functools.partial(train, float64=True, models=SYSTEMS)
    processes.run(1, functools.partial(whole, tmp_path / "one"), log=tmp_path / "one.log")
    processes.run(2, functools.partial(whole, tmp_path / "two", "ddp"), log=tmp_path / "two.log")
    for system in SYSTEMS:
        expected, found = (losses(tmp_path / run / system) for run in ("one", "two"))
        assert len(expected) == 10
        assert expected[-1] < expected[0]
        assert found == pytest.approx(expected, abs=1e-10)
        assert furthest(tmp_path / "one" / system, tmp_path / "two" / system) < 1e-10


@pytest.mark.slow  # 20 s of one core
def test_four_processes_equal_one_in_all_systems(tmp_path: Path) -> None:
    whole = functools.partial(train, float64=True, models=SYSTEMS, accumulate=1)
    processes.run(1, functools.partial(whole, tmp_path / "one"), log=tmp_path / "one.log")
    processes.run(4, functools.partial(whole, tmp_path / "four", "ddp"), log=tmp_path / "four.log")
    for system in SYSTEMS:
        expected, found = (losses(tmp_path / run / system) for run in ("one", "four"))
        assert found == pytest.approx(expected, abs=1e-10)
        assert furthest(tmp_path / "one" / system, tmp_path / "four" / system) < 1e-10


def compare(tmp_path: Path, engine: str) -> None:
    """Two processes with an engine, against one without."""
    processes.run(1, train, tmp_path / "one", log=tmp_path / "one.log")
    processes.run(2, train, tmp_path / "two", engine, log=tmp_path / "two.log")
    one, two = (tmp_path / name / "hicmae_base" for name in ("one", "two"))
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert furthest(one, two) < 1e-4


def test_divided_parameters_give_what_whole_ones_give(tmp_path: Path) -> None:
    compare(tmp_path, "fsdp")


@pytest.mark.slow  # 15 s of one core each
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_gives_what_one_process_gives(tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    compare(tmp_path, f"zero{stage}")


@pytest.mark.slow  # 30 s of one core each
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_a_run_left_and_continued_equals_an_undisturbed_one(tmp_path: Path, engine: str) -> None:
    for run, stop in (("whole", None), ("parts", 3), ("parts", 7), ("parts", None)):
        processes.run(2, functools.partial(train, tmp_path / run, engine, stop=stop), log=tmp_path / f"{run}.log")
    whole, parts = (tmp_path / run / "hicmae_base" for run in ("whole", "parts"))
    if engine in ("ddp", "fsdp"):
        same(whole, parts)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow  # 30 s of one core
def test_a_run_goes_on_with_another_engine_and_another_number_of_processes(tmp_path: Path) -> None:
    processes.run(1, train, tmp_path / "one", log=tmp_path / "one.log")
    for world, engine, stop in ((2, "fsdp", 3), (1, "single", 5), (3, "ddp", 7), (2, "fsdp", None)):
        processes.run(world, functools.partial(train, tmp_path / "many", engine, stop=stop), log=tmp_path / "many.log")
    one, many = (tmp_path / run / "hicmae_base" for run in ("one", "many"))
    assert losses(many) == pytest.approx(losses(one), abs=1e-5)
    assert furthest(one, many) < 1e-4


def test_a_loss_that_is_not_finite_on_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    processes.run(2, functools.partial(train, tmp_path, "ddp", poison=7), log=tmp_path / "log")  # after two to warm up
    lines = [json.loads(line) for line in (tmp_path / "hicmae_base" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["bad_steps"]] == [3]
    assert set(lines[2]["bad_keys"]) == {str(n) for n in range(12)}
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines if not line["bad_steps"])


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "no readable JSON"), ("[1]", "no JSON object"), ('{"optimizer": {}}', "optimizer is optim")],
)
def test_settings_of_deepspeed_come_from_a_file_that_says_only_what_is_its_own(
    tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "zero.json").write_text(content)
    engine = object.__new__(Zero)
    engine.loop = LoopConfig(deepspeed=str(tmp_path / "zero.json"))
    with pytest.raises(UserError, match=told):
        engine.settings()


def test_too_many_of_them_stop_all_processes_with_weights_intact(tmp_path: Path) -> None:
    ill = functools.partial(train, tmp_path, "ddp", poison=-1, max_bad_steps=3, accumulate=1)
    codes = processes.finish(processes.start(2, ill, log=tmp_path / "log"))
    assert codes == [1, 1]
    assert "not finite in 3 steps in a row" in (tmp_path / "log").read_text()
    weights, _ = checkpoint.read_weights(checkpoint.weights_file(tmp_path / "hicmae_base"))
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(
    ("option", "near"),
    [("recompute", 0.0), pytest.param("compile", 1e-5, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_blocks_computed_again_or_compiled_learn_the_same(tmp_path: Path, option: str, near: float) -> None:
    for name, chosen in (("plain", False), ("other", True)):  # a minute to compile, on one core
        # not in this process: the compiler warns of what it uses itself
        processes.run(1, functools.partial(train, tmp_path / name, **{option: chosen}), seconds=600)
    one, other = (tmp_path / name / "hicmae_base" for name in ("plain", "other"))
    assert losses(other) == pytest.approx(losses(one), abs=near, rel=0)
    assert furthest(one, other) <= 10 * near


def test_half_precision_with_a_scaler_trains_skips_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    ill = functools.partial(train, precision="fp16", poison=5)  # the third step's loss
    ill(tmp_path / "whole")
    for stop in (6, None):
        functools.partial(ill if stop else train, precision="fp16")(tmp_path / "parts", stop=stop)
    whole, parts = (tmp_path / run / "hicmae_base" for run in ("whole", "parts"))
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert {3} <= {line["step"] for line in lines if line["bad_steps"]} < set(range(1, 11))
    good = [line["loss"] for line in lines if not line["bad_steps"]]
    assert good[-1] < good[0]
    assert checkpoint.read(checkpoint.newest(parts) or parts).state["scaler"]["scale"] > 0
    weights, other = (checkpoint.read_weights(checkpoint.weights_file(run))[0] for run in (whole, parts))
    assert all(torch.equal(weights[key], other[key]) for key in weights)


@pytest.mark.slow  # 20 s of one core
def test_a_cut_part_of_deepspeed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    processes.run(2, functools.partial(train, tmp_path / "run", "zero1", stop=5), log=tmp_path / "log")
    run = tmp_path / "run" / "hicmae_base"
    last = checkpoint.newest(run)
    assert last is not None
    for part in sorted((last / "deepspeed").rglob("*.pt")):
        content = part.read_bytes()
        for tenth in range(10):
            part.write_bytes(content[: len(content) * tenth // 10])
            found = checkpoint.newest(run)
            assert found is not None and found.name < last.name
            assert f"{part.name} is missing or cut" in capsys.readouterr().err
        part.write_bytes(content)
    assert checkpoint.newest(run) == last
