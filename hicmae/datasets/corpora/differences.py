"""How a copy of a corpus differs from its card."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hicmae.datasets.cards import Card
from hicmae.datasets.check import Report
from hicmae.datasets.corpora.reading import read_corpus
from hicmae.datasets.listing import Problem

__all__ = ["compare"]


def compare(card: Card | str, root: str | Path, variant: str | None = None) -> Report:
    """What is missing, superfluous or otherwise counted in a copy of a corpus; no clip is opened.

    Raises:
        UserError: there is no such folder, card or variant, or an annotation file is missing or has another form.
    """
    found = read_corpus(card, root, variant)
    about, chosen = found.card, found.variant
    there = [item for item in found.items if item.trouble is None]
    problems = list(found.problems)
    for item in found.items:
        if item.trouble is not None:
            problems.append(Problem(path=str(item.path), reason=item.trouble[0], remedy=item.trouble[1]))
    summary: dict[str, Any] = {
        "corpus": about.corpus,
        "protocol": about.protocol(chosen),
        "labels say": chosen.target,
        "groups": f"{len({item.group for item in there})} ({about.group})" if about.group else "none: clip-level",
    }

    def count(name: str, number: int, card_says: int | None) -> None:
        if card_says is None:
            summary[name] = f"{number:,}"
        elif card_says == number:
            summary[name] = f"{number:,} as in the card"
        else:
            summary[name] = f"{number:,}, card: {card_says:,} ({number - card_says:+,})"
            remedy = "complete your copy, or state the number beside your results"
            problems.append(Problem(path=name, reason=f"{number:,}, where the card says {card_says:,}", remedy=remedy))

    count("clips", len(there), chosen.clips)
    labels = Counter(item.label for item in there if item.label is not None)
    for label in chosen.labels or sorted(labels):
        count(f"class {label}", labels[label], chosen.classes.get(label))
    parts = Counter(item.extra.get(chosen.column) for item in there)
    for fold in chosen.folds:
        count(f"{chosen.column} {fold.name}", parts[fold.name], fold.clips)
        inside = Counter(item.label for item in there if item.extra.get(chosen.column) == fold.name)
        for label, number in fold.classes.items():
            count(f"{chosen.column} {fold.name}, {label}", inside[label], number)
    summary["with a sound file beside them"] = sum(item.sound is not None for item in there)
    notes = _thin([item.group for item in there]) if len(there) != chosen.clips else []
    notes += [f"{len(names):,} left out, {why}: {_some(names)}" for why, names in sorted(found.left_out.items())]
    return Report(Path(root), f"{about.name}, {chosen.key}", summary, problems, [*notes, *_known(chosen.note, about)])


def _thin(groups: list[str | None]) -> list[str]:
    """Which groups have fewer clips than most have, where most have the same number."""
    counts = Counter(group for group in groups if group is not None)
    usual, often = Counter(counts.values()).most_common(1)[0] if counts else (0, 0)
    fewer = [f"{group} {count}" for group, count in sorted(counts.items()) if count < usual]
    return [f"fewer clips than the usual {usual}: {_some(fewer)}"] if fewer and 2 * often > len(counts) else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _known(note: str | None, card: Card) -> list[str]:
    """What the card says that a reader of the counts must know."""
    unsure = [f"not verified: {words}" for words in card.unverified]
    return [*([note] if note else []), *unsure, *(f"not known: {words}" for words in card.unknown)]
