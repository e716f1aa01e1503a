"""The published systems' recorded numbers: same weights in, same numbers out."""

from __future__ import annotations

import pytest
import torch

from hicmae.models import create_model
from tests import fixtures_io
from tests.models import recorded

DEPTH2 = {"depth": 2, "pool": "region"}
CLASSIFIERS = {
    "mae_dfer_finetune_base_region": ("mae_dfer_base", {}),
    "mae_dfer_finetune_depth2_no_second": ("mae_dfer_base", {**DEPTH2, "second": False}),
    "mae_dfer_finetune_depth2_region2210": ("mae_dfer_base", {**DEPTH2, "region": (2, 2, 10)}),
    "mae_dfer_finetune_depth2_share_first_third": ("mae_dfer_base", {**DEPTH2, "share": "first_third"}),
    "videomae_finetune_base160": ("videomae_base", {}),
}
AUTOENCODERS = {
    "mae_dfer_pretrain_base": ("mae_dfer_base", {"decoder_order": "published"}, True),
    "videomae_pretrain_base160": ("videomae_base", {}, False),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_with_published_weights_gives_the_recorded_numbers(name: str) -> None:
    fixture = fixtures_io.load(name)
    model, args = CLASSIFIERS[name]
    m = create_model(model, num_classes=7, drop_path=0.1, **args).eval()
    assert sum(p.numel() for p in m.parameters()) == fixture["num_params"]
    recorded.load_filled(m, fixture)
    for dtype in (torch.float32, torch.float64):
        m.to(dtype)
        video = fixtures_io.video().to(dtype)
        numbers = recorded.of(fixture, dtype)
        # LGI's last block skips what nothing reads; computed in full (float32), it equals the recorded tensor too
        last = m.encoder.blocks[-1]
        last.keep = "all" if dtype == torch.float32 else getattr(m.encoder, "pool", "all")
        with torch.no_grad():
            logits, seen = recorded.run(m, numbers, lambda video=video: m(video))
        assert fixtures_io.difference(numbers["output"], logits) <= recorded.TENSORS[dtype]
        tensors = {key: outputs[0] for key, outputs in seen.items()}
        stats = {
            key: value
            for key, value in numbers["intermediates"].items()
            if last.keep == "all" or tensors[key].shape[1] > 1
        }
        assert len(numbers["intermediates"]) - len(stats) == (last.keep == "region")
        recorded.assert_tensors(stats, tensors, recorded.TENSORS[dtype])
    expected = torch.tensor(fixture["float64"]["output"]["values"], dtype=torch.float64).view_as(logits)
    assert fixtures_io.relative(logits, expected) <= recorded.NUMBERS[torch.float64]


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_masked_autoencoder_with_published_weights_gives_the_recorded_numbers(name: str) -> None:
    fixture = fixtures_io.load(name)
    model, args, motion = AUTOENCODERS[name]
    m = create_model(model, "pretrain", **args)
    assert sum(p.numel() for p in m.parameters()) == fixture["num_params"]
    recorded.load_filled(m, fixture)
    mask = fixtures_io.mask(fixture, "video")
    for dtype in (torch.float32, torch.float64):
        m.to(dtype).zero_grad()
        video = fixtures_io.video().to(dtype)
        numbers = recorded.of(fixture, dtype)
        out, seen = recorded.run(m, numbers, lambda video=video: m(video, mask))
        target = recorded.video_target(video, mask, motion)
        limit = recorded.TENSORS[dtype]
        assert fixtures_io.difference(numbers["outputs"]["video"], out.video) <= limit
        assert fixtures_io.difference(numbers["target_video"], target) <= limit
        tensors = {key: getattr(outputs[0], "tokens", outputs[0]) for key, outputs in seen.items()}
        recorded.assert_tensors(numbers["intermediates"], tensors, limit)
        loss = (out.video - target).square().mean()
        assert fixtures_io.relative(loss, numbers["losses"]["total"]) <= recorded.NUMBERS[dtype]
        loss.backward()
        grads = {
            f"encoder.{k}" if not hasattr(m, k.split(".")[0]) else k: v
            for k, v in numbers["grad_l2_norm_per_param"].items()
        }
        recorded.assert_gradients(m, grads)
