"""What the cards say, as the table of `datasets/README.md`."""

from __future__ import annotations

from hicmae.datasets.cards import Card, Variant, load, names

__all__ = ["table"]

_ACCESS = {"open": "open", "form": "after a form", "agreement": "signed agreement", "own": "yours"}


def table() -> str:
    """A row per variant of every card, in Markdown."""
    head = "| card | `--variant` | clips | classes or values, in order | parts | group | access |"
    rows = [head, "|---|---|---:|---|---|---|---|"]
    cards = sorted(map(load, names()), key=lambda card: (card.access == "own", card.name))
    return "\n".join([*rows, *(_row(card, variant) for card in cards for variant in card.variants)])


def _row(card: Card, variant: Variant) -> str:
    first = variant is card.variants[0]
    labels = variant.labels if len(variant.labels) <= 11 else (*variant.labels[:2], "…", variant.labels[-1])
    ranges = [f"{value.name} {value.low:g} to {value.high:g}" for value in variant.values]
    parts = [fold.name for fold in variant.folds]
    whole = f"{len(parts)} folds" if variant.column == "fold" and parts else ", ".join(parts)
    cells = [
        f"`{card.name}`" if first else "",
        f"`{variant.key}`",
        f"{variant.clips:,}" if variant.clips is not None else "",
        ", ".join([*labels, *ranges]),
        whole,
        (card.group or "none: clip-level") if first else "",
        _ACCESS[card.access] if first else "",
    ]
    return f"| {' | '.join(cells)} |"
