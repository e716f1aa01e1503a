"""A run's figures on Weights & Biases, for those who keep theirs there."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hicmae import configs
from hicmae.pretrain.config import PretrainConfig
from hicmae.runtime import generators
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError

__all__ = ["online"]

Listener = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def online(config: PretrainConfig, place: Place) -> Iterator[Listener | None]:
    """What is to be told of every line of the log; None where `watch.wandb` names no project, or in other processes
    than the first. A run that is continued goes on as the same run there.

    Raises:
        UserError: the package is not installed, or it has no account to write to.
    """
    if not config.watch.wandb:
        yield None
        return
    if importlib.util.find_spec("wandb") is None:  # asked of every process, so that none waits for another
        raise UserError("watch.wandb needs the package: pip install 'hicmae[wandb]'; or leave the key out")
    if not place.first:
        yield None
        return
    before = generators.get_state()
    run = _begin(config)
    generators.set_state(before)
    code = 1
    try:
        yield lambda step, values: run.log(dict(values), step=step)
        code = 0
    finally:
        run.finish(exit_code=code)


def _begin(config: PretrainConfig) -> Any:
    import wandb

    out = Path(config.out)
    name = out / "wandb" / "run-id"
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.is_file():
        name.write_text(secrets.token_hex(4), encoding="utf-8")
    known = name.read_text(encoding="utf-8").strip()
    try:
        return wandb.init(
            project=config.watch.wandb,
            name=out.name,
            id=known,
            resume="allow",
            dir=str(out),
            config=configs.as_dict(config),
        )
    except wandb.errors.Error as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"watch.wandb: {first}. Run `wandb login` once, or set WANDB_MODE=offline and `wandb sync` the folder "
            f"{name.parent} later"
        ) from None
