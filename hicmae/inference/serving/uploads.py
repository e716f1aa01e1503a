"""Where uploads lie while they are looked at: a folder per clip, removed with it, whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PREFIX", "base_folder", "clip_folder", "sweep"]

PREFIX = "hicmae-serve-"


@contextlib.contextmanager
def base_folder() -> Iterator[Path]:
    """A folder for one server, which nobody else can read; gone afterwards."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def clip_folder(base: Path) -> Iterator[Path]:
    """A folder for one clip; gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what servers left that were killed together with all their processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = folder.name[len(PREFIX) :].partition("-")[0]
        with contextlib.suppress(OSError):
            ours = os.name == "posix" and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if ours and number.isdecimal() and not _alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name != "posix":  # there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's, or cannot be asked
        return True
    return True
