from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from hicmae import configs
from hicmae.models import create_model, list_models, model_arguments
from hicmae.models.factory import STAGES
from hicmae.zoo import Card, card, cards
from tests import fixtures_io
from tests.models import small

COUNTED = {  # rows of the recorded costs, by card and form
    ("videomae_base", "finetune"): "videomae_finetune_base160",
    ("videomae_base", "pretrain"): "videomae_pretrain_base160",
    ("mae_dfer_base", "finetune"): "mae_dfer_finetune_base_region",
    ("mae_dfer_base", "pretrain"): "mae_dfer_pretrain_base",
    ("svfap_base", "finetune"): "svfap_finetune_base",
    ("svfap_base", "pretrain"): "svfap_pretrain_dim512_paper",
    ("hicmae_tiny", "finetune"): "hicmae_finetune_dim256",
    ("hicmae_small", "finetune"): "hicmae_finetune_dim384",
    ("hicmae_small", "pretrain"): "hicmae_pretrain_dim384",
    ("hicmae_base", "finetune"): "hicmae_finetune_dim512",
    ("hicmae_base", "pretrain"): "hicmae_pretrain_dim512",
}


def broken(tmp_path: Path, old: str, new: str) -> Path:
    """The card of MAE-DFER with one thing changed."""
    text = configs.find("mae_dfer_base", "models").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return file


def test_every_published_model_has_a_card_under_its_registered_name() -> None:
    named = [found.name for found in cards()]
    assert named == [path for path in named if path in list_models()]
    assert set(named) >= {name for name in list_models() if not name.endswith(("_video", "_audio"))}
    assert sorted(named) == configs.names("models")


@pytest.mark.parametrize("found", cards(), ids=lambda found: found.name)
def test_a_card_counts_what_the_recorded_costs_and_the_models_count(found: Card) -> None:
    rows: Any = fixtures_io.load("params_flops")
    recorded = {entry["fixture"]: entry for entry in rows}
    for cost in found.costs:
        row = recorded.get(COUNTED.get((found.name, cost.form), ""))
        if row is not None:
            assert cost.parameters == row["num_params"]
            assert cost.giga_macs == pytest.approx(row["fvcore_total"] / 1e9, rel=1e-3)
        else:
            with torch.device("meta"):
                model = create_model(found.name, cost.form)
            tower = found.name.endswith(("_video", "_audio"))  # counted without a head
            parts = [p for name, p in model.named_parameters() if not tower or name.startswith("encoder")]
            assert cost.parameters == sum(p.numel() for p in parts)


@pytest.mark.parametrize("found", cards(), ids=lambda found: found.name)
def test_a_card_says_what_cannot_be_known_instead_of_inventing_it(found: Card) -> None:
    assert not found.weights.obtained and found.weights.files == ()  # nobody here has had a file in hand
    assert found.weights.published in (None, found.repository)
    assert found.weights_licence.startswith("none stated") and "none stated" not in found.code_licence
    assert all(result.source and result.metrics and result.protocol for result in found.results)
    assert all(cost.source for cost in found.costs if cost.published_parameters or cost.published_macs)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("code_licence: MIT", "code_license: MIT", r"mine.yaml: unknown key code_license; did you mean code_licence"),
        ("code_licence: MIT\n", "", r"mine.yaml: code_licence is missing"),
        ("target: perceived", "target: real", r"mine.yaml: results\[0\].target: 'real' is not one of acted, perceived"),
        ("UAR: 63.41", "UAR: high", r"mine.yaml: results\[0\].metrics.UAR must be a number, not 'high'"),
        ("parameters: 84878343", "parameters: 84.9", r"costs\[0\].parameters must be a whole number, not 84.9"),
        ("obtained: false", "obtained: 0", r"weights.obtained must be true or false, not 0"),
        ('arxiv: "2307.02227"', "arxiv: 2307.02227", r"paper.arxiv must be text, not 2307.02227"),
        ("weights:\n  published:", "weights: x\nnote2:\n  published:", r"unknown key note2; did you mean note\?"),
    ],
)
def test_a_card_that_breaks_the_form_is_refused_by_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(configs.ConfigError, match=message):
        card(broken(tmp_path, old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": "none"}, "paper must be a mapping, not 'none'"),
        ({"results": {"DFEW": 1}}, "results must be a list, not"),
        ({"results": [{"dataset": "DFEW"}]}, r"results\[0\].protocol is missing"),
        ({"preprocessing": {"known": "all"}}, "preprocessing.known must be a list, not 'all'"),
    ],
)
def test_a_card_of_another_shape_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    whole = configs.read_yaml(configs.find("videomae_base", "models"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **change}), encoding="utf-8")
    with pytest.raises(configs.ConfigError, match=message):
        card(tmp_path / "mine.yaml")


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(configs.ConfigError, match="did you mean mae_dfer_base"):
        card("mae_dfr_base")


@pytest.mark.parametrize("name", list_models())
def test_timm_and_the_library_build_the_same_model(name: str) -> None:
    for stage in STAGES:
        args = {key: value for key, value in small.SIZES.items() if key in model_arguments(name, stage)}
        ours, theirs = create_model(name, stage, **args), timm.create_model(name, stage=stage, **args)
        assert type(ours) is type(theirs) and (theirs.name, theirs.stage) == (name, stage)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }


@pytest.mark.parametrize("name", list_models())
def test_timm_is_told_labels_licence_and_where_the_system_comes_from(name: str) -> None:
    config = timm.models.get_pretrained_cfg(name)
    assert len(config.label_names) == config.num_classes == model_arguments(name)["num_classes"]
    assert not config.has_weights and "none is stated for the weights" in config.license
    about = next((found for found in cards() if found.name == name), card("hicmae_base"))
    assert (config.origin_url, config.paper_ids) == (about.repository, f"arXiv:{about.paper.arxiv}")
    assert config.license.split()[0] == about.code_licence.split()[0]
    labelled = about.result("CREMA-D" if config.num_classes == 6 else "DFEW")
    assert labelled is None or labelled.labels == config.label_names
    parameters = dict(small.build(name).named_parameters())
    assert parameters[f"{config.first_conv}.weight"].shape[1] == config.input_size[0]
    assert f"{config.classifier}.weight" in parameters


def test_label_orders_agree_between_cards() -> None:
    orders: dict[str, set[tuple[str, ...]]] = {}
    for found in cards():
        for result in found.results:
            if result.labels is not None:
                orders.setdefault(result.dataset, set()).add(result.labels)
    assert all(len(order) == 1 for order in orders.values()), orders
    assert set(orders) >= {"DFEW", "FERV39k", "MAFW", "CREMA-D", "RAVDESS"}


def test_a_card_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cards()[0].name = "other"  # type: ignore[misc]
