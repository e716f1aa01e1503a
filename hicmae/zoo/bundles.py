"""Bundles: files, cards and hashes in one plain tar, for machines without a network."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from hicmae import __version__
from hicmae.configs.cards import read_card
from hicmae.configs.errors import ConfigError, UserError
from hicmae.runtime.archives import leads_out
from hicmae.runtime.hub import RemoteFile, cache_folder, check_name, fetch, store
from hicmae.runtime.mirrors import Patience, is_local
from hicmae.zoo.catalogue import Card, ModelFile, card_file, card_text, checked
from hicmae.zoo.obtaining import arrived, remote

__all__ = ["Unbundled", "bundle", "unbundle"]

MANIFEST = "bundle.json"
_SMALL = 1 << 20
"""Bytes that a manifest or a card may have."""
_PIECE = 1 << 18


class Unbundled(NamedTuple):
    """What came with a bundle."""

    cards: tuple[str, ...]
    """Names that are known from now on."""
    files: tuple[Path, ...]
    """Ready to be used."""


def bundle(names: Sequence[str | Path], out: str | Path, *, patience: Patience | None = None) -> Path:
    """One tar of cards and their verified files; what is not here is downloaded. Returns its path.

    Args:
        names: cards (`hicmae zoo list`), card files, or published folders.
        out: the tar to write.

    Raises:
        UserError: a card without files that can be had, two cards of one name, or a place that cannot be written.
    """
    target = Path(out)
    if target.suffix != ".tar":
        raise UserError(f"{out}: a bundle is a plain tar; give a name that ends in .tar")
    cards: dict[str, str] = {}
    files: dict[str, tuple[RemoteFile, Path]] = {}
    for name in names:
        place = card_file(name)
        about = checked(read_card(Card, place), place)
        check_name(about.name)
        if about.name in cards:
            raise UserError(f"{name}: another card is called {about.name} too; rename one of them")
        known = [each for each in about.weights.files if each.sha256 and each.size]
        if not known:
            raise UserError(f"{about.name}: its card names no file with size and sha256; there is nothing to bundle")
        for each in known:
            file = remote(about, each, place.parent)
            files[_member(file)] = file, fetch(file, patience=patience)
        cards[about.name] = card_text(_travelling(about), "From a bundle.")
    told: dict[str, Any] = {"hicmae": __version__, "cards": sorted(cards), "files": {}}
    for member, (file, _) in files.items():
        told["files"][member] = {"name": file.name, "size": file.size, "sha256": file.sha256}
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST, json.dumps(told, indent=1).encode())
            for name, text in sorted(cards.items()):
                _add(tar, f"cards/{name}.yaml", text.encode())
            for member, (_, path) in files.items():
                with path.open("rb") as content:
                    _add(tar, member, content, path.stat().st_size)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return target


def unbundle(source: str | Path, names: Sequence[str] = ()) -> Unbundled:
    """Put a bundle's files into the cache and its cards beside them; every file is verified before it counts.

    Nothing is unpacked by its own name: members that the bundle's list does not name, links, devices, names that lead
    elsewhere, and more bytes than were announced are refused.

    Args:
        source: what `bundle` wrote.
        names: cards to take; all if empty.

    Raises:
        UserError: it is no bundle, or an unsafe or damaged one; the message names the member and the reason.
    """
    path = Path(source)
    try:
        with tarfile.open(path, "r:") as tar:  # plain: a compressed one could become anything
            return _unpacked(path, tar, set(names))
    except FileNotFoundError:
        raise UserError(f"{source}: no such bundle") from None
    except tarfile.TarError as error:
        raise UserError(f"{source}: is no bundle, or a damaged one ({error}); copy it again") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from None


def _unpacked(path: Path, tar: tarfile.TarFile, wanted: set[str]) -> Unbundled:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _SMALL:
        raise UserError(f"{path}: is no bundle of hicmae zoo bundle: it does not begin with {MANIFEST}")
    cards, files = _announced(path, _content(tar, first))
    unknown = wanted - set(cards)
    if unknown:
        raise UserError(f"{path}: holds no card {', '.join(sorted(unknown))}; it holds {', '.join(sorted(cards))}")
    taken: dict[str, Card] = {}
    stored: dict[str, Path] = {}
    seen: set[str] = set()
    for member in tar:
        if member.name == MANIFEST and not seen and member.offset == first.offset:
            continue
        if leads_out(member.name):
            raise UserError(f"{path}: refused. The name {member.name!r} in it leads out of its folder")
        if not member.isreg() or member.issparse():
            raise UserError(
                f"{path}: refused. {member.name!r} in it is a link, a folder, a device or has holes, and only plain "
                "files are taken"
            )
        if member.name in seen or member.name == MANIFEST:
            raise UserError(f"{path}: refused. {member.name!r} is in it twice")
        seen.add(member.name)
        if member.name in files:
            file = files[member.name]
            if member.size != file.size:
                raise UserError(
                    f"{path}: refused. {member.name} has {member.size:,} bytes, and {file.size:,} were announced"
                )
            if not wanted or any(_names(about, file) for name, about in taken.items() if name in wanted):
                stored[file.sha256] = store(file, _pieces(tar, member))
        elif member.name.removeprefix("cards/").removesuffix(".yaml") in cards and member.name.startswith("cards/"):
            name = member.name.removeprefix("cards/").removesuffix(".yaml")
            if member.size > _SMALL:
                raise UserError(f"{path}: refused. {member.name} has {member.size:,} bytes; no card is as large")
            taken[name] = _card(path, name, _content(tar, member))
        else:
            raise UserError(f"{path}: refused. {member.name!r} is in it, and its list does not name it")
    return _settled(path, {name: about for name, about in taken.items() if not wanted or name in wanted}, stored)


def _settled(path: Path, cards: dict[str, Card], stored: dict[str, Path]) -> Unbundled:
    """Keep the cards, now that all their files are here."""
    lacking = [f"{n}: {e.name}" for n, about in cards.items() for e in _files(about) if e.sha256 not in stored]
    if lacking:
        raise UserError(f"{path}: is cut off: it lacks {', '.join(lacking)}; copy it again")
    folder = cache_folder() / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    usable = []
    for name, about in cards.items():
        part = folder / f"{name}.yaml.part"
        part.write_text(card_text(_travelling(about), f"From the bundle {path.name}."), encoding="utf-8")
        part.replace(folder / f"{name}.yaml")
        usable += [arrived(each, stored[str(each.sha256)]) for each in _files(about)]
    return Unbundled(tuple(sorted(cards)), tuple(usable))


def _announced(path: Path, content: bytes) -> tuple[list[str], dict[str, RemoteFile]]:
    """Names of the cards, and the files by their members."""
    try:
        told = json.loads(content)
        cards = [check_name(str(name)) for name in told["cards"]]
        files = [
            RemoteFile(name=each["name"], size=each["size"], sha256=each["sha256"]) for each in told["files"].values()
        ]
        return cards, {_member(file): file for file in files}
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path}: its {MANIFEST} cannot be used ({error})") from None


def _card(path: Path, name: str, content: bytes) -> Card:
    """A card that came with a bundle; it is read from where it is kept, since errors name the file."""
    folder = cache_folder() / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.yaml.{os.getpid()}.part"
    part.write_bytes(content)
    try:
        about = checked(read_card(Card, part), part)
        if about.name != name:
            raise ConfigError(f"says that it is {about.name}")
        return about
    except ConfigError as error:
        raise UserError(f"{path}: its card {name} cannot be used ({error})") from None
    finally:
        part.unlink()


def _travelling(about: Card) -> Card:
    """A card without mirrors that are paths: they mean nothing, or something else, on another machine."""
    files = (
        dataclasses.replace(each, mirrors=tuple(mirror for mirror in each.mirrors if not is_local(mirror)))
        for each in about.weights.files
    )
    return dataclasses.replace(about, weights=dataclasses.replace(about.weights, files=tuple(files)))


def _files(about: Card) -> list[ModelFile]:
    return [each for each in about.weights.files if each.sha256 and each.size]


def _names(about: Card, file: RemoteFile) -> bool:
    return any(each.sha256 == file.sha256 for each in about.weights.files)


def _member(file: RemoteFile) -> str:
    return f"files/{file.sha256[:16]}/{file.name}"


def _add(tar: tarfile.TarFile, name: str, content: bytes | IO[bytes], size: int | None = None) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content) if isinstance(content, bytes) else size or 0
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else content)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return b"".join(_pieces(tar, member))


def _pieces(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None  # it is a regular file
    with stream:
        while piece := stream.read(_PIECE):
            yield piece
