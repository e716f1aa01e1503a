"""Published results of a model on a corpus, to stand beside a measured one."""

from __future__ import annotations

from hicmae import configs
from hicmae.datasets import cards

__all__ = ["published_results"]

_TESTS = {"mer2023": "MER-MULTI"}  # corpora whose results go by the name of a test


def published_results(model: str, protocol: str | None) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: what the card of `model` says of the corpus of a protocol key, with its sources.

    A single tower without a card of its own is told of in the card of its whole. No rows where there is no card, or no
    result on that corpus. Protocols are shown as the cards state them: whether they are those of the measured result,
    a reader must judge.
    """
    corpus = str(protocol or "").split("/")[0]
    head = ["published", "figures", "input", "protocol", "source"]
    known, (whole, _, tower) = configs.names("models"), model.rpartition("_")
    name, seen = (model, None) if model in known else (whole, tower)
    if name not in known or seen not in (None, "video", "audio") or corpus not in cards.names():
        return head, []
    card, dataset = configs.read_yaml(configs.find(name, "models")), cards.load(corpus).corpus
    return head, [
        [
            card["system"],
            ", ".join(f"{figure} {value:g}" for figure, value in result["metrics"].items()),
            result.get("input", "video"),
            result["protocol"],
            "; ".join(filter(None, [result["source"], result.get("note")])),
        ]
        for result in card.get("results", ())
        if result["dataset"] in (dataset, _TESTS.get(corpus)) and seen in (None, result.get("input", "video"))
    ]
