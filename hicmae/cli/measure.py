"""Commands that measure: evaluate, benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from hicmae.cli.words import Add, device_option, whole_numbers, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`evaluate` and `benchmark`."""
    sub = add("evaluate", _evaluate, "measure a fine-tuned model: UAR, WAR, per-class recall, confusion matrix, a page")
    sub.add_argument("run", metavar="RUN", help="run folder or weights file")
    sub.add_argument(
        "--data", nargs="+", default=[], metavar="DIR", help="labelled shards (default: the recipe's test)"
    )
    sub.add_argument("--segments", type=int, metavar="N", help="clips per sample whose predictions are averaged")
    sub.add_argument("--merge", metavar="COLUMN", help="average predictions over a column, as task (AVCAffe)")
    words = "figures for each value of a column of the shards, too, as sex; RUN may be a folder of folds that are done"
    sub.add_argument("--by", metavar="COLUMN", help=words)
    words = "no measurement: compare what is stored of RUN (a run, or a folder of folds) and OTHER, on the same clips"
    sub.add_argument("--against", metavar="OTHER", help=words)
    words = (
        "figures where a modality is missing, or under noise, and the area under them (with --against: of OTHER too)"
    )
    sub.add_argument("--curves", metavar="missing|noise|all|KIND,…", help=words)
    sub.add_argument("--modality", choices=["video", "audio"], help="give an audio-visual model this one alone")
    sub.add_argument("--out", metavar="DIR", help="where the JSON, CSV and HTML files go (default: RUN/evaluation)")
    device_option(sub)

    words = "compare checkpoints on labelled corpora, fine-tuned, probed and across corpora, over seeds: one table"
    more = "Finished runs are not repeated; start it several times, with other --device, to share the work out."
    sub = add("benchmark", _benchmark, words, "hicmae.finetune:FinetuneConfig", more)
    told = (
        "pretrained run or weights file; MODEL=PATH for a form of it, as hicmae_base_video=RUN; a model's name: fresh"
    )
    sub.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=told)
    sub.add_argument("--data", nargs="+", required=True, metavar="DIR", help="labelled shards, one folder per corpus")
    sub.add_argument("--seeds", type=whole_numbers, default=[0, 1, 2], metavar="0,1,2", help="(default: %(default)s)")
    told = "of finetune, linear, attentive, lora, cross (default: finetune,linear,cross)"
    sub.add_argument("--ways", type=_words, default=["finetune", "linear", "cross"], metavar="A,B", help=told)
    told = "recipe of the runs, as for hicmae finetune; WAY=RECIPE for one way; may be repeated"
    sub.add_argument("--recipe", action="append", default=[], metavar="[WAY=]RECIPE", help=told)
    told = "folds to test, where shards have such (default: all)"
    sub.add_argument("--folds", type=_words, metavar="1,2", help=told)
    sub.add_argument("--out", default="runs/benchmark", metavar="DIR", help="runs and table (default: %(default)s)")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _benchmark(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import benchmark

    recipes = dict(recipe.split("=", 1) if "=" in recipe else ("", recipe) for recipe in arguments.recipe)
    table = benchmark.compare(
        arguments.checkpoints,
        arguments.data,
        seeds=arguments.seeds,
        ways=arguments.ways,
        recipes=recipes,
        options=options,
        folds=None if arguments.folds == ["all"] else arguments.folds,
        out=arguments.out,
    )
    write(str(table))
    return 0 if table.ok else 1


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import finetune

    if arguments.curves:
        return _curves(arguments)
    if arguments.against:
        write(finetune.told_against(arguments.run, arguments.against))
        return 0
    folder = Path(arguments.run)
    if arguments.by and folder.is_dir() and not (folder / "checkpoints").exists() and any(folder.glob("**/done.json")):
        write(str(finetune.summary_by(folder, arguments.by)))
        return 0
    report = finetune.evaluate(
        arguments.run,
        arguments.data or None,
        segments=arguments.segments,
        modality=arguments.modality,
        merge=arguments.merge,
        by=arguments.by,
        out=arguments.out,
        device=arguments.device,
    )
    write(str(report))
    return 0


def _curves(arguments: argparse.Namespace) -> int:
    from hicmae.finetune.robustness import curves

    unused = [name for name in ("merge", "by", "modality") if getattr(arguments, name)]
    if unused:
        raise ConfigError(f"--{unused[0]} does nothing with --curves: leave it out")
    result = curves(
        arguments.run,
        arguments.data or None,
        kinds=_words(arguments.curves),
        against=[arguments.against] if arguments.against else (),
        segments=arguments.segments,
        out=arguments.out,
        device=arguments.device,
    )
    write(str(result))
    return 0
