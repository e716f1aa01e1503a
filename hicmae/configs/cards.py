"""A card: YAML read strictly into a frozen dataclass. Every key is known, every value has its type, or the file and
the dotted key are named."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hicmae.configs.errors import ConfigError
from hicmae.configs.files import did_you_mean, read_yaml

__all__ = ["read_card"]

C = TypeVar("C")
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_card(kind: type[C], path: Path) -> C:
    """The dataclass `kind` from a YAML file.

    Fields may be `str`, `int`, `float`, `bool`, `Literal`, dataclasses, `tuple[X, ...]`, `dict[str, X]`, and any of
    these or `None`. Fields without a default must be there.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type; names the file and the dotted key.
    """
    return _typed(kind, read_yaml(path), f"{path}: ", "")


def _typed(kind: Any, value: Any, file: str, key: str) -> Any:
    """`value` as `kind`, checked."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        (kind,) = (part for part in parts if part is not type(None))  # X | None is the only union a card needs
        return _typed(kind, value, file, key)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, file, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{file}{key} must be a list, not {value!r}")
        return tuple(_typed(parts[0], item, file, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{file}{key} must be a mapping, not {value!r}")
        return {str(name): _typed(parts[1], item, file, f"{key}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value not in parts:
            raise ConfigError(f"{file}{key}: {value!r} is not one of {', '.join(map(str, parts))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{file}{key} must be {_WORDS[kind]}, not {value!r}")
    return value


def _dataclass(kind: Any, value: Any, file: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{file}{key} must be a mapping, not {value!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields:
            raise ConfigError(f"{file}unknown key {prefix}{name}; {did_you_mean(str(name), list(fields))}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{file}{prefix}{name} is missing")
    return kind(**{name: _typed(hints[name], item, file, prefix + name) for name, item in value.items()})
