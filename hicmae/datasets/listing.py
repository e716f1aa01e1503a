"""Which videos there are: files, folders, and lists with labels.

A list is a csv file whose header names `path` and perhaps `label`, `group`, `sound` and columns of one's own, or the
published form without header: `path label`, separated by a blank, a path alone where there is no label.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.containers import describe, sniff, sniff_image

__all__ = ["IMAGE_SUFFIXES", "SUFFIXES", "Item", "Problem", "find_videos", "is_list", "keys_of", "read_list", "walk"]

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv"})
"""A file of a folder with such a name is taken for a video, and named where it is none; others are looked into."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
"""The same of pictures, where they are asked for."""

_NO_VIDEO = frozenset({".bmp", ".flac", ".jpeg", ".jpg", ".m4a", ".mp3", ".png", ".wav"})  # corpora hold millions


@dataclass(frozen=True, kw_only=True)
class Item:
    """A video to be read, with what a list or its folder says about it."""

    source: str
    """Its path relative to the folder of the whole, with forward slashes: the same on every machine."""
    path: Path
    label: str | None = None
    group: str | None = None
    sound: Path | None = None
    """File that holds its sound (m4a, wav or a video), where that lies outside the video."""
    extra: dict[str, str] = field(default_factory=dict)
    line: int | None = None
    """Where its list names it."""
    trouble: tuple[str, str] | None = None
    """Reason and remedy where it is already known that it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a file or with a line of a list."""

    path: str
    line: int | None = None
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:" if self.line else self.path
        return f"{place} {self.reason}; {self.remedy}"


def find_videos(
    inputs: Sequence[str | Path], *, labels: str | None = None, images: bool = False
) -> tuple[list[Item], int]:
    """The videos among files and below folders, sorted by source; and how many other files lay beside them.

    Files that are named are always taken. In folders a file is taken if its name or its content is a video's; hidden
    files are not. `images` takes PNG and JPEG pictures too. A sub-folder that cannot be read becomes an item with
    `trouble`. `labels="folder"` makes the uppermost folder of each source its label.

    Raises:
        UserError: an input does not exist or cannot be read, or a label is asked of a video outside any folder.
    """
    roots = [Path(os.path.normpath(Path(path).absolute())) for path in inputs]
    for path, root in zip(inputs, roots, strict=True):
        if not os.path.lexists(root):
            raise UserError(f"{path} does not exist; check the path")
        if root.is_dir() and not os.access(root, os.R_OK | os.X_OK):
            raise UserError(f"folder {path} cannot be read (permission denied); change its permissions with chmod")
    if not roots:
        raise UserError("there are no inputs; name videos, folders of videos, or a list")
    base = Path(os.path.commonpath([root if root.is_dir() else root.parent for root in roots]))
    found: dict[str, Item] = {}
    others = 0
    for root in roots:
        if not root.is_dir():
            found[_source(root, base)] = Item(source=_source(root, base), path=root)
            continue
        for path, trouble in walk(root):
            if trouble is None and not _video_like(path, images):
                others += 1
            else:
                found[_source(path, base)] = Item(source=_source(path, base), path=path, trouble=trouble)
    items = [found[source] for source in sorted(found)]
    if labels == "folder":
        items = [_labelled_by_folder(item) for item in items]
    return items, others


def is_list(path: str | Path) -> bool:
    """Whether a file is text that is not called a video (such text is refused as a video)."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    text = not head or describe(head) == "text" or head.startswith(b"\xef\xbb\xbf")
    return text and path.suffix.lower() not in SUFFIXES


def read_list(path: str | Path, root: str | Path | None = None) -> tuple[list[Item], list[Problem]]:
    """The lines of a list as items sorted by source, and what is wrong with it, line by line.

    Args:
        root: folder that relative paths start from; the list's own by default.

    Raises:
        UserError: the list cannot be read at all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save the list as UTF-8") from error
    except OSError as error:
        raise UserError(f"list {path} cannot be read ({error.strerror}); check the path") from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise UserError(f"{path} is empty; a list has one video per line")
    try:
        header = [name.strip().lower() for name in next(csv.reader([first]))]
        table = _csv_rows(path, text) if "path" in header else None
    except csv.Error as error:  # a cell of more than 128 KiB, say
        raise UserError(f"{path} is no csv file that can be read ({error}); write it anew") from error
    if table is not None:
        rows, problems = table
    elif len(header) > 1 and Path(header[0]).suffix not in SUFFIXES | IMAGE_SUFFIXES and not _blank_separated(first)[1]:
        raise UserError(f"{path}:1: no column is called `path` (there are {', '.join(header)}); name the columns")
    else:
        rows, problems = [_Row(n, *_blank_separated(line)) for n, line in _numbered(lines)], []
    base = Path(os.path.normpath(Path(root if root is not None else path.parent).absolute()))
    return _to_items(path, rows, base, problems)


def keys_of(sources: Iterable[str]) -> list[str]:
    """A key for each source: letters, digits, `_` and `-` only, no two alike, and independent of where the data lies.

    >>> keys_of(["happy/a.mp4", "happy/a.mkv", "b.mp4"])
    ['happy-a-11cb4ca2', 'happy-a-9c0d2869', 'b']
    """
    sources = list(sources)
    plain = [re.sub(r"\.[A-Za-z0-9]{1,5}$", "", source).replace("/", "-") for source in sources]
    slugs = [re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64] for name in plain]
    often = Counter(slug.lower() for slug in slugs)  # some file systems do not tell cases apart
    exact = [slug == name and often[slug.lower()] == 1 for slug, name in zip(slugs, plain, strict=True)]
    digests = [hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:8] for source in sources]
    return [slug if ok else f"{slug}-{tag}" for slug, ok, tag in zip(slugs, exact, digests, strict=True)]


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str | None = None
    group: str | None = None
    sound: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


def _csv_rows(path: Path, text: str) -> tuple[list[_Row], list[Problem]]:
    reader = csv.reader(io.StringIO(text))
    header: list[str] = []
    rows: list[_Row] = []
    problems: list[Problem] = []
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [name.strip().lower() for name in cells]
            continue
        if len(cells) != len(header):
            reason = f"has {len(cells)} columns where the header has {len(header)}"
            remedy = "put quotes around a cell that holds a comma"
            problems.append(Problem(path=str(path), line=line, reason=reason, remedy=remedy))
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        where, label, group, sound = (row.pop(name, "") for name in ("path", "label", "group", "sound"))
        rows.append(_Row(line, where, label or None, group or None, sound or None, row))
    return rows, problems


def _numbered(lines: list[str]) -> Iterable[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(lines, 1) if line.strip())


def _blank_separated(line: str) -> tuple[str, str | None]:
    line = line.strip()
    head, _, tail = line.rpartition(" ")
    if not head or Path(tail).suffix.lower() in SUFFIXES | IMAGE_SUFFIXES:
        return line, None
    return head.strip(), tail


def _to_items(path: Path, rows: list[_Row], base: Path, problems: list[Problem]) -> tuple[list[Item], list[Problem]]:
    full = {row.path: Path(os.path.normpath(base / row.path)) for row in rows if row.path}
    inside = all(target.is_relative_to(base) for target in full.values())
    common = base if inside or not full else Path(os.path.commonpath([target.parent for target in full.values()]))
    lines: dict[str, int] = {}
    items: dict[str, Item] = {}
    labelled = any(row.label is not None for row in rows)
    for row in rows:

        def note(reason: str, remedy: str, line: int = row.line) -> None:
            problems.append(Problem(path=str(path), line=line, reason=reason, remedy=remedy))

        if not row.path:
            note("names no file", "give the path of a video")
            continue
        source = _source(full[row.path], common)
        if source in lines:
            note(f"names {row.path} again (first in line {lines[source]})", "keep one of the two lines")
            continue
        if row.label is None and labelled:
            note("has no label where other lines have one", "give every line a label, or none")
            continue
        lines[source] = row.line
        items[source] = Item(
            source=source,
            path=full[row.path],
            label=row.label,
            group=row.group,
            sound=Path(os.path.normpath(base / row.sound)) if row.sound else None,
            extra=row.extra,
            line=row.line,
        )
    return [items[source] for source in sorted(items)], sorted(problems, key=lambda p: p.line or 0)


def walk(root: Path) -> Iterable[tuple[Path, tuple[str, str] | None]]:
    """Files below `root` but hidden ones, links followed, and each folder that cannot be read with its trouble."""
    failed: list[OSError] = []
    seen: set[str] = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=failed.append):
        real = os.path.realpath(here)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(here, name), None
    for error in failed:
        trouble = f"is a folder that cannot be read ({error.strerror})", "change its permissions with chmod"
        yield Path(str(error.filename)), trouble


def _video_like(path: Path, images: bool) -> bool:
    if path.suffix.lower() in (SUFFIXES | IMAGE_SUFFIXES if images else SUFFIXES):
        return True
    if path.suffix.lower() in _NO_VIDEO:
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(16)
        return sniff(head) is not None or (images and sniff_image(head) is not None)
    except OSError:
        return False


def _source(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _labelled_by_folder(item: Item) -> Item:
    if item.trouble:
        return item
    label, slash, _ = item.source.partition("/")
    if not slash:
        raise UserError(f"{item.path} lies in no class folder; put it in one, or do not take labels from folders")
    return Item(source=item.source, path=item.path, label=label)
