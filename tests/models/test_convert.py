from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from hicmae.models import create_model, load_checkpoint, save_weights
from hicmae.models.convert import from_published, to_published
from hicmae.runtime.log import UserError

SMALL = {"dim": 32, "depth": 2, "heads": 2, "frames": 4, "size": 16, "patch": (2, 4, 4)}


def published_file(path: Path, model: torch.nn.Module, key: str = "model", prefix: str = "") -> Path:
    state = {prefix + name: value.clone() for name, value in to_published(model.state_dict()).items()}
    args = argparse.Namespace(model="x", lg_classify_token_type="org")
    torch.save({key: state, "epoch": 99, "args": args}, path)
    return path


@pytest.mark.parametrize(
    ("key", "prefix"), [("model", ""), ("module", ""), ("model", "module."), ("model", "backbone.")]
)
def test_a_published_classifier_loads_whole_and_says_so(tmp_path: Path, key: str, prefix: str) -> None:
    torch.manual_seed(0)
    source, m = (create_model("mae_dfer_base", **SMALL, num_classes=5, init_scale=1.0) for _ in range(2))
    report = load_checkpoint(m, published_file(tmp_path / "a.pth", source, key, prefix))
    assert (report.new, report.left_over) == ([], [])
    assert report.differences == {"pool": ("local", "region")}
    assert report.loaded == [name for name, _ in m.named_parameters()]
    video = torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(m(video), source(video))


def test_a_pretrained_encoder_is_loaded_for_fine_tuning_and_the_rest_is_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    p = create_model("mae_dfer_base", "pretrain", **SMALL, decoder_dim=16)
    m = create_model("mae_dfer_base", **SMALL)
    save_weights(tmp_path / "p.safetensors", p, {"labels": ["a", "b"]})
    report = load_checkpoint(m, tmp_path / "p.safetensors")
    assert report.new == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert {name.split(".")[0] for name in report.left_over} == {
        "encoder",
        "decoder",
        "encoder_to_decoder",
        "mask_token",
    }
    assert [name for name in report.left_over if name.startswith("encoder.")] == [
        "encoder.norm.bias",
        "encoder.norm.weight",
    ]
    assert report.meta["labels"] == ["a", "b"] and report.meta["name"] == "mae_dfer_base"
    assert torch.equal(m.encoder.blocks[1].mlp.fc1.weight, p.encoder.blocks[1].mlp.fc1.weight)
    assert "4 new" in str(report)


def test_a_head_of_other_shape_stays_fresh_unless_strict(tmp_path: Path) -> None:
    source, m = create_model("videomae_base", **SMALL, num_classes=5), create_model("videomae_base", **SMALL)
    file = published_file(tmp_path / "a.pth", source)
    assert load_checkpoint(m, file).new == ["head.weight", "head.bias"]
    with pytest.raises(UserError, match=r"head.weight has shape \(5, 32\) there and \(7, 32\) in the model"):
        load_checkpoint(m, file, strict_head=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depth": 3}, r"depth=2 \(the model: 3\)"),
        ({"dim": 48}, r"dim=32 \(the model: 48\)"),
        ({"second": False}, r"second=True \(the model: False\)"),
        ({"third": "self"}, r"third='cross' \(the model: 'self'\)"),
        ({"share": "all"}, r"share='none' \(the model: 'all'\)"),
        ({"first": "cross"}, r"first='self' \(the model: 'cross'\)"),
        ({"mlp_ratio": 2.0}, r"mlp.fc1.weight has shape \(128, 32\) there and \(64, 32\)"),
    ],
)
def test_switches_that_the_file_contradicts_are_named_and_nothing_is_loaded(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    file = published_file(tmp_path / "a.pth", create_model("mae_dfer_base", **SMALL))
    m = create_model("mae_dfer_base", **{**SMALL, **changed})
    before = {name: value.clone() for name, value in m.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_checkpoint(m, file)
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())


def test_another_number_of_heads_is_refused_where_the_file_tells(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", create_model("videomae_base", **SMALL))
    with pytest.raises(UserError, match=r"heads=2 \(the model: 4\)"):
        load_checkpoint(create_model("videomae_base", **{**SMALL, "heads": 4}), tmp_path / "a.safetensors")


def test_messengers_are_resampled_to_another_clip_length(tmp_path: Path) -> None:
    source = create_model("mae_dfer_base", **SMALL)
    with torch.no_grad():  # a ramp over the two regions above each other
        source.encoder.lg_region_tokens.copy_(torch.arange(2.0)[:, None].expand(2, 32))
    save_weights(tmp_path / "a.safetensors", source)
    m = create_model("mae_dfer_base", **{**SMALL, "frames": 8})
    load_checkpoint(m, tmp_path / "a.safetensors")
    assert m.encoder.region_grid == (2, 2, 1)
    assert m.encoder.lg_region_tokens[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_published_pretraining_file_keeps_its_decoder_order_unless_told_otherwise(tmp_path: Path) -> None:
    small = {**SMALL, "decoder_dim": 16}
    file = published_file(tmp_path / "a.pth", create_model("mae_dfer_base", "pretrain", **small))
    p, explicit = (
        create_model("mae_dfer_base", "pretrain", **small, decoder_order=order) for order in (None, "raster")
    )
    load_checkpoint(p, file)
    load_checkpoint(explicit, file)
    assert (p.decoder_order, p.args["decoder_order"], explicit.decoder_order) == ("published", "published", "raster")


def test_a_pickle_that_needs_more_than_tensors_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"model": {}, "where": Path("x")}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"refused.*pathlib"):
        load_checkpoint(create_model("videomae_base", **SMALL), tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match="broken"):
        load_checkpoint(create_model("videomae_base", **SMALL), file)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_checkpoint(create_model("videomae_base", **SMALL), tmp_path / f"absent{suffix}")


def test_a_file_with_nothing_for_the_model_is_an_error(tmp_path: Path) -> None:
    torch.save({"model": {"conv1.weight": torch.zeros(2, 2)}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"nothing for videomae_base; its tensors are conv1"):
        load_checkpoint(create_model("videomae_base", **SMALL), tmp_path / "a.pth")


def test_published_names_and_ours_are_told_apart_and_back() -> None:
    m = create_model("mae_dfer_base", **SMALL)
    flat = to_published(m.state_dict())
    assert "blocks.0.first_attn.q.weight" in flat and "lg_region_tokens" in flat
    assert set(from_published(flat)) == set(m.state_dict())
    p = create_model("mae_dfer_base", "pretrain", **SMALL)
    assert set(to_published(p.state_dict())) == set(p.state_dict())


def test_a_missing_third_attention_is_told_apart_from_an_unknown_one(tmp_path: Path) -> None:
    file = published_file(tmp_path / "a.pth", create_model("mae_dfer_base", **SMALL))
    with pytest.raises(UserError, match=r"third='cross' \(the model: None\)"):
        load_checkpoint(create_model("mae_dfer_base", **SMALL, third=None), file)
