"""Layer-wise learning rates and weight decay equal the published groups, parameter by parameter."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from hicmae.models import create_model
from hicmae.models.base import Model
from hicmae.models.convert import from_published, to_published
from tests import fixtures_io

TABLES = {
    ("mae_dfer", "mae_dfer_finetune_16layers_0.75"): ("mae_dfer_base", "finetune"),
    ("mae_dfer", "videomae_finetune_12layers_0.75"): ("videomae_base", "finetune"),
    ("mae_dfer", "mae_dfer_pretrain_groups"): ("mae_dfer_base", "pretrain"),
    ("hicmae", "hicmae_finetune_10_10_2_0.75"): ("hicmae_base", "finetune"),
    ("hicmae", "hicmae_pretrain_groups"): ("hicmae_base", "pretrain"),
}


def groups(model: Model, decay: float, published: bool) -> dict[str, dict[str, float]]:
    spared = model.no_weight_decay(published)
    table = {}
    for name, p in model.named_parameters():
        no_decay = p.ndim == 1 or name.endswith(".bias") or name in spared
        scale = decay ** (model.num_layers + 1 - model.layer_of(name, published))
        table[name] = {"lr_scale": scale, "weight_decay": 0.0 if no_decay else 0.05}
    return table


@pytest.mark.parametrize(("file", "entry"), TABLES)
def test_groups_equal_the_published_table(file: str, entry: str) -> None:
    table = fixtures_io.load(f"numeric_layer_decay_{file}")[entry]["params"]
    name, stage = TABLES[file, entry]
    with torch.device("meta"):
        model = create_model(name, stage)
    expected = {
        key: {"lr_scale": row["lr_scale"], "weight_decay": row["weight_decay"]}
        for key, row in from_published(table).items()
    }
    got = groups(model, 0.75 if stage == "finetune" else 1.0, published=True)
    assert set(got) == set(expected)
    assert {name: row for name, row in got.items() if row != pytest.approx(expected[name])} == {}


def published_layer(key: str, layers: int, hicmae: bool) -> int:
    """The published rules on published names (reference 8.4), written again from their description."""
    if hicmae:
        if any(part in key for part in ("pos_embed", "cls_token", "mask_token", "patch_embed")):
            return 0
        found = re.search(r"blocks\D*(\d+)", key)
        return layers + 1 if found is None else int(found[1]) + 1 + (10 if "fusion" in key else 0)
    if key.startswith("patch_embed") or key in ("cls_token", "mask_token", "pos_embed"):
        return 0
    found = re.match(r"blocks\.(\d+)", key)
    return layers + 1 if found is None else int(found[1]) + 1


@pytest.mark.parametrize("decay", [0.75, 0.65])
@pytest.mark.parametrize(
    ("name", "layers", "args"),
    [
        ("svfap_base", 21, {}),
        ("svfap_small", 14, {}),
        ("hicmae_tiny", 12, {}),
        ("hicmae_small", 12, {}),
        ("mae_dfer_base", 5, {"depth": 5}),
        ("mae_dfer_base", 16, {"pool": "all", "third": None}),
    ],
)
def test_groups_without_a_recorded_table_follow_the_published_rule(
    name: str, layers: int, args: dict[str, Any], decay: float
) -> None:
    with torch.device("meta"):
        model = create_model(name, **args)
    assert model.num_layers == layers
    ours = groups(model, decay, published=True)
    theirs = to_published(dict(model.named_parameters()))
    named = {id(parameter): key for key, parameter in theirs.items()}
    for key, parameter in model.named_parameters():
        published = named[id(parameter)]
        scale = decay ** (layers + 1 - published_layer(published, layers, name.startswith("hicmae")))
        assert ours[key]["lr_scale"] == pytest.approx(scale), published


def test_messengers_learn_with_the_embedding_and_never_decay() -> None:
    with torch.device("meta"):
        m, p = create_model("mae_dfer_base"), create_model("mae_dfer_base", "pretrain")
    assert m.layer_of("encoder.lg_region_tokens") == 0
    assert m.layer_of("encoder.lg_region_tokens", published=True) == m.num_layers + 1
    assert p.no_weight_decay() == {"mask_token", "encoder.lg_region_tokens"}
    assert m.no_weight_decay() == {"encoder.lg_region_tokens"}


def test_timm_groups_parameters_the_same_way() -> None:
    from timm.optim import param_groups_layer_decay

    m = create_model("videomae_base", dim=32, depth=3, heads=2, frames=4, size=16, patch=(2, 4, 4))
    ours = groups(m, 0.75, published=False)
    names = {id(p): name for name, p in m.named_parameters()}
    for group in param_groups_layer_decay(m, 0.05, m.no_weight_decay(), layer_decay=0.75):
        for p in group["params"]:
            row = ours[names[id(p)]]
            assert group["lr_scale"] == pytest.approx(row["lr_scale"])
            assert group["weight_decay"] == row["weight_decay"] or names[id(p)].endswith(".bias")


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("mae_dfer_base", {"lg_region_tokens"}),
        ("svfap_base", {"temporal_downsamples", "spatial_downsamples"}),
        ("videomae_base", set()),
        ("hicmae_base", set()),
    ],
)
def test_the_default_groups_differ_for_region_tokens_and_down_sampling_only(name: str, moved: set[str]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    published, own = groups(model, 0.75, published=True), groups(model, 0.75, published=False)
    differ = {key for key in own if own[key] != published[key]}
    part = {key: key.removeprefix("encoder.").split(".")[0] for key in own}
    assert {part[key] for key in differ} == moved
    assert differ == {key for key in own if part[key] in moved}
