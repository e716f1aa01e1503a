"""The bytes of a file from where it lies: the Hugging Face Hub, a web server, a folder. Nothing is trusted here."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Failed", "Patience", "address", "is_local", "megabytes", "opened"]

_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?/(?P<file>[\w.+=@ -]+)")
_PIECE = 1 << 18
_REASONS = {
    401: "gives it to those only who are logged in",
    403: "does not give it to us",
    404: "has no such file (any more)",
    410: "has the file no longer",
    429: "asks to come back later",
}


class Failed(Exception):
    """A mirror did not give the file; `again` where a further try may, `useless` where what arrived before must go."""

    def __init__(self, reason: str, again: bool = False, useless: bool = False) -> None:
        super().__init__(reason)
        self.again, self.useless = again, useless


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a slow or broken mirror is borne before the next one is asked."""

    connect: float = 10.0
    """Seconds until a server must have answered the call."""
    silence: float = 30.0
    """Seconds in which a byte must arrive."""
    slow: float = 60.0
    """Seconds over which the rate is measured."""
    rate: float = 2_000.0
    """Bytes per second that must arrive."""
    tries: int = 4
    """Tries in a row at one mirror that bring nothing new; each continues where the last was cut off."""
    pause: float = 1.0
    """Seconds before the second try, doubled before each further one."""


def megabytes(count: float) -> str:
    """`12.3 MB`."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,.0f} bytes"


def is_local(mirror: str) -> bool:
    """Whether a mirror needs no network."""
    return mirror.startswith("file://") or "://" not in mirror


def address(mirror: str) -> str:
    """The URL of `https://…`, `http://…` or `hf://owner/repo@revision/file` (main without a revision).

    Raises:
        ValueError: none of these.
    """
    if mirror.startswith(("https://", "http://")):
        return mirror
    found = _HUB.fullmatch(mirror)
    if found is None or ".." in mirror.split("/"):
        raise ValueError(
            f"{mirror}: a mirror is hf://owner/repo@revision/file, https://… or a path; this is none of them"
        )
    from huggingface_hub import hf_hub_url  # imports for half a second

    # the variable is read now, and not when the library was imported
    return hf_hub_url(
        found["repo"], found["file"], revision=found["revision"], endpoint=os.environ.get("HF_ENDPOINT") or None
    )


@contextlib.contextmanager
def opened(
    mirror: str, name: str, size: int | None, begin: int, patience: Patience
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Where the stream begins (at `begin`, or at 0 where the mirror cannot do that), and its pieces.

    Args:
        mirror: a URL, or a file or folder.
        name: of the file, where the mirror is a folder.
        size: bytes that the file must have; None where that is not known.
        begin: bytes that are there already.

    Raises:
        Failed: the mirror does not give the file; the message says why.
    """
    with _from_folder(mirror, name, begin) if is_local(mirror) else _from_web(mirror, size, begin, patience) as found:
        yield found


@contextlib.contextmanager
def _from_folder(mirror: str, name: str, begin: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    path = Path(unquote(urlsplit(mirror).path) if mirror.startswith("file://") else mirror).expanduser()
    path = path / name if path.is_dir() else path
    if not path.is_file():  # a pipe or a device would be waited for
        raise Failed("is no file" if path.exists() else "there is no such file")
    try:
        with path.open("rb") as file:
            file.seek(begin)
            yield begin, iter(lambda: file.read(_PIECE), b"")
    except OSError as error:
        raise Failed(f"cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _from_web(mirror: str, size: int | None, begin: int, patience: Patience) -> Iterator[tuple[int, Iterator[bytes]]]:
    import httpx

    headers = {"User-Agent": "hicmae"}
    try:
        url = address(mirror)
        if mirror.startswith("hf://"):
            from huggingface_hub import get_token  # its own headers would ask the server for more than the file

            token = get_token()
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
        headers["Accept-Encoding"] = "identity"  # the bytes whose hash is known
        if begin:
            headers["Range"] = f"bytes={begin}-"
        timeout = httpx.Timeout(patience.silence, connect=patience.connect)
        with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
            start = _start(answer.status_code, dict(answer.headers), size, begin, hub=mirror.startswith("hf://"))
            yield start, _paced(answer.iter_raw(), patience)
    except httpx.ConnectTimeout:
        raise Failed(f"did not answer within {patience.connect:g} s", again=True) from None
    except httpx.TimeoutException:
        raise Failed(f"sent nothing for {patience.silence:g} s", again=True) from None
    except httpx.RemoteProtocolError:
        raise Failed("broke off", again=True) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Failed(
            f"cannot be reached ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    except ValueError as error:
        raise Failed(str(error)) from None


def _start(status: int, headers: dict[str, str], size: int | None, begin: int, hub: bool) -> int:
    """Where an answer begins; raises Failed for one that is not the file."""
    if status == 416:
        raise Failed("does not have as much of the file as was received before", again=True, useless=True)
    if status not in (200, 206):
        reason = _REASONS.get(status, "has an error of its own" if status >= 500 else "does not give it")
        if hub and status in (401, 403, 404):
            reason += "; if it asks for consent or is private, accept its terms there and say: hf auth login"
        raise Failed(f"HTTP {status}: {reason}", again=status in (408, 425, 429) or status >= 500)
    total = headers.get("content-length", "")
    start = 0
    if status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
        if span is None or int(span[1]) != begin:
            raise Failed(f"was asked for what follows byte {begin:,} and sent something else")
        start, total = int(span[1]), span[2]
    if headers.get("content-encoding", "identity") != "identity":
        raise Failed("sends the file in another encoding")
    if size is not None and total.isdecimal() and int(total) != size:
        page = "text/html" in headers.get("content-type", "")
        what = "a web page, as expired links do" if page else f"a file of {int(total):,} bytes"
        raise Failed(f"answers with {what}, where {size:,} bytes were expected")
    return start


def _paced(pieces: Iterator[bytes], patience: Patience) -> Iterator[bytes]:
    """The pieces as they come; raises Failed where they come too slowly."""
    since, count = time.monotonic(), 0
    for piece in pieces:
        yield piece
        count += len(piece)
        seconds = time.monotonic() - since
        if seconds >= patience.slow:
            if count < patience.rate * seconds:
                raise Failed(f"is too slow ({count / seconds:,.0f} bytes per second)")
            since, count = time.monotonic(), 0
