"""The fingerprint of the data that a model was trained on, from wherever it is told."""

from __future__ import annotations

from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.fingerprint import Fingerprint
from hicmae.datasets.index import Index
from hicmae.runtime.checkpoint import read_weights, weights_file
from hicmae.zoo.catalogue import card

__all__ = ["fingerprint"]


def fingerprint(source: str | Path) -> Fingerprint:
    """What was measured of the training data of a model card (name or file), run folder, checkpoint or weights file, or
    of a folder of shards.

    Raises:
        UserError: there is no such thing, or nothing was measured; published checkpoints came without their data.
    """
    path = Path(source)
    found: Fingerprint | None
    if (path / "index.json").is_file():
        found = Index.load(path).fingerprint
    elif path.suffix in (".yaml", ".yml") or not path.exists():
        found = card(source).preprocessing.fingerprint
    else:
        found = read_weights(weights_file(path))[1].get("preprocessing", {}).get("fingerprint")
    if not found:
        raise UserError(
            f"{source}: does not say what its data measure (published checkpoints came without their data); name a "
            "run, a weights file or shards of yours"
        )
    return found
