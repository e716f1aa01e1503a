"""Recipes of fine-tuning: what they may say, and what the shipped ones must say."""

from __future__ import annotations

from typing import Any

import pytest

from hicmae import configs
from hicmae.finetune import FinetuneConfig, FinetuneData, build_model

PUBLISHED = ["mae_dfer_dfew", "mae_dfer_ferv39k", "mae_dfer_mafw"]


def load(name: str) -> FinetuneConfig:
    return configs.load(FinetuneConfig, configs.resolve(name, "finetune"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {"num_classes": 7}}, r"args\.num_classes cannot be set .* comes from the labels of data\.train"),
        ({"args": {"keep_temporal": True}}, r"args\.keep_temporal cannot be set"),
        ({"args": {"size": 64}}, r"args\.size cannot be set .* it is data\.size"),
        ({"init_ema": True}, "init_ema needs init"),
    ],
)
def test_a_contradiction_is_refused_when_the_recipe_is_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(configs.ConfigError, match=message):
        configs.load(FinetuneConfig, {"model": "mae_dfer_base", **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": 0}, r"data\.segments must be at least 1, not 0"),
        ({"workers": -1}, r"data\.workers must not be negative"),
        ({"fraction": 0.0}, r"data\.fraction must lie in \(0, 1\], not 0"),
        ({"fraction": 1.5}, r"data\.fraction must lie in \(0, 1\]"),
        ({"max_bad_share": 2.0}, r"data\.max_bad_share must lie in \[0, 1\]"),
    ],
)
def test_impossible_data_settings_are_refused_with_their_dotted_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneData(**change)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({}, "corrected"),
        ({"fidelity": "published"}, "published"),
        ({"fidelity": "published", "layer_decay_groups": "corrected"}, "corrected"),
        ({"layer_decay_groups": "published"}, "published"),
    ],
)
def test_fidelity_decides_what_is_not_set_by_name_and_the_resolved_recipe_says_it(
    given: dict[str, Any], resolved: str
) -> None:
    config = configs.load(FinetuneConfig, {"model": "mae_dfer_base", **given})
    assert f"layer_decay_groups: {resolved}" in configs.to_yaml(config)


def test_defaults_are_the_published_fine_tuning_values() -> None:
    config = FinetuneConfig(model="mae_dfer_base")
    o, a, d = config.optim, config.augment, config.data
    assert (o.lr, o.min_lr, o.betas, o.weight_decay) == (1e-3, 1e-6, (0.9, 0.999), 0.05)
    assert (o.warmup_epochs, o.layer_decay, config.loop.epochs) == (5, 0.75, 100)
    assert (a.mixup, a.cutmix, a.mix, a.switch, a.smoothing, a.erase) == (0.8, 1.0, 1.0, 0.5, 0.1, 0.25)
    assert (d.frames, d.stride, d.size, d.segments) == (16, 4, 160, 2)


@pytest.mark.parametrize("name", configs.names("finetune"))
def test_every_recipe_says_what_it_costs_and_what_it_should_give(name: str) -> None:
    head = configs.find(name, "finetune").read_text(encoding="utf-8").split("\nextends:")[0].split("\nmodel:")[0]
    assert all(line.startswith("#") for line in head.splitlines()), "a recipe begins with its comments"
    if name != "demo":  # which measures both itself
        assert "Cost:" in head and "measured by us" in head
    assert load(name).model


@pytest.mark.parametrize(("name", "batch", "stride"), [
    ("mae_dfer_dfew", 96, 4), ("mae_dfer_ferv39k", 120, 1), ("mae_dfer_mafw", 96, 4)
])  # fmt: skip
def test_recipes_named_after_a_published_result_follow_the_published_scripts(
    name: str, batch: int, stride: int
) -> None:
    config = load(name)
    assert config.fidelity == config.layer_decay_groups == "published"
    assert (config.loop.batch_size, config.data.stride, config.loop.epochs) == (batch, stride, 100)
    assert config.args == {"region": [2, 5, 10], "pool": "region", "drop_path": 0.1}


def test_the_published_recipe_builds_the_published_model() -> None:
    config = configs.load(FinetuneConfig, configs.resolve("mae_dfer_dfew", "finetune"), ["--init", "null"])
    model, loaded = build_model(config, [f"class {k}" for k in range(7)])
    assert loaded is None
    assert sum(p.numel() for p in model.parameters()) == 84_878_343
