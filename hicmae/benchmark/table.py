"""The table of a benchmark: every checkpoint on every corpus, over seeds, with ranks, costs and what is not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.benchmark.plan import CROSS
from hicmae.finetune.report import HEADLINES
from hicmae.runtime import charts
from hicmae.runtime.page import Page, write_file

__all__ = ["FIRST", "Benchmark", "Row"]

FIRST = ("uar", "ccc", "macro_f1")  # the first that a task has decides the rank
SECOND = ("war", "pcc", "weighted_f1")
WORDS = {"finetune": "Fine-tuned", "linear": "Linear probe", "attentive": "Attentive probe", "lora": "LoRA"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checkpoint, way and corpus, over seeds."""

    checkpoint: str
    way: str
    trained: str
    """Corpus that is trained on."""
    tested: str
    """Corpus that is tested."""
    figures: dict[str, dict[str, float | None]]
    """Figure -> its mean over the seeds and their standard deviation (over their number less one)."""
    seeds: dict[int, dict[str, float]]
    """Seed -> figures of all its test clips together."""
    clips: int
    seconds: float
    """That training and measuring took, over all seeds and parts."""
    missing: dict[int, str]
    """Seeds that are not there, and why."""
    gap: str = ""
    """Why the checkpoint cannot do this corpus."""
    stamp: str = ""
    """What must follow every figure."""
    rank: float | None = None
    """Among the checkpoints on this corpus; equal ones share theirs."""

    def figure(self, among: Sequence[str]) -> str:
        """The first of some figures that it has."""
        return next((name for name in among if name in self.figures), "")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What was found; `str()` is the table as Markdown."""

    rows: tuple[Row, ...]
    costs: dict[str, dict[str, Any]]
    """Checkpoint -> source, model, parameters, giga_macs, hours, device."""
    corpora: dict[str, dict[str, Any]]
    """Corpus -> folder, classes, clips, division."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """Cells that failed, with their reasons."""
        return [f"{_named(row)}, seed {s}: {why}" for row in self.rows for s, why in row.missing.items() if why]

    @property
    def waiting(self) -> int:
        """Cells that are not done and have not failed: another process is at them."""
        return sum(not why for row in self.rows for why in row.missing.values())

    @property
    def gaps(self) -> list[str]:
        """What a checkpoint cannot do, with the reason."""
        return [f"{row.checkpoint} on {row.tested}: {row.gap}" for row in self.rows if row.gap]

    @property
    def ok(self) -> bool:
        """No cell has failed, and none is waited for."""
        return not self.failures and not self.waiting

    def mean_ranks(self, way: str) -> dict[str, float]:
        """Checkpoint -> mean of its ranks over the corpora that every ranked checkpoint has done."""
        ranked = [row for row in self.rows if row.way == way and row.rank is not None]
        names = {row.checkpoint for row in ranked}
        tested = {(row.trained, row.tested) for row in ranked}
        common = {pair for pair in tested if {r.checkpoint for r in ranked if (r.trained, r.tested) == pair} == names}
        ranks: dict[str, list[float]] = {}
        for row in ranked:
            if (row.trained, row.tested) in common and row.rank is not None:
                ranks.setdefault(row.checkpoint, []).append(row.rank)
        return {name: float(np.mean(values)) for name, values in ranks.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "mean_ranks": {way: self.mean_ranks(way) for way in self.ways},
            "costs": self.costs,
            "corpora": self.corpora,
            "seeds": list(self.seeds),
            "gaps": self.gaps,
            "failures": self.failures,
            "waiting": self.waiting,
            "notes": list(self.notes),
        }

    @property
    def ways(self) -> list[str]:
        """In the order of the table."""
        return list(dict.fromkeys(row.way for row in self.rows))

    def write(self, out: Path) -> Path:
        """Write benchmark.json, .csv (a line per seed), .md and .html into `out`; returns the path of the page."""
        write_file(out / "benchmark.json", json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")
        write_file(out / "benchmark.csv", self._csv())
        write_file(out / "benchmark.md", str(self) + "\n")
        return self.page().write(out / "benchmark.html")

    def page(self) -> Page:
        """The page."""
        page = Page("Benchmark", self._subtitle())
        page.tiles(
            (_words(way).lower(), *_best(self.mean_ranks(way), len(self.costs)))
            for way in self.ways
            if self.mean_ranks(way)
        )
        if self.waiting:
            page.note(f"{self.waiting} cells are not there yet: another process works on them.")
        for note in [*self.notes, *(f"Failed: {text}" for text in self.failures)]:
            page.note(note)
        for way in self.ways:
            page.heading(_words(way)).table(*self._table(way), caption=_CAPTIONS[way == CROSS])
        if self.gaps:
            page.heading("What was not possible").table(["", ""], [gap.split(": ", 1) for gap in self.gaps])
        for name, about in self.corpora.items():
            bars = [row for row in self.rows if row.tested == name and row.way != CROSS and row.figure(("uar",))]
            if bars:
                labels = [f"{row.checkpoint}, {_words(row.way).lower()}" for row in bars]
                values = [row.figures["uar"]["mean"] for row in bars]
                notes = [f"± {100 * sd:.1f}" if (sd := row.figures["uar"]["sd"]) is not None else "" for row in bars]
                chance = 1 / len(about["classes"])
                page.heading(f"UAR on {name}").figure(
                    charts.bars(
                        labels,
                        values,
                        notes=notes,
                        reference=chance,
                        reference_name=f"chance {100 * chance:.1f}",
                        label=f"UAR on {name}",
                    ),
                    f"Percent, mean over {len(self.seeds)} seeds and their standard deviation.",
                )
        page.heading("Corpora").table(*self._corpora()).heading("Cost").table(*self._costs(), caption=_COST)
        return page

    def __str__(self) -> str:
        parts = [f"# Benchmark\n\n{self._subtitle()}"]
        parts += [
            f"## {_words(way)}\n\n{_markdown(*self._table(way))}\n\n{_CAPTIONS[way == CROSS]}" for way in self.ways
        ]
        parts += [f"## Corpora\n\n{_markdown(*self._corpora())}", f"## Cost\n\n{_markdown(*self._costs())}\n\n{_COST}"]
        lists = {"Not possible": self.gaps, "Failed": self.failures, "Notes": list(self.notes)}
        if self.waiting:
            lists["Notes"].append(f"{self.waiting} cells are not there yet: another process works on them.")
        parts += [f"## {name}\n\n" + "\n".join(f"* {text}" for text in texts) for name, texts in lists.items() if texts]
        return "\n\n".join(parts)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _subtitle(self) -> str:
        counts = {"checkpoint": len(self.costs), "corpora": len(self.corpora), "seed": len(self.seeds)}
        told = [
            f"{n} {what + 's' * (n != 1) if what != 'corpora' else 'corpus' if n == 1 else what}"
            for what, n in counts.items()
        ]
        return f"{', '.join(told)} ({', '.join(map(str, self.seeds))}); mean ± sd over seeds"

    def _table(self, way: str) -> tuple[list[str], list[list[str]]]:
        rows = [row for row in self.rows if row.way == way]
        at = {(row.checkpoint, row.trained, row.tested): row for row in rows}
        columns = []
        for corpus in dict.fromkeys(row.tested for row in rows):
            for among in (FIRST, SECOND):
                figure = next((name for row in rows if row.tested == corpus and (name := row.figure(among))), "")
                if figure or among is FIRST:
                    columns.append((corpus, figure))
        cross, ranks, body = way == CROSS, self.mean_ranks(way), []
        for checkpoint in self.costs:
            # a line per checkpoint, and across corpora one per corpus that is trained on
            for n, trained in enumerate(dict.fromkeys(row.trained for row in rows) if cross else [""]):
                found = [at.get((checkpoint, trained or corpus, corpus)) for corpus, _ in columns]
                if cross and not any(found):
                    continue
                cells = [_cell(row, f) if row else "–" for row, (_, f) in zip(found, columns, strict=True)]
                rank = f"{ranks[checkpoint]:.2f}" if checkpoint in ranks and n == 0 else "" if n else "–"
                body.append([checkpoint, *([trained] if cross else []), *cells, rank])
        head = [f"{corpus} {HEADLINES.get(figure, figure.upper())}".strip() for corpus, figure in columns]
        return ["checkpoint", *(["trained on"] if cross else []), *head, "mean rank"], body

    def _corpora(self) -> tuple[list[str], list[list[str]]]:
        return ["corpus", "what", "classes", "division"], [
            [name, about["protocol"] or about["what"], ", ".join(about["classes"]), about["division"]]
            for name, about in self.corpora.items()
        ]

    def _costs(self) -> tuple[list[str], list[list[str]]]:
        head = ["checkpoint", "model", "takes", "parameters", "MACs", "time", "on"]
        return head, [
            [
                name,
                cost["model"],
                " and ".join(cost["takes"]),
                f"{cost['parameters']:,}" if cost["parameters"] else "–",
                _giga(cost["giga_macs"]) if cost["giga_macs"] else "–",
                f"{cost['hours']:.1f} hours" if cost["hours"] >= 1 else f"{60 * cost['hours']:.1f} minutes",
                cost["device"] or "–",
            ]
            for name, cost in self.costs.items()
        ]

    def _csv(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["checkpoint", "way", "trained", "tested", "seed", "clips", *names, "rank", "note"])
        for row in self.rows:
            head = [row.checkpoint, row.way, row.trained, row.tested]
            for seed, found in row.seeds.items():
                figures = [found.get(name, "") for name in names]
                writer.writerow([*head, seed, row.clips, *figures, row.rank, row.stamp.strip(" ()")])
            for seed, why in row.missing.items():
                writer.writerow([*head, seed, "", *[""] * len(names), "", f"failed: {why}" if why else "not there yet"])
            if row.gap:
                writer.writerow([*head, "", "", *[""] * len(names), "", row.gap])
        return text.getvalue()


_CAPTIONS = (
    "Figures in percent (CCC, PCC: as they are), of all test clips together, mean ± sd over seeds. A checkpoint's rank "
    "on a corpus is that of its mean, the best is 1; the mean rank is over the corpora that all checkpoints have.",
    "Fine-tuned on the training part of one corpus (of its first fold), tested on all clips of others with its labels.",
)
_COST = (
    "Parameters and multiply-accumulates of the fine-tuning form, per clip. Time of this benchmark's training and "
    "measuring, all seeds; of a run that was interrupted, that of its last stretch."
)


def _cell(row: Row, figure: str) -> str:
    if row.gap or not row.figures:
        return "failed" if any(row.missing.values()) else "–"
    mean, sd = row.figures[figure]["mean"], row.figures[figure]["sd"]
    scale, digits = (100, 2) if figure in HEADLINES else (1, 4)
    text = f"{scale * (mean or 0):.{digits}f}" + (f" ± {scale * sd:.{digits}f}" if sd is not None else "")
    return text + (f" ({len(row.seeds)} seeds)" if row.missing else "") + row.stamp


def _words(way: str) -> str:
    return "Cross-corpus" if way == CROSS else WORDS.get(way, way)


def _named(row: Row) -> str:
    over = f"{row.trained} -> {row.tested}" if row.trained != row.tested else row.tested
    return f"{row.checkpoint}, {row.way}, {over}"


def _giga(macs: float) -> str:
    return f"{macs:.2f} G" if macs >= 1 else f"{1000 * macs:.2f} M"


def _best(ranks: dict[str, float], count: int) -> tuple[str, str]:
    best = min(ranks.values())
    names = [name for name, rank in ranks.items() if rank == best]
    return " = ".join(names), f"mean rank {best:.2f} of {count}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
