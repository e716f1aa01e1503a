"""Cards of corpora: `datasets/*.yaml`, read strictly: terms, tree, label names in order, folds, counts, protocols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hicmae import configs
from hicmae.configs.cards import read_card
from hicmae.configs.errors import ConfigError
from hicmae.configs.files import did_you_mean

__all__ = ["Card", "Fold", "Order", "Value", "Variant", "load", "names"]

LabelTarget = Literal["intended", "votes_audio", "votes_face", "votes_both", "perceived", "felt", "unknown", "none"]
"""What labels say: what an actor was asked to show (`intended`); the majority of raters who heard, saw, or heard and
saw the clip (`votes_*`); the corpus' annotators (`perceived`); the person's own report (`felt`). Results with
different targets are different results."""

Reader = Literal[
    "avcaffe", "crema_d", "csv", "dfew", "enterface05", "ferv39k", "folder_per_class", "iemocap", "lists", "mafw",
    "ravdess", "voxceleb2",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One part of a split."""

    name: str
    clips: int | None = None
    """Clips in it; `None` where unknown."""
    others: int | None = None
    """Clips of all other parts together, where published."""
    classes: dict[str, int] = field(default_factory=dict)
    """Clips of each class in it, where published."""
    groups: tuple[int, ...] = ()
    """First and last number of the groups (actors, subjects, sessions) in it; where given, the split is made from
    them."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number to be predicted, with the range it must lie in."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Order:
    """Another order of the same labels that is in circulation."""

    who: str
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way in which a corpus is labelled and split: what a result must name to be comparable."""

    name: str
    """As `6class`; given to `--variant`, followed by `-` and the target where several variants share it."""
    target: LabelTarget
    split: str
    """As `subject-5fold`."""
    labels: tuple[str, ...] = ()
    """Class names in order; empty where there are none, or none are known."""
    codes: dict[str, str] = field(default_factory=dict)
    """The annotation's word for a class -> label, where they differ; words that lead to no label leave a clip out."""
    values: tuple[Value, ...] = ()
    """Numbers to be predicted instead of, or beside, classes."""
    clips: int | None = None
    classes: dict[str, int] = field(default_factory=dict)
    """Clips of each class."""
    column: Literal["fold", "split"] = "fold"
    """Column of the shards that holds a clip's part: `fold` of a cross-validation, `split` where the parts have roles
    (train, validation, test)."""
    folds: tuple[Fold, ...] = ()
    leave_out: tuple[str, ...] = ()
    """Clips, by file name without suffix, that the published lists lack."""
    orders: tuple[Order, ...] = ()
    metrics: tuple[str, ...] = ()
    """By which results are usually given."""
    source: str = ""
    """Where the counts are from."""
    note: str | None = None

    @property
    def key(self) -> str:
        """Name and target, as `6class-intended`: together they are unique in a card."""
        return self.name if self.target == "none" else f"{self.name}-{self.target}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A corpus. What nobody has checked stands under `unverified`; what is not known, under `unknown`."""

    name: str
    corpus: str
    """What people call it."""
    summary: str
    access: Literal["open", "form", "agreement", "own"]
    """Free to download; after a form or registration; after a signed agreement; a person's own."""
    licence: str
    obtain: str
    tree: tuple[str, ...]
    """The files that are expected below the folder given as `--root`."""
    reader: Reader
    """Which function reads the tree."""
    group: str | None = None
    """What must not be split between training and test: subject, session, source video; `None` where none is
    published, so that results are stamped clip-level."""
    variants: tuple[Variant, ...]
    """The first is the default."""
    frames: str | None = None
    """What the published results saw: whose face crops, which frames."""
    notes: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def variant(self, name: str | None = None) -> Variant:
        """A variant by its name, the first by default.

        Raises:
            ConfigError: there is none of that name.
        """
        if name is None:
            return self.variants[0]
        found = next((variant for variant in self.variants if name in (variant.name, variant.key)), None)
        if found is None:
            known = did_you_mean(name, [variant.key for variant in self.variants])
            raise ConfigError(f"{self.name} has no variant {name!r}; {known}")
        return found

    def protocol(self, variant: Variant) -> str:
        """The key that results are kept under, as `crema_d/6class-intended/subject-5fold`."""
        return f"{self.name}/{variant.key}/{variant.split}"


def load(name: str | Path) -> Card:
    """The card of a corpus, by its name or by the path of a YAML file.

    Raises:
        ConfigError: no such card, or one that breaks the form or contradicts itself; names file and key.
    """
    path = configs.find(name, "datasets")
    card = read_card(Card, path)
    for wrong in _contradictions(card):
        raise ConfigError(f"{path}: {wrong}")
    return card


def names() -> list[str]:
    """The names of all shipped cards."""
    return configs.names("datasets")


def _contradictions(card: Card) -> Iterable[str]:
    """What does not fit together in a card: names, and sums."""
    if not card.variants:
        yield "variants is empty"
    for name in _twice(variant.key for variant in card.variants):
        yield f"variants: {name} is there twice"
    for variant in card.variants:
        at, folds = f"variant {variant.key}", variant.folds
        for name in [*_twice(variant.labels), *_twice(fold.name for fold in folds)]:
            yield f"{at}: {name} is there twice"
        for named in (variant.codes.values(), variant.classes, *(fold.classes for fold in folds)):
            if unknown := set(named) - set(variant.labels):
                yield f"{at}: {', '.join(sorted(unknown))} is none of its labels"
        if any(sorted(order.labels) != sorted(variant.labels) for order in variant.orders):
            yield f"{at}: orders must hold the same labels"
        counts = [fold.clips for fold in folds if fold.clips is not None]
        sums = {"classes": sum(variant.classes.values())} if variant.classes else {}
        sums |= {"folds": sum(counts)} if len(counts) == len(folds) > 0 else {}
        for what, total in sums.items():
            if total != variant.clips:
                yield f"{at}: its {what} have {total} clips in all, not {variant.clips}"
        for fold in folds:
            if None not in (fold.clips, fold.others) and (fold.clips or 0) + (fold.others or 0) != variant.clips:
                yield f"{at}: fold {fold.name} and the others do not have {variant.clips} clips together"
            if fold.classes and sum(fold.classes.values()) != fold.clips:
                yield f"{at}: the classes of fold {fold.name} do not have {fold.clips} clips together"
            if fold.groups and (len(fold.groups) != 2 or fold.groups[0] > fold.groups[1]):
                yield f"{at}: fold {fold.name}: groups must be the first and the last number"


def _twice(words: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [word for word in words if word in seen or seen.add(word)]  # type: ignore[func-returns-value]
