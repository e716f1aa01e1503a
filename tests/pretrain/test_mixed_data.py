"""Pretraining on two corpora mixed by weight, one of them on a server, with two clips per video; and on pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hicmae import configs
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.pretrain import PretrainConfig, run
from hicmae.runtime import checkpoint
from tests.datasets.test_remote import Server
from tests.media_files import video
from tests.pretrain.test_audio_visual import ARGS, RECIPE


def recipe(shards: list[str], out: Path, model: str, **data: Any) -> PretrainConfig:
    given = {**RECIPE, "model": model, "args": ARGS[model], "out": str(out)}
    return configs.load(PretrainConfig, {**given, "data": {**RECIPE["data"], "shards": shards, **data}})


def test_a_mixture_is_learnt_and_continued_bit_for_bit(tmp_path: Path) -> None:
    config = ShardConfig(size=32, per_shard=3)
    for name, count in (("large", 6), ("small", 2)):
        for n in range(count):
            video(tmp_path / name / f"{name}{n}.mp4", frames=12, seed=n)
        write_shards([tmp_path / name], tmp_path / f"{name}-shards", config=config, progress=False)
    server = Server(tmp_path / "small-shards")
    mixed = recipe(
        [str(tmp_path / "large-shards"), server.url], tmp_path / "run", "hicmae_tiny", weights=[1, 1], clips=2
    )
    try:
        last = run(mixed, show=False)
        first = checkpoint.read_weights(last / "weights.safetensors")[0]
        lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert len(lines) == 2 * (8 * 2 // 4) and all(line["contrastive"] >= 0 for line in lines)
        shutil.rmtree(last)
        again = checkpoint.read_weights(run(mixed, show=False) / "weights.safetensors")[0]
    finally:
        server.stop()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_pictures_among_videos_are_learnt(tmp_path: Path) -> None:
    for n in range(4):
        video(tmp_path / "data" / f"{n}.mp4", frames=8, seed=n)
        Image.new("RGB", (64, 48), (40 * n, 90, 200)).save(tmp_path / "data" / f"picture{n}.jpg")
    config = ShardConfig(size=32, images=True)
    write_shards([tmp_path / "data"], tmp_path / "shards", config=config, progress=False)
    run(recipe([str(tmp_path / "shards")], tmp_path / "run", "hicmae_tiny_video"), show=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["loss"] > 0 for line in lines)


def test_weights_must_be_as_many_as_shards(tmp_path: Path) -> None:
    with pytest.raises(configs.ConfigError, match=r"data\.weights has 1 entries for 2 in data\.shards"):
        recipe(["a", "b"], tmp_path, "hicmae_tiny", weights=[1.0])
