"""Commands about models: profile, zoo."""

from __future__ import annotations

import argparse
from typing import Any

from hicmae.cli.words import Add, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`profile` and `zoo`."""
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


def _profile(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import zoo
    from hicmae.models import list_models
    from hicmae.models.profile import profile

    if arguments.compare or len(arguments.names) > 1:
        if options:
            raise ConfigError(f"{options[0]}: models are compared as they were published, without further options")
        write(zoo.comparison(arguments.names, arguments.stage))
    elif arguments.list or not arguments.names:
        write("\n".join(list_models()))
    else:
        write(str(profile(arguments.names[0], stage=arguments.stage, **_model_arguments(options))))
    return 0


def _zoo(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import zoo

    if options and arguments.what != "convert":
        raise ConfigError(f"hicmae zoo {arguments.what} has no option {options[0]}; see hicmae zoo --help")
    if arguments.what == "list":
        write(zoo.listing())
    elif arguments.what == "info":
        write(zoo.information(arguments.name))
    else:
        args = _model_arguments(options)
        write(str(zoo.convert(arguments.source, arguments.out, arguments.name, labels=arguments.labels, args=args)))
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
