"""Recipes and cards: where they lie, and how YAML becomes a typed config. Knows nothing of torch."""

from hicmae.configs.errors import ConfigError, UserError
from hicmae.configs.files import find, folder, names, read_yaml
from hicmae.configs.run import check_recipe, keep_recipe
from hicmae.configs.typed import as_dict, load, resolve, to_yaml

__all__ = [
    "ConfigError",
    "UserError",
    "as_dict",
    "check_recipe",
    "find",
    "folder",
    "keep_recipe",
    "load",
    "names",
    "read_yaml",
    "resolve",
    "to_yaml",
]
