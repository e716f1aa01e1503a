"""Clips whose JPEGs are decoded where the model is; the way is tried on a CPU, where a GPU takes the same one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from hicmae import pretrain
from hicmae.configs import ConfigError
from hicmae.datasets.index import Index
from hicmae.datasets.nvjpeg import OnDevice, coded_clip
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.sampling import pretrain_view
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.runtime.transfer import to_device


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_decoded_in_the_training_process_are_those_that_workers_decode(shards: Index, workers: int) -> None:
    usual = Stream(shards, pretrain_view(4, 1, 16), batch_size=4, seed=3)
    view = pretrain_view(4, 1, 16, look=partial(coded_clip, side=16, size=16))
    finish = OnDevice(16, torch.device("cpu"))
    late = Stream(shards, view, batch_size=4, seed=3, workers=workers, finish=finish)
    for ours, theirs in zip(late.epoch(0), usual.epoch(0), strict=True):
        assert ours[0]["key"] == theirs[0]["key"]
        assert torch.equal(ours[0]["video"], theirs[0]["video"])


def test_other_formats_are_refused(shards: Index, tmp_path: Path) -> None:
    raw = write_shards([str(shards.folder)], tmp_path, config=ShardConfig(format="raw"), progress=False)
    view = pretrain_view(4, 1, 16, look=partial(coded_clip, side=16, size=16))
    stream = Stream(raw, view, batch_size=4, finish=OnDevice(16, torch.device("cpu")))
    with pytest.raises(Exception, match=r"set data\.decode to cpu"):
        next(stream.epoch(0))


def test_a_run_without_a_gpu_says_so(shards: Index) -> None:
    data = pretrain.PretrainData(shards=[str(shards.folder)], size=16, decode="gpu")
    with pytest.raises(ConfigError, match=r"data\.decode: gpu needs a GPU"):
        pretrain.run(pretrain.PretrainConfig(model="mae_dfer_base", data=data, device="cpu"))


def test_a_batch_on_its_device_is_left_as_it_is() -> None:
    batch = {"video": torch.zeros(2, 3), "key": ["a", "b"]}
    moved = to_device(batch, torch.device("cpu"))
    assert moved["video"] is batch["video"] and moved["key"] == ["a", "b"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_reaches_a_gpu_whole() -> None:
    batch = {"video": torch.arange(6, dtype=torch.uint8).pin_memory(), "key": ["a"]}
    assert torch.equal(to_device(batch, torch.device("cuda"))["video"].cpu(), batch["video"])
