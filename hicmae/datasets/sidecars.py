"""What lies beside the tars: a `.jsonl` for each that describes it, and `index.json`, which sums them up.

A description has a head line (what it was made from, and the tar's size and sha256), a line per sample, and a line per
skipped file. `index.json` is written once all shards are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import Problem
from hicmae.datasets.remote import Gone, Remote, read_bytes

__all__ = ["FORMAT", "Sidecar", "parts_of", "problems_of", "read_head", "read_json", "read_sidecar", "summary_of"]

FORMAT = 1
"""Version of the layout of shards, stored in every file that describes them."""


_ROW = {"key", "source", "frames", "fps", "seconds", "sound", "silent", "offset", "size", "sha256"}
_SKIP = {"path", "reason", "remedy"}
_AT_ONCE = 16  # requests to a server


@dataclass(frozen=True)
class Sidecar:
    """What a shard's `.jsonl` says: its head, its samples, the videos it skipped."""

    path: Path | Remote
    head: dict[str, Any]
    samples: list[dict[str, Any]]
    skipped: list[dict[str, Any]]


def read_sidecar(path: Path | Remote) -> Sidecar:
    """Read a shard's description.

    Raises:
        UserError: it is missing or damaged, or lies where nothing answers.
    """
    remedy = f"delete {path.stem}* and shard again"
    try:
        lines = [json.loads(line) for line in _text(path).splitlines()]
        head = lines[0]
        samples = [line for line in lines[1:] if "key" in line]
        skipped = [line for line in lines[1:] if "key" not in line]
        if (len(samples), len(skipped)) != (head["samples"], head["skipped"]):
            raise ValueError("lines are missing")
        lacking = next((_ROW - row.keys() for row in samples if not row.keys() >= _ROW), None)
        lacking = lacking or next((_SKIP - row.keys() for row in skipped if not row.keys() >= _SKIP), None)
        if lacking:
            raise ValueError(f"a sample has no {', '.join(sorted(lacking))}")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {remedy}") from error
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    return Sidecar(path, head, samples, skipped)


def read_head(path: Path) -> dict[str, Any]:
    """The first line of a shard's description.

    Raises:
        UserError: it is damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
        if not head.keys() >= {"made_from", "bytes", "sha256", "samples", "skipped"}:
            raise ValueError("its head is not whole")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {path.stem}.* and shard again") from error
    return head


def problems_of(folder: Path | Remote) -> list[Problem]:
    """What is missing or does not fit together in a folder of shards, as far as sizes and descriptions tell."""
    summary = summary_of(folder)
    if isinstance(summary, Problem):
        return [summary]
    problems: list[Problem] = []
    for _ in parts_of(folder, summary, problems):
        pass
    return problems


def summary_of(folder: Path | Remote) -> dict[str, Any] | Problem:
    """The content of `index.json`, or what keeps it from being used."""

    def problem(reason: str, remedy: str) -> Problem:
        return Problem(path=str(folder), reason=reason, remedy=remedy)

    make = f"make one with `hicmae shard VIDEOS --out {folder}`"
    if isinstance(folder, Remote):
        make = "give the address of the folder that holds index.json, or copy shards there"
    if isinstance(folder, Path) and not folder.is_dir():
        return problem("is no folder of shards", make)
    summary = read_json(folder / "index.json")
    if summary is None:
        begun = read_json(folder / "config.json")
        if not isinstance(begun, dict):
            return problem("holds no shards (no index.json)", make)
        if isinstance(folder, Remote):
            return problem("is not finished (no index.json)", "finish it, then copy it there again")
        reason = (
            f"is not finished ({len(list(folder.glob('shard-*.jsonl')))} of {begun.get('shards')} shards are there)"
        )
        if any(folder.glob("parts-*")):
            return problem(reason, "give the commands of its parts once more, then the one with --merge")
        return problem(reason, "give the command that began it once more")
    version = summary.get("version") if isinstance(summary, dict) else None
    if version != FORMAT:
        return problem(f"holds shards of format {version}, where this version reads {FORMAT}", "shard again")
    lacking = {"shards", "classes", "others", "preprocessing"} - summary.keys()
    if lacking:
        return problem(f"has an index.json without {', '.join(sorted(lacking))}", "shard again")
    return summary


def parts_of(folder: Path | Remote, summary: dict[str, Any], problems: list[Problem]) -> Iterator[Sidecar]:
    """The descriptions of all shards that are right, each read once; `problems` is added to for the others."""
    entries = summary["shards"]

    def read(entry: dict[str, Any]) -> Sidecar | UserError:
        try:
            return read_sidecar((folder / entry["name"]).with_suffix(".jsonl"))
        except UserError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a server's answers take their time; files are read as they come up
        found = pool.map(read, entries) if isinstance(folder, Remote) else map(read, entries)
        for entry, part in zip(entries, found, strict=True):
            tar = folder / entry["name"]
            remedy = f"copy it again, or delete {tar.stem}.* and shard again"
            # elsewhere a tar is only looked at when its samples are read: asking for each would take minutes
            size = entry["bytes"] if isinstance(tar, Remote) else tar.stat().st_size if tar.exists() else None
            if entry["samples"] and size is None:
                problems.append(Problem(path=str(tar), reason="is missing", remedy=remedy))
            elif entry["samples"] and size != entry["bytes"]:
                reason = f"has another size than when it was written ({size:,} bytes, not {entry['bytes']:,})"
                problems.append(Problem(path=str(tar), reason=reason, remedy=remedy))
            if isinstance(part, UserError):
                reason, _, cure = str(part).removeprefix(f"{tar.with_suffix('.jsonl')} ").partition("; ")
                problems.append(Problem(path=str(tar.with_suffix(".jsonl")), reason=reason, remedy=cure))
            elif any(part.head.get(name) != entry[name] for name in ("bytes", "sha256", "samples", "skipped")):
                reason = "does not belong to the index.json beside it"
                problems.append(Problem(path=str(part.path), reason=reason, remedy=remedy))
            else:
                yield part


def read_json(path: Path | Remote) -> Any:
    """The content of a JSON file, None where there is no such file.

    Raises:
        UserError: it is damaged or cannot be read.
    """
    try:
        return json.loads(_text(path))
    except (FileNotFoundError, NotADirectoryError, Gone):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and shard again") from error


def _text(path: Path | Remote) -> str:
    return read_bytes(path).decode()
