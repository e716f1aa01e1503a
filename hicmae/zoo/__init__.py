"""The zoo: model cards, tables made from them, and conversion of published files. Cards need no torch."""

from hicmae.zoo.cards import Card, card, cards

__all__ = ["Card", "card", "cards"]
