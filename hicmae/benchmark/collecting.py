"""The table of a benchmark from the cells that are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hicmae.benchmark.plan import CROSS, Cell, Checkpoint, Corpus, shown_counts
from hicmae.benchmark.table import FIRST, Benchmark, Row
from hicmae.benchmark.work import failure_of, found_of, record_of
from hicmae.finetune.summary import Fold, summarise
from hicmae.models.profile import profile
from hicmae.runtime.checkpoint import read_weights, weights_file

__all__ = ["tabulate"]


def tabulate(
    checkpoints: Sequence[Checkpoint], corpora: Sequence[Corpus], cells: Sequence[Cell], seeds: Sequence[int]
) -> Benchmark:
    """The table of the cells that are done, with what is missing named."""
    rows: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    found = [_row(part) for part in rows.values()]
    ways = list(dict.fromkeys(cell.way for cell in cells))
    found += [
        Row(checkpoint=checkpoint.name, way=way, trained=corpus.name, tested=corpus.name, figures={}, seeds={},
            clips=0, seconds=0, missing={}, gap=gap)
        for checkpoint in checkpoints for corpus in corpora if (gap := corpus.gap(checkpoint))
        for way in ways[:1]
    ]  # fmt: skip
    order = {way: n for n, way in enumerate(ways)}
    ranked = sorted(_ranked(found), key=lambda row: order.get(row.way, 0))
    notes = [f"{row.checkpoint}, {row.tested}:{row.stamp}" for row in ranked if row.stamp]
    notes += [
        f"{checkpoint.name} was fine-tuned before; whether it has seen clips that are tested here is not checked."
        for checkpoint in checkpoints
        if checkpoint.meta.get("stage") == "finetune"
    ]
    if CROSS in ways:
        notes += [
            f"{one.name} and {other.name} have different labels: neither is tested with a model of the other."
            for n, one in enumerate(corpora) for other in corpora[n + 1 :]
            if set(one.index.classes) != set(other.index.classes)
        ]  # fmt: skip
    return Benchmark(
        rows=tuple(ranked),
        costs={checkpoint.name: _cost(checkpoint, cells) for checkpoint in checkpoints},
        corpora={
            corpus.name: {
                "folder": corpus.folder,
                "what": shown_counts(corpus),
                "classes": list(corpus.index.classes),
                "clips": len(corpus.index),
                "division": corpus.division,
                "protocol": corpus.index.protocol,
            }
            for corpus in corpora
        },
        seeds=tuple(seeds),
        notes=tuple(dict.fromkeys(notes)),
    )


def _row(cells: Sequence[Cell]) -> Row:
    """A row from its cells; a seed counts where all its parts are there."""
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    missing = {
        seed: next(filter(None, map(failure_of, part)), "")
        for seed, part in by_seed.items()
        if not all(map(record_of, part))
    }
    done = [cell for seed, part in by_seed.items() if seed not in missing for cell in part]
    checkpoint, way, trained, tested = cells[0].row
    row: dict[str, Any] = {"checkpoint": checkpoint, "way": way, "trained": trained, "tested": tested}
    row["seconds"] = sum(record_of(cell).get("seconds", 0) for cell in cells)
    if not done:
        return Row(**row, figures={}, seeds={}, clips=0, missing=missing)
    summary = summarise([Fold(name=cell.part.name, seed=cell.seed, found=found_of(cell)) for cell in done])
    return Row(
        **row,
        figures={name: {"mean": t.mean, "sd": t.sd} for name, t in summary.over_seeds.items()},
        seeds={seed: {name: e.value for name, e in found.items()} for seed, found in summary.pooled.items()},
        clips=sum(fold.clips for fold in summary.folds) // len(summary.pooled),
        missing=missing,
        stamp=summary.stamp,
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The same with their ranks."""
    told = []
    for row in rows:
        figure = row.figure(FIRST)
        place = (row.way, row.trained, row.tested)
        values = [
            float(other.figures[figure]["mean"] or 0)
            for other in rows
            if figure and (other.way, other.trained, other.tested) == place and figure in other.figures
        ]
        mine = float(row.figures[figure]["mean"] or 0) if figure else 0.0
        better, equal = sum(value > mine for value in values), sum(value == mine for value in values)
        told.append(Row(**{**vars(row), "rank": better + (equal + 1) / 2 if figure else None}))
    return told


def _cost(checkpoint: Checkpoint, cells: Sequence[Cell]) -> dict[str, Any]:
    own = [cell for cell in cells if cell.checkpoint is checkpoint]
    done = [cell for cell in own if record_of(cell)]
    cost: dict[str, Any] = {
        "source": checkpoint.source,
        "model": checkpoint.model,
        "takes": list(checkpoint.modalities),
        "parameters": None,
        "giga_macs": None,
        "hours": sum(record_of(cell)["seconds"] for cell in done) / 3600,
        "device": ", ".join(sorted({record_of(cell)["device"] for cell in done})),
    }
    trained = next((cell for cell in done if cell.trained is None), None)
    if trained is not None:
        meta = read_weights(weights_file(trained.out))[1]
        found = profile(meta["name"], "finetune", **meta["args"])
        cost |= {"parameters": found.params, "giga_macs": found.macs / 1e9}
    return cost
