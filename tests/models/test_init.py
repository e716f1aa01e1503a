"""Fresh weights are drawn as the published code draws them, tensor by tensor."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from hicmae.models import create_model

SIZES = {"dim": 128, "depth": 2, "heads": 2, "frames": 8, "size": 32, "patch": (2, 8, 8)}


def assert_uniform(w: torch.Tensor, bound: float) -> None:
    assert float(w.abs().max()) == pytest.approx(bound, rel=0.02) and float(w.abs().max()) <= bound * (1 + 1e-6)


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


@pytest.mark.parametrize("name", ["videomae_base", "mae_dfer_base", "svfap_base"])
def test_a_classifier_is_drawn_normal_with_a_small_head(name: str) -> None:
    torch.manual_seed(0)
    m = create_model(name, **{**SIZES, "depth": 4})
    for key, layer in linears(m).items():
        std = 0.02 * (0.001 if key == "head" else 1.0)
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.1), key
        assert layer.bias is None or not layer.bias.any()
    assert not any(p.any() for key, p in m.named_parameters() if key.endswith(("q_bias", "v_bias")))
    assert_uniform(m.encoder.patch_embed.proj.weight.detach(), 1 / sqrt(3 * 2 * 8 * 8))  # PyTorch's own
    if name == "mae_dfer_base":
        tokens = m.encoder.lg_region_tokens.detach()
        assert float(tokens.std()) == pytest.approx(0.02, rel=0.2) and float(tokens.abs().max()) > 0.03
    if name == "svfap_base":
        assert_uniform(m.encoder.temporal_downsamples[0].weight.detach(), 1 / sqrt(2 * 128))


@pytest.mark.parametrize("name", ["videomae_base", "mae_dfer_base", "svfap_base"])
def test_an_autoencoder_is_drawn_xavier_uniform_with_fused_matrices_as_one(name: str) -> None:
    torch.manual_seed(0)
    p = create_model(name, "pretrain", **{**SIZES, "depth": 4}, decoder_dim=64)
    for key, layer in linears(p).items():
        out, inner = layer.weight.shape
        # the map to the decoder lies outside what the published code initialises
        assert_uniform(
            layer.weight.detach(), 1 / sqrt(inner) if key == "encoder_to_decoder" else sqrt(6 / (out + inner))
        )
        assert layer.bias is None or not layer.bias.any()
    tokens = [p.mask_token.detach()] + ([p.encoder.lg_region_tokens.detach()] if name == "mae_dfer_base" else [])
    for t in tokens:
        assert 0.018 < float(t.abs().max()) <= 0.02


def test_hicmae_draws_towers_normal_fusion_xavier_and_leaves_the_head_alone() -> None:
    torch.manual_seed(0)
    m = create_model("hicmae_base", **SIZES, audio_frames=64, mels=32, num_classes=6)
    for key, layer in linears(m).items():
        if key.startswith("encoder_fusion."):
            assert_uniform(layer.weight.detach(), sqrt(6 / sum(layer.weight.shape)))
        elif key != "head":
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1), key
    assert_uniform(m.head.weight.detach(), 1 / sqrt(512))
    assert m.video_layer_weights.tolist() == [0.5, 0.5]


def test_stochastic_depth_grows_linearly() -> None:
    m = create_model("mae_dfer_base", **{**SIZES, "depth": 4}, drop_path=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in m.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
