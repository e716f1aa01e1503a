from __future__ import annotations

from functools import cache

import pytest
import torch

from hicmae.models.profile import Profile, profile, table
from tests import fixtures_io
from tests.models import small

FORMS = {
    "hicmae_finetune_dim256": ("hicmae_tiny", "finetune", {}),
    "hicmae_finetune_dim384": ("hicmae_small", "finetune", {}),
    "hicmae_finetune_dim512": ("hicmae_base", "finetune", {}),
    "hicmae_pretrain_dim384": ("hicmae_small", "pretrain", {}),
    "hicmae_pretrain_dim512": ("hicmae_base", "pretrain", {}),
    "mae_dfer_finetune_base_region": ("mae_dfer_base", "finetune", {}),
    "mae_dfer_finetune_depth2_no_second": ("mae_dfer_base", "finetune", {"depth": 2, "second": False}),
    "mae_dfer_finetune_depth2_region2210": ("mae_dfer_base", "finetune", {"depth": 2, "region": (2, 2, 10)}),
    "mae_dfer_finetune_depth2_share_first_third": ("mae_dfer_base", "finetune", {"depth": 2, "share": "first_third"}),
    "mae_dfer_pretrain_base": ("mae_dfer_base", "pretrain", {}),
    "svfap_finetune_base": ("svfap_base", "finetune", {}),
    "svfap_pretrain_dim512_paper": ("svfap_base", "pretrain", {}),
    "videomae_finetune_base160": ("videomae_base", "finetune", {}),
    "videomae_finetune_dim512_depth16_joint": ("videomae_base", "finetune", {"dim": 512, "depth": 16, "heads": 8}),
    "videomae_pretrain_base160": ("videomae_base", "pretrain", {}),
}


@cache
def cost(name: str, stage: str, args: tuple[tuple[str, object], ...]) -> Profile:
    """A profile at full size, counted once for all tests."""
    return profile(name, stage, **dict(args))  # type: ignore[arg-type]


def blocks(depth: int, tokens: int, dim: int) -> int:
    """Multiply-accumulates of plain blocks: projections and MLP 12 C² per token, attention 2 N C per token."""
    return depth * tokens * (12 * dim * dim + 2 * tokens * dim)


def cross_self(tokens: int, memory: int, dim: int) -> int:
    """A cross-self block: 14 C² per token, 2 C² per memory token, both attentions."""
    return dim * dim * (14 * tokens + 2 * memory) + 2 * tokens * dim * (memory + tokens)


def lgi(depth: int, regions: int, local: int, dim: int) -> int:
    """LGI blocks: in regions of 1 + S tokens, between messengers, from local tokens to messengers, MLP."""
    every, patches = regions * (1 + local), regions * local
    inside = every * (4 * dim * dim + 2 * (1 + local) * dim)
    between = regions * (4 * dim * dim + 2 * regions * dim)
    back = patches * (2 * dim * dim + 2 * regions * dim) + regions * 2 * dim * dim
    return depth * (inside + between + back + every * 8 * dim * dim)


@pytest.mark.parametrize("row", FORMS)
def test_parameters_and_costs_of_the_published_computation_are_the_recorded_ones(row: str) -> None:
    name, stage, args = FORMS[row]
    recorded = next(entry for entry in fixtures_io.load("params_flops") if entry["fixture"] == row)
    p = cost(name, stage, tuple(args.items()))
    assert p.params == recorded["num_params"]
    assert p.macs == pytest.approx(recorded["fvcore_total"], rel=1e-3)
    assert p.flops == pytest.approx(recorded["torch_flop_counter_total"], rel=1e-3)
    assert p.executed_macs <= p.macs and (p.executed_macs < p.macs) == (
        stage == "pretrain" or name[:5] in ("mae_d", "svfap")
    )
    assert 2 * p.executed_macs == pytest.approx(p.executed_flops, rel=5e-3)  # but for the norms, which torch leaves out


def test_a_closed_form_agrees() -> None:
    patch = 1536
    expected = {
        ("videomae_base", "finetune"): 800 * patch * 768 + blocks(12, 800, 768) + 768 * 7,
        ("mae_dfer_base", "finetune"): 800 * patch * 512 + lgi(16, 8, 100, 512) + 512 * 7,
        ("mae_dfer_base", "pretrain"): 800 * patch * 512
        + lgi(16, 8, 10, 512)
        + 80 * 512 * 384
        + blocks(4, 800, 384)
        + 720 * 384 * 1536,
        ("hicmae_base", "finetune"): 800 * patch * 512
        + 128 * 256 * 512
        + blocks(10, 800, 512)
        + blocks(10, 128, 512)
        + 2 * (cross_self(800, 128, 512) + cross_self(128, 800, 512))
        + 2048 * 6,
    }
    for (name, stage), macs in expected.items():
        p = cost(name, stage, ())
        assert p.flops == pytest.approx(2 * macs, rel=1e-4), (name, stage)


@pytest.mark.parametrize(
    ("args", "millions", "giga"),
    [
        ({"temporal_pyramid": False, "bottleneck": False}, 76.4, 76.9),
        ({"bottleneck": False}, 77.5, 53.1),
        # the paper's number is reached with as many bottleneck tokens in all as with the pyramid: 32, then 16
        ({"temporal_pyramid": False, "tokens": (4, 2)}, 76.6, 49.9),
        ({"downsample": "avg"}, 76.6, 43.3),
        ({"downsample": "max"}, 76.6, 43.3),
    ],
)
def test_svfap_ablations_cost_what_the_paper_says(args: dict[str, object], millions: float, giga: float) -> None:
    p = profile("svfap_base", **args)
    assert (round(p.params / 1e6, 1), round(p.macs / 1e9, 1)) == (millions, giga)


@pytest.mark.parametrize(
    ("args", "giga"),
    [
        *(({"mask": mask}, giga) for mask, giga in ((0.75, 18.4), (0.85, 14.7), (0.9, 12.9), (0.95, 11.2))),
        *(({"tokens": tokens}, giga) for tokens, giga in ((4, 12.6), (16, 13.7))),
    ],
)
def test_svfap_pretraining_costs_what_the_paper_says(args: dict[str, object], giga: float) -> None:
    assert round(profile("svfap_base", "pretrain", **args).macs / 1e9, 1) == giga


def test_small_svfap_costs_what_the_paper_says() -> None:
    p = profile("svfap_small")
    assert p.params == 29_678_615 and round(p.macs / 1e9, 2) == 18.07


def test_parts_add_up_and_the_model_is_left_alone() -> None:
    m = small.build("mae_dfer_base")
    p = profile(m)
    assert next(m.parameters()).device == torch.device("cpu") and m.encoder.blocks[-1].keep == "region"
    top = {cost.name: cost for cost in p.modules if "." not in cost.name}
    assert set(top) == {"encoder", "fc_norm", "head"}
    assert sum(cost.params for cost in top.values()) == p.params > p.trainable
    inside = [cost for cost in p.modules if cost.name.startswith("encoder.")]
    assert sum(cost.macs for cost in inside) == pytest.approx(top["encoder"].macs)
    assert sum(cost.macs for cost in top.values()) == pytest.approx(p.executed_macs)


def test_the_table_names_both_counts_of_every_model() -> None:
    profiles = [profile(small.build(name)) for name in ("videomae_base", "hicmae_base")]
    text = table(profiles)
    header, *rows = text.splitlines()
    assert header.split() == ["model", "form", "parameters", "MACs", "executed", "FLOPs", "executed"]
    assert [row.split()[0] for row in rows] == ["videomae_base", "hicmae_base"]
    assert table(profiles, published={"hicmae_base": "81 M, 46 G"}).splitlines()[2].endswith("81 M, 46 G")
    assert "  encoder.blocks" in str(profile(small.build("videomae_base")))
