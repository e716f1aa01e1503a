"""What a copy of a corpus holds, as its reader finds it clip by clip."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

from hicmae.datasets.cards import Card, Fold, Variant
from hicmae.datasets.listing import Item, Problem

__all__ = ["Found"]

NOT_THERE = ("does not exist", "complete your copy of the corpus")


class Found:
    """Clips with label, group and fold; what is wrong; and what was left out and why."""

    def __init__(self, card: Card, variant: Variant, root: Path) -> None:
        self.card, self.variant, self.root = card, variant, root
        self.items: list[Item] = []
        """Clips to be sharded; one that an annotation names and that is not there has `trouble`."""
        self.problems: list[Problem] = []
        self.left_out: dict[str, list[str]] = {}
        """Reason -> sources that are no clips of this variant."""
        self._sources: dict[str, str] = {}
        self._known = {word for other in card.variants for word in (*other.codes, *other.labels)}

    def leave(self, source: str, reason: str) -> None:
        """Leave a file out."""
        self.left_out.setdefault(reason, []).append(source)

    def problem(self, path: str | Path, reason: str, remedy: str, line: int | None = None) -> None:
        """Note what is wrong with a file or a line."""
        self.problems.append(Problem(path=str(path), line=line, reason=reason, remedy=remedy))

    def take(
        self,
        item: Item,
        *,
        key: str,
        word: str | None = None,
        group: str | None = None,
        part: str | None = None,
        extra: Mapping[str, str] | None = None,
        where: tuple[str, int | None] | None = None,
    ) -> None:
        """Take a clip, or note why not.

        Args:
            key: its name in the corpus; none may come twice.
            word: what the annotation calls its class.
            group: number or name of the person or session; where the card's folds hold numbers, it decides the fold.
            part: its fold or split, where the annotation says it.
            where: file and line that say so.
        """
        file, line = where or (str(item.path), None)
        if key in self._sources:
            self.problem(file, f"is {key} again (first {self._sources[key]})", "keep one of the two", line)
            return
        self._sources[key] = f"line {line}" if line else item.source
        if key in self.variant.leave_out:
            self.leave(item.source, "the published lists lack it")
            return
        label, wrong = self._label(word)
        if wrong:
            self.problem(file, wrong, f"known are {', '.join(self.variant.codes or self.variant.labels)}", line)
            return
        if label is None and word is not None:
            self.leave(item.source, f"its label is none of {self.variant.key}")
            return
        if part is None and group is not None:
            part = next((fold.name for fold in self.variant.folds if _holds(fold, group)), None)
        names = [fold.name for fold in self.variant.folds]
        if names and part not in names:
            said = (
                f"group {group}" if part is None and group is not None else f"{self.variant.column} {part or '(none)'}"
            )
            self.problem(file, f"has {said}, which the card does not know", f"known are {_ranges(self.variant)}", line)
            return
        values = dict(extra or {})
        for value in self.variant.values:
            wrong = _out_of_range(values.get(value.name), value.low, value.high)
            if wrong:
                remedy = f"the card says {value.low:g} to {value.high:g}"
                self.problem(file, f"has {value.name} {wrong}", remedy, line)
                return
        if part:
            values[self.variant.column] = part
        group = f"{self.card.name}-{group}" if group is not None else None
        self.items.append(dataclasses.replace(item, label=label, group=group, extra=values, line=line))

    def _label(self, word: str | None) -> tuple[str | None, str | None]:
        """The label that a word means, or what is wrong with it; neither where the variant leaves it out."""
        labels, codes = self.variant.labels, self.variant.codes
        if word is None or (not labels and not codes):
            return word, None
        if word in codes:
            return codes[word], None
        if word in labels:
            return word, None
        if word.isdecimal() and not any(code.isdecimal() for code in codes) and int(word) < len(labels):
            return labels[int(word)], None  # published lists number the labels from 0
        return (None, None) if word in self._known else (None, f"has the label {word}")


def _holds(fold: Fold, group: str) -> bool:
    number = re.search(r"\d+$", group)
    return bool(fold.groups) and number is not None and fold.groups[0] <= int(number[0]) <= fold.groups[1]


def _ranges(variant: Variant) -> str:
    return ", ".join(
        f"{fold.name} ({variant.column} of {fold.groups[0]} to {fold.groups[1]})" if fold.groups else fold.name
        for fold in variant.folds
    )


def _out_of_range(text: str | None, low: float, high: float) -> str | None:
    try:
        number = float(text or "")
    except ValueError:
        return f"{text or '(none)'}, which is no number"
    return None if math.isfinite(number) and low <= number <= high else f"{text}, which is out of range"
