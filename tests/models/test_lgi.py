from __future__ import annotations

import itertools

import pytest
import torch

from hicmae.models import create_model
from hicmae.models.lgi import LGI

SMALL = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "frames": 4,
    "size": 16,
    "patch": (2, 4, 4),
}  # grid (2, 4, 4), regions (2, 2, 4)
SWITCHES = [
    dict(zip(("first", "second", "third", "share", "pool"), values, strict=True))
    for values in itertools.product(
        ("self", "cross"),
        (True, False),
        ("cross", "self", None),
        ("none", "first_third", "all"),
        ("region", "local", "all"),
    )
    if values[0] != "cross" or values[2] is not None or values[4] != "local"
]


def video(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def tube(hidden: list[int]) -> torch.Tensor:
    """A mask (1, 32) that hides the given places of the 4x4 frame at both time steps."""
    frame = torch.zeros(16, dtype=torch.bool)
    frame[hidden] = True
    return frame.repeat(2)[None]


def id_of(switches: dict[str, object]) -> str:
    return "-".join(str(value) for value in switches.values())


@pytest.mark.parametrize("switches", SWITCHES, ids=id_of)
def test_every_switch_trains_all_it_does_not_freeze_and_skips_only_what_nothing_reads(
    switches: dict[str, object],
) -> None:
    torch.manual_seed(0)
    m = create_model("mae_dfer_base", **SMALL, **switches, init_scale=1.0)
    logits = m(video())
    logits.square().sum().backward()
    frozen = {name for name, p in m.named_parameters() if not p.requires_grad}
    silent = {name for name, p in m.named_parameters() if p.grad is None or float(p.grad.abs().max()) <= 1e-12}
    assert silent == frozen
    m.encoder.blocks[-1].keep = "all"
    torch.testing.assert_close(m(video()), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("switches", [s for s in SWITCHES if s["pool"] == "region"], ids=id_of)
def test_every_switch_pretrains(switches: dict[str, object]) -> None:
    torch.manual_seed(0)
    switches = {key: value for key, value in switches.items() if key != "pool"}
    if switches["first"] == "cross" and switches["third"] is None:
        with pytest.raises(ValueError, match="never lets patches see each other"):
            create_model("mae_dfer_base", "pretrain", **SMALL, **switches)
        return
    p = create_model("mae_dfer_base", "pretrain", **SMALL, **switches, decoder_dim=16, decoder_heads=1)
    p(video(1), tube([0, 3, 4, 9, 10, 14])).video.square().sum().backward()
    frozen = {name for name, q in p.named_parameters() if not q.requires_grad}
    assert {name for name, q in p.named_parameters() if q.grad is None or float(q.grad.abs().max()) <= 1e-12} == frozen


def test_a_region_messenger_sees_its_region_only_in_the_first_attention() -> None:
    torch.manual_seed(0)
    encoder = LGI(**SMALL, second=False, third=None, pool="region")
    encoder.init_weights("finetune")
    a, b = video(1), video(1)
    b[..., 8:, :] += 1.0  # the lower half of the frame is region 1
    m, n = encoder(a).tokens, encoder(b).tokens
    assert torch.equal(m[:, 0], n[:, 0])
    assert not torch.allclose(m[:, 1], n[:, 1])


def test_a_mask_with_unequal_regions_is_refused_and_told_how_to_draw_one() -> None:
    p = create_model("mae_dfer_base", "pretrain", **SMALL)
    with pytest.raises(ValueError, match=r"2 regions of 2x2x4 patches; this one hides 4 to 8.*\(2, 4\)"):
        p(video(1), tube([0, 1, 8, 9, 10, 11]))
    assert p.mask_windows == (2, 4)


def test_regions_narrower_than_the_frame_keep_every_token_in_place() -> None:
    torch.manual_seed(0)
    encoder = LGI(**SMALL, region=(2, 2, 2), pool="local")
    encoder.init_weights("finetune")
    everything = torch.arange(32)[None]
    torch.testing.assert_close(encoder(video(1), everything).tokens, encoder(video(1)).tokens)


def test_the_published_decoder_order_pairs_other_positions_and_raster_is_the_default() -> None:
    torch.manual_seed(0)
    p = create_model("mae_dfer_base", "pretrain", **SMALL)
    mask = tube([0, 3, 4, 9, 10, 14])
    parts = p.parts("video", mask)
    raster = p.encoder(video(1), parts.visible).tokens
    p.set_decoder_order("published")
    region = p.encoder(video(1), parts.visible).tokens
    of_region = p.encoder.region_of[parts.visible[0]]
    assert torch.equal(region[0], raster[0][of_region.argsort(stable=True)])
    assert not torch.equal(region, raster)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"region": (2, 3, 4)}, r"3 tokens does not divide the 4 tokens along height; nearest are \[1, 2, 4\]"),
        ({"region": (2, 4)}, "one size per axis"),
        ({"pool": "mean"}, "pool='mean' is not one of 'region', 'local', 'all'"),
        ({"third": "none"}, "third='none' is not one of"),
        ({"size": 18}, r"18 is not a multiple of the patch size 4; nearest are \[16, 20\]"),
        ({"heads": 3}, "dim=32 is not a multiple of heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_valid_ones(args: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("mae_dfer_base", **{**SMALL, **args})
