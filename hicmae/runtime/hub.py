"""Files with a name, a size, a sha256 and several mirrors -> a verified file in a cache that processes share.

    $HICMAE_CACHE or ~/.cache/hicmae/files/0123456789abcdef/NAME        whole and verified, or not there
                                                            NAME.part   what has arrived so far
                                                            NAME.lock   held by the process that downloads

HICMAE_OFFLINE=1 (or HF_HUB_OFFLINE=1) forbids the network: what is not there is told at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hicmae.configs.errors import ConfigError, UserError
from hicmae.runtime.digest import sha256
from hicmae.runtime.log import progress, say
from hicmae.runtime.mirrors import Failed, Patience, address, is_local, megabytes, opened

__all__ = [
    "DownloadError",
    "RemoteFile",
    "cache_folder",
    "check_name",
    "fetch",
    "fetch_small",
    "offline",
    "place_of",
    "store",
    "wrong",
]

_NAME = re.compile(r"[A-Za-z0-9_][\w.+=@ -]{0,199}", re.ASCII)
_TRIES = 100  # at one mirror in all, even if each brings a little
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DownloadError(UserError):
    """A file could not be had; the message says what was tried, and where to put the file by hand."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that is known by its content, wherever it lies."""

    name: str
    """A plain name, without folders."""
    size: int
    """Bytes; not one more is written."""
    sha256: str
    """64 hexadecimal digits."""
    mirrors: tuple[str, ...] = ()
    """`hf://owner/repo@revision/file`, `https://…`, `http://…`, `file://…`, or the path of a file or folder; in the
    order in which they are tried."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.size <= 0:
            raise UserError(f"{self.name}: its size must be positive, not {self.size}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"{self.name}: its sha256 must be 64 digits of 0-9 and a-f, not {self.sha256!r}")
        for mirror in self.mirrors:
            if not is_local(mirror):
                try:
                    address(mirror)
                except ValueError as error:
                    raise UserError(f"{self.name}: {error}") from None


def check_name(name: str) -> str:
    """A plain file name, returned; anything that could lead elsewhere is refused.

    Raises:
        ConfigError: a name with folders, a hidden one, or one of the cache's own.
    """
    if not _NAME.fullmatch(name) or name.endswith((".part", ".lock", ".", " ")):
        raise ConfigError(
            f"{name!r} is not the name of a file here: letters, digits and . _ + = @ - are, folders and .. are not"
        )
    return name


def cache_folder() -> Path:
    """`$HICMAE_CACHE`, or `~/.cache/hicmae`."""
    return Path(os.environ.get("HICMAE_CACHE") or Path.home() / ".cache" / "hicmae").expanduser().absolute()


def offline() -> str | None:
    """The variable that forbids the network, or None."""
    for name in ("HICMAE_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            return name
    return None


def place_of(file: RemoteFile) -> Path:
    """Where a file lies in the cache: by its content, so that two files of one name do not meet."""
    return cache_folder() / "files" / file.sha256[:16] / file.name


def wrong(path: Path, file: RemoteFile) -> str | None:
    """What keeps the file at `path` from being `file`; None if it is. All of it is read."""
    if not path.is_file():
        return "is not there"
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes, and {file.size:,} were expected"
    found = sha256(path)
    return None if found == file.sha256 else f"has sha256 {found}, and {file.sha256} was expected"


def fetch(file: RemoteFile, *, patience: Patience | None = None, show: bool = True) -> Path:
    """The path of a verified copy in the cache; downloaded if it is not there, continued if it was cut off.

    Mirrors are tried one after the other. The file gets its name only when size and sha256 are right. Two processes
    that want the same file download it once.

    Raises:
        DownloadError: no mirror gave the file, or the network is forbidden; says what was tried, and where to put it.
        UserError: the cache cannot be written, or the disk is full.
    """
    target = place_of(file)
    problem = wrong(target, file)
    if problem is None:
        return target
    mirrors = [mirror for mirror in file.mirrors if is_local(mirror) or not offline()]
    if target.exists():
        say(f"{target}: {problem}; {'it is fetched anew' if mirrors else 'it cannot be used'}")
    if not mirrors:
        raise DownloadError(_without_network(file, target))
    with _alone(target, file.name, show):
        if wrong(target, file) is None:  # by another process, in the meantime
            return target
        told: list[str] = []
        for mirror in mirrors:
            if _from(mirror, file, target, patience or Patience(), show, told):
                return target
    raise DownloadError(_in_vain(file, target, told))


def store(file: RemoteFile, pieces: Iterator[bytes]) -> Path:
    """Put a file into the cache from pieces at hand, such as a bundle's; verified like a download.

    Raises:
        UserError: they are not this file, or cannot be written; nothing is left behind.
    """
    target = place_of(file)
    with _alone(target, file.name, show=True):
        part = _part(target)
        try:
            _write(part, 0, pieces, file, show=False)
        except Failed as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{file.name}: {error}") from None
        problem = wrong(part, file)
        if problem is not None:
            part.unlink(missing_ok=True)
            raise UserError(f"{file.name}: {problem}; it was not kept")
        part.replace(target)
    return target


def fetch_small(mirror: str, limit: int = 1 << 20, patience: Patience | None = None) -> bytes:
    """A small file of which nothing is known but where it lies, such as the card that tells about the others.

    Raises:
        DownloadError: it cannot be had, or is larger than `limit` bytes.
    """
    if offline() and not is_local(mirror):
        raise DownloadError(f"{mirror}: cannot be looked up, since {offline()}=1 forbids the network")
    content = b""
    try:
        with opened(mirror, "card.yaml", None, 0, patience or Patience()) as (_, pieces):
            for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise Failed(f"is larger than {megabytes(limit)}, and should be small")
    except Failed as error:
        raise DownloadError(f"{mirror}: {error}") from None
    return content


def _from(mirror: str, file: RemoteFile, target: Path, patience: Patience, show: bool, told: list[str]) -> bool:
    """Whether a mirror gave the file; what it did instead is added to `told`."""
    part, reason, count, idle = _part(target), "", 0, 0
    while idle < patience.tries and count < _TRIES:
        if count:
            time.sleep(patience.pause * 2**idle / 2)
        count, before = count + 1, _size(part)
        try:
            if before > file.size:
                part.unlink()
                before = 0
            if before < file.size:
                _check_room(part, file.size - before)
                with opened(mirror, file.name, file.size, before, patience) as (begin, pieces):
                    _write(part, begin, pieces, file, show)
        except Failed as error:
            reason = str(error)
            if error.useless:
                part.unlink(missing_ok=True)
            idle = 0 if _size(part) > before else idle + 1
            if error.again:
                continue
            break
        problem = wrong(part, file)
        if problem is None:
            part.replace(target)
            return True
        part.unlink(missing_ok=True)
        reason = f"sent something else: it {problem}"
        if not before:  # with what was there before, that may have been the wrong part
            break
    reason += f" ({count} tries)" if count > 1 else ""
    told.append(f"{mirror}: {reason}")
    if show:
        say(told[-1])
    return False


def _write(part: Path, begin: int, pieces: Iterator[bytes], file: RemoteFile, show: bool) -> None:
    """Append pieces from byte `begin` on; raises Failed if they are more or fewer than the file has."""
    count = begin
    with _disk(part), part.open("r+b" if begin else "wb") as out:
        if begin:
            out.seek(begin)
            out.truncate()
        with progress(total=file.size, initial=begin, desc=file.name, unit="B", show=show, scale=True) as bar:
            for piece in pieces:
                count += len(piece)
                if count > file.size:
                    raise Failed(f"sends more than the {file.size:,} bytes of the file", useless=True)
                out.write(piece)
                bar.update(len(piece))
        out.flush()
        os.fsync(out.fileno())
    if count < file.size:
        raise Failed(f"broke off after {megabytes(count)} of {megabytes(file.size)}", again=True)


def _check_room(part: Path, need: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < need:
        raise UserError(
            f"{part.parent}: {megabytes(need)} more are needed there and {megabytes(free)} are free; make room, or "
            "name a folder on another disk by HICMAE_CACHE"
        )


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Errors of writing there, in words; those of reading elsewhere are `Failed` by now."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"{path}: the disk (or your share of it) is full; make room, or name a folder on another disk by "
                "HICMAE_CACHE. What has arrived is kept and continued by the same command; delete it if you give up"
            ) from None
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name a folder you may write to by HICMAE_CACHE"
        ) from None


@contextlib.contextmanager
def _alone(target: Path, name: str, show: bool) -> Iterator[None]:
    """While this process has the right to write `target`; the lock of a process that died is free."""
    with _disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(target.name + ".lock"))
    with _disk(target.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if show:
                say(f"{name}: another process is downloading it; waiting for that")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _by_hand(file: RemoteFile, target: Path) -> str:
    return f"put the file by hand at\n  {target}\n({file.size:,} bytes, sha256 {file.sha256})"


def _without_network(file: RemoteFile, target: Path) -> str:
    forbidden = offline()
    with contextlib.suppress(OSError):  # so that the file can be copied there
        target.parent.mkdir(parents=True, exist_ok=True)
    if forbidden and file.mirrors:
        return (
            f"{file.name} is not in the cache, and {forbidden}=1 forbids downloading it. Unset that, or "
            f"{_by_hand(file, target)}"
        )
    return f"{file.name} is not in the cache, and no mirror of it is known; {_by_hand(file, target)}"


def _in_vain(file: RemoteFile, target: Path, told: list[str]) -> str:
    kept = _size(_part(target))
    again = f" ({megabytes(kept)} of {megabytes(file.size)} have arrived and are continued)" if kept else ""
    lines = "\n".join(f"  {line}" for line in told)
    return (
        f"{file.name} ({megabytes(file.size)}) could not be downloaded:\n{lines}\n"
        f"Try the same command again later{again}, or {_by_hand(file, target)}"
    )
