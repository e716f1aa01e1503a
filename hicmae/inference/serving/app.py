"""What the server answers: the page, its style and script, and one clip at a time."""

from __future__ import annotations

import asyncio
import contextlib
import html
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hicmae import __version__
from hicmae.configs.errors import UserError
from hicmae.inference.page import LANE_STYLE
from hicmae.inference.serving.uploads import clip_folder
from hicmae.inference.serving.worker import ClipError, TimeError, Worker

__all__ = ["Limits", "application"]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' data:; media-src blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""With every answer. Drawings carry styles of their own, which is all that is allowed to stand in the page."""

_BUSY = "Other clips are being looked at. Try again in a minute."


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor may ask for."""

    max_mb: float = 100
    """Megabytes (10^6 bytes) of a clip."""
    max_seconds: int = 60
    """Length of a clip."""
    work_seconds: float = 180
    """Time that a clip is looked at."""
    upload_seconds: float = 120
    """Time that an upload takes; a pause in it, a sixth of this."""
    waiting: int = 3
    """Clips that wait for their turn, beside the one that is looked at."""

    @property
    def bytes(self) -> int:
        """Largest upload."""
        return int(self.max_mb * 1_000_000)


class _Refused(Exception):
    """An answer other than a result: (status, words)."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


def application(worker: Worker, about: dict[str, Any], limits: Limits, folder: Path, names: Sequence[str] = ()) -> Any:
    """The ASGI application.

    Args:
        about: names of the models, for the page.
        folder: where uploads lie while they are looked at.
        names: by which the page is reached, beside this machine's own and addresses.
    """
    own = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local", *map(str.lower, names)}
    turn = asyncio.Lock()
    inside = 0  # uploads, clips that wait, and the one that is looked at

    async def look(request: Request) -> Response:
        nonlocal inside
        if request.headers.get("x-hicmae") != "1":  # what no form and no other site can send
            raise _Refused(403, "Only the page of this server may send clips.")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limits.bytes:
            raise _Refused(413, _too_large(limits))
        if inside > limits.waiting:
            raise _Refused(503, _BUSY)
        inside += 1
        try:
            with clip_folder(folder) as place:
                clip = place / "clip"  # whatever it was called there
                await _receive(request, clip, limits)
                async with _turn(turn, request):
                    found = await asyncio.to_thread(worker.look, clip, limits.work_seconds)
            return JSONResponse(found)
        except TimeError as error:
            raise _Refused(504, str(error)) from None
        except ClipError as error:
            raise _Refused(422, str(error)) from None
        except UserError as error:  # the model, loaded again after a clip that took too long, is there no more
            raise _Refused(500, str(error)) from None
        finally:
            inside -= 1

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        # what is left of a refused upload is not read
        return JSONResponse({"error": error.words}, error.status, {"connection": "close"})

    page = _page(about, limits)
    app = Starlette(
        routes=[
            Route("/", _fixed(page, "text/html")),
            Route("/page.css", _fixed(LANE_STYLE + "\n" + _file("page.css"), "text/css")),
            Route("/page.js", _fixed(_file("page.js"), "text/javascript")),
            Route("/favicon.ico", _fixed("", "image/x-icon", 204)),
            Route("/look", look, methods=["POST"]),
        ],
        exception_handlers={_Refused: refused},
    )
    return _guarded(app, own)


def _fixed(text: str, kind: str, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, status, media_type=kind)

    return answer


async def _receive(request: Request, clip: Path, limits: Limits) -> None:
    """Write the upload, and stop as soon as it is too large or too slow."""
    size = 0
    pieces = request.stream()
    until = time.monotonic() + limits.upload_seconds
    try:
        with clip.open("xb") as file:
            while True:
                left = min(until - time.monotonic(), limits.upload_seconds / 6)
                piece = await asyncio.wait_for(_next(pieces), left)
                if piece is None:
                    break
                size += len(piece)
                if size > limits.bytes:
                    raise _Refused(413, _too_large(limits))
                file.write(piece)
    except asyncio.TimeoutError:
        raise _Refused(408, "The upload took too long. Try again, or give a smaller clip.") from None
    except ClientDisconnect:
        raise _Refused(400, "The upload was cut off.") from None
    declared = request.headers.get("content-length")
    if declared and declared.isdecimal() and size != int(declared):
        raise _Refused(400, "The upload was cut off.")
    if not size:
        raise _Refused(422, "This clip is empty. Choose another one.")


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


@contextlib.asynccontextmanager
async def _turn(turn: asyncio.Lock, request: Request) -> AsyncIterator[None]:
    """Wait until it is this clip's turn, or until its visitor has gone."""
    waiting = asyncio.ensure_future(turn.acquire())
    try:
        while not (await asyncio.wait({waiting}, timeout=0.5))[0]:
            if await request.is_disconnected():
                raise _Refused(400, "Nobody waits for this clip any more.")
    except BaseException:
        if not waiting.cancel() and waiting.done() and not waiting.cancelled():
            turn.release()
        raise
    try:
        yield
    finally:
        turn.release()


def _guarded(app: Any, own: Set[str]) -> Any:
    """Every answer with `HEADERS`; requests that another site arranged are refused."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        words = _foreign(Headers(scope=scope), scope["method"], own)
        if words:
            refusal = JSONResponse({"error": words}, 403, {"connection": "close"})
            await refusal(scope, receive, answer)
        else:
            await app(scope, receive, answer)

    return guarded


def _foreign(headers: Headers, method: str, own: Set[str]) -> str:
    """Why a request is not from this server's own page; empty if it may be.

    A site that lets its own name point to this machine (DNS rebinding) arrives under that name; a page of another site
    that sends something here says where it is from.
    """
    host = headers.get("host", "")
    if not _own_name(host, own):
        return "This server answers to its address only, not to the name it was asked by."
    origin = headers.get("origin")
    if method != "GET" and origin is not None and origin.partition("://")[2] != host:
        return "Only the page of this server may send clips."
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and method != "GET":
        return "Only the page of this server may send clips."
    return ""


def _own_name(host: str, own: Set[str]) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and ":" in host else host
    name = name.strip("[]").lower()
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in own


def _too_large(limits: Limits) -> str:
    return f"This clip is too large. Up to {limits.max_mb:g} MB are taken; give a shorter or smaller one."


def _file(name: str) -> str:
    return (files("hicmae.inference.serving") / "web" / name).read_text(encoding="utf-8")


def _page(about: dict[str, Any], limits: Limits) -> str:
    labels = ", ".join(about["labels"])
    more = f" Reconstructions are by {about['pretrained']}." if about["pretrained"] else ""
    values = {
        "model": f"{about['model']}{f', which knows {labels}' if labels else ''}.{more}",
        "max_mb": f"{limits.max_mb:g}",
        "max_seconds": str(limits.max_seconds),
        "version": __version__,
    }
    page = _file("index.html")
    for name, value in values.items():
        page = page.replace(f"{{{{{name}}}}}", html.escape(value))
    return page
