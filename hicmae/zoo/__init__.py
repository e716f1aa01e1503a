"""The zoo: model cards, tables made from them, and conversion of published files. Cards need no torch."""

from typing import TYPE_CHECKING, Any

from hicmae.zoo.catalogue import Card, card, cards
from hicmae.zoo.tables import comparison, information, listing, readme

if TYPE_CHECKING:
    from hicmae.zoo.conversion import convert_checkpoint as convert
    from hicmae.zoo.fingerprints import fingerprint

__all__ = ["Card", "card", "cards", "comparison", "convert", "fingerprint", "information", "listing", "readme"]


def __getattr__(name: str) -> Any:
    if name == "convert":  # imports torch
        from hicmae.zoo.conversion import convert_checkpoint

        return convert_checkpoint
    if name == "fingerprint":
        from hicmae.zoo.fingerprints import fingerprint

        return fingerprint
    raise AttributeError(f"module 'hicmae.zoo' has no attribute {name!r}")
