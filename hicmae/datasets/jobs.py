"""The work of sharding, one shard at a time: a job is a function of files and configuration, down to the bytes.

A shard appears under its name only when it is whole, first the tar, then the `.jsonl` that says so. Whoever writes it,
on whatever machine and however often, writes the same, so jobs need not know of each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hicmae.configs.errors import UserError
from hicmae.datasets.conversion import Stored
from hicmae.datasets.index import hashed_bytes
from hicmae.datasets.listing import Item
from hicmae.datasets.media import MediaError
from hicmae.datasets.sidecars import FORMAT, read_head
from hicmae.datasets.strips import ShardConfig, samples_of

__all__ = ["Job", "digest", "in_processes", "recorded", "replacing", "run_jobs", "write_shard", "write_text", "writing"]


@dataclass(frozen=True)
class Job:
    """One shard: the unit of work, of resuming, and of dividing the work."""

    out: Path
    number: int
    items: list[Item]
    keys: list[str]
    config: ShardConfig
    made_from: str
    """Digest of the configuration, of what the list says, and of the files' sizes."""

    @classmethod
    def of(cls, out: Path, number: int, items: list[Item], keys: list[str], config: ShardConfig) -> Job:
        """The job of shard `number`, for the files as they are now."""
        described = [[item.source, item.label, item.group, item.extra, *_sizes(item)] for item in items]
        return cls(out, number, items, keys, config, digest([FORMAT, recorded(config), keys, described]))

    @property
    def tar(self) -> Path:
        """Where the samples go."""
        return self.out / f"shard-{self.number:06d}.tar"

    @property
    def sidecar(self) -> Path:
        """Where they are described."""
        return self.tar.with_suffix(".jsonl")

    def finished(self) -> dict[str, Any] | None:
        """The head of the shard's description if it is there and made from these files, as far as sizes tell."""
        if not self.sidecar.exists():
            return None
        head = read_head(self.sidecar)
        size = _size(self.tar) if head["samples"] else 0
        return head if (head["made_from"], head["bytes"]) == (self.made_from, size) else None


def run_jobs(jobs: Sequence[Job], bar: Any, *, workers: int = 0, engine: str = "processes") -> list[dict[str, Any]]:
    """Write the shards of `jobs`, in this process, in several (`workers`), or on a Ray cluster (`engine="ray"`).

    Returns the heads of their descriptions.

    Raises:
        UserError: something cannot be written, a worker was killed, or Ray is not installed.
    """
    if engine == "ray" and jobs:
        finished = _on_ray(jobs)
    elif workers > 1 and len(jobs) > 1:
        finished = in_processes(write_shard, jobs, workers)
    else:
        return [write_shard(job, bar) for job in jobs]
    heads = []
    for job, head in finished:
        heads.append(head)
        bar.set_postfix_str(_skipped(sum(head["skipped"] for head in heads)), refresh=False)
        bar.update(len(job.items))
    return heads


def _skipped(count: int) -> str:
    return f"{count} skipped" if count else ""


def in_processes(
    work: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int,
    begin: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
) -> Iterator[tuple[Any, Any]]:
    """Jobs and what `work` made of each, as they end, in at most `workers` processes that `begin(*given)` first.

    Raises:
        UserError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=begin, initargs=given) as pool:
        try:
            waiting = {pool.submit(work, job): job for job in jobs}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, perhaps for want of memory; give the same command again, with fewer workers: "
                "what is finished is kept"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _on_ray(jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """One task per shard, wherever the cluster has a free core; every node must see inputs and output."""
    try:
        import ray
    except ImportError as error:
        raise UserError('the engine `ray` needs Ray: pip install "hicmae[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    write = ray.remote(num_cpus=1, max_retries=3)(write_shard)
    waiting = {write.remote(dataclasses.replace(job, out=job.out.absolute())): job for job in jobs}
    while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        try:
            head = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        yield waiting.pop(done), head


def write_shard(job: Job, bar: Any = None) -> dict[str, Any]:
    """Make one tar and its description; returns the head of the latter.

    Raises:
        UserError: they cannot be written.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    whole, size = hashlib.sha256(), 0
    with writing(job.tar), replacing(job.tar) as file:
        for item, key in zip(job.items, job.keys, strict=True):
            before = size, len(rows), whole.copy()
            try:
                for raw, row in samples_of(item, key, job.config):
                    hashed = hashed_bytes(len(raw), job.config.format, row["frames"], job.config.size)
                    digest = hashlib.sha256(memoryview(raw)[:hashed]).hexdigest()
                    rows.append({**row, "offset": size, "size": len(raw), "sha256": digest})
                    file.write(raw)
                    whole.update(raw)
                    size += len(raw)
            except MediaError as error:  # all or none: a video may break off at its end
                skipped.append({"path": item.source, "reason": error.reason, "remedy": error.remedy})
                size, count, whole = before
                del rows[count:]
                file.seek(size)
                file.truncate()
            if bar is not None:
                bar.set_postfix_str(_skipped(len(skipped)), refresh=False)
                bar.update()
        end = bytes(-(-(size + 1024) // 10240) * 10240 - size)  # two empty blocks, and whole records
        file.write(end)
        whole.update(end)
    if not rows:
        job.tar.unlink()
    head = {"version": FORMAT, "made_from": job.made_from, "samples": len(rows), "skipped": len(skipped)}
    head |= {"format": job.config.format} if job.config.format != "jpeg" else {}
    head |= {"bytes": size + len(end), "sha256": whole.hexdigest()} if rows else {"bytes": 0, "sha256": None}
    with writing(job.sidecar):
        write_text(job.sidecar, "".join(json.dumps(line) + "\n" for line in [head, *rows, *skipped]))
    return head


def recorded(config: ShardConfig) -> dict[str, Any]:
    """The configuration as files state it: where the list lies does not matter, what it says does."""
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    # the usual format goes unsaid, as before there was another one
    return {name: value for name, value in said.items() if name != "list" and (name, value) != ("format", "jpeg")}


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str, *, first: bool = False) -> None:
    """Write a file whole or not at all; with `first` only if nobody else has."""
    with replacing(path, first=first) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path, *, first: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when it is whole and on the disk; nothing is left of it otherwise.

    With `first` it gives way to one that is there already.
    """
    # a name of its own for everybody: machines that share the folder may share process numbers and even host names
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if first:
            try:
                path.hardlink_to(partial)  # unlike renaming, this never replaces
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                partial.replace(path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in words why something cannot be written."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free space and give the same command again: what is finished is kept"
            raise UserError(f"no room to write {where} ({error.strerror}); {remedy}") from error
        raise UserError(f"cannot write {where} ({error.strerror}); choose another --out or mend it") from error


def _sizes(item: Item) -> list[int | str]:
    if isinstance(item, Stored):
        return [row["sha256"] for row in item.rows]
    return [_size(path) for path in (item.path, item.sound) if path is not None]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
