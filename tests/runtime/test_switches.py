"""Switches of the loop that trade time and memory: what they do, where they are refused, and no hidden waiting."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.runtime.config import LoopConfig
from hicmae.runtime.engines import _capture, blocks_of, engine_for, offloaded, recompute
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import to_device
from hicmae.runtime.optim import OptimConfig, parameter_groups
from tests.models import small
from tests.runtime.engine_worker import train

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("option", ["offload", "graphs"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match=rf"loop\.{option}: needs a GPU"):
        train(tmp_path, accumulate=1, **{option: True})


@pytest.mark.parametrize("other", [{"accumulate": 2}, {"recompute": True}, {"offload": True}, {"compile": True}])
def test_graphs_refuse_what_they_do_not_go_with(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"loop\.graphs: goes with loop\.accumulate=1"):
        LoopConfig(graphs=True, **other)


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", ["mae_dfer_base", "svfap_base", "hicmae_base"])
def test_activations_that_lay_elsewhere_or_were_computed_again_give_the_same_gradients(name: str) -> None:
    data, hiding = small.inputs(name, batch=64), small.masks(name, batch=64)
    model = small.build(name, "pretrain")
    other = copy.deepcopy(model)
    recompute(other)
    found = []
    for net, around in ((model, torch.enable_grad()), (model, offloaded()), (other, torch.enable_grad())):
        net.zero_grad()
        with around:
            loss = sum(out.square().mean() for out in small.run(net, "pretrain", data, hiding))
        loss.backward()
        found.append(gradients(net))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_what_is_kept_elsewhere_is_all_but_weights_and_small_things() -> None:
    layer, x = torch.nn.Linear(256, 256), torch.randn(256, 256, requires_grad=True)
    with offloaded():
        y = layer(x).relu()
    (product,) = {f[0] for f in y.grad_fn.next_functions}
    assert product._saved_mat1.data_ptr() != x.data_ptr()
    assert torch.equal(product._saved_mat1, x)
    assert product._saved_mat2.data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize("name", ["mae_dfer_base", "svfap_base", "hicmae_base"])
def test_blocks_are_captured_in_the_order_of_their_calls_with_inputs_like_theirs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *given, **_: told.extend(given))
    model, data, hiding = small.build(name, "pretrain"), small.inputs(name), small.masks(name)
    calls: list[torch.nn.Module] = []
    for block in blocks_of(model):
        block.register_forward_hook(
            lambda module, _, more, __: None if more else calls.append(module), with_kwargs=True
        )
    _capture(model, lambda: small.run(model, "pretrain", data, hiding)[0].sum())
    blocks, samples = told
    last = {decoder.blocks[-1] for name, decoder in model.named_children() if name.startswith("decoder")}
    assert list(blocks) == calls and set(calls) == set(blocks_of(model)) - last  # told what is read, which is no tensor
    for block, given in zip(blocks, samples, strict=True):
        assert block(*given).shape[0] == given[0].shape[0] and given[0].requires_grad and given[0].is_leaf
        block.forward = lambda *x, eager=block.forward: eager(*x)  # as when it is a graph
    small.run(model, "pretrain", data, hiding)


def a_step(**loop: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Engine, objective and batch of a small audio-visual pretraining on the GPU."""
    from hicmae.pretrain.config import MaskConfig, TargetConfig
    from hicmae.pretrain.objectives import objective_for
    from hicmae.runtime.dist import process_group

    model = small.build("hicmae_base", "pretrain")
    objective = objective_for(model, mask=MaskConfig(video=0.5, audio=0.5), target=TargetConfig())
    batch: dict[str, Any] = {
        **{"video": torch.randint(0, 256, (4, 3, 8, 16, 16), dtype=torch.uint8), "audio": torch.randn(4, 1, 32, 16)},
        **{"number": torch.arange(4), "source": torch.arange(4), "epoch": 0},
    }
    config = LoopConfig(batch_size=4, **loop)
    with process_group("cuda") as place:
        engine = engine_for(model, parameter_groups(model, weight_decay=0.05), OptimConfig(), config, place)
    return engine, objective, to_device(batch, torch.device("cuda"))


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pretraining_step_never_waits_for_the_gpu(precision: str) -> None:
    engine, objective, batch = a_step(precision=precision, clip_grad=1.0, ema=0.9)

    def step() -> None:
        with engine.autocast():
            loss = objective(engine.model, batch).loss
        engine.backward(loss)
        engine.update(1e-3)

    step()  # the optimiser makes its state, kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("option", ["offload", "graphs"])
def test_a_switch_gives_the_same_gradients_on_a_gpu(option: str) -> None:
    found = []
    for chosen in (False, True):
        engine, objective, batch = a_step(precision="fp32", tf32=False, **{option: chosen})

        def once(engine: Any = engine, objective: Any = objective, batch: Any = batch) -> torch.Tensor:
            with engine.autocast():
                return objective(engine.model, batch).loss

        engine.warm_up(once)
        engine.optimiser.zero_grad()
        engine.backward(once())
        found.append(gradients(engine.bare))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
