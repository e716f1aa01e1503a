"""A small published file, the cache it goes to, and runs to publish."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hicmae import configs
from hicmae.models import create_model
from hicmae.models.convert import to_published

NAME = "hicmae_tiny_audio"  # the smallest whose keys and width tell what it is
SMALL: dict[str, Any] = {"depth": 1, "num_classes": 2}
LABELS = ("no", "yes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the network of this machine is allowed."""
    for name in ("HF_HUB_OFFLINE", "HICMAE_OFFLINE", "HICMAE_CARDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HICMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier as the published repositories write it."""
    torch.manual_seed(0)
    model = create_model(NAME, init_scale=100.0, **SMALL)
    path = tmp_path_factory.mktemp("published") / "checkpoint-99.pth"
    space = argparse.Namespace(model="x")
    torch.save({"model": to_published(model.state_dict()), "epoch": 99, "args": space}, path)
    return path


def write_card(path: Path, files: list[dict[str, Any]], base: str = "hicmae_base_audio", **changes: Any) -> Path:
    """The card `base` under the name of `path`, with files."""
    values = configs.read_yaml(configs.find(base, "models"))
    weights = {**values["weights"], "obtained": True, "files": files}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**values, "name": path.stem, "weights": weights, **changes}), encoding="utf-8")
    return path


def described(content: bytes, name: str, *mirrors: str, **more: Any) -> dict[str, Any]:
    """A file of a card."""
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "size": len(content), "sha256": digest, "mirrors": list(mirrors), **more}
