"""The recipe beside its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hicmae.configs.errors import ConfigError
from hicmae.configs.files import read_yaml
from hicmae.configs.typed import as_dict, to_yaml

__all__ = ["check_recipe", "keep_recipe"]

# where the data lie, who loads them and who computes, and what is logged may change between the starts of one run
FREE = {
    *("device", "out", "loop.log_every", "loop.keep", "loop.keep_every", "loop.save_every", "loop.timeout"),
    *("loop.engine", "loop.recompute", "loop.offload", "loop.graphs", "loop.compile", "loop.tf32"),
}


def check_recipe(config: Any, out: Path) -> None:
    """Raise ConfigError, naming the keys, where `out` holds a run made by another recipe."""
    path = out / "config.yaml"
    if not path.is_file():
        return
    before, now = _flat(read_yaml(path)), _flat(as_dict(config))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    told = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in changed if not _free(key)]
    if told:
        raise ConfigError(
            f"{out} holds a run made by another recipe ({'; '.join(told)}). "
            "Choose another --out, or remove the folder to start again."
        )


def keep_recipe(config: Any, out: Path) -> None:
    """Write the resolved recipe to `out/config.yaml`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def _free(key: str) -> bool:
    where = {"shards", "train", "test", "val", "workers"}
    return (
        key in FREE
        or key.startswith(("loop.deepspeed", "watch."))
        or (key.startswith("data.") and key.split(".")[1] in where)
    )


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat
