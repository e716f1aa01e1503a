"""The command line: thin over the library. Every command is one function call a notebook could make.

Exit codes: 0 done; 1 the check found problems; 2 a mistake the message explains (HICMAE_TRACEBACK=1 shows where it
was found); 75 ended before its end, and the same command continues; 130 interrupted at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from hicmae.cli import data, demo, features, measure, models, predict, serve, train, use, zoo
from hicmae.cli.words import Commands
from hicmae.configs.errors import Continuable, UserError
from hicmae.configs.options import join_options, load_config

__all__ = ["TOPICS", "entry", "main"]

TOPICS = (demo, data, train, measure, predict, use, features, serve, models, zoo)  # in the order of the help


def entry() -> NoReturn:
    """The installed command: run, and leave with the exit code."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A user's mistake is one message on stderr, never a traceback."""
    # threads that spin while they wait make a shared machine crawl: a step beside one busy process took twice as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    commands = Commands()
    for topic in TOPICS:
        topic.add_to(commands.add)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and commands.known.get(words[0], (None, None))[1]:
            words = join_options(load_config(str(commands.known[words[0]][1])), words)
        arguments, rest = commands.parser.parse_known_args(words)
        if arguments.command is None:
            commands.parser.print_help()
            return 2
        command, options = commands.known[arguments.command]
        if rest and options is None:
            return _fail(f"hicmae {arguments.command} has no option {rest[0]}; see hicmae {arguments.command} --help")
        return command(arguments, rest)
    except (UserError, ValueError) as error:  # the library's ValueErrors name the value and the remedy
        if os.environ.get("HICMAE_TRACEBACK"):
            raise
        return _fail(str(error), 75 if isinstance(error, Continuable) else 2)
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
