"""Cards of models, read strictly: `models/*.yaml`, one per published system and size, and those of your own."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from hicmae.configs import ConfigError, find, names
from hicmae.configs.cards import read_card
from hicmae.runtime.hub import cache_folder, check_name

__all__ = [
    "Card",
    "Converted",
    "Cost",
    "ModelFile",
    "Paper",
    "Preprocessing",
    "Result",
    "Weights",
    "card",
    "card_file",
    "card_text",
    "cards",
    "known",
    "own_cards",
]

RESPONSIBLE = ("intended_use", "out_of_scope", "labels_mean", "groups", "consent")
"""What every card must say in words."""
_EMPTY = {"", "-", "?", "...", "…", "todo", "tbd", "none", "n/a", "na", "null", "unknown", "fixme", "xxx"}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a system was published."""

    title: str
    venue: str
    arxiv: str
    """Number, as `2307.02227`."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one form of a model costs for one clip; `None` where nothing is known."""

    form: Literal["finetune", "pretrain"]
    parameters: int
    """Counted from the published code."""
    giga_macs: float | None = None
    """10^9 multiply-accumulates of the published code, as fvcore counts them; batch 1."""
    published_parameters: str | None = None
    """As printed, `85 M`."""
    published_macs: str | None = None
    """As printed, `50 G`; papers call them FLOPs."""
    source: str | None = None
    """Where the published figures stand."""
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A published accuracy. None of them was measured by this library."""

    dataset: str
    protocol: str
    """Classes, folds, which epoch; numbers of other protocols are not comparable."""
    target: Literal["acted", "perceived", "felt", "unknown"]
    """What the labels say: what an actor was asked to show, what raters saw, or what the person reported."""
    metrics: dict[str, float]
    """By name (UAR, WAR, ...), in percent unless the protocol says otherwise."""
    source: str
    input: Literal["video", "audio", "audio-visual"] = "video"
    labels: tuple[str, ...] | None = None
    """Class names in the order of the published lists, where it is known."""
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file to download. Without size and sha256 it is not: nobody could tell whether it is the right one."""

    name: str
    form: Literal["finetune", "pretrain"] = "finetune"
    what: str | None = None
    """Which one it is, in words."""
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()
    """`hf://owner/repo@revision/file`, `https://…`, or a path, from the card's folder if it is not absolute; tried in
    this order."""
    labels: tuple[str, ...] | None = None
    """Class names in the order of the outputs, for a file that does not say them itself."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The published files."""

    what: str
    """Which files there are."""
    published: str | None = None
    """The page that links them; `None` where no file was published."""
    obtained: bool = False
    """Whether this project has had a file in hand; if not, size and sha256 cannot be known."""
    files: tuple[ModelFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Where a converted file comes from; its arguments stand in its header."""

    model: str
    """The registered name."""
    stage: Literal["finetune", "pretrain"]
    source: str
    """Name of the file it was made from."""
    source_sha256: str
    labels: tuple[str, ...] | None = None
    """Class names in the order of the outputs; `None` where the file does not tell."""
    assumed: tuple[str, ...] = ()
    """What the file does not tell and was taken from the published system."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How input was made, as far as it is known: a checkpoint is only as good as inputs made the same way."""

    known: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    fingerprint: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """What was measured of the training data: name -> 5 %, median, 95 %; see `hicmae.datasets.fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model card. Terms of code and of weights are separate: the one says nothing about the other."""

    name: str
    """The registered name, or that of a converted file."""
    system: str
    """What people call it."""
    summary: str
    paper: Paper
    repository: str
    code_licence: str
    weights_licence: str
    costs: tuple[Cost, ...] = ()
    results: tuple[Result, ...] = ()
    weights: Weights
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    intended_use: str
    out_of_scope: str
    labels_mean: str
    """What the outputs are, and what they are not: acted, perceived or felt."""
    groups: str
    """The groups of people it was evaluated on, and those it was not."""
    consent: str
    """Whose recordings it learnt from, and whether they agreed."""
    converted: Converted | None = None
    """Only for the card that `convert` puts beside a file."""
    note: str | None = None

    @property
    def input(self) -> str:
        """What the model takes: `video`, `audio` or `audio-visual`."""
        if self.name.endswith(("_video", "_audio")):
            return self.name[-5:]
        return "audio-visual" if self.name.startswith("hicmae") else "video"

    def cost(self, form: str) -> Cost | None:
        """That of a form, if the card states one."""
        return next((cost for cost in self.costs if cost.form == form), None)

    def result(self, dataset: str, input: str | None = None) -> Result | None:
        """The first on a data set (and for an input), if the card states one."""
        found = (result for result in self.results if result.dataset == dataset)
        return next((result for result in found if input in (None, result.input)), None)


def card_file(name: str | Path) -> Path:
    """Where the card of a model lies: a YAML file or a folder with `card.yaml`, a card of your own, a shipped one.

    Your own are looked for in the folder that HICMAE_CARDS names and among those that came with bundles; they come
    before shipped ones of the same name.

    Raises:
        ConfigError: no such card; names the nearest.
    """
    path = Path(name)
    if path.is_dir() and (path / "card.yaml").is_file():
        return path / "card.yaml"
    own = next((folder / f"{name}.yaml" for folder in _own() if (folder / f"{name}.yaml").is_file()), None)
    return own if own is not None and not path.is_file() else find(name, "models")


def card(name: str | Path) -> Card:
    """The card of a model, by its name, or by the path of a YAML file or of a published folder.

    Raises:
        ConfigError: no such card, or one that breaks the form; the message names file and key.
    """
    file = card_file(name)
    return checked(read_card(Card, file), file)


def checked(about: Card, file: str | Path) -> Card:
    """The card, if it says what every card must say.

    Raises:
        ConfigError: a field of responsible use says nothing, or a file has a name that could lead elsewhere.
    """
    for key in RESPONSIBLE:
        words = getattr(about, key).strip()
        if words.lower().rstrip(".!") in _EMPTY or len(words) < 15:
            raise ConfigError(
                f"{file}: {key} must say something in words, not {words!r}; if nothing is known, say that and why"
            )
    for number, each in enumerate(about.weights.files):
        try:
            check_name(each.name)
        except ValueError as error:
            raise ConfigError(f"{file}: weights.files[{number}].name: {error}") from None
    return about


def card_text(about: Card, head: str) -> str:
    """A card as YAML that `card` reads, without what is not said; `head` is its first line."""
    values = yaml.safe_dump(_plain(dataclasses.asdict(about)), sort_keys=False, allow_unicode=True, width=112)
    return f"# {head}\n{values}"


def _plain(value: Any) -> Any:
    """Tuples as lists, and without what is not said."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in (None, (), {})}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def cards() -> list[Card]:
    """All shipped cards, by system, smaller models first."""
    shipped = (read_card(Card, find(name, "models")) for name in names("models"))
    return sorted(shipped, key=lambda found: (*_place(found), found.name))


def own_cards() -> list[str]:
    """Names of the cards of your own; see `card_file`."""
    return sorted({path.stem for folder in _own() for path in folder.glob("*.yaml")})


def known() -> list[str]:
    """Names of all cards, shipped ones and those of your own."""
    return list(dict.fromkeys([*(about.name for about in cards()), *own_cards()]))


def _own() -> list[Path]:
    named = os.environ.get("HICMAE_CARDS")
    return [*([Path(named).expanduser()] if named else []), cache_folder() / "cards"]


def _place(found: Card) -> tuple[int, int]:
    systems = ("videomae", "mae_dfer", "svfap", "hicmae")
    place = next((i for i, system in enumerate(systems) if found.name.startswith(system)), len(systems))
    tower = found.name.endswith(("_video", "_audio"))  # after what they are a part of
    return place, (1 << 40 if tower else 0) + max((cost.parameters for cost in found.costs), default=0)
