"""Every published result has a recipe and a command; what cards and recipes say of it is what was published."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae import configs
from hicmae.cli import main
from hicmae.configs.options import join_options
from hicmae.finetune import FinetuneConfig
from hicmae.finetune.published import published_results
from hicmae.models import create_model, model_arguments
from hicmae.zoo import card, cards

README = (configs.folder("finetune") / "README.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in README.splitlines()
    if line.startswith("| ") and "`hicmae finetune" in line
]
FOLDED = {"dfew": 5, "mafw": 5, "crema_d": 5, "ravdess": 6, "enterface05": 5, "msp_improv": 6, "iemocap": 5}

# As printed by the papers, their repositories and third parties: model -> corpus -> figures in the order of the card.
PUBLISHED: dict[str, dict[str, list[Any]]] = {
    "mae_dfer_base": {
        "DFEW": [63.41, 74.43], "FERV39k": [43.12, 52.07], "MAFW": [41.62, 54.31], "CREMA-D": [77.33, 77.38],
        "RAVDESS": [75.91, 75.56], "eNTERFACE05": [61.67, 61.64],
    },
    "videomae_base": {
        "DFEW": [63.60, 74.60, 58.49, 70.61], "FERV39k": [43.33, 52.39, 38.50, 49.61],
        "MAFW": [40.87, 53.51, 38.34, 51.74],
    },
    "svfap_base": {
        "DFEW": [62.83, 74.27], "FERV39k": [42.14, 52.29], "MAFW": [41.19, 54.28], "CREMA-D": [77.31, 77.37],
        "RAVDESS": [75.15, 75.01], "eNTERFACE05": [60.58, 60.54],
        "Werewolf-XL": [23.51, 67.11, 34.61, 18.96, 64.27, 29.69], "AVCAffe": [40.36, 41.49],
        "ChaLearn First Impressions": [66.45, 91.75],
    },
    "svfap_small": {
        "DFEW": [60.45, 72.67], "MAFW": [39.82, 53.89], "CREMA-D": [74.58, 74.58], "FERV39k": [41.19, 51.34],
        "RAVDESS": [73.59, 73.90], "eNTERFACE05": [57.16, 57.12],
    },
    "hicmae_base": {
        "MAFW": [42.65, 56.17, 13.29, 37.36], "DFEW": [63.76, 75.01], "MER-MULTI": [64.15, 71.33],
        "CREMA-D": [84.91, 84.89, 94.00, 94.13], "MSP-IMPROV": [65.78, 74.95], "RAVDESS": [87.96, 87.99],
        "IEMOCAP": [68.21, 68.36], "Werewolf-XL": [33.74, 69.23, 40.66, 31.85, 64.81, 37.54],
        "AVCAffe": [43.18, 44.20], "MER24-train&val": [70.95, 70.18],
    },
    "hicmae_small": {"DFEW": [61.37, 72.20], "IEMOCAP": [67.46]},
    "hicmae_tiny": {"DFEW": [59.14, 71.24]},
    "hicmae_base_video": {"DFEW": [61.92, 73.10]},
    "hicmae_base_audio": {"CREMA-D": [71.01], "RAVDESS": [72.29], "IEMOCAP": [65.23], "MER-MULTI": [55.33]},
}  # fmt: skip
# results that repositories reproduced or reported beside the papers', by card and corpus
BESIDE = {
    ("mae_dfer_base", "FERV39k"): "43.29/52.50", ("mae_dfer_base", "MAFW"): "42.36/55.03",
    ("svfap_base", "DFEW"): "63.89/74.81", ("svfap_base", "FERV39k"): "43.05/52.86",
    ("svfap_base", "MAFW"): "43.51/56.31", ("hicmae_base", "MAFW"): "42.69/56.21",
    ("hicmae_base", "CREMA-D"): "84.94/84.91",
}  # fmt: skip


def commands(row: tuple[str, ...]) -> list[list[str]]:
    return [shlex.split(text)[1:] for text in re.findall(r"`(hicmae [^`]+)`", row[-1])]


@functools.cache
def load(name: str, *options: str) -> FinetuneConfig:
    return configs.load(FinetuneConfig, configs.resolve(name, "finetune"), options)


def loaded(row: tuple[str, ...]) -> FinetuneConfig:
    """The resolved recipe of a row's command."""
    words = commands(row)[0]
    return load(words[1], *(option for option in join_options(FinetuneConfig, words[2:]) if "=" in option))


def source(name: str) -> str:
    return configs.find(name, "finetune").read_text(encoding="utf-8")


def head_of(name: str) -> str:
    """The comments of a recipe, as one line."""
    text = source(name).split("\nextends:")[0]
    return " ".join(text.replace("\n#", " ").split())


def test_the_cards_hold_every_published_result_and_no_other() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for about in cards():
        for result in about.results:
            found.setdefault(about.name, {}).setdefault(result.dataset, []).extend(result.metrics.values())
    assert found == PUBLISHED
    for (name, corpus), text in BESIDE.items():
        notes = [f"{result.source} {result.note}" for result in card(name).results if result.dataset == corpus]
        assert any(text in note for note in notes), (name, corpus)


def test_the_table_has_a_row_for_every_result_of_every_card() -> None:
    told = sorted(row[:5] for row in ROWS)
    wanted = sorted(
        (result.dataset, about.system, result.input, ", ".join(f"{k} {v:.2f}" for k, v in result.metrics.items()),
         result.protocol)
        for about in cards() for result in about.results
    )  # fmt: skip
    assert told == wanted


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}".replace(" ", "_"))
def test_a_rows_command_resolves_to_the_model_and_corpus_it_names(row: tuple[str, ...]) -> None:
    config = loaded(row)
    about = next(about for about in cards() if about.system == row[1])
    assert config.fidelity == "published" and config.select == "last"
    assert config.model in (about.name, f"{about.name}_{row[2]}")
    assert set(config.args) <= set(model_arguments(config.model))
    takes = {"video": {"frames"}, "audio": {"audio_frames"}, "audio-visual": {"frames", "audio_frames"}}[row[2]]
    assert takes == {"frames", "audio_frames"} & set(model_arguments(config.model))
    corpus = config.data.train[0].removeprefix("data/").split("@")[0]
    names = {"MER-MULTI": "mer2023", "MER24-train&val": "mer24", "ChaLearn First Impressions": "first_impressions"}
    assert corpus.startswith(names.get(row[0], row[0].lower().replace("-", "_")))
    folds = next((count for name, count in FOLDED.items() if corpus.startswith(name)), 5 if "werewolf" in corpus else 0)
    assert ("--folds all" in row[-1]) == (folds > 0) == ("@fold!=1" in config.data.train[0])
    if "mer24" not in corpus:
        shown = published_results(config.model, f"{names.get(row[0], corpus.removesuffix('_video'))}/x")[1]
        values = {float(part.rsplit(" ", 1)[1]) for part in row[3].split(", ")}
        if corpus.rsplit("_", 1)[-1] not in ("43class", "4class", "arousal"):
            assert any(values == {float(part.rsplit(" ", 1)[1]) for part in line[1].split(", ")} for line in shown)


def test_every_command_of_the_table_is_one_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    # loading is tested row by row above; here, that words of every kind are told apart
    kinds = {re.sub(r" [^-]\S*", "", " ".join(words)): words for row in ROWS for words in commands(row)[:1]}
    for words in kinds.values():
        assert main([*words, "--dry-run"]) == 0
        assert "fidelity: published" in capsys.readouterr().out


def test_no_two_commands_write_into_one_folder() -> None:
    places = [loaded(row).out for row in ROWS]
    assert len(places) == len(set(places))


def test_every_recipe_named_after_a_result_is_in_the_table_and_says_how_it_is_run() -> None:
    named = {commands(row)[0][1] for row in ROWS}
    published = {
        name
        for name in configs.names("finetune")
        if "extends: " in source(name) and "extends: demo" not in source(name)
    }
    assert named == published
    for name in named:
        head = head_of(name)
        assert all(word in head for word in ("Published", "Cost:", "Hyperparameters:", "Frames:", "Deviations")), name
        assert f"hicmae finetune {name}" in head and "hicmae shard --card" in head and "measured by us" in head


def test_numbers_in_a_recipes_header_are_those_of_its_card() -> None:
    known = {f"{value:.2f}" for corpora in PUBLISHED.values() for values in corpora.values() for value in values}
    known |= {word for text in BESIDE.values() for word in text.split("/")}
    folds = {
        word for about in cards() for result in about.results for word in re.findall(r"\d\d\.\d\d", str(result.note))
    }
    for name in {commands(row)[0][1] for row in ROWS}:
        told = re.findall(r"\b\d\d\.\d\d\b", " ".join(head_of(name).split("Cost:")[0].split("Published")[1:]))
        assert told and set(told) <= known | folds, (name, set(told) - known - folds)


def test_the_cost_in_a_header_follows_from_the_macs_of_the_card() -> None:
    pattern = r"about ([\d.]+) PFLOP .*?\(6 x ([\d.]+) G x ([\d,]+) clips.*? x (\d+) epochs\), ([\d.]+) hours"
    seen = 0
    for name in {commands(row)[0][1] for row in ROWS}:
        head = head_of(name)
        if "nor estimated" in head:
            continue
        found = re.search(pattern, head)
        assert found is not None, name
        pflop, giga, clips, epochs, hours = (float(word.replace(",", "")) for word in found.groups())
        config = load(name)
        cost = card(config.model).cost("finetune")
        assert cost is not None and cost.giga_macs is not None and giga == pytest.approx(cost.giga_macs, abs=0.01)
        assert epochs == config.loop.epochs
        assert pflop == pytest.approx(6 * giga * clips * epochs / 1e6, rel=0.03)
        assert hours == pytest.approx(pflop / 40 / 3.6, abs=0.06)
        seen += 1
    assert seen > 20


def test_the_published_hyperparameters_are_those_of_the_scripts() -> None:
    wanted = {  # epochs, batch, stride
        "mae_dfer_dfew": (100, 96, 4), "mae_dfer_ferv39k": (100, 120, 1), "svfap_dfew": (100, 64, 4),
        "svfap_ferv39k": (100, 64, 1), "hicmae_crema_d": (50, 56, 4), "hicmae_mafw": (100, 56, 4),
        "hicmae_werewolf_xl": (30, 128, 3), "videomae_ferv39k": (100, 120, 1),
    }  # fmt: skip
    for name, (epochs, batch, stride) in wanted.items():
        c = load(name)
        assert (c.loop.epochs, c.loop.batch_size, c.data.stride) == (epochs, batch, stride), name
        assert (c.optim.lr, c.optim.layer_decay, c.optim.warmup_epochs, c.args["drop_path"]) == (1e-3, 0.75, 5, 0.1)
    numbers = load("hicmae_werewolf_xl")
    assert (numbers.task.kind, numbers.task.loss, numbers.augment.mix, numbers.augment.smoothing) == (
        "regression", "mse", 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_towers_of_other_sizes_can_be_built_from_the_rows(size: str) -> None:
    row = next(row for row in ROWS if f"--model hicmae_{size}_video" in row[-1])
    config = loaded(row)
    with torch.device("meta"):
        model = create_model(config.model, num_classes=7, **config.args)
    assert model.name == f"hicmae_{size}_video"
    assert Path(str(config.init)).name == f"hicmae_{size}_voxceleb2"
