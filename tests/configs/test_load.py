"""Recipes: typing, extends, and errors that name the dotted path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from hicmae import configs
from hicmae.configs import ConfigError
from hicmae.configs.options import join_options


@dataclass(frozen=True, kw_only=True)
class Inner:
    """An inner config."""

    lr: float = 1e-3
    """The rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Two numbers."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"inner.lr must be positive, not {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """An outer config."""

    model: str
    """A name."""
    args: dict[str, Any] = field(default_factory=dict)
    """Free arguments."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """One of two."""
    inner: Inner = Inner()
    """Nested."""


def test_options_win_over_the_recipe_and_the_recipe_over_the_defaults() -> None:
    recipe = {"model": "a", "args": {"dim": 3}, "inner": {"lr": "2e-3"}}
    config = configs.load(Outer, recipe, ["--inner.betas", "[0.5, 0.6]", "--args.depth=4", "--model=b"])
    assert config == Outer(model="b", args={"dim": 3, "depth": 4}, inner=Inner(lr=2e-3, betas=(0.5, 0.6)))


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ({"model": "a", "inner": {"lrr": 1}}, [], r"unknown key inner\.lrr; did you mean lr\? known: lr, betas"),
        ({"model": "a", "lr": 1}, [], r"unknown key lr; did you mean inner\.lr\?"),
        ({"modle": "a"}, [], r"unknown key modle; did you mean model\?"),
        ({"model": "a", "inner": 3}, [], r"inner must be a mapping with lr, betas, not 3"),
        ({"model": "a", "inner": {"lr": "x"}}, [], r"inner\.lr: Expected a .*float.* Got value: x"),
        ({"model": "a", "inner": {"lr": -1}}, [], r"inner\.lr must be positive, not -1"),
        ({"model": "a", "precision": "fp8"}, [], r"precision: Expected a Literal\['bf16', 'fp32'\]"),
        ({}, [], r"required: model"),
        ({"model": "a"}, ["--inner.lrr", "3"], r"unknown option --inner\.lrr; did you mean --inner\.lr"),
        ({"model": "a"}, ["--lr", "3"], r"unknown option --lr; did you mean --inner\.lr\?"),
        ({"model": "a"}, ["stray"], r"unrecognized arguments: stray"),
    ],
)
def test_a_mistake_names_the_dotted_path_and_the_right_ones(recipe: dict, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.load(Outer, recipe, options)


def test_a_recipe_builds_on_the_pieces_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: a\ninner: {lr: 0.5, betas: [0.1, 0.2]}\n")
    (tmp_path / "more.yaml").write_text("args: {dim: 8}\n")
    (tmp_path / "recipe.yaml").write_text("extends: [base, more]\ninner: {lr: 0.25}\n")
    merged = configs.resolve(tmp_path / "recipe.yaml", "pretrain")
    assert merged == {"model": "a", "inner": {"lr": 0.25, "betas": [0.1, 0.2]}, "args": {"dim": 8}}


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(ConfigError, match=r"extends itself by way of a\.yaml -> b\.yaml"):
        configs.resolve(tmp_path / "a.yaml", "pretrain")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [1, 2\nx: 3\n", r"r\.yaml, line 2, column 2: not valid YAML"),
        (b"- a\n- b\n", r"a recipe is a mapping of keys to values, not a list"),
        (b"\xff\xfe\x00", r"not a text file"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        configs.resolve(tmp_path / "r.yaml", "pretrain")


def test_a_missing_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"nowhere: neither a file nor a shipped pretrain recipe; .*known: "):
        configs.find("nowhere", "pretrain")


def test_a_config_survives_the_way_through_yaml() -> None:
    config = Outer(model="a", args={"region": (2, 4, 8)}, inner=Inner(lr=0.5))
    again = configs.load(Outer, yaml.safe_load(configs.to_yaml(config)))
    assert again.inner == config.inner
    assert again.args == {"region": [2, 4, 8]}


@dataclass(frozen=True, kw_only=True)
class Lists:
    """A config with a list."""

    shards: list[str] = field(default_factory=list)
    """Folders."""
    batch_size: int = 1
    """A number."""


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        ({"shards": "a"}, [], ["a"]),
        ({}, ["--shards", "a b/c"], ["a b/c"]),
        ({}, ["--shards=[a, b]"], ["a", "b"]),
        ({"shards": ["a"]}, ["--shards+=b"], ["a", "b"]),
    ],
)
def test_one_item_may_stand_for_a_list(recipe: dict, options: list[str], expected: list[str]) -> None:
    assert configs.load(Lists, recipe, options).shards == expected


def test_options_are_spelt_with_underscores_or_dashes() -> None:
    assert configs.load(Lists, {}, ["--batch-size", "3"]).batch_size == 3


def test_options_may_stand_before_positional_arguments() -> None:
    assert join_options(Lists, ["--batch-size", "3", "recipe", "--other"]) == ["--batch-size=3", "recipe", "--other"]
