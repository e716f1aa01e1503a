"""The command line: thin over the library. Every command is one function call a notebook could make.

Exit codes: 0 done; 1 the check found problems; 2 a mistake the message explains (HICMAE_TRACEBACK=1 shows where it
was found); 75 stopped on request with a checkpoint left to continue from; 130 interrupted at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hicmae import __version__
from hicmae.configs.errors import ConfigError, UserError
from hicmae.configs.options import config_help, join_options, load_config

__all__ = ["entry", "main"]

Command = Callable[[argparse.Namespace, list[str]], int]
Commands = dict[str, tuple[Command, str | None]]  # and where the config of its further options is, if it has any


def entry() -> NoReturn:
    """The installed command: run, and leave with the exit code."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A user's mistake is one message on stderr, never a traceback."""
    # threads that spin while they wait make a shared machine crawl: a step beside one busy process took twice as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser, commands = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and commands.get(words[0], (None, None))[1]:
            words = join_options(load_config(str(commands[words[0]][1])), words)
        arguments, rest = parser.parse_known_args(words)
        if arguments.command is None:
            parser.print_help()
            return 2
        command, options = commands[arguments.command]
        if rest and options is None:
            return _fail(f"hicmae {arguments.command} has no option {rest[0]}; see hicmae {arguments.command} --help")
        return command(arguments, rest)
    except (UserError, ValueError) as error:  # the library's ValueErrors name the value and the remedy
        if os.environ.get("HICMAE_TRACEBACK"):
            raise
        from_loop = type(error).__name__ == "Interrupted"
        return _fail(str(error), 75 if from_loop else 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # `hicmae … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"{'stopped' if code == 75 else 'error'}: {message}\n")
    return code


def _write(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


# -- commands ------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import demo

    if arguments.videos:
        _write(demo.own_videos(arguments.videos, arguments.out, steps=arguments.steps))
    else:
        _write(str(demo.generated_faces(arguments.out, demo.DemoConfig(seeds=arguments.seeds))))
    return 0


def _shard(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs
    from hicmae.datasets import ShardConfig, corpora, merge_shards, write_part, write_shards

    config = configs.load(ShardConfig, {}, options)
    videos: Any = arguments.videos
    if corpus := _corpus(arguments, bool(videos)):
        videos, config = corpora.inputs(*corpus, config)
    given, how = (videos, arguments.out), {"workers": arguments.workers, "engine": arguments.engine}
    if arguments.merge:
        _write(merge_shards(*given, config=config).describe())
    elif arguments.part:
        _write(write_part(*given, *arguments.part, config=config, **how).describe())
    else:
        _write(write_shards(*given, config=config, **how).describe())
    return 0


def _corpus(arguments: argparse.Namespace, files: bool) -> tuple[str, str, str | None] | None:
    """Card, folder and variant, where a copy of a corpus is meant."""
    if (arguments.card is None) != (arguments.root is None) or (arguments.card is not None) == files:
        raise ConfigError("name files or folders, or a corpus by --card NAME and its folder by --root DIR, not both")
    return (arguments.card, arguments.root, arguments.variant) if arguments.card else None


def _fraction(text: str) -> tuple[int, int]:
    """`3/8` as (3, 8)."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be I/N, as in 3/8, not {text}")
    return int(part), int(parts)


def _whole_numbers(text: str) -> list[int]:
    """`0,1,2` as [0, 1, 2]."""
    if not all(word.isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers, as 0,1,2, not {text}")
    return [int(word) for word in text.split(",")]


def _check(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.datasets.check import check
    from hicmae.datasets.corpora import compare

    like = None
    if arguments.like:
        from hicmae import zoo

        like = zoo.fingerprint(arguments.like)
    corpus = _corpus(arguments, arguments.path is not None)
    report = compare(*corpus) if corpus else check(arguments.path, html=arguments.html, like=like)
    _write(str(report))
    return 0 if report.ok else 1


def _pretrain(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs, pretrain

    config = configs.load(pretrain.PretrainConfig, configs.resolve(arguments.recipe, "pretrain"), options)
    if arguments.dry_run:
        _write(configs.to_yaml(config))
        return 0
    _write(f"weights: {pretrain.run(config)}")
    return 0


def _finetune(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import configs, finetune

    config = configs.load(finetune.FinetuneConfig, configs.resolve(arguments.recipe, "finetune"), options)
    if arguments.seeds and not arguments.folds:
        raise ConfigError("--seeds goes with --folds all (or some); one run takes --seed N")
    if arguments.dry_run:
        _write(configs.to_yaml(config))
    elif arguments.folds:
        folds = None if arguments.folds == ["all"] else arguments.folds
        _write(str(finetune.run_folds(config, folds, arguments.seeds) or "not all folds are there yet"))
    else:
        _write(f"weights: {finetune.run(config)}")
    return 0


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import finetune

    if arguments.against:
        _write(finetune.told_against(arguments.run, arguments.against))
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
    _write(str(report))
    return 0


def _predict(arguments: argparse.Namespace, _: list[str]) -> int:
    import json

    from hicmae.inference import load_model, predict_clip

    model = load_model(arguments.checkpoint, stage="finetune", device=arguments.device)
    results = [predict_clip(clip, model) for clip in arguments.clips]
    if arguments.json:
        _write(json.dumps([result.to_dict() for result in results], indent=1, ensure_ascii=False))
    else:
        _write("\n\n".join(result.table() for result in results))
    return 0


def _reconstruct(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference import reconstruct_clip

    out = arguments.out or f"{Path(arguments.clip).stem}-reconstruction.png"
    how: dict[str, Any] = {"out": out, "seed": arguments.seed, "device": arguments.device}
    _write(str(reconstruct_clip(arguments.clip, arguments.checkpoint, **how)))
    return 0


def _profile(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import zoo
    from hicmae.models import list_models
    from hicmae.models.profile import profile

    if arguments.compare or len(arguments.names) > 1:
        if options:
            raise ConfigError(f"{options[0]}: models are compared as they were published, without further options")
        _write(zoo.comparison(arguments.names, arguments.stage))
    elif arguments.list or not arguments.names:
        _write("\n".join(list_models()))
    else:
        _write(str(profile(arguments.names[0], stage=arguments.stage, **_model_arguments(options))))
    return 0


def _zoo(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import zoo

    if options and arguments.what != "convert":
        raise ConfigError(f"hicmae zoo {arguments.what} has no option {options[0]}; see hicmae zoo --help")
    if arguments.what == "list":
        _write(zoo.listing())
    elif arguments.what == "info":
        _write(zoo.information(arguments.name))
    else:
        args = _model_arguments(options)
        _write(str(zoo.convert(arguments.source, arguments.out, arguments.name, labels=arguments.labels, args=args)))
    return 0


def _model_arguments(options: list[str]) -> dict[str, Any]:
    """`--depth=8 --region [2,5,10]` as keyword arguments; values are YAML."""
    import yaml

    values: dict[str, Any] = {}
    words = [part for option in options for part in (option.split("=", 1) if option.startswith("--") else [option])]
    while words:
        key = words.pop(0)
        if not key.startswith("--") or not words:
            raise ConfigError(f"{key}: model arguments are given as --name value, e.g. --depth 12")
        values[key[2:].replace("-", "_")] = yaml.safe_load(words.pop(0))
    return values


# -- their words ---------------------------------------------------------------------------------------------------


def _parser() -> tuple[argparse.ArgumentParser, Commands]:
    parser = argparse.ArgumentParser(
        prog="hicmae",
        description="Self-supervised audio-visual pretraining and emotion recognition on talking-face video.",
        epilog="Each command tells more: hicmae COMMAND --help. First steps: hicmae demo.",
    )
    parser.add_argument("--version", action="version", version=f"hicmae {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    known: Commands = {}

    def add(name: str, command: Command, words: str, options: str | None = None, more: str = "") -> Any:
        known[name] = (command, options)
        sub = commands.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}. {more}".strip(),
            allow_abbrev=False,
            add_help=not options,
        )
        if options:
            sub.add_argument("-h", "--help", action=config_help(options), help="show this help and all options")
        return sub

    sub = add("demo", _demo, "run the main job on generated talking faces, or on your own videos")
    sub.add_argument("--videos", metavar="DIR", help="your own videos: shard, pretrain, reconstruct")
    sub.add_argument("--out", default="runs/demo", metavar="DIR", help="where everything is written (%(default)s)")
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions with other seeds (%(default)s)")
    sub.add_argument("--steps", type=int, default=3000, metavar="N", help="training steps with --videos (%(default)s)")

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
    division.add_argument("--part", type=_fraction, metavar="I/N", help="write only part I of N, on any machine")
    division.add_argument("--merge", action="store_true", help="prove that all parts are there, and write their index")
    sub.add_argument("--workers", type=int, default=0, metavar="N", help="processes on this machine (%(default)s)")
    sub.add_argument("--engine", choices=["processes", "ray"], default="processes", help="who works (%(default)s)")

    words = "validate a list, videos, shards or a copy of a corpus before training; exit code 1 if there are problems"
    sub = add("check", _check, words)
    sub.add_argument("path", nargs="?", help="a csv list, a video, a folder of videos, or a folder of shards")
    _corpus_words(sub)
    sub.add_argument("--html", metavar="FILE", help="of shards: write a page with a contact sheet and histograms")
    sub.add_argument(
        "--like", metavar="CARD", help="of shards: compare with the data of a model card, run, weights file or shards"
    )

    for name, command, kind in (("pretrain", _pretrain, "PretrainConfig"), ("finetune", _finetune, "FinetuneConfig")):
        words = {
            "pretrain": "pretrain a masked autoencoder on shards without labels",
            "finetune": "fine-tune a classifier on labelled shards",
        }[name]
        sub = add(name, command, words, f"hicmae.{name}:{kind}", "An unfinished run in --out is continued.")
        sub.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or the name of one in {name}/")
        sub.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")
        if name == "finetune":
            words = "carry out these folds of the shards, as 1,3, or all, each in a folder of its own, and sum them up"
            sub.add_argument("--folds", type=lambda text: text.split(","), metavar="all|1,2", help=words)
            sub.add_argument(
                "--seeds", type=_whole_numbers, metavar="0,1,2", help="with --folds: each with these seeds"
            )

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
    _device(sub)

    sub = add("predict", _predict, "emotion probabilities of videos, per window and over the whole clip")
    sub.add_argument("clips", nargs="+", metavar="CLIP", help="video files")
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file of a fine-tuned model"
    )
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _device(sub)

    sub = add("reconstruct", _reconstruct, "draw original, masked and reconstructed frames of a video as one picture")
    sub.add_argument("clip", metavar="CLIP", help="a video file")
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file of a pretrained model"
    )
    sub.add_argument("--out", metavar="PNG", help="the picture (default: CLIP-reconstruction.png)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the mask (%(default)s)")
    _device(sub)

    sub = add(
        "profile",
        _profile,
        "count parameters, multiply-accumulates and FLOPs by module",
        "",
        "Further options are arguments of the model, e.g. --depth 12 --num-classes 7.",
    )
    sub.add_argument("names", nargs="*", metavar="NAME", help="name of a model, or of several to compare")
    sub.add_argument("--list", action="store_true", help="list all names")
    sub.add_argument("--compare", action="store_true", help="a table beside published numbers (default: of all cards)")
    sub.add_argument("--stage", choices=["finetune", "pretrain"], default="finetune", help="form (%(default)s)")

    _zoo_words(add("zoo", _zoo, "model cards, and published checkpoints made into files that say what they are", ""))
    return parser, known


def _zoo_words(sub: argparse.ArgumentParser) -> None:
    kinds = sub.add_subparsers(dest="what", metavar="COMMAND", required=True)
    kinds.add_parser("list", help="all cards, one line each")
    info = kinds.add_parser("info", help="one card: paper, terms, costs, published results and their sources")
    info.add_argument("name", metavar="NAME", help="name of a model, or a card file")
    convert = kinds.add_parser(
        "convert",
        help="a published .pth file or a run of yours -> safetensors and a card",
        description="Write weights as safetensors that say what they are, and a card beside them. Further options are "
        "arguments that the file does not tell, e.g. --size 224.",
        allow_abbrev=False,
    )
    convert.add_argument("source", metavar="IN", help="a .pth or .safetensors file, or a run folder")
    convert.add_argument("out", metavar="OUT", help="the .safetensors file to write; its card gets the same name")
    convert.add_argument("--name", metavar="NAME", help="name of the model (default: found from the file)")
    convert.add_argument("--labels", nargs="+", metavar="LABEL", help="class names in the order of the outputs")


def _corpus_words(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--card", metavar="NAME", help="a corpus by the name of its card in datasets/, with --root")
    sub.add_argument("--root", metavar="DIR", help="folder of your own copy of the corpus")
    sub.add_argument("--variant", metavar="NAME", help="its classes and labels, as 6class (default: the card's first)")


def _device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
