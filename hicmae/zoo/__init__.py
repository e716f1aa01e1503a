"""The zoo: model cards, verified downloads, conversion of published files, publishing. Cards need no torch."""

import importlib
from typing import TYPE_CHECKING, Any

from hicmae.zoo.catalogue import Card, card, card_file, cards, known, own_cards
from hicmae.zoo.tables import comparison, information, listing, readme

if TYPE_CHECKING:
    from hicmae.zoo.bundles import bundle, unbundle
    from hicmae.zoo.conversion import convert_checkpoint as convert
    from hicmae.zoo.fingerprints import fingerprint
    from hicmae.zoo.obtaining import download, verify
    from hicmae.zoo.pretrained import Pretrained, from_pretrained
    from hicmae.zoo.publishing import About, publish
    from hicmae.zoo.sources import located

# These import torch, and are resolved on first use.
_HOME = {
    "About": ("publishing", "About"),
    "Pretrained": ("pretrained", "Pretrained"),
    "bundle": ("bundles", "bundle"),
    "convert": ("conversion", "convert_checkpoint"),
    "download": ("obtaining", "download"),
    "fingerprint": ("fingerprints", "fingerprint"),
    "from_pretrained": ("pretrained", "from_pretrained"),
    "located": ("sources", "located"),
    "publish": ("publishing", "publish"),
    "unbundle": ("bundles", "unbundle"),
    "verify": ("obtaining", "verify"),
}

__all__ = [
    "About",
    "Card",
    "Pretrained",
    "bundle",
    "card",
    "card_file",
    "cards",
    "comparison",
    "convert",
    "download",
    "fingerprint",
    "from_pretrained",
    "information",
    "known",
    "listing",
    "located",
    "own_cards",
    "publish",
    "readme",
    "unbundle",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, member = _HOME[name]
        return getattr(importlib.import_module(f"hicmae.zoo.{module}"), member)
    raise AttributeError(f"module 'hicmae.zoo' has no attribute {name!r}")
