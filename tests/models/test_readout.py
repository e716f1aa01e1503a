"""What probes read: standardised features that do not depend on batches, and a learnt query."""

from __future__ import annotations

import pytest
import torch

from hicmae.models.adapters import add_adapters, plain_weights
from hicmae.models.readout import AttentivePool, Standardise, pool
from tests.models import small
from tests.models.test_layers import SYSTEMS


@pytest.mark.parametrize("parts", [[40], [1, 39], [7, 13, 20], [10] * 4])
def test_standardised_features_depend_on_what_was_seen_and_not_on_its_division(parts: list[int]) -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 3
    m = Standardise(6)
    for part in x.split(parts):
        m(part)
    torch.testing.assert_close(m.mean.data, x.mean(0))
    torch.testing.assert_close(m.var.data, x.var(0, correction=0))
    found = m.eval()(x)
    assert torch.equal(m(x), found) and m.count.item() == 40  # nothing is gathered in evaluation
    torch.testing.assert_close(found, (x - x.mean(0)) / x.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_one_clip_alone_gives_a_finite_feature() -> None:
    assert torch.equal(Standardise(3)(torch.ones(1, 3)), torch.zeros(1, 3))


def test_a_query_reads_tokens_whatever_their_order_and_time_steps_by_themselves() -> None:
    torch.manual_seed(0)
    m, x = AttentivePool(8, 2), torch.randn(3, 12, 8)
    with torch.no_grad():
        for p in (m.query, m.attn.q.weight, m.attn.kv.weight, m.attn.proj.weight):
            p.mul_(50)
    torch.testing.assert_close(m(x), m(x[:, torch.randperm(12)]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(m(x), m.attn.proj(m.attn.kv(m.norm(x)).chunk(2, -1)[1].mean(1)), atol=1e-3)
    steps = pool(x, 4, 4, m)  # (3, 4, 8)
    for t in range(4):
        torch.testing.assert_close(steps[:, t], m(x[:, 3 * t : 3 * t + 3]))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("readout", ["standard", "attentive"])
def test_every_form_has_both_readouts_with_one_output_per_clip_or_frame(name: str, readout: str) -> None:
    frames = 32 if name.endswith("_audio") else 8
    for keep in (False, True):
        m = small.build(name, readout=readout, keep_temporal=keep, num_classes=5)
        out = m(*small.inputs(name))
        assert out.shape == ((3, frames, 5) if keep else (3, 5))
    (out * torch.randn_like(out)).sum().backward()
    silent = {key for key, p in m.named_parameters() if p.requires_grad and not float(p.grad.abs().max()) > 1e-12}
    assert {key for key in silent if not key.endswith("mlp.fc2.bias")} == set()
    own = {key for key in m.state_dict() if key.startswith(("readout.", "standard."))}
    assert own and {m.layer_of(key) for key in own} == {m.num_layers + 1}
    assert m.args["readout"] == readout and "readout" not in "".join(small.build(name).state_dict())


def test_unknown_and_contradicting_readouts_are_refused() -> None:
    with pytest.raises(ValueError, match="readout='max' is not one of 'mean', 'standard', 'attentive'"):
        small.build("hicmae_base", readout="max")
    with pytest.raises(ValueError, match="readout='attentive' reads the tokens of the last layer: layers='last'"):
        small.build("svfap_base", readout="attentive", layers="weighted")


@pytest.mark.parametrize(
    ("name", "everywhere"),
    [("mae_dfer_base", False), ("mae_dfer_base/all", True), ("svfap_base", True), ("hicmae_base", False)],
)
def test_every_adapter_acts_and_learns_and_can_be_merged(name: str, everywhere: bool) -> None:
    name, _, share = name.partition("/")
    m, plain = (small.build(name, **({"share": share} if share else {})).eval() for _ in range(2))
    bodies = [part for part, _ in m.named_children() if part.startswith("encoder")]
    layers = add_adapters(m, bodies, rank=2, alpha=6, everywhere=everywhere)
    data, before = small.inputs(name), plain(*small.inputs(name))
    torch.testing.assert_close(m(*data), before)  # they start at nothing
    assert len(layers) == len(set(layers)) and any("mlp" in layer for layer in layers) == everywhere
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, p in m.named_parameters():
            if "lora_B" in key:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    after = m(*data)
    after.square().sum().backward()
    learning = {key for key, p in m.named_parameters() if p.requires_grad}
    assert {key for key in learning if key.startswith("encoder")} == {key for key in learning if ".lora_" in key}
    moot = "spatial_downsamples"  # a bias in it learns nothing in any form; its layer does
    assert all(p.grad.abs().max() > 0 for key, p in m.named_parameters() if key in learning and moot not in key)
    plain.load_state_dict(plain_weights(m.state_dict(), {"lora": {"alpha": 6}}))
    torch.testing.assert_close(plain(*data), after, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)
    for layer in layers:  # each of them is felt
        low = m.get_submodule(layer).lora_B["default"].weight
        kept = low.detach().clone()
        with torch.no_grad():
            low.zero_()
            changed = m(*data)
            low.copy_(kept)
        assert not torch.equal(changed, after), layer
