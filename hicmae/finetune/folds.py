"""The folds of a corpus, carried out: one run per fold and seed, each once, by as many processes as take part."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicmae import configs
from hicmae.configs.errors import ConfigError, UserError
from hicmae.datasets.index import Index
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.engine import run
from hicmae.finetune.summary import Fold, Summary, summarise
from hicmae.runtime.log import say
from hicmae.runtime.page import write_file

__all__ = ["DONE", "Job", "claim", "jobs_of", "once", "run_folds", "summary_by", "summary_of"]

_PART = re.compile(r"@(fold|split)!?=[^@]*")
DONE = "done.json"


@dataclass(frozen=True)
class Job:
    """One run: the fold it is tested on, and its recipe, whose folder lies in that of the whole."""

    fold: str
    config: FinetuneConfig

    @property
    def out(self) -> Path:
        """The run's folder."""
        return Path(self.config.out)

    @property
    def done(self) -> bool:
        """Trained and measured."""
        return (self.out / DONE).is_file()


def run_folds(
    config: FinetuneConfig,
    folds: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    show: bool = True,
) -> Summary | None:
    """Fine-tune and measure on each fold in turn, and sum up when all are there; None while some are not.

    Runs lie in `config.out`: fold1, fold2, …, or seed0/fold1, … where `seeds` are given. Those that are done are not
    run again, an unfinished one is continued. Several processes, started alike, share the folds out among themselves
    (a lock that lives as long as its process says who has which); the last writes the summary.

    Args:
        config: the recipe; its data name one set of shards with a column `fold`, or `split` with a part `train` and a
            part `test`. Conditions on that column, as `@fold!=1`, are replaced.
        folds: names of folds; all when absent.
        seeds: the recipe's when absent.

    Raises:
        ConfigError: the shards have no folds, or not those; a run was made by another recipe.
        UserError: as `run`.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "folds are shared out among separate processes: start the command once per GPU, with --device cuda:0, "
            "cuda:1, …, instead of torchrun; torchrun is for one fold"
        )
    jobs = jobs_of(config, folds, seeds)
    for job in jobs:
        configs.check_recipe(job.config, job.out)
    for job in jobs:

        def work(job: Job = job) -> dict[str, Any]:
            if show:
                say(f"fold {job.fold}, seed {job.config.seed}: {sum(j.done for j in jobs)} of {len(jobs)} are done")
            run(job.config, show=show)
            return {"fold": job.fold, "seed": job.config.seed}

        once(job.out, work)
    waiting = [job for job in jobs if not job.done]
    if waiting:
        if show:
            names = ", ".join(str(job.out.relative_to(config.out)) for job in waiting)
            say(f"another process works on {names}; the last to finish sums up, and so does this command, run again")
        return None
    return summary_of(config.out, jobs, show=show)


def jobs_of(
    config: FinetuneConfig, folds: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Job]:
    """The runs that carry out the folds of a recipe's data, by seed, then by fold; see `run_folds`."""
    shards = list(dict.fromkeys(_PART.sub("", folder) for folder in [*config.data.train, *config.data.test]))
    if not shards:
        raise ConfigError("data.train is empty: name the shards whose folds are meant, --data.train DIR")
    index = Index.join([Index.load(folder) for folder in shards])
    column = next((name for name in ("fold", "split") if name in index.extra), None)
    if column is None:
        raise ConfigError(
            f"{', '.join(shards)}: its samples have no column fold or split; shard a corpus by its card (hicmae shard "
            "--card), or a list with such a column"
        )
    values, counts = np.unique(index.extra[column].astype(str), return_counts=True)
    if "" in values:
        raise ConfigError(f"{', '.join(shards)}: {counts[0]:,} of its {len(index):,} samples have no {column}")
    parts = _sorted(values.tolist())
    if column == "split" and not {"train", "test"} <= set(parts):
        raise ConfigError(f"{', '.join(shards)}: split must have the parts train and test, not {', '.join(parts)}")
    if column == "fold" and len(parts) < 2:
        raise ConfigError(f"{', '.join(shards)}: there is one fold, {parts[0]}, and nothing left to train on")
    known = parts if column == "fold" else ["test"]
    unknown = [name for name in folds or () if name not in known]
    if unknown:
        raise ConfigError(f"--folds {','.join(unknown)}: the {column}s of {', '.join(shards)} are {', '.join(known)}")
    jobs = []
    for seed in seeds if seeds is not None else [config.seed]:
        for name in dict.fromkeys(folds or known):
            train, test, val = f"@fold!={name}", f"@fold={name}", ""
            if column == "split":
                train, test, val = "@split=train", "@split=test", "@split=validation"
            data = dataclasses.replace(
                config.data,
                train=[folder + train for folder in shards],
                test=[folder + test for folder in shards],
                val=[folder + val for folder in shards] if val and "validation" in parts else config.data.val,
            )
            out = Path(
                config.out, *([f"seed{seed}"] if seeds is not None else []), f"fold{name}" if not val else "test"
            )
            jobs.append(Job(name, dataclasses.replace(config, data=data, seed=seed, out=str(out))))
    return jobs


def summary_of(out: str | Path, jobs: Sequence[Job], *, show: bool = True) -> Summary:
    """The summary of runs that are done, written into `out`; of averaged weights, where there are some, beside it."""
    results = {}
    for kind in ("evaluation", "evaluation-ema")[: 1 + bool(jobs[0].config.loop.ema)]:
        folds = [Fold(name=job.fold, seed=job.config.seed, found=_read(job.out / kind)) for job in jobs]
        results[kind] = summarise(folds)
        page = results[kind].write(Path(out), kind.replace("evaluation", "summary"))
        if show:
            say(f"page: {page}")
    return results["evaluation"]


def summary_by(out: str | Path, column: str, *, show: bool = True) -> Summary:
    """The summary of folds that are done, with the pooled figures of the clips of each value of a column, as `sex`.

    Nothing is measured: the stored predictions tell it. The summary in `out` is written anew.

    Raises:
        UserError: no finished folds there, or predictions without that column.
    """
    folds = []
    for file in Path(out).glob(f"**/{DONE}"):
        done = json.loads(file.read_text(encoding="utf-8"))
        folds.append(Fold(name=done["fold"], seed=done["seed"], found=_read(file.parent / "evaluation")))
    if not folds:
        raise UserError(f"{out}: no folds there that are done (hicmae finetune RECIPE --folds all --out {out})")
    order = {name: n for n, name in enumerate(_sorted({fold.name for fold in folds}))}
    summary = summarise(sorted(folds, key=lambda fold: (fold.seed, order[fold.name])), column)
    page = summary.write(Path(out))
    if show:
        say(f"page: {page}")
    return summary


def _sorted(names: Iterable[str]) -> list[str]:
    """Names of folds, numbers as numbers first."""
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _read(folder: Path) -> dict:
    path = folder / "evaluation.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete {folder.parent / DONE} and run the command again"
        ) from None


def once(folder: Path, work: Callable[[], Mapping[str, Any]]) -> bool:
    """Do `work`, whose results go to `folder`, unless it is done or another process is at it; whether it is done now.

    What it returns (JSON-able) is kept in `folder/done.json`. Where it fails or is killed, the next call does it again.
    """
    file = folder / DONE
    if not file.is_file():
        with claim(folder) as mine:
            if mine and not file.is_file():  # else another process has finished it meanwhile
                write_file(file, json.dumps(work()) + "\n")
    return file.is_file()


@contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process may work in `folder`; it alone may, until the block ends or the process dies.

    With `wait` it is told when the others are through.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise UserError(
            "folds are claimed by file locks, which need Linux or macOS; run the folds one by one"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim.lock").open("a") as file:
        try:
            fcntl.lockf(
                file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
            )  # released by the system, even after a kill
        except OSError:
            yield False
            return
        yield True
