"""From videos to webdataset shards and their index, in pieces that a killed run picks up again.

Shard i is a function of the configuration and of files i * per_shard … (i + 1) * per_shard - 1 of the sorted list,
down to its bytes. It appears under its name only when it is whole, first the tar, then the `.jsonl` that says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from hicmae.configs.errors import UserError
from hicmae.datasets.index import FORMAT, Index, Sidecar, build, read_json, read_sidecar
from hicmae.datasets.listing import Item, find_videos, is_list, keys_of, read_list
from hicmae.datasets.media import SOUND_RATE, MediaError
from hicmae.datasets.strips import ShardConfig, samples_of
from hicmae.runtime.log import progress as progress_bar

__all__ = ["Index", "ShardConfig", "write_shards"]


def write_shards(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    config: ShardConfig | None = None,
    progress: bool = True,
    workers: int = 0,
) -> Index:
    """Write the videos among `inputs` as webdataset tars into `out`, and an index of them.

    The same call continues a run that was killed, and changes nothing where all is done. A video that cannot be used
    is left out and listed in the index with its reason.

    Args:
        inputs: video files and folders, or one list; with `config.list` at most the folder that its paths start from.
        progress: show a bar with rate and ETA.
        workers: processes that each write one shard at a time; 0 works in this one.

    Raises:
        UserError: an input or the list is wrong, no video can be used, `out` holds shards made otherwise, or cannot
            be written (a full disk, say).
    """
    config = config or ShardConfig()
    out = Path(out)
    items, others = _items(inputs, config)
    classes = _classes(items, config)
    items = [_named_label(item, classes, config) for item in items]
    keys = keys_of(item.source for item in items)
    starts = range(0, len(items), config.per_shard)
    summary = {"version": FORMAT, "classes": classes, "preprocessing": _preprocessing(config), "others": others}
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        jobs = [
            _Job.of(out, n, items[at : at + config.per_shard], keys[at : at + config.per_shard], config)
            for n, at in enumerate(starts)
        ]
        _claim(out, config, items, len(jobs))
        parts: dict[int, Sidecar] = {}
        for job in jobs:
            done = job.finished()
            if done is not None:
                parts[job.number] = done
        behind = sum(len(jobs[n].items) for n in parts)
        with progress_bar(total=len(items), initial=behind, desc="shard", unit="video", show=progress) as bar:
            for number, part in _run([job for job in jobs if job.number not in parts], workers, bar):
                parts[number] = part
        ordered = [parts[n] for n in range(len(jobs))]
        if not any(part.samples for part in ordered):
            raise UserError(_nothing(ordered, others))
        index = build(out, ordered, summary)
        entries = [_entry(part) for part in ordered]
        totals = {"samples": len(index), "seconds": round(float(index.seconds.sum()), 3)}
        totals |= {"sound": int(index.sound.sum()), "videos": len(items), "skipped": len(index.skipped)}
        content = {**summary, "config": _recorded(config), "totals": totals, "skipped": index.reasons()}
        _write_text(out / "index.json", json.dumps({**content, "shards": entries}, indent=1) + "\n")
        for left_over in out.glob("*.tmp"):  # of runs that were killed
            left_over.unlink(missing_ok=True)
    return Index.load(out)


# -- what is to be done ------------------------------------------------------------------------------------------------


def _items(inputs: Sequence[str | Path], config: ShardConfig) -> tuple[list[Item], int]:
    listed, root = config.list, list(inputs)
    if listed is None and len(root) == 1 and is_list(root[0]):
        listed, root = str(root[0]), []
    if listed is None:
        return find_videos(inputs, labels=config.labels)
    if len(root) > 1 or (root and not Path(root[0]).is_dir()):
        raise UserError(
            f"with a list, name one folder that its paths start from, or none; not {', '.join(map(str, root))}"
        )
    items, problems = read_list(listed, root[0] if root else None)
    if problems:
        more = f"\n… and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError("the list cannot be used:\n" + "\n".join(str(problem) for problem in problems[:10]) + more)
    return items, 0


def _classes(items: Sequence[Item], config: ShardConfig) -> list[str]:
    if config.classes is not None:
        return list(config.classes)
    names = {item.label for item in items if item.label is not None}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _named_label(item: Item, classes: Sequence[str], config: ShardConfig) -> Item:
    label = item.label
    if label is None or label in classes:
        return item
    if label.isdecimal() and int(label) < len(classes):
        return dataclasses.replace(item, label=classes[int(label)])
    close = get_close_matches(label, classes, n=1)
    hint = f"did you mean {close[0]}?" if close else "correct the label or add the class"
    raise UserError(f"{item.source} has the label {label}, which is none of the classes {', '.join(classes)}; {hint}")


def _recorded(config: ShardConfig) -> dict[str, Any]:
    """The configuration as files state it: where the list lies does not matter, what it says does."""
    return {name: value for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items() if name != "list"}


def _preprocessing(config: ShardConfig) -> dict[str, Any]:
    crop = {"kind": "box", "box": list(config.box)} if config.box is not None else {"kind": "centre"}
    return {"crop": crop, "size": config.size, "max_fps": config.max_fps, "sound_rate": SOUND_RATE}


def _claim(out: Path, config: ShardConfig, items: Sequence[Item], shards: int) -> None:
    """Note in `out` what it is for, or refuse to mix two sets of shards in it."""
    listed = [[item.source, item.label, item.group, item.extra] for item in items]
    new = _recorded(config)
    mine = {"version": FORMAT, "config": new, "list": _digest(listed), "shards": shards, "videos": len(items)}
    theirs = read_json(out / "config.json")
    remedy = "choose another --out, or delete that folder"
    if theirs is None:
        if any(out.glob("shard-*.*")):
            raise UserError(f"{out} holds shards that were not made by this version; {remedy}")
        _write_text(out / "config.json", json.dumps(mine, indent=1) + "\n")
        return
    old = theirs.get("config", {})
    changed = [f"{name} is {new.get(name)}, was {old.get(name)}" for name in new if new.get(name) != old.get(name)]
    if changed or theirs.get("version") != FORMAT:
        raise UserError(f"{out} holds shards made with other settings ({'; '.join(changed) or 'version'}); {remedy}")
    if theirs != mine:
        raise UserError(
            f"{out} holds shards made from another list of videos ({theirs.get('videos')} of them, now {len(items)}, "
            f"or other names or labels); {remedy}"
        )


# -- one shard ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One shard: the unit of work, of resuming, and of dividing the work."""

    out: Path
    number: int
    items: list[Item]
    keys: list[str]
    config: ShardConfig
    fingerprint: str

    @classmethod
    def of(cls, out: Path, number: int, items: list[Item], keys: list[str], config: ShardConfig) -> _Job:
        described = [[item.source, item.label, item.group, item.extra, _size(item.path)] for item in items]
        return cls(out, number, items, keys, config, _digest([FORMAT, _recorded(config), keys, described]))

    @property
    def tar(self) -> Path:
        return self.out / f"shard-{self.number:06d}.tar"

    def finished(self) -> Sidecar | None:
        """The shard's description if it is there and made from these files, as far as their sizes tell."""
        path = self.tar.with_suffix(".jsonl")
        if not path.exists():
            return None
        part = read_sidecar(path)
        size = _size(self.tar) if part.samples else 0
        return part if (part.head["made_from"], part.head["bytes"]) == (self.fingerprint, size) else None


def _run(jobs: list[_Job], workers: int, bar: Any) -> Iterator[tuple[int, Sidecar]]:
    if workers < 1 or len(jobs) < 2:
        for job in jobs:
            yield job.number, _write_shard(job, bar)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        try:
            for job, part in zip(jobs, pool.map(_write_shard, jobs), strict=True):
                bar.update(len(job.items))
                yield job.number, part
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_shard(job: _Job, bar: Any = None) -> Sidecar:
    """Make one tar and its description."""
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    whole, size = hashlib.sha256(), 0
    with _writing(job.tar), _replacing(job.tar) as file:
        for item, key in zip(job.items, job.keys, strict=True):
            try:
                samples = list(samples_of(item, key, job.config))  # all or none: a video may break off at its end
            except MediaError as error:
                skipped.append({"path": item.source, "reason": error.reason, "remedy": error.remedy})
                samples = []
            for raw, row in samples:
                rows.append({**row, "offset": size, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()})
                file.write(raw)
                whole.update(raw)
                size += len(raw)
            if bar is not None:
                bar.set_postfix_str(f"{len(skipped)} skipped" if skipped else "")
                bar.update()
        end = bytes(-(-(size + 1024) // 10240) * 10240 - size)  # two empty blocks, and whole records
        file.write(end)
        whole.update(end)
    if not rows:
        job.tar.unlink()
    head = {"version": FORMAT, "made_from": job.fingerprint, "samples": len(rows), "skipped": len(skipped)}
    head |= {"bytes": size + len(end), "sha256": whole.hexdigest()} if rows else {"bytes": 0, "sha256": None}
    sidecar = job.tar.with_suffix(".jsonl")
    with _writing(sidecar):
        _write_text(sidecar, "".join(json.dumps(line) + "\n" for line in [head, *rows, *skipped]))
    return Sidecar(sidecar, head, rows, skipped)


def _entry(part: Sidecar) -> dict[str, Any]:
    seconds = round(sum(row["seconds"] for row in part.samples), 3)
    head = {name: part.head[name] for name in ("bytes", "sha256", "samples", "skipped")}
    return {"name": part.path.with_suffix(".tar").name, **head, "seconds": seconds}


def _nothing(parts: Sequence[Sidecar], others: int) -> str:
    skipped = [row for part in parts for row in part.skipped]
    if not skipped:
        return f"there is no video among the inputs ({others} other files); name mp4, mov, mkv, webm or avi files"
    lines = [f"{row['path']} {row['reason']}; {row['remedy']}" for row in skipped[:10]]
    more = [f"… and {len(skipped) - 10} more"] if len(skipped) > 10 else []
    return "\n".join([f"none of the {len(skipped)} videos can be used:", *lines, *more])


# -- files -------------------------------------------------------------------------------------------------------------


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _write_text(path: Path, text: str) -> None:
    with _replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when it is whole and on the disk; nothing is left of it otherwise."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in words why something cannot be written."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free space and give the same command again: what is finished is kept"
            raise UserError(f"no room to write {where} ({error.strerror}); {remedy}") from error
        raise UserError(f"cannot write {where} ({error.strerror}); choose another --out or mend it") from error
