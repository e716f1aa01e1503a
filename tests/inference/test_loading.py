"""A model from its file, and what is said when that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hicmae.configs import UserError
from hicmae.inference import load_model
from hicmae.runtime import checkpoint
from tests.inference.conftest import save_autoencoder, save_classifier


def test_a_loaded_model_equals_the_saved_one_and_is_ready_for_use(classifier_file: Path) -> None:
    model, meta = load_model(classifier_file, device="cpu")
    state, _ = checkpoint.read_weights(classifier_file)
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert meta["labels"] == ["angry", "happy", "sad"]
    assert meta["file"] == str(classifier_file)


def test_a_run_folder_means_its_newest_checkpoint(classifier_file: Path, tmp_path: Path) -> None:
    state, meta = checkpoint.read_weights(classifier_file)
    for step in (5, 12):
        checkpoint.save(tmp_path, step, weights=state, meta=meta, state={}, ema=state)
    assert load_model(tmp_path, device="cpu").meta["step"] == 12
    assert load_model(tmp_path / "checkpoints" / "step-00000005", device="cpu").meta["step"] == 5
    assert load_model(tmp_path, device="cpu", ema=True).meta["ema"]


def test_each_stage_is_told_from_the_other_with_what_to_do(classifier_file: Path, autoencoder_file: Path) -> None:
    with pytest.raises(UserError, match="fine-tune it on labelled clips first") as error:
        load_model(autoencoder_file, stage="finetune")
    assert str(autoencoder_file) in str(error.value)
    with pytest.raises(UserError, match="name the pretraining run it came from"):
        load_model(classifier_file, stage="pretrain")


def test_a_source_that_is_not_there_or_not_ours_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, str(foreign))
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    (tmp_path / "empty").mkdir()
    for name, words in {
        "gone": "no such",
        "foreign.safetensors": "does not say which model",
        "junk.safetensors": "not a readable",
        "empty": "holds no complete checkpoint",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            load_model(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize("change", [{"name": "no_such_model"}, {"args": {"depth": 2}}, {"args": {"no_such": 1}}])
def test_a_file_that_does_not_fit_its_description_is_refused(change: dict, tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "weights.safetensors", **change)
    with pytest.raises(UserError, match=r"weights\.safetensors: does not fit this version's"):
        load_model(path)


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_said_so(device: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"device {device}"):
        load_model(save_autoencoder(tmp_path / "weights.safetensors"), device=device)
