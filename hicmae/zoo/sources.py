"""The weights file that is meant by a folder, a file or a name, wherever it lies."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from hicmae.configs import ConfigError, names
from hicmae.configs.cards import read_card
from hicmae.configs.files import did_you_mean
from hicmae.models import convert
from hicmae.models.base import Model
from hicmae.models.convert import LoadReport
from hicmae.runtime.checkpoint import CheckpointError, weights_file
from hicmae.runtime.hub import DownloadError, cache_folder, fetch, fetch_small, offline
from hicmae.zoo.catalogue import Card, card_file, checked, own_cards
from hicmae.zoo.obtaining import PICKLES, arrived, chosen, converted, download, remote

__all__ = ["WEIGHTS", "load_checkpoint", "located"]

WEIGHTS = "model.safetensors"
"""The weights in a published folder, as the Hugging Face Hub and timm look for them."""
_REPOSITORY = re.compile(r"(?:hf://)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def located(source: str | Path, stage: str | None = None, *, ema: bool = False) -> Path:
    """A safetensors file that says what it holds; what is named and not here is downloaded.

    Args:
        source: a run folder (its newest checkpoint), a checkpoint folder, a published folder, a weights file, a
            published `.pth` file, a card file, a name of the zoo, or a repository of the Hugging Face Hub that
            `hicmae zoo publish` filled, as `owner/name` or `owner/name@revision`.
        stage: which form is meant where there are several.
        ema: the averaged weights of a run.

    Raises:
        UserError: there is no such thing, or it cannot be had; the message says what was looked for.
    """
    path = Path(source)
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_file() and path.suffix in PICKLES:
        return converted(path)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return download(path, form=stage)
    if path.exists():
        return weights_file(path, ema=ema)
    try:
        card_file(source)
    except ConfigError:
        found = _REPOSITORY.fullmatch(str(source))
        # a missing file in a folder that is here is a slip of the pen, and no repository
        if found is None or Path(found["repo"]).parent.is_dir():
            near = did_you_mean(str(source), [*names("models"), *own_cards()])
            hint = f"; {near.split('? ')[0]}?" if "? " in near else ""
            raise CheckpointError(
                f"{source}: no such checkpoint, run folder or weights file, and no name of the zoo{hint}"
            ) from None
        return _from_hub(found["repo"], found["revision"] or "main", stage)
    return download(source, form=stage)


def load_checkpoint(model: Model, source: str | Path, strict_head: bool = False) -> LoadReport:
    """`hicmae.models.load_checkpoint` for whatever can be named: a file, a run, a published folder, a name of the zoo.

    Says exactly what was loaded, what is new and what was left over; see there for the rules and errors.
    """
    path = Path(source)
    if path.suffix in PICKLES or path.suffix == ".safetensors":
        return convert.load_checkpoint(model, path, strict_head)
    return convert.load_checkpoint(model, located(source, model.stage or None), strict_head)


def _from_hub(repo: str, revision: str, stage: str | None) -> Path:
    """The weights of a repository that holds a published folder; its card tells the sha256."""
    kept = cache_folder() / "hub" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}" / "card.yaml"
    if not (offline() and kept.is_file()):
        address = f"hf://{repo}@{revision}/card.yaml"
        try:
            content = fetch_small(address)
        except DownloadError as error:
            raise DownloadError(
                f"{repo}: there is no such folder or file here, and as a repository of the Hugging Face Hub it cannot "
                f"be used: {error}. Repositories that hicmae zoo publish filled hold a card.yaml; of others, download "
                "the weights file and name it"
            ) from None
        _read(content, kept)
    about = checked(read_card(Card, kept), kept)
    each = chosen(about, stage)
    file = remote(about, each, kept.parent)
    hub = f"hf://{repo}@{revision}/{each.name}"
    return arrived(each, fetch(type(file)(name=file.name, size=file.size, sha256=file.sha256, mirrors=(hub,))))


def _read(content: bytes, kept: Path) -> None:
    """Keep a card that came from elsewhere, if it is one."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name("card.yaml.part")
    part.write_bytes(content)
    try:
        checked(read_card(Card, part), part)
    except (ConfigError, yaml.YAMLError) as error:
        part.unlink()
        raise DownloadError(f"{kept.parent.name}: its card.yaml is none of this library ({error})") from None
    part.replace(kept)
