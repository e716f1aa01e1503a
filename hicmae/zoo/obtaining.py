"""Files that cards name: downloaded, verified, and published `.pth` files converted on arrival."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from hicmae.configs.errors import UserError
from hicmae.runtime.digest import sha256
from hicmae.runtime.hub import RemoteFile, cache_folder, fetch, place_of, wrong
from hicmae.runtime.log import say
from hicmae.runtime.mirrors import Patience
from hicmae.zoo.catalogue import Card, ModelFile, card, card_file
from hicmae.zoo.conversion import convert_checkpoint

__all__ = ["PICKLES", "arrived", "chosen", "converted", "download", "remote", "verify"]

PICKLES = (".pth", ".pt")
"""What published checkpoints end in: pickles, which are read with care and made safetensors."""


def download(
    name: str | Path,
    *,
    form: str | None = None,
    file: str | None = None,
    patience: Patience | None = None,
    show: bool = True,
) -> Path:
    """A weights file of a card, verified and in the cache; a `.pth` file becomes safetensors, with its decoder.

    Args:
        name: of a card (`hicmae zoo list`), a card file, or a published folder.
        form: `finetune` or `pretrain`, where the card names files of both.
        file: the file's name, where there are several of a form.

    Raises:
        UserError: nobody here has had the file in hand, several are meant, or no mirror gave it; says what to do.
    """
    place = card_file(name)
    about = card(place)
    each = chosen(about, form, file)
    return arrived(each, fetch(remote(about, each, place.parent), patience=patience, show=show), show=show)


def chosen(about: Card, form: str | None = None, file: str | None = None) -> ModelFile:
    """The file of a card that is meant.

    Raises:
        UserError: the card names none, or several; says which there are.
    """
    files = about.weights.files
    if not files:
        raise UserError(_unobtained(about))
    told = "; ".join(f"{each.name} ({each.form}{f', {each.what}' if each.what else ''})" for each in files)
    fit = [each for each in files if form in (None, each.form) and file in (None, each.name)]
    if not fit:
        raise UserError(f"{about.name}: has no {file or form} file; there are {told}")
    if len(fit) > 1:
        raise UserError(f"{about.name}: {len(fit)} files fit, name one with --form or --file; there are {told}")
    return fit[0]


def remote(about: Card, file: ModelFile, folder: Path) -> RemoteFile:
    """A card's file as the downloader knows it; mirrors that are paths start at the card's folder.

    Raises:
        UserError: size or sha256 are not known, so that a wrong file could not be told from the right one.
    """
    if file.sha256 is None or file.size is None:
        raise UserError(
            f"{about.name}: {file.name} is not downloaded, since its card does not state its size and sha256, and a "
            f"damaged or exchanged file could not be told. {_by_hand(about)}"
        )
    mirrors = (str(folder / Path(m).expanduser()) if "://" not in m else m for m in file.mirrors)
    return RemoteFile(name=file.name, size=file.size, sha256=file.sha256, mirrors=tuple(mirrors))


def arrived(file: ModelFile, path: Path, *, show: bool = True) -> Path:
    """A downloaded file as it is used: safetensors."""
    return converted(path, file.labels, show=show) if path.suffix in PICKLES else path


def converted(path: Path, labels: tuple[str, ...] | None = None, *, show: bool = True) -> Path:
    """A published `.pth` file as safetensors in the cache, made once.

    Raises:
        UserError: it is unsafe, or cannot be identified or placed whole.
    """
    folder = cache_folder() / "converted" / sha256(path)[:16]
    target = folder / f"{path.stem}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        beside = target.with_suffix(".yaml")
        if beside.is_file():
            about = card(beside)
            if wrong(target, remote(about, about.weights.files[0], folder)) is None:
                return target
        done = convert_checkpoint(path, target, labels=labels)
    if show:
        say(str(done))
    return target


def verify(name: str | Path) -> list[tuple[str, str | None]]:
    """Every file of a card (or of a published folder, or beside a card file) that is here: its path, and what is wrong
    with it, None where nothing is."""
    place = card_file(name)
    about = card(place)
    found: list[tuple[str, str | None]] = []
    for each in about.weights.files:
        if each.sha256 is None or each.size is None:
            found.append((each.name, "cannot be verified, since its card does not state its size and sha256"))
            continue
        file = remote(about, each, place.parent)
        beside, cached = place.parent / each.name, place_of(file)
        path = beside if beside.exists() else cached
        problem = wrong(path, file)
        found.append((str(path), problem if path.exists() else f"is not here; hicmae zoo download {name}"))
    return found


def _unobtained(about: Card) -> str:
    return (
        f"{about.name}: cannot be downloaded. This project has had none of its files in hand, so that neither their "
        f"sha256 nor lasting addresses are known ({about.weights.what}). {_by_hand(about)}"
    )


def _by_hand(about: Card) -> str:
    page = about.weights.published
    where = (
        f"Its authors link them at {page} (share links, which expire)" if page else "No page that links one is known"
    )
    return f"{where}; a file you got by hand is made usable by: hicmae zoo convert FILE.pth {about.name}.safetensors"
