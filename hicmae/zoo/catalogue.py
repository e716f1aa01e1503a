"""Cards of models: `models/*.yaml`, one per published system and size, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hicmae.configs import find, names
from hicmae.configs.cards import read_card

__all__ = ["Card", "Converted", "Cost", "Paper", "Preprocessing", "Result", "Weights", "card", "cards"]


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
class Weights:
    """The published file."""

    what: str
    """Which files there are."""
    published: str | None = None
    """The page that links them; `None` where no file was published."""
    obtained: bool = False
    """Whether this project has had a file in hand; if not, `sha256` cannot be known."""
    sha256: str | None = None
    file: str | None = None
    """Name of a converted file beside the card."""


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


def card(name: str | Path) -> Card:
    """The card of a model, by its name or by the path of a YAML file.

    Raises:
        ConfigError: no such card, or one that breaks the form; the message names file and key.
    """
    return read_card(Card, find(name, "models"))


def cards() -> list[Card]:
    """All shipped cards, by system, smaller models first."""
    return sorted(map(card, names("models")), key=lambda found: (*_place(found), found.name))


def _place(found: Card) -> tuple[int, int]:
    systems = ("videomae", "mae_dfer", "svfap", "hicmae")
    place = next((i for i, system in enumerate(systems) if found.name.startswith(system)), len(systems))
    tower = found.name.endswith(("_video", "_audio"))  # after what they are a part of
    return place, (1 << 40 if tower else 0) + max((cost.parameters for cost in found.costs), default=0)
