"""What the commands share: how they are announced, options that recur, and output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, Protocol

from hicmae import __version__
from hicmae.configs.options import config_help

__all__ = ["Add", "Command", "Commands", "device_option", "fraction", "whole_numbers", "write"]

Command = Callable[[argparse.Namespace, list[str]], int]


class Add(Protocol):
    """Announces a command and returns its parser, to which arguments are added."""

    def __call__(self, name: str, command: Command, words: str, options: str | None = None, more: str = "") -> Any:
        """`words` follow the name in the list of commands; `options` is where the config of further options is
        (`module:Class`, or empty where the command reads them itself); `more` is told by its own help only."""


class Commands:
    """All commands by name, and the parser of a command line."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(
            prog="hicmae",
            description="Self-supervised audio-visual pretraining and emotion recognition on talking-face video.",
            epilog="Each command tells more: hicmae COMMAND --help. First steps: hicmae demo.",
        )
        self.parser.add_argument("--version", action="version", version=f"hicmae {__version__}")
        self.known: dict[str, tuple[Command, str | None]] = {}
        self._parsers = self.parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(self, name: str, command: Command, words: str, options: str | None = None, more: str = "") -> Any:
        """See `Add`."""
        self.known[name] = (command, options)
        sub = self._parsers.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}. {more}".strip(),
            allow_abbrev=False,
            add_help=not options,
        )
        if options:
            sub.add_argument("-h", "--help", action=config_help(options), help="show this help and all options")
        return sub


def write(text: str) -> None:
    """Print a command's result."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def whole_numbers(text: str) -> list[int]:
    """`0,1,2` as [0, 1, 2]."""
    if not all(word.isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers, as 0,1,2, not {text}")
    return [int(word) for word in text.split(",")]


def fraction(text: str) -> tuple[int, int]:
    """`3/8` as (3, 8)."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be I/N, as in 3/8, not {text}")
    return int(part), int(parts)


def device_option(sub: argparse.ArgumentParser) -> None:
    """`--device`."""
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
