"""The published systems' recorded numbers: same weights in, same numbers out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

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
    "svfap_finetune_base": ("svfap_base", {}),
}
AUTOENCODERS = {
    "mae_dfer_pretrain_base": ("mae_dfer_base", {"decoder_order": "published"}, True),
    "videomae_pretrain_base160": ("videomae_base", {}, False),
    "svfap_pretrain_dim512_paper": ("svfap_base", {}, False),
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


def test_hicmae_with_published_weights_gives_the_recorded_numbers() -> None:
    fixture = fixtures_io.load("hicmae_finetune_dim512")
    m = create_model("hicmae_base", num_classes=6, drop_path=0.1).eval()
    assert sum(p.numel() for p in m.parameters()) == fixture["num_params"]
    recorded.load_filled(m, fixture)
    for dtype in (torch.float32, torch.float64):
        m.to(dtype)
        video, audio = fixtures_io.video().to(dtype), fixtures_io.audio().to(dtype)
        numbers = recorded.of(fixture, dtype)
        with torch.no_grad():
            logits, seen = recorded.run(m, numbers, lambda v=video, a=audio: m(v, a))
        tensors = {key: outputs[0] for key, outputs in seen.items() if not key.startswith("encoder_fusion")}
        tensors |= {key: outputs[0] for key, outputs in seen.items() if key.startswith("encoder_fusion.")}
        tensors |= {f"encoder_fusion#{i}": fused for i, fused in enumerate(seen["encoder_fusion"][0])}
        for tower in ("encoder", "encoder_audio"):  # recorded: all levels, stacked
            tensors[tower] = torch.stack(tensors[tower].levels, dim=2)
        recorded.assert_tensors(numbers["intermediates"], tensors, recorded.TENSORS[dtype])
        assert fixtures_io.difference(numbers["output"], logits) <= recorded.TENSORS[dtype]
        if dtype == torch.float32:
            assert fixtures_io.difference(fixture["penultimate_feature"], tensors["fc_norm"]) <= recorded.TENSORS[dtype]
    expected = torch.tensor(fixture["float64"]["output"]["values"], dtype=torch.float64).view_as(logits)
    assert fixtures_io.relative(logits, expected) <= recorded.NUMBERS[torch.float64]


def test_hicmae_pretraining_with_published_weights_gives_the_recorded_numbers() -> None:
    fixture = fixtures_io.load("hicmae_pretrain_dim512")
    m = create_model("hicmae_base", "pretrain")
    for decoder in (m.decoder, m.decoder_audio):
        decoder.keep = "all"  # what the recorded last block holds, and the library does not compute
    assert sum(p.numel() for p in m.parameters()) == fixture["num_params"]
    recorded.load_filled(m, fixture)
    video_mask, audio_mask = (fixtures_io.mask(fixture, modality) for modality in ("video", "audio"))
    for dtype in (torch.float32, torch.float64):
        m.to(dtype).zero_grad()
        video, audio = fixtures_io.video().to(dtype), fixtures_io.audio().to(dtype)
        numbers = recorded.of(fixture, dtype)
        limit = recorded.TENSORS[dtype]
        out, seen = recorded.run(m, numbers, lambda v=video, a=audio: m(v, a, video_mask, audio_mask))
        tensors: dict[str, torch.Tensor] = {}
        for key, outputs in seen.items():
            if key in ("encoder", "encoder_audio"):
                outputs = [[outputs[0].tokens, *outputs[0].levels]]
            if isinstance(outputs[0], (list, tuple)):
                tensors |= {f"{key}#{i}": part for i, part in enumerate(outputs[0])}
            else:
                tensors |= {f"{key}@call{i}" if i else key: part for i, part in enumerate(outputs)}
        recorded.assert_tensors(numbers["intermediates"], tensors, limit)
        targets = {
            "video": recorded.video_target(video, video_mask, True),
            "audio": recorded.audio_target(audio, audio_mask),
        }
        losses = {"contrastive": torch.zeros((), dtype=dtype)}
        for modality, target in targets.items():
            assert fixtures_io.difference(numbers["outputs"][modality], getattr(out, modality)) <= limit
            assert fixtures_io.difference(numbers[f"target_{modality}"], target) <= limit
            losses[modality] = (getattr(out, modality) - target).square().mean()
        for level, (v, a) in enumerate(out.levels):
            logits = F.normalize(v, dim=1) @ F.normalize(a, dim=1).T / 0.07
            assert fixtures_io.relative(logits, numbers["logits_per_video"][level]) <= recorded.NUMBERS[dtype]
            diagonal = torch.arange(2)
            losses["contrastive"] += 0.5 * (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal))
        losses["total"] = losses["video"] + losses["audio"] + 0.0025 * losses["contrastive"]
        for name, loss in losses.items():
            assert fixtures_io.relative(loss, numbers["losses"][name]) <= recorded.NUMBERS[dtype]
        losses["total"].backward()
        recorded.assert_gradients(m, numbers["grad_l2_norm_per_param"])
