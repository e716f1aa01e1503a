"""Every card of a corpus says what it must, and what it says holds together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hicmae import configs, zoo
from hicmae.datasets import cards
from hicmae.datasets.corpora.reading import READERS
from hicmae.datasets.corpora.table import table

NAMES = cards.names()
CORPORA = {
    "avcaffe", "crema_d", "csv", "dfew", "enterface05", "ferv39k", "first_impressions", "folder_per_class", "iemocap",
    "mafw", "mer2023", "msp_improv", "ravdess", "voxceleb2", "werewolf_xl",
}  # fmt: skip


def test_every_corpus_has_a_card() -> None:
    assert set(NAMES) == CORPORA


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_who_it_is_and_how_to_obtain_the_corpus(name: str) -> None:
    card = cards.load(name)
    assert card.name == name and card.reader in READERS
    assert all((card.corpus, card.summary, card.licence, card.obtain)) and card.tree and card.variants
    assert all(variant.source or variant.clips is None for variant in card.variants), "counts without a source"


@pytest.mark.parametrize("name", NAMES)
def test_labels_counts_and_folds_of_a_card_fit_together(name: str) -> None:
    for variant in cards.load(name).variants:
        assert len(set(variant.labels)) == len(variant.labels)
        assert not variant.codes or set(variant.codes.values()) == set(variant.labels)
        for counts, total in [
            (variant.classes, variant.clips),
            *((fold.classes, fold.clips) for fold in variant.folds),
        ]:
            assert not counts or (list(counts) == list(variant.labels) and sum(counts.values()) == total)
        known = [fold.clips for fold in variant.folds if fold.clips is not None]
        assert len(known) < len(variant.folds) or sum(known) == (variant.clips or 0)
        groups = [n for fold in variant.folds if fold.groups for n in range(fold.groups[0], fold.groups[1] + 1)]
        assert len(set(groups)) == len(groups), "a group is in two folds"
        assert all(set(order.labels) == set(variant.labels) != order.labels for order in variant.orders)


@pytest.mark.parametrize("name", NAMES)
def test_protocol_keys_name_corpus_classes_target_and_split(name: str) -> None:
    card = cards.load(name)
    keys = [card.protocol(variant) for variant in card.variants]
    assert len(set(keys)) == len(keys)
    for key, variant in zip(keys, card.variants, strict=True):
        assert re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+(-[a-z_]+)?/[a-z0-9-]+", key) and key.startswith(f"{name}/")
        assert variant.target == "none" or f"-{variant.target}/" in key
        assert card.variant(variant.key) is variant
        folds = re.search(r"(\d+)fold$", variant.split)
        assert folds is None or int(folds[1]) == len(variant.folds)


def test_the_keys_and_targets_of_crema_d_keep_what_was_meant_from_what_was_seen() -> None:
    card = cards.load("crema_d")
    assert card.protocol(card.variant("6class")) == "crema_d/6class-intended/subject-5fold"
    targets = {variant.target for variant in card.variants}
    assert targets == {"intended", "votes_audio", "votes_face", "votes_both"}


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw"])
def test_corpora_without_published_groups_are_clip_level(name: str) -> None:
    card = cards.load(name)
    assert card.group is None and not any(fold.groups for variant in card.variants for fold in variant.folds)


def test_label_orders_of_published_results_are_those_of_the_cards() -> None:
    own = {card.corpus: card for card in map(cards.load, NAMES)}
    seen = 0
    for model in zoo.cards():
        for result in model.results:
            assert result.source, "a published number names its source"
            if result.labels is None or result.dataset not in own:
                continue
            assert result.labels in [variant.labels for variant in own[result.dataset].variants], result.dataset
            seen += 1
    assert seen >= 5


def test_the_table_of_the_readme_is_made_from_the_cards() -> None:
    text = (configs.folder("datasets") / "README.md").read_text(encoding="utf-8")
    assert table() in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "x"}, "unknown key licens; did you mean licence"),
        ({"reader": "magic"}, "reader: 'magic' is not one of avcaffe, crema_d"),
        ({"variants": []}, "variants is empty"),
        ({"variants[0].clips": 1441}, "its classes have 1440 clips in all, not 1441"),
        ({"variants[0].labels": ["neutral", "neutral"]}, "neutral is there twice"),
        ({"variants[0].codes": {"01": "bored"}}, "bored is none of its labels"),
        ({"variants[0].folds[0].clips": 241}, "its folds have 1441 clips in all, not 1440"),
        ({"variants[0].folds[0].others": 1201}, "fold 1 and the others do not have 1440 clips together"),
        ({"variants[0].folds[0].groups": [4, 1]}, "groups must be the first and the last number"),
        ({"variants[0].orders": [{"who": "x", "labels": ["calm"]}]}, "orders must hold the same labels"),
        ({"variants[0].target": "felt it"}, "target: 'felt it' is not one of intended"),
    ],
)
def test_a_card_that_contradicts_itself_names_file_and_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content: Any = configs.read_yaml(configs.find("ravdess", "datasets"))
    for path, value in change.items():
        *parents, last = re.findall(r"\w+", path)
        at = content
        for parent in parents:
            at = at[int(parent) if parent.isdecimal() else parent]
        at[last] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(configs.ConfigError, match=rf"mine\.yaml: .*{re.escape(message)}"):
        cards.load(str(file))


def test_a_wrong_name_lists_the_alternatives() -> None:
    with pytest.raises(
        configs.ConfigError, match="cremad: neither a file nor a shipped datasets recipe; did you mean crema_d"
    ):
        cards.load("cremad")
    with pytest.raises(configs.ConfigError, match="ravdess has no variant '7class'; known: 8class-intended"):
        cards.load("ravdess").variant("7class")
