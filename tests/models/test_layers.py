"""Which layers the head reads: the last, or all of them by learnt weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hicmae.models import create_model, list_models, load_checkpoint, save_weights
from hicmae.models.convert import to_published
from tests.models import small

SYSTEMS = ("videomae_base", "mae_dfer_base", "svfap_base", "hicmae_base", "hicmae_base_video", "hicmae_base_audio")
PLAIN = ("videomae_base", "mae_dfer_base", "svfap_base")
OTHER = {name: "weighted" if name in PLAIN else "last" for name in SYSTEMS}
"""The choice that was not published."""


def after_blocks(encoder: nn.Module) -> list[Tensor]:
    """What each block puts out in the next forward, in the order of the blocks."""
    seen: list[Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    return seen


@pytest.mark.parametrize("name", list_models())
def test_the_published_choice_is_the_default(name: str) -> None:
    assert small.build(name).args["layers"] == ("weighted" if name.startswith("hicmae") else "last")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_parameter_of_the_other_choice_learns_and_every_batch_row_stands_alone(name: str) -> None:
    m, data = small.build(name, layers=OTHER[name]), small.inputs(name)
    out = m(*data)
    (out * torch.randn_like(out)).sum().backward()
    silent = {key for key, p in m.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-12}
    frozen = {key for key, p in m.named_parameters() if not p.requires_grad}
    assert {key for key in silent - frozen if not key.endswith("mlp.fc2.bias")} == set()
    torch.testing.assert_close(m.eval()(*[x[1:2] for x in data]), m(*data)[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_file_of_the_other_choice_builds_it_again(name: str, tmp_path: Path) -> None:
    m, data = small.build(name, layers=OTHER[name]).eval(), small.inputs(name)
    save_weights(tmp_path / "w.safetensors", m)
    again = create_model(name, **m.args).eval()
    report = load_checkpoint(again, tmp_path / "w.safetensors")
    assert (report.new, report.left_over, report.differences) == ([], [], {})
    assert torch.equal(m(*data), again(*data))
    report = load_checkpoint(small.build(name), tmp_path / "w.safetensors")
    assert set(report.differences) == {"layers"}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("args", [{"num_classes": 0}, {"num_classes": 5, "keep_temporal": True}])
def test_features_and_frames_come_out_of_the_other_choice(name: str, args: dict[str, int]) -> None:
    m = small.build(name, layers=OTHER[name], **args).eval()
    towers = len(small.modalities(name))
    frames = () if "keep_temporal" not in args else (32 if name.endswith("_audio") else 8,)
    assert m(*small.inputs(name)).shape == (3, *frames, args["num_classes"] or 32 * towers)


@pytest.mark.parametrize(("name", "args"), [*((name, {}) for name in PLAIN), ("mae_dfer_base", {"pool": "local"})])
def test_weighted_features_of_one_encoder_are_the_normed_mean_of_every_block(name: str, args: dict[str, str]) -> None:
    m = small.build(name, layers="weighted", num_classes=0, **args).eval()
    with torch.no_grad():
        m.layer_weights.copy_(torch.arange(m.encoder.depth) * 0.7)
    seen = after_blocks(m.encoder)
    found = m(*small.inputs(name))
    shares = m.layer_weights.softmax(0)
    assert len(seen) == m.encoder.depth == len(shares)
    if name == "mae_dfer_base":  # messengers lie in slot 0 of each region
        seen = [x[:, 0] if not args else x[:, 1:] for x in seen]
    means = [x.reshape(3, -1, x.shape[-1]).mean(1) for x in seen]
    torch.testing.assert_close(found, m.fc_norm(sum(s * x for s, x in zip(shares, means, strict=True))))
    if name == "svfap_base":  # its later stages hold fewer tokens
        assert len({x.shape[1] for x in seen}) > 2


def test_the_time_steps_of_every_level_are_known() -> None:
    m = small.build("svfap_base")
    tokens = {i: level for i, level in enumerate(m.encoder(*small.inputs("svfap_base"), None, range(5)).levels)}
    assert m.encoder.level_slots == (4, 2, 2, 1, 1)
    assert [x.shape[1] for x in tokens.values()] == [4 * 16, 2 * 2, 2 * 16, 1 * 2, 1 * 16]


@pytest.mark.parametrize("name", ["hicmae_base", "hicmae_base_audio"])
def test_the_last_layer_alone_is_what_remains_of_the_published_features(name: str) -> None:
    last, both = small.build(name, layers="last").eval(), small.build(name).eval()
    data = small.inputs(name)
    width = last.fc_norm.weight.shape[0]
    assert width == both.fc_norm.weight.shape[0] // 2 and not any("layer_weights" in key for key in last.state_dict())
    both.load_state_dict({**both.state_dict(), **{k: v for k, v in last.state_dict().items() if "encoder" in k}})
    seen: list[Tensor] = []
    for m in (last, both):
        m.fc_norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        m(*data)
    assert torch.equal(seen[0], seen[1][:, -width:])


@pytest.mark.parametrize("name", SYSTEMS)
def test_layer_weights_learn_at_the_rate_of_the_head_and_are_not_decayed(name: str) -> None:
    m = small.build(name, layers="weighted")
    weights = {key: p for key, p in m.named_parameters() if key.endswith("layer_weights")}
    assert len(weights) == len(small.modalities(name))
    for key, p in weights.items():
        assert m.layer_of(key) == m.num_layers + 1 and p.ndim == 1
    flat = any(key.startswith("blocks.") for key in to_published(small.build(name, layers="last").state_dict()))
    assert flat == (name in PLAIN)


def test_another_word_is_refused() -> None:
    for name in ("videomae_base", "hicmae_base_audio"):
        with pytest.raises(ValueError, match="layers='all' is not one of 'last', 'weighted'"):
            small.build(name, layers="all")
