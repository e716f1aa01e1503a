"""Where recipes and cards lie: the folders at the root of a checkout, or their copies in the installed package."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from hicmae.configs.errors import ConfigError

__all__ = ["did_you_mean", "find", "folder", "names", "read_yaml"]

KINDS = ("pretrain", "finetune", "models", "datasets", "configs")


def folder(kind: str) -> Path:
    """The folder that holds the recipes or cards of a kind: `pretrain`, `finetune`, `models`, `datasets`, `configs`."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / kind
    if (package.parent / "setup.py").is_file() and checkout.is_dir():
        return checkout
    return package / "share" / kind


def names(kind: str) -> list[str]:
    """The names of all recipes or cards of a kind, sorted."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(name: str | Path, kind: str) -> Path:
    """The file meant by `name`: a path, or the name of a shipped recipe or card with or without `.yaml`.

    Raises ConfigError that lists the nearest names.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder(kind) / f"{str(name).removesuffix('.yaml').removeprefix(kind + '/')}.yaml"
    if shipped.is_file():
        return shipped
    raise ConfigError(f"{name}: neither a file nor a shipped {kind} recipe; {did_you_mean(path.stem, names(kind))}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; an error names file, line and column."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values, not a {type(content).__name__}")
    return content


def did_you_mean(word: str, known: list[str]) -> str:
    """`did you mean X? known: A, B, C`, with the first part only where something is near."""
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}known: {', '.join(known) or 'none'}"
