"""Checkpoints: whole or not at all, verified before they are read."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest
import torch

from hicmae.runtime import checkpoint
from hicmae.runtime.checkpoint import CheckpointError


def save(run: Path, step: int, value: float = 1.0, keep: int = 3) -> Path:
    weights = {"w": torch.full((64, 64), value)}
    return checkpoint.save(run, step, weights=weights, meta={"name": "m"}, state={"step": step}, keep=keep)


def test_weights_and_their_metadata_come_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 3, 2.0)
    weights, meta = checkpoint.read_weights(checkpoint.weights_file(tmp_path))
    assert torch.equal(weights["w"], torch.full((64, 64), 2.0))
    assert meta == {"name": "m", "step": 3}
    assert checkpoint.read(folder).state == {"step": 3}


def test_two_names_for_one_storage_are_saved(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    checkpoint.save_weights(tmp_path / "w.safetensors", {"a": shared, "b": shared}, {})
    weights, _ = checkpoint.read_weights(tmp_path / "w.safetensors")
    assert torch.equal(weights["a"], weights["b"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
def test_a_checkpoint_cut_at_any_tenth_is_passed_over(
    tmp_path: Path, name: str, tenth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    content = (bad / name).read_bytes()
    (bad / name).write_bytes(content[: len(content) * tenth // 10])
    assert checkpoint.newest(tmp_path) == good
    assert f"step-00000002/{name} " in capsys.readouterr().err


def test_a_flipped_bit_is_passed_over(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    content = bytearray((bad / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (bad / "weights.safetensors").write_bytes(bytes(content))
    assert checkpoint.newest(tmp_path) == good


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written.*earlier checkpoints are untouched"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoint.newest(tmp_path) == good
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [good.name]


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint, run folder or weights file"):
        checkpoint.weights_file(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        checkpoint.weights_file(tmp_path)
    (tmp_path / "w.safetensors").write_text(json.dumps({"not": "safetensors"}))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        checkpoint.read_weights(tmp_path / "w.safetensors")
