"""Commands that measure: evaluate."""

from __future__ import annotations

import argparse

from hicmae.cli.words import Add, device_option, write

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`evaluate`."""
    sub = add("evaluate", _evaluate, "measure a fine-tuned model: UAR, WAR, per-class recall, confusion matrix, a page")
    sub.add_argument("run", metavar="RUN", help="run folder or weights file")
    sub.add_argument(
        "--data", nargs="+", default=[], metavar="DIR", help="labelled shards (default: the recipe's test)"
    )
    sub.add_argument("--segments", type=int, metavar="N", help="clips per sample whose predictions are averaged")
    sub.add_argument("--merge", metavar="COLUMN", help="average predictions over a column, as task (AVCAffe)")
    sub.add_argument("--by", metavar="COLUMN", help="figures for each value of a column of the shards, too, as sex")
    words = "no measurement: compare what is stored of RUN (a run, or a folder of folds) and OTHER, on the same clips"
    sub.add_argument("--against", metavar="OTHER", help=words)
    sub.add_argument("--modality", choices=["video", "audio"], help="give an audio-visual model this one alone")
    sub.add_argument("--out", metavar="DIR", help="where the JSON, CSV and HTML files go (default: RUN/evaluation)")
    device_option(sub)


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import finetune

    if arguments.against:
        write(finetune.told_against(arguments.run, arguments.against))
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
