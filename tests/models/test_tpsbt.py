from __future__ import annotations

import pytest
import torch

from hicmae.models.tpsbt import TPSBT
from tests.models import small

ABLATIONS = [
    {"temporal_pyramid": False},
    {"bottleneck": False},
    {"temporal_pyramid": False, "bottleneck": False},
    {"downsample": "avg"},
    {"downsample": "max"},
    {"tokens": (3, 1)},
]


@pytest.mark.parametrize("switches", ABLATIONS, ids=str)
@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_every_ablation_trains_in_both_forms(switches: dict[str, object], stage: str) -> None:
    m, tokens = small.build("svfap_base", stage, **switches), switches.get("tokens")
    tokens = tokens if isinstance(tokens, tuple) else (tokens,)
    (out,) = small.run(m, stage, small.inputs("svfap_base"), small.masks("svfap_base"))
    (out * torch.randn_like(out)).sum().backward()
    silent = {key for key, p in m.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-12}
    # a softmax over the one token of a memory is 1, whatever asks
    moot = ("cross_attn.q_bias", "cross_attn.q.weight", "cross_norm1.weight", "cross_norm1.bias")
    one = {f"{prefix}blocks.4.{key}" for prefix in ("", "encoder.") for key in moot} if 1 in tokens else set()
    assert {key for key in silent if not key.endswith("mlp.fc2.bias")} - one == set()


def test_without_bottleneck_four_plain_blocks_stand_for_three_cross_self_blocks() -> None:
    with torch.device("meta"):
        plain = TPSBT(bottleneck=False, temporal_pyramid=False)
        full = TPSBT(temporal_pyramid=False)
    assert plain.depth == 24 and full.depth == 21
    count = {m: sum(p.numel() for p in m.blocks.parameters()) for m in (plain, full)}
    assert count[plain] == pytest.approx(count[full], rel=1e-3)


def test_a_coarser_stage_stands_for_the_time_steps_it_came_from() -> None:
    torch.manual_seed(0)
    encoder = TPSBT(dim=32, depth=3, heads=2, frames=8, size=16, patch=(2, 4, 4), multiscale=True, downsample="avg")
    encoder.init_weights("pretrain")
    scales = []
    encoder._stage = lambda x, stage, blocks: scales.append(x) or [x.flatten(1, 2)]  # stages that change nothing
    video = torch.randn(1, 3, 8, 16, 16)
    total = encoder(video).tokens.unflatten(1, (4, -1))
    fine, half, quarter = scales
    for t in range(4):
        torch.testing.assert_close(total[:, t], fine[:, t] + half[:, t // 2] + quarter[:, t // 4])


def test_a_mask_that_is_no_tube_is_refused() -> None:
    p = small.build("svfap_base", "pretrain")
    (mask,) = small.masks("svfap_base")
    mask[0, :16] = mask[0, :16].flip(0)
    with pytest.raises(ValueError, match="tube mask"):
        p(*small.inputs("svfap_base"), mask)


def test_frames_that_cannot_be_halved_are_named_with_what_can() -> None:
    with pytest.raises(ValueError, match="frames must be a multiple of 8"):
        TPSBT(frames=12)
    with pytest.raises(ValueError, match="every stage needs a block"):
        TPSBT(depth=2)
    with pytest.raises(ValueError, match="one for each of the 2 later stages"):
        TPSBT(tokens=(8, 8, 8))


def test_down_sampling_learns_at_the_rate_of_its_depth() -> None:
    with torch.device("meta"):
        encoder = TPSBT()
    assert encoder.layer_of("temporal_downsamples.0.weight") == encoder.layer_of("blocks.12.norm1.weight") == 13
    assert encoder.layer_of("spatial_downsamples.1.norm.bias") == encoder.layer_of("blocks.18.norm1.weight") == 19
    assert encoder.layer_of("temporal_downsamples.0.weight", published=True) is None


def test_halving_time_by_a_linear_map_equals_the_convolution() -> None:
    encoder = small.build("svfap_base").encoder
    x = torch.randn(2, 4, 16, 32)
    direct = encoder._halve(x, 0)
    with encoder.temporal_downsamples[0].register_forward_pre_hook(lambda *_: None):
        torch.testing.assert_close(encoder._halve(x, 0), direct)
