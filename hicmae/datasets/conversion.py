"""Shards of one format from those of another: the same samples under the same keys, their frames coded otherwise.

To raw nothing is lost: its frames are what the others' decode to, bit for bit. To jpeg and mp4 frames are coded again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.configs.errors import UserError
from hicmae.datasets.coding import Coder, pack
from hicmae.datasets.index import hashed_bytes
from hicmae.datasets.listing import Item, Problem
from hicmae.datasets.remote import Remote, place_of, read_bytes
from hicmae.datasets.samples import parts_of, unpack
from hicmae.datasets.sidecars import parts_of as sidecars_of
from hicmae.datasets.sidecars import summary_of

if TYPE_CHECKING:
    from hicmae.datasets.strips import ShardConfig

__all__ = ["Stored", "are_shards", "recoded", "stored", "videos_in"]

_CODING = ("format", "offsets", "packets", "head", "checks")
_AT_ONCE = 48  # frames in memory beside those that are coded: a group of pictures of an mp4
_FREE = ("format", "quality", "per_shard")  # settings that a conversion may have of its own


@dataclass(frozen=True, kw_only=True)
class Stored(Item):
    """A video that lies in a shard already."""

    tar: Path | Remote
    kind: str
    """The shard's format."""
    side: int
    """Pixels of its square frames."""
    rows: tuple[dict[str, Any], ...] = ()
    """What the shard's description says of its samples."""


def are_shards(inputs: Sequence[Any]) -> bool:
    """Whether what is to be sharded is a folder of shards already.

    Raises:
        UserError: one of several inputs is.
    """
    places = [place_of(each) for each in inputs if isinstance(each, str | Path | Remote)]
    found = [place for place in places if isinstance(place, Remote) or _holds_index(place)]
    if found and len(inputs) > 1:
        raise UserError(f"{found[0]} holds shards: convert one folder of them at a time, without other inputs")
    return bool(found)


def _holds_index(folder: Path) -> bool:
    try:
        return (folder / "index.json").is_file()
    except PermissionError:  # told by whoever lists it
        return False


def stored(folder: str | Path, config: ShardConfig) -> tuple[list[Item], ShardConfig, dict[str, Any]]:
    """The videos in the shards of `folder`, the settings of shards made from them, and what `index.json` says there.

    Raises:
        UserError: the shards are not whole, have that format already, or settings are asked for that conversion does
            not change.
    """
    usual = type(config)()
    told = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(usual, f.name)]
    if wrong := [name for name in told if name not in _FREE]:
        raise UserError(
            f"{folder} holds shards, whose samples stay as they are but for --format: leave out --{wrong[0]}, or shard "
            "the videos again"
        )
    items, summary = videos_in(folder)
    if any(isinstance(item, Stored) and item.kind == config.format for item in items):
        raise UserError(f"{folder} holds {config.format} shards already; name another --format, or use it as it is")
    before = summary.get("config", {})
    per_shard = config.per_shard if "per_shard" in told else before.get("per_shard", usual.per_shard)
    config = dataclasses.replace(
        config,
        size=summary["preprocessing"]["size"],
        per_shard=per_shard,
        classes=tuple(summary["classes"]) or None,
        protocol=summary.get("protocol"),
    )
    return items, config, summary


def videos_in(folder: str | Path) -> tuple[list[Item], dict[str, Any]]:
    """The videos in shards, those that were skipped with their trouble, and what `index.json` says.

    Raises:
        UserError: the shards are not whole.
    """
    place = place_of(folder)
    summary = summary_of(place)
    if isinstance(summary, Problem):
        raise UserError(str(summary))
    problems: list[Problem] = []
    items: list[Item] = []
    for part in sidecars_of(place, summary, problems):
        kind, side = part.head.get("format", "jpeg"), summary["preprocessing"]["size"]
        by_source: dict[str, list[dict[str, Any]]] = {}
        for row in part.samples:
            by_source.setdefault(row["source"], []).append(row)
        for source, rows in by_source.items():
            item = Stored(source=source, path=Path(source), tar=part.path.with_suffix(".tar"), kind=kind, side=side)
            words: dict[str, Any] = {name: rows[0].get(name) for name in ("label", "group")}
            items.append(dataclasses.replace(item, rows=tuple(rows), extra=rows[0].get("extra", {}), **words))
        for skip in part.skipped:
            items.append(Item(source=skip["path"], path=Path(skip["path"]), trouble=(skip["reason"], skip["remedy"])))
    if problems:
        raise UserError(str(problems[0]))
    return items, summary


def recoded(item: Stored, config: ShardConfig) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The samples of a video with their frames coded as `config` says, and the index's lines about them.

    Raises:
        UserError: a sample is not what was written.
    """
    for row in item.rows:
        raw = read_bytes(item.tar, row["offset"], row["size"])
        try:
            hashed = hashed_bytes(len(raw), item.kind, row["frames"], item.side)
            if hashlib.sha256(memoryview(raw)[:hashed]).hexdigest() != row["sha256"]:
                raise ValueError("its bytes are not those that were written")
            frames, (parts, _) = unpack(raw, number=0, label=-1).frames, parts_of(raw)
            coder = Coder(config.format, config.quality)
            for at in range(0, len(frames), _AT_ONCE):
                for frame in frames.take(range(at, min(at + _AT_ONCE, len(frames)))):
                    coder.add(frame.permute(1, 2, 0).numpy())
        except ValueError as error:
            raise UserError(
                f"{item.tar}: its sample {row['key']} cannot be used ({error}); see `hicmae check {item.tar.parent}`"
            ) from error
        meta = {name: value for name, value in json.loads(bytes(parts["json"])).items() if name not in _CODING}
        lines = {name: value for name, value in row.items() if name not in ("offset", "size", "sha256")}
        yield pack(meta, coder.finish(row["fps"]), bytes(parts["wav"]) if "wav" in parts else None), lines
