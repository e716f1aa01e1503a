"""Faster ways give the same numbers: folded projections, what a last block skips, attention by the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from hicmae.models import create_model
from hicmae.models.blocks import Attention, path
from hicmae.models.decoder import Decoder
from hicmae.models.lgi import LGIBlock
from hicmae.runtime.engines import blocks_of
from tests import fixtures_io
from tests.models import recorded, small
from tests.models.test_published import AUTOENCODERS, CLASSIFIERS


def set_ways(model: nn.Module, fast: bool) -> nn.Module:
    """Fold and skip, or compute everything one by one."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fold = fast
        if isinstance(module, Decoder):
            module.keep = "hidden" if fast else "all"
        if isinstance(module, LGIBlock) and not fast:
            module.keep = "all"
    return model


def of_attention(attention: Attention, inputs: list[Tensor]) -> list[Tensor]:
    """Output and every gradient."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    attention.zero_grad()
    out = attention(*inputs)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), *(x.grad for x in inputs), *(p.grad for p in attention.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize(("n", "m", "dim", "heads", "memory_dim"), [(160, 2, 32, 2, None), (90, 1, 24, 4, 16)])
def test_folded_attention_equals_the_unfolded_with_all_gradients(
    n: int, m: int, dim: int, heads: int, memory_dim: int | None
) -> None:
    torch.manual_seed(0)
    attention = Attention(dim, heads, memory_dim=memory_dim).double()
    for bias in (attention.q_bias, attention.v_bias):
        nn.init.normal_(bias)
    inputs = [torch.randn(2, n, dim).double(), torch.randn(2, m, memory_dim or dim).double()]
    assert attention._folds(n, m)
    folded = of_attention(attention, inputs)
    attention.fold = False
    for got, expected in zip(folded, of_attention(attention, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_folding_is_taken_where_it_saves_work_and_nothing_stands_in_the_place_of_a_layer() -> None:
    lgi, other = Attention(512, 8), Attention(512, 8)
    assert lgi._folds(800, 8) and lgi._folds(80, 8)  # MAE-DFER, fine-tuning and pretraining
    assert not lgi._folds(20, 16) and not lgi._folds(800, 128) and not lgi._folds(8, 800)  # SVFAP, HiCMAE
    called: list[str] = []
    other.q.register_forward_hook(lambda *_: called.append("q"))
    x, memory = torch.randn(1, 800, 512), torch.randn(1, 8, 512)
    assert not other._folds(800, 8)
    other.load_state_dict(lgi.state_dict())
    torch.testing.assert_close(other(x, memory), lgi(x, memory), rtol=1e-4, atol=1e-5)
    assert called == ["q"]

    class Adapter(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    lgi.proj = Adapter(512, 512)
    assert not lgi._folds(800, 8)


@pytest.mark.parametrize("name", ["mae_dfer_base", "videomae_base", "svfap_base", "hicmae_base"])
def test_what_the_last_block_skips_changes_neither_predictions_nor_gradients(name: str) -> None:
    found = []
    for fast in (True, False):
        m = set_ways(small.build(name, "pretrain").double(), fast)
        out = small.run(m, "pretrain", [x.double() for x in small.inputs(name)], small.masks(name))  # type: ignore[arg-type]
        torch.stack([x.square().mean() for x in out]).sum().backward()
        found.append([*out, *(p.grad for p in m.parameters() if p.grad is not None)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


FAST = [name for name in CLASSIFIERS if "depth2" in name]
LONG = [name for name in CLASSIFIERS if "depth2" not in name]


@pytest.mark.parametrize("way", ["folded", "unfolded", "bf16"])
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
@torch.no_grad()
def test_every_way_gives_a_classifiers_recorded_numbers(name: str, way: str) -> None:
    fixture = fixtures_io.load(name)
    model, args = CLASSIFIERS[name]
    m = set_ways(create_model(model, num_classes=7, **args).eval(), way != "unfolded")
    recorded.load_filled(m, fixture)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
        logits = m(fixtures_io.video()).float()
    assert fixtures_io.difference(fixture["output"], logits) <= TOLERANCE[way]


@pytest.mark.parametrize("way", ["unfolded", "bf16"])
@pytest.mark.parametrize(
    "name", ["mae_dfer_pretrain_base", pytest.param("svfap_pretrain_dim512_paper", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_every_way_gives_an_autoencoders_recorded_numbers(name: str, way: str) -> None:
    fixture = fixtures_io.load(name)
    model, args, _ = AUTOENCODERS[name]
    m = set_ways(create_model(model, "pretrain", **args), way != "unfolded")
    recorded.load_filled(m, fixture)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
        predicted = m(fixtures_io.video(), fixtures_io.mask(fixture, "video")).video.float()  # type: ignore[union-attr]
    assert fixtures_io.difference(fixture["outputs"]["video"], predicted) <= TOLERANCE[way]


TOLERANCE: dict[str, Any] = {"folded": 1e-5, "unfolded": 1e-5, "bf16": 0.05}
"""In recorded standard deviations; bf16 keeps 8 bits of every value."""


def test_attention_in_bf16_on_a_cpu_is_the_fused_kernels_to_its_precision() -> None:
    torch.manual_seed(0)
    attention = Attention(64, 4, fused=True)
    x = torch.randn(2, 40, 64)
    with torch.autocast("cpu", torch.bfloat16):
        q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in attention.qkv(x).chunk(3, dim=-1))
        fused = attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        own = attention(x)
    torch.testing.assert_close(own, fused, rtol=0.02, atol=0.01)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own
@pytest.mark.parametrize("name", ["mae_dfer_base", "svfap_base", "videomae_base"])
def test_blocks_of_many_drop_path_rates_share_compiled_graphs(name: str) -> None:
    many: dict[str, Any] = {"stages": (10, 9, 9)} if name == "svfap_base" else {"depth": 10}
    m = small.build(name, num_classes=3, drop_path=0.3, **many).train()
    torch.compiler.reset()
    counters.clear()  # of this test alone
    for block in blocks_of(m):
        block.compile(backend="eager")
    for _ in range(2):
        m(*small.inputs(name)).sum().backward()
    assert not counters["graph_break"]
    assert counters["frames"]["ok"] == counters["frames"]["total"] <= 8
    torch.compiler.reset()


def test_a_dropped_path_is_scaled_by_what_is_kept() -> None:
    torch.manual_seed(0)
    layer, x = path(0.25).train(), torch.ones(4000, 1, 2)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((out[:, 0, 0] > 0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(out[:, 0, 0], out[:, 0, 1])  # a sample as a whole
    assert torch.equal(layer.eval()(x), x)
