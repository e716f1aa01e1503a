"""YAML and command-line values -> a typed config. jsonargparse does the typing; ours are `extends` and the words.

A recipe states only what differs from the defaults in the dataclasses. `extends: name` (or a list) names pieces in
`configs/`, recipes beside it or shipped ones, read first, in order; the recipe's own keys win.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from hicmae.configs.errors import ConfigError
from hicmae.configs.files import did_you_mean, find, names, read_yaml
from hicmae.configs.options import check_options, dotted, is_list, nested_fields

__all__ = ["as_dict", "load", "parser_of", "resolve", "to_yaml"]

C = TypeVar("C")
set_parsing_settings(docstring_parse_attribute_docstrings=True)


def load(config: type[C], recipe: Mapping[str, Any] | None = None, options: Sequence[str] = ()) -> C:
    """The config of class `config` from a recipe's mapping and `--dotted.key value` options, which win.

    Raises ConfigError naming the dotted path and the alternatives, before any data is touched.
    """
    recipe = _checked(config, recipe or {}, "")
    options = check_options(config, options)
    parser = parser_of(config)  # type: ignore[arg-type]  # classes are hashable
    try:
        with redirect_stderr(io.StringIO()):
            space = parser.parse_object(recipe, defaults=False) if recipe else None
            return config(**_values(parser.instantiate(parser.parse_args(list(options), namespace=space))))
    except ArgumentError as error:
        raise ConfigError(_plain(str(error))) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


@functools.cache  # making one reads the sources of all configs for their docstrings: two thirds of the time of `load`
def parser_of(config: type, prog: str = "hicmae", description: str | None = None) -> ArgumentParser:
    """A parser with one option per field of `config`; the fields' docstrings are the help."""
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, add_help=False)
    parser.add_class_arguments(config, as_group=False)
    return parser


def resolve(recipe: str | Path, kind: str) -> dict[str, Any]:
    """A recipe's mapping with everything it extends merged in."""
    return _merged(find(recipe, kind), (), kind)


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON-able values (tuples become lists, paths strings)."""
    return _plain_value(dataclasses.asdict(config))


def to_yaml(config: Any) -> str:
    """A config as YAML, in the order of its fields."""
    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def _merged(path: Path, chain: tuple[Path, ...], kind: str) -> dict[str, Any]:
    if path.resolve() in chain:
        raise ConfigError(f"{path}: extends itself by way of {' -> '.join(p.name for p in chain)}")
    content = read_yaml(path)
    parents = content.pop("extends", [])
    result: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        beside = path.parent / f"{str(parent).removesuffix('.yaml')}.yaml"
        shipped = kind if str(parent).removesuffix(".yaml") in names(kind) else "configs"
        file = beside if beside.is_file() else find(parent, shipped)
        result = _merge(result, _merged(file, (*chain, path.resolve()), kind))
    return _merge(result, content)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _checked(config: type, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`values` with one item given for a list made a list; raises on keys that `config` does not have."""
    fields = nested_fields(config)
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            where = f"{path}{key}"
            near = _elsewhere(config, str(key)) if not path else ""
            raise ConfigError(f"unknown key {where}; {near}{did_you_mean(str(key), list(fields))}")
        nested = fields[key]
        if nested is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{path}{key} must be a mapping with {', '.join(nested_fields(nested))}, not {value!r}"
                )
            value = _checked(nested, value, f"{path}{key}.")
        elif isinstance(value, str) and is_list(config, key):
            value = [value]
        result[key] = value
    return result


def _elsewhere(config: type, key: str) -> str:
    found = [name for name in dotted(config) if name.rsplit(".", 1)[-1] == key]
    return f"did you mean {' or '.join(found)}? " if found else ""


def _values(space: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(space).items() if not key.startswith("__")}


def _plain(message: str) -> str:
    """jsonargparse's message without its prefix: `optim.lr: Expected a float. Got value: x`."""
    message = " ".join(line.strip() for line in message.splitlines()).replace("Parser key ", "")
    return message.replace("typing.", "").replace('"', "", 2)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value
