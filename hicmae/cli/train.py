"""Commands that train: pretrain, finetune."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hicmae.cli.words import Add, whole_numbers, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`pretrain` and `finetune`."""
    for name, command, kind in (("pretrain", _pretrain, "PretrainConfig"), ("finetune", _finetune, "FinetuneConfig")):
        words = {
            "pretrain": "pretrain a masked autoencoder on shards without labels",
            "finetune": "fine-tune a classifier on labelled shards",
        }[name]
        sub = add(name, command, words, f"hicmae.{name}:{kind}", "An unfinished run in --out is continued.")
        sub.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or the name of one in {name}/")
        words = "auto, single, ddp, fsdp or deepspeed: short for --loop.engine"
        sub.add_argument("--engine", metavar="NAME", help=words)
        sub.add_argument(
            "--dry-run",
            action="store_true",
            help="print the resolved recipe (pretrain: and what it will take) and stop",
        )
        words = f"with {'--dry-run or ' * (name == 'pretrain')}--fit: processes the run will have (%(default)s)"
        sub.add_argument("--processes", type=int, default=1, metavar="N", help=words)
        if name == "pretrain":
            words = "with --dry-run: steps tried for an estimate of the hours; 0 tries none (%(default)s)"
            sub.add_argument("--probe", type=int, default=20, metavar="N", help=words)
        words = "choose micro-batch and recomputing so that a process needs at most so much GPU memory, as 24GB"
        sub.add_argument("--fit", metavar="SIZE", help=words)
        words = "with --fit: as large a batch as fits at once, the learning rate scaled with it"
        sub.add_argument("--find-batch", action="store_true", help=words)
        if name == "finetune":
            words = "carry out these folds of the shards, as 1,3, or all, each in a folder of its own, and sum them up"
            sub.add_argument("--folds", type=lambda text: text.split(","), metavar="all|1,2", help=words)
            sub.add_argument("--seeds", type=whole_numbers, metavar="0,1,2", help="with --folds: each with these seeds")


def _with_engine(arguments: argparse.Namespace, options: list[str]) -> list[str]:
    return options if arguments.engine is None else [*options, f"--loop.engine={arguments.engine}"]


def _fitted(arguments: argparse.Namespace, config: Any, fit_to: Callable[..., Any]) -> Any:
    """The recipe as `--fit` makes it, once that is told; as it is without."""
    from hicmae.runtime.fitting import gibibytes

    if arguments.find_batch and not arguments.fit:
        raise ConfigError("--find-batch goes with --fit SIZE, the memory of the card, as --fit 24GB")
    if not arguments.fit:
        return config
    found = fit_to(config, gibibytes(arguments.fit), processes=arguments.processes, find_batch=arguments.find_batch)
    write(str(found))
    return found.config


def _pretrain(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs, pretrain
    from hicmae.pretrain.fitting import fit_to

    recipe = configs.resolve(arguments.recipe, "pretrain")
    config = configs.load(pretrain.PretrainConfig, recipe, _with_engine(arguments, options))
    config = _fitted(arguments, config, fit_to)
    if arguments.dry_run:
        write(configs.to_yaml(config))
        if config.data.shards:
            write(pretrain.plan(config, processes=arguments.processes, probe=arguments.probe))
        return 0
    write(f"weights: {pretrain.run(config)}")
    return 0


def _finetune(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs, finetune
    from hicmae.finetune.fitting import fit_to

    recipe = configs.resolve(arguments.recipe, "finetune")
    config = configs.load(finetune.FinetuneConfig, recipe, _with_engine(arguments, options))
    if arguments.seeds and not arguments.folds:
        raise ConfigError("--seeds goes with --folds all (or some); one run takes --seed N")
    config = _fitted(arguments, config, fit_to)
    if arguments.dry_run:
        write(configs.to_yaml(config))
    elif arguments.folds:
        folds = None if arguments.folds == ["all"] else arguments.folds
        write(str(finetune.run_folds(config, folds, arguments.seeds) or "not all folds are there yet"))
    else:
        write(f"weights: {finetune.run(config)}")
    return 0
