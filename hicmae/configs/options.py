"""Options of the command line for the fields of a config: `--dotted.key value`."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import json
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from hicmae.configs.errors import ConfigError

__all__ = ["check_options", "config_help", "dotted", "is_list", "join_options", "load_config", "nested_fields"]


def nested_fields(config: type) -> dict[str, Any]:
    """Field name -> the dataclass of a nested config, or None."""
    hints = typing.get_type_hints(config)
    return {
        field.name: hints[field.name] if dataclasses.is_dataclass(hints[field.name]) else None
        for field in dataclasses.fields(config)
    }


def dotted(config: type, path: str = "") -> list[str]:
    """The dotted paths of all values of a config."""
    names: list[str] = []
    for name, nested in nested_fields(config).items():
        names += dotted(nested, f"{path}{name}.") if nested is not None else [f"{path}{name}"]
    return names


def is_list(config: type, path: str) -> bool:
    """Whether the value at a dotted path is a list."""
    *parents, name = path.split(".")
    for parent in parents:
        config = nested_fields(config)[parent]
    return typing.get_origin(typing.get_type_hints(config)[name]) is list


def join_options(config: type, words: Sequence[str]) -> list[str]:
    """`--key value` of a config's keys as one word `--key=value`, so that they may stand among other arguments."""
    known, joined, rest = set(_spellings(dotted(config))), [], list(words)
    while rest:
        word = rest.pop(0)
        key = word[2:].rstrip("+") if word.startswith("--") else ""
        if "=" not in word and rest and (key in known or any(key.startswith(name + ".") for name in known)):
            word = f"{word}={rest.pop(0)}"
        joined.append(word)
    return joined


def check_options(config: type, options: Sequence[str]) -> list[str]:
    """`options` in the spelling the typed parser wants; raises ConfigError on keys that `config` does not have."""
    known = dotted(config)
    spelled = dict(zip(_spellings(known), [*known, *known], strict=True))
    checked = []
    for option in join_options(config, options):
        key, equals, value = option.partition("=")
        key = key[2:] if key.startswith("--") else ""
        name = spelled.get(key.rstrip("+"))
        if name is not None:
            plain = value and not value.lstrip().startswith("[") and not key.endswith("+")
            value = json.dumps([value]) if plain and is_list(config, name) else value
            checked.append(f"--{name}{'+' if key.endswith('+') else ''}{equals}{value}")
            continue
        if key and not any(key.startswith(name + ".") for name in known):
            raise ConfigError(f"unknown option --{key}; did you mean {_alternatives(key, known)}?")
        checked.append(option)
    return checked


def _spellings(names: Iterable[str]) -> list[str]:
    """Each name as it is, then each with dashes for underscores, as command lines have them."""
    names = list(names)
    return [*names, *(name.replace("_", "-") for name in names)]


def _alternatives(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    near += [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and name not in near]
    siblings = [name for name in known if name.startswith(key.rsplit(".", 1)[0] + ".")] if "." in key else []
    return ", ".join(f"--{name}" for name in near or siblings or known)


def load_config(where: str) -> Any:
    """The config class named as `module:Class`, imported only now: config modules may import torch."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


def config_help(where: str) -> type[argparse.Action]:
    """Help of a command whose further options are the fields of a config, which is imported only to show it."""

    class Help(argparse.Action):
        def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
            super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=kwargs.get("help"))

        def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
            from hicmae.configs.typed import parser_of

            options = parser_of(load_config(where)).format_help().split("options:", 1)[-1]
            options = re.sub(r"\n  --\w+ CONFIG +Path to a configuration file\.", "", options)
            sys.stdout.write(
                parser.format_help() + "\nkeys of the recipe, each an option here:" + options.rstrip() + "\n"
            )
            parser.exit()

    return Help
