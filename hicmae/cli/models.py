"""Commands about models: profile."""

from __future__ import annotations

import argparse
from typing import Any

from hicmae.cli.words import Add, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to", "model_arguments"]


def add_to(add: Add) -> None:
    """`profile`."""
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
        write(str(profile(arguments.names[0], stage=arguments.stage, **model_arguments(options))))
    return 0


def model_arguments(options: list[str]) -> dict[str, Any]:
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
