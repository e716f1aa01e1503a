"""Recipes and cards: where they lie, and how YAML becomes a typed config. Knows nothing of torch."""

from hicmae.configs.errors import ConfigError, UserError
from hicmae.configs.files import find, folder, names, read_yaml
from hicmae.configs.load import as_dict, load, resolve, to_yaml

__all__ = ["ConfigError", "UserError", "as_dict", "find", "folder", "load", "names", "read_yaml", "resolve", "to_yaml"]
