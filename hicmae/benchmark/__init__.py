"""Checkpoints compared on labelled corpora, fine-tuned, probed and across corpora, over seeds (after MERBench, Lian et
al. 2024): one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hicmae import configs
from hicmae.benchmark.collecting import tabulate
from hicmae.benchmark.plan import CROSS, WAYS, cells_of, open_checkpoints, open_corpora
from hicmae.benchmark.table import Benchmark, Row
from hicmae.benchmark.work import carry_out
from hicmae.configs.errors import ConfigError
from hicmae.finetune.folds import claim
from hicmae.runtime.log import say

__all__ = ["Benchmark", "Row", "compare"]


def compare(
    checkpoints: Sequence[str | Path],
    data: Sequence[str | Path],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    ways: Sequence[str] = ("finetune", "linear", CROSS),
    recipes: Mapping[str, str | Path] | None = None,
    options: Sequence[str] = (),
    folds: Sequence[str] | None = None,
    out: str | Path = "runs/benchmark",
    show: bool = True,
) -> Benchmark:
    """Fine-tune and probe each checkpoint on each corpus with each seed, and make one table of it.

    Every cell is a run of its own in `out`: those that are done are not run again, an unfinished one is continued, one
    that fails does not stop the others. Several processes, started alike, share them out.

    Args:
        checkpoints: pretrained run folders or weights files; `MODEL=PATH` names the form to fine-tune, as a single
            tower of an audio-visual checkpoint; a model's name alone stands for fresh weights.
        data: folders of labelled shards. Their folds or split are used; where they have none, a quarter of the groups
            (of the videos where groups are not known) is tested.
        seeds: of weights, order and augmentation.
        ways: `finetune`, `linear`, `attentive`, `lora`, and `cross`: the fine-tuned models tested on the other corpora
            with the same labels.
        recipes: way -> recipe; that of `""` holds for all. Frames, stride and size are those of each checkpoint's
            pretraining where a recipe does not state them.
        options: `--dotted.key=value` for all runs.
        folds: names of folds to test, where a corpus has such; all when absent.
        out: folder of the runs and of benchmark.json, .csv, .md and .html.

    Raises:
        UserError: checkpoints, corpora or recipes that cannot be read, or an `out` that holds another benchmark.
    """
    unknown = [way for way in ways if way not in (*WAYS, CROSS)]
    if unknown or not ways:
        raise ConfigError(f"--ways {','.join(unknown) or 'is empty'}: there are {', '.join([*WAYS, CROSS])}")
    ways = list(dict.fromkeys([*(["finetune"] if CROSS in ways else []), *ways]))
    given = dict(recipes or {})
    strange = [way for way in given if way not in ("", *WAYS)]
    if strange:
        raise ConfigError(f"--recipe {strange[0]}=…: recipes are for {', '.join(WAYS)}")
    for name, values in (("checkpoints", checkpoints), ("--data", data), ("--seeds", seeds)):
        if not values:
            raise ConfigError(f"{name}: name at least one")
    opened, corpora = open_checkpoints(checkpoints), open_corpora(data, folds)
    resolved: dict[str, Mapping[str, Any]] = {
        way: configs.resolve(given.get(way) or given[""], "finetune") for way in WAYS if given.get(way) or given.get("")
    }
    distinct = list(dict.fromkeys(seeds))
    cells = cells_of(opened, corpora, ways, distinct, Path(out), resolved, options)
    if show:
        say(f"checkpoints {len(opened)}, corpora {len(corpora)}, seeds {len(distinct)}: {len(cells)} cells in {out}")
    carry_out(cells, show=show)
    with claim(Path(out), wait=True):  # another process' table, written while more cells were missing, never lasts
        table = tabulate(opened, corpora, cells, distinct)
        page = table.write(Path(out))
    if show:
        say(f"page: {page}")
    return table
