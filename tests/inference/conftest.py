"""Two small models with random weights, saved as runs save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.inference import Loaded, load_model
from hicmae.models.factory import create_model, save_weights

SHAPE: dict[str, Any] = {"frames": 4, "size": 32, "patch": [2, 8, 8], "dim": 32, "depth": 1, "heads": 2}
PREPROCESSING = {"crop": {"kind": "centre"}, "size": 48, "max_fps": 30.0, "frames": 4, "stride": 3}
LABELS = ["angry", "happy", "sad"]


def save_classifier(path: Path, **meta: Any) -> Path:
    torch.manual_seed(0)
    # a head of full size, so that different frames give visibly different probabilities
    model = create_model("videomae_base", num_classes=3, init_scale=100.0, **SHAPE)
    save_weights(path, model, {"labels": LABELS, "preprocessing": PREPROCESSING, "step": 7, **meta})
    return path


def save_autoencoder(path: Path, name: str = "mae_dfer_base", **meta: Any) -> Path:
    torch.manual_seed(0)
    shape = SHAPE | ({"region": [2, 2, 4]} if name.startswith("mae_dfer") else {})
    model = create_model(name, stage="pretrain", decoder_dim=16, decoder_depth=1, decoder_heads=2, **shape)
    config = {"target": {"difference": 2}, "mask": {"video": 0.75}}
    save_weights(path, model, {"preprocessing": PREPROCESSING, "step": 1234, "config": config, **meta})
    return path


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("finetuned") / "weights.safetensors")


@pytest.fixture(scope="session")
def autoencoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_autoencoder(tmp_path_factory.mktemp("pretrained") / "weights.safetensors")


@pytest.fixture(scope="session")
def classifier(classifier_file: Path) -> Loaded:
    return load_model(classifier_file, stage="finetune", device="cpu")


@pytest.fixture(scope="session")
def autoencoder(autoencoder_file: Path) -> Loaded:
    return load_model(autoencoder_file, stage="pretrain", device="cpu")
