"""The command line: help that reads well, mistakes told in one sentence, exit codes that mean something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hicmae.cli import main

COMMANDS = [
    "demo",
    "shard",
    "check",
    "pretrain",
    "finetune",
    "evaluate",
    "benchmark",
    "predict",
    "reconstruct",
    "serve",
    "profile",
    "zoo",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert out.startswith(f"usage: hicmae {command}")


def test_the_help_names_every_command_and_needs_no_torch() -> None:
    code = (
        "import sys; from hicmae.cli import main\ntry:\n main(['--help'])\nfinally:\n sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"    {command} " in done.stdout or f"    {command}\n" in done.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "nowhere"], "nowhere: neither a file nor a shipped pretrain recipe"),
        (["pretrain", "mae_dfer_small", "--optim.lrr", "3"], "unknown option --optim.lrr; did you mean --optim.lr"),
        (["pretrain", "mae_dfer_small"], "data.shards is empty"),
        (["pretrain", "mae_dfer_small", "--data.shards", "nowhere"], "nowhere"),
        (["pretrain", "mae_dfer_small", "--args.depht", "3", "--data.shards", "x"], "depht"),
        (["finetune", "nowhere"], "nowhere: neither a file nor a shipped finetune recipe"),
        (["evaluate", "nowhere"], "nowhere"),
        (["predict", "nowhere.mp4", "--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["reconstruct", "nowhere.mp4", "--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["check", "nowhere"], "nowhere"),
        (["shard", "nowhere", "--out", "out"], "nowhere"),
        (["shard", "nowhere", "--out", "out", "--sise", "3"], "unknown option --sise; did you mean --size"),
        (["profile", "hicmea_base"], "hicmea_base"),
        (["profile", "hicmea_base", "--compare"], "did you mean 'hicmae_base'"),
        (["profile", "--compare", "--depth", "3"], "--depth: models are compared as they were published"),
        (["zoo", "info", "nowhere"], "nowhere: neither a file nor a shipped models recipe"),
        (["check", ".", "--frobnicate"], "hicmae check has no option --frobnicate"),
        (["serve", "--checkpoint", "nowhere", "--port", "0"], "nowhere"),
        (["serve", "--checkpoint", "x", "--host", "0.0.0.0"], "--host 0.0.0.0: other machines would reach this page"),
        (["demo", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")


def test_options_stand_before_or_after_the_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "--size", "64", "--out", str(tmp_path / "o"), str(tmp_path / "gone.mp4")]) == 2
    assert "gone.mp4" in capsys.readouterr().err


def test_a_dry_run_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "mae_dfer_voxceleb2", "--dry-run", "--loop.epochs=3"]) == 0
    out = capsys.readouterr().out
    assert "model: mae_dfer_base" in out
    assert "epochs: 3" in out


def test_cards_are_listed_without_torch() -> None:
    code = "import sys; from hicmae.cli import main\nmain(['zoo', 'list'])\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "mae_dfer_base" in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m hicmae profile --list | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.stderr == ""
