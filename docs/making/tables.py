"""Tables of the systems' pages, made from the model cards: `python docs/making/tables.py` writes them anew.

A mark `<!-- table: costs NAME… -->` or `<!-- table: results NAME… -->` tells where one begins, `<!-- end -->` where it
ends; what lies between is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hicmae import zoo

DOCS = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table: (costs|results) ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def costs(names: Sequence[str]) -> list[str]:
    """What the forms of these models cost."""
    rows = [
        "| model | form | parameters | MACs | published | counted with |",
        "|---|---|---:|---:|---|---|",
    ]
    for about in map(zoo.card, names):
        for cost in about.costs:
            told = " / ".join(filter(None, (cost.published_parameters, cost.published_macs)))
            told += f" ({cost.source})" if told and cost.source else ""
            form = {"finetune": "fine-tuning", "pretrain": "pretraining"}[cost.form]
            rows.append(
                f"| `{about.name}` | {form} | {cost.parameters:,} | {_giga(cost.giga_macs)} | {told or '-'} | "
                f"{cost.note or '-'} |"
            )
    return rows


def results(names: Sequence[str]) -> list[str]:
    """What was published about these models."""
    rows = ["| corpus | model | input | published | protocol | source |", "|---|---|---|---|---|---|"]
    for about in map(zoo.card, names):
        for result in about.results:
            told = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.items())
            rows.append(
                f"| {result.dataset} | {about.system} | {result.input} | {told} | {result.protocol} | {result.source} |"
            )
    return rows


def filled(text: str) -> str:
    """A page with its tables as the cards have them now."""
    makers = {"costs": costs, "results": results}

    def table(match: re.Match[str]) -> str:
        return match[1] + "\n".join(makers[match[2]](match[3].split())) + "\n" + match[4]

    return MARK.sub(table, text)


def _giga(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}\N{NO-BREAK SPACE}G"


if __name__ == "__main__":
    for page in sorted(DOCS.glob("systems/*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
