"""Shards that lie elsewhere, read by byte ranges: http(s), object stores such as s3, and commands where allowed.

`pipe:COMMAND` names a command that prints a file, with `{name}` for the file and `{range}` for its bytes as HTTP
writes them (`0-99`, `100-`): `pipe:curl -sfr {range} https://host/shards/{name}`. A recipe from elsewhere could run
anything by it, so it is refused unless the environment says HICMAE_PIPE=1.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from hicmae.configs.errors import UserError

__all__ = ["Gone", "Remote", "Unreachable", "place_of", "read_bytes"]

TRIES = 6
WAIT = 0.5  # seconds before the second try, doubled before each further one: 15 s in all
TIMEOUT = 30.0  # seconds without an answer
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP states that may be over when asked again


class Gone(OSError):
    """The server answers, and has no such file or does not give it."""


class Unreachable(UserError):
    """Nothing was to be had in several tries."""


@dataclass(frozen=True)
class Remote:
    """A folder or a file elsewhere, with what shards need of `pathlib.Path`."""

    url: str
    name: str = ""
    """The file in the folder, empty for the folder itself."""

    def __str__(self) -> str:
        return self._address()

    def __truediv__(self, name: str) -> Remote:
        return replace(self, name=name)

    @property
    def parent(self) -> Remote:
        """The folder."""
        return replace(self, name="")

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return self.name.rpartition(".")[0]

    def with_suffix(self, suffix: str) -> Remote:
        """The file beside it with another suffix."""
        return replace(self, name=self.stem + suffix)

    def read(self, first: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from byte `first` on, or all from there; tried again where a failure may pass.

        Raises:
            Gone: there is no such file, or it is refused.
            Unreachable: it failed TRIES times.
            UserError: pipes are not allowed, or the reader of this kind of address is not installed.
        """
        for turn in range(TRIES):
            if turn:
                time.sleep(WAIT * 2 ** (turn - 1))
            try:
                data = self._read(first, size)
                if size is not None and len(data) != size:
                    raise ConnectionError(f"{len(data)} bytes came instead of {size}")
                return data
            except (Gone, UserError):
                raise
            except Exception as error:  # each reader has failures of its own
                problem = error
        raise Unreachable(
            f"{self} cannot be read after {TRIES} tries ({str(problem) or type(problem).__name__}); see that the "
            "server runs and that this machine reaches it, then give the same command again"
        ) from problem

    def _address(self) -> str:
        if self.url.startswith("pipe:") or not self.name:
            return f"{self.url} ({self.name})" if self.name else self.url
        parts = urllib.parse.urlsplit(self.url)  # a signature may follow the path
        return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{self.name}"))

    def _read(self, first: int, size: int | None) -> bytes:
        if self.url.startswith("pipe:"):
            return self._from_command(first, size)
        if self.url.startswith(("http://", "https://")):
            return self._from_server(first, size)
        return self._from_store(first, size)

    def _from_server(self, first: int, size: int | None) -> bytes:
        wanted = {"Range": f"bytes={_range(first, size)}"} if first or size is not None else {}
        request = urllib.request.Request(self._address(), headers={"User-Agent": "hicmae", **wanted})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if wanted and answer.status != 206:
                    raise UserError(f"{self}: the server gives whole files only; use one that knows byte ranges")
                return answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _PASSING:
                raise
            raise Gone(f"the server answers {error.code} {error.reason}") from error
        except http.client.IncompleteRead as error:
            raise ConnectionError(f"the connection broke after {len(error.partial)} bytes") from error

    def _from_store(self, first: int, size: int | None) -> bytes:
        import fsspec

        try:
            store, path = fsspec.core.url_to_fs(self._address())  # kept by fsspec, for each process its own
        except ImportError as error:
            raise UserError(f'{self.url} cannot be read ({error}): pip install "hicmae[remote]"') from error
        except ValueError as error:
            raise UserError(f"{self.url}: {error}") from error
        try:
            return store.cat_file(path, start=first, end=None if size is None else first + size)
        except (FileNotFoundError, PermissionError) as error:
            raise Gone(f"it is not there or not given ({error})") from error

    def _from_command(self, first: int, size: int | None) -> bytes:
        if os.environ.get("HICMAE_PIPE") != "1":
            raise UserError(f"{self.url}: commands are run only where the environment says HICMAE_PIPE=1")
        words = shlex.split(self.url.removeprefix("pipe:"))
        filled = [word.replace("{name}", self.name).replace("{range}", _range(first, size)) for word in words]
        done = subprocess.run(filled, capture_output=True, timeout=TIMEOUT * 10, check=False)
        if done.returncode:
            raise ConnectionError(f"it ended with {done.returncode}: {done.stderr.decode(errors='replace')[-200:]}")
        return done.stdout


def place_of(where: str | Path | Remote) -> Path | Remote:
    """A folder of this machine, or one elsewhere where `where` is an address such as `https://host/shards`."""
    if isinstance(where, Remote):
        return where
    text = str(where)
    return Remote(text) if text.startswith("pipe:") or re.match(r"[a-z][a-z0-9+.-]+://", text) else Path(where)


def read_bytes(path: Path | Remote, first: int = 0, size: int | None = None) -> bytes:
    """`size` bytes of a file from byte `first` on, or all from there.

    Raises:
        OSError: it cannot be read.
        UserError: nothing answers where it lies.
    """
    if isinstance(path, Remote):
        return path.read(first, size)
    with path.open("rb") as file:
        file.seek(first)
        return file.read(-1 if size is None else size)


def _range(first: int, size: int | None) -> str:
    return f"{first}-" if size is None else f"{first}-{first + size - 1}"
