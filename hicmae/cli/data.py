"""Commands that make and look at data: shard, check."""

from __future__ import annotations

import argparse
from typing import Any

from hicmae.cli.words import Add, fraction, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`shard` and `check`."""
    sub = add(
        "shard",
        _shard,
        "turn videos (mp4, mov, mkv, webm, avi, flv), or a corpus by its card, into training shards",
        "hicmae.datasets:ShardConfig",
    )
    sub.add_argument("videos", nargs="*", metavar="VIDEO", help="video files or folders, searched through")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the shards; a run found there is continued")
    _corpus_words(sub)
    division = sub.add_mutually_exclusive_group()
    division.add_argument("--part", type=fraction, metavar="I/N", help="write only part I of N, on any machine")
    division.add_argument("--merge", action="store_true", help="prove that all parts are there, and write their index")
    sub.add_argument("--workers", type=int, default=0, metavar="N", help="processes on this machine (%(default)s)")
    sub.add_argument("--engine", choices=["processes", "ray"], default="processes", help="who works (%(default)s)")

    words = "validate a list, videos, shards or a copy of a corpus before training; exit code 1 if there are problems"
    sub = add("check", _check, words)
    sub.add_argument(
        "path", nargs="?", help="a csv list, a video, a folder of videos, or of shards (here or https://…)"
    )
    _corpus_words(sub)
    sub.add_argument("--html", metavar="FILE", help="of shards: write a page with a contact sheet and histograms")
    sub.add_argument(
        "--like", metavar="CARD", help="of shards: compare with the data of a model card, run, weights file or shards"
    )
    sub.add_argument(
        "--probe", action="store_true", help="of shards: measure which format, and how many workers, feed a model here"
    )
    sub.add_argument("--model", metavar="NAME", help="with --probe: a model, whose step is measured without --speed")
    sub.add_argument("--speed", type=float, metavar="CLIPS/S", help="with --probe: what a model takes on its GPU")


def _shard(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs
    from hicmae.datasets import ShardConfig, corpora, merge_shards, write_part, write_shards

    config = configs.load(ShardConfig, {}, options)
    videos: Any = arguments.videos
    if corpus := _corpus(arguments, bool(videos)):
        videos, config = corpora.inputs(*corpus, config)
    given, how = (videos, arguments.out), {"workers": arguments.workers, "engine": arguments.engine}
    if arguments.merge:
        write(merge_shards(*given, config=config).describe())
    elif arguments.part:
        write(write_part(*given, *arguments.part, config=config, **how).describe())
    else:
        write(write_shards(*given, config=config, **how).describe())
    return 0


def _check(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.datasets.check import check
    from hicmae.datasets.corpora import compare

    if arguments.probe:
        from hicmae.benchmark.probing import probe

        if arguments.path is None:
            raise ConfigError("--probe needs a folder of shards: hicmae check SHARDS --probe")
        write(str(probe(arguments.path, model=arguments.model, speed=arguments.speed)))
        return 0
    if arguments.model or arguments.speed is not None:
        raise ConfigError("--model and --speed go with --probe")
    like = None
    if arguments.like:
        from hicmae import zoo

        like = zoo.fingerprint(arguments.like)
    corpus = _corpus(arguments, arguments.path is not None)
    report = compare(*corpus) if corpus else check(arguments.path, html=arguments.html, like=like)
    write(str(report))
    return 0 if report.ok else 1


def _corpus(arguments: argparse.Namespace, files: bool) -> tuple[str, str, str | None] | None:
    """Card, folder and variant, where a copy of a corpus is meant."""
    if (arguments.card is None) != (arguments.root is None) or (arguments.card is not None) == files:
        raise ConfigError("name files or folders, or a corpus by --card NAME and its folder by --root DIR, not both")
    return (arguments.card, arguments.root, arguments.variant) if arguments.card else None


def _corpus_words(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--card", metavar="NAME", help="a corpus by the name of its card in datasets/, with --root")
    sub.add_argument("--root", metavar="DIR", help="folder of your own copy of the corpus")
    sub.add_argument("--variant", metavar="NAME", help="its classes and labels, as 6class (default: the card's first)")
