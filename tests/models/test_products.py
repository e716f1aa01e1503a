"""Products by oneDNN are those of PyTorch's own choice, wherever they are taken, and are not taken elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import lookup_backend
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hicmae.models import create_model, list_models, products
from hicmae.models.products import Linear, linear, products_by
from hicmae.runtime.engines import recompute
from tests import fixtures_io
from tests.models import recorded, small
from tests.models.test_published import AUTOENCODERS, CLASSIFIERS

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def names_of(fn: object) -> set[str]:
    """Names of the autograd nodes behind a tensor."""
    seen: set[object] = set()
    todo = [fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]  # type: ignore[attr-defined]
    return {type(node).__name__ for node in seen}


def takes(out: Tensor) -> bool:
    """Whether oneDNN computed a product on the way to `out`."""
    return any("hicmae_product" in name for name in names_of(out.grad_fn))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 256), (7, 256), (2, 5, 256), (2, 3, 4, 256)])
def test_output_and_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(256, 300, bias=bias), torch.randn(shape)
    grads = []
    for library in ("torch", "onednn"):
        own, y = copy.deepcopy(layer), x.clone().requires_grad_()
        with products_by(library):
            out = own(y)
            assert takes(out) is (library == "onednn")
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads.append([out.detach(), y.grad, *(p.grad for p in own.parameters())])
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


def test_views_and_transposes_are_multiplied_rightly() -> None:
    torch.manual_seed(0)
    wide, weight = torch.randn(6, 2, 512), torch.randn(256, 300)
    with products_by("onednn"):
        for x in (wide[..., :256], wide.transpose(0, 1)[..., 256:], wide[::2, :, 100:356]):
            torch.testing.assert_close(linear(x, weight.t()), F.linear(x, weight.t()), rtol=1e-5, atol=1e-4)


def test_second_derivatives_are_those_of_torch() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(256, 256), torch.randn(3, 256, requires_grad=True)
    found = []
    for library in ("torch", "onednn"):
        with products_by(library):
            (first,) = torch.autograd.grad(linear(x, weight).pow(3).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.pow(2).sum(), x)
        found.append(second)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4 * float(found[0].abs().max()))


def test_it_is_not_taken_for_small_weights_other_types_autocast_and_tracers() -> None:
    large, small = Linear(256, 256), Linear(255, 256)
    x = torch.randn(2, 256)
    with products_by("onednn"):
        assert takes(large(x)) and not takes(small(x[:, :255]))
        assert not takes(large.double()(x.double()))
        large.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert large(x).dtype == torch.bfloat16
        with pytest.warns(DeprecationWarning):  # of being there; none that sizes are looked at
            graph = torch.jit.trace(large, (x,)).graph  # type: ignore[no-untyped-call]
        assert "hicmae::product" not in str(graph)
        program = torch.export.export(large, (x,))
        assert "hicmae" not in str(program.graph)
    with products_by("torch"):
        assert not takes(large(x))


def test_transforms_of_torch_func_work_where_torch_multiplies() -> None:
    layer, x = Linear(256, 256), torch.randn(2, 3, 256)
    with products_by("torch"):
        together = torch.func.vmap(layer)(x)
    torch.testing.assert_close(together, layer(x), rtol=1e-5, atol=1e-5)


def test_what_is_in_the_place_of_a_layer_is_called() -> None:
    layer = Linear(256, 256)
    nn.utils.parametrizations.weight_norm(layer)
    x = torch.randn(2, 256)
    with products_by("onednn"):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_operations_are_counted_whoever_multiplies() -> None:
    counts = []
    for library in ("torch", "onednn"):
        with products_by(library), FlopCounterMode(display=False) as counter:
            Linear(256, 300)(torch.randn(2, 5, 256, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 10 * 256 * 300


def test_a_compiled_layer_multiplies_likewise() -> None:
    layer, x = Linear(256, 300), torch.randn(4, 256)
    graphs: list[str] = []

    def looked_at(graph: torch.fx.GraphModule, given: list[Tensor]) -> object:
        graphs.append(str(graph.graph))
        return lookup_backend("aot_eager")(graph, given)

    compiled = torch.compile(layer, backend=looked_at, fullgraph=True)
    with products_by("onednn"):
        out = compiled(x)
        assert len(graphs) == 1 and "hicmae.product" in graphs[0]
        out.sum().backward()
        grad, layer.weight.grad = layer.weight.grad, None
        layer(x).sum().backward()
    torch.testing.assert_close(out, layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, layer.weight.grad)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", list_models())
def test_every_model_has_the_same_output_and_gradients(
    name: str, stage: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SMALLEST", 1)
    m = small.build(name, stage)
    if again:
        recompute(m)
    found = []
    for library in ("torch", "onednn"):
        m.zero_grad()
        with products_by(library):
            out = small.run(m, stage, small.inputs(name), small.masks(name))
            sum(x.square().mean() for x in out).backward()  # type: ignore[union-attr]
        assert takes(out[0]) is (library == "onednn") or again  # recomputed: behind the checkpoint's own node
        found.append([*out, *(p.grad for p in m.parameters() if p.grad is not None)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", ["torch", "onednn"])
@torch.no_grad()
def test_either_gives_a_classifiers_recorded_numbers(library: products.Library) -> None:
    fixture = fixtures_io.load("mae_dfer_finetune_depth2_region2210")
    model, args = CLASSIFIERS["mae_dfer_finetune_depth2_region2210"]
    m = create_model(model, num_classes=7, **args).eval()
    recorded.load_filled(m, fixture)
    with products_by(library):
        assert fixtures_io.difference(fixture["output"], m(fixtures_io.video())) <= 1e-5


@pytest.mark.parametrize("library", ["torch", "onednn"])
@torch.no_grad()
def test_either_gives_an_autoencoders_recorded_numbers(library: products.Library) -> None:
    fixture = fixtures_io.load("mae_dfer_pretrain_base")
    model, args, _ = AUTOENCODERS["mae_dfer_pretrain_base"]
    m = create_model(model, "pretrain", **args)
    recorded.load_filled(m, fixture)
    with products_by(library):
        predicted = m(fixtures_io.video(), fixtures_io.mask(fixture, "video")).video
    assert fixtures_io.difference(fixture["outputs"]["video"], predicted) <= 1e-5


@pytest.mark.parametrize(
    ("told", "expected"),
    [("vendor_id\t: AuthenticAMD\n", True), ("processor: 0\nvendor_id\t: GenuineIntel\n", False), ("", False)],
)
def test_the_processor_decides(
    told: str, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("cpu") / "cpuinfo"
    file.write_text(told, encoding="utf-8")
    monkeypatch.setattr(products, "Path", lambda _: file)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert products._onednn_is_faster() is expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products._onednn_is_faster()
