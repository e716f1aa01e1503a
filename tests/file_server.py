"""A real web server on this machine that gives files in many manners, good and bad, and counts what it gave."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["MANNERS", "Server", "serving"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """`/MANNER/NAME`, or `/OWNER/NAME/resolve/REVISION/FILE` as the Hub has it."""
        self.close_connection = True
        parts = self.path.lstrip("/").split("/")
        manner = "good" if "resolve" in parts else parts[0]
        body = self.server.files.get("/".join(parts) if "resolve" in parts else parts[-1])
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if body is None:
            self.send_error(404)
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            MANNERS[manner](self, body)

    def begin(self, body: bytes, ranges: bool = True) -> int:
        """Where the answer begins."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(found[1]) if found and ranges else 0

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def give(self, body: bytes) -> None:
        for start in range(0, len(body), 4096):
            self.wfile.write(body[start : start + 4096])
            self.server.sent += len(body[start : start + 4096])

    def answer(self, body: bytes, upto: int | None = None, ranges: bool = True, length: int | None = None) -> None:
        """The file from where it was asked for, cut before byte `upto` of the file."""
        begin, whole = self.begin(body, ranges), len(body) if length is None else length
        if begin:
            self.head(206, Content_Range=f"bytes {begin}-{whole - 1}/{whole}", Content_Length=whole - begin)
        else:
            self.head(200, Content_Length=whole)
        self.give(body[begin:upto])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _cut_further(handler: _Handler, body: bytes) -> None:
    """60,000 bytes each time."""
    begin = handler.begin(body)
    handler.answer(body, begin + 60_000)


def _endless(handler: _Handler, body: bytes) -> None:
    handler.head(200)
    for _ in range(10_000):
        handler.give(b"x" * 4096)


def _silent(handler: _Handler, body: bytes) -> None:
    time.sleep(1)


def _stalling(handler: _Handler, body: bytes) -> None:
    handler.answer(body, len(body) // 2)
    time.sleep(1)


def _trickle(handler: _Handler, body: bytes) -> None:
    handler.head(200, Content_Length=len(body))
    for i in range(200):
        handler.give(body[i : i + 1])
        handler.wfile.flush()
        time.sleep(0.02)


def _redirect(place: Callable[[_Handler], str]) -> Callable[[_Handler, bytes], None]:
    return lambda handler, body: handler.head(302, Location=place(handler), Content_Length=0)


def _page(handler: _Handler, body: bytes) -> None:
    text = b"<html>this link has expired</html>"
    handler.head(200, Content_Type="text/html; charset=utf-8", Content_Length=len(text))
    handler.give(text)


def _no_http(handler: _Handler, body: bytes) -> None:
    handler.wfile.write(b"220 welcome to another service\r\n")


def _other_range(handler: _Handler, body: bytes) -> None:
    begin = handler.begin(body)
    if not begin:
        handler.answer(body, 50_000)
    else:
        handler.head(206, Content_Range=f"bytes 7-{len(body) - 1}/{len(body)}", Content_Length=len(body) - 7)
        handler.give(body[7:])


def _squeezed(handler: _Handler, body: bytes) -> None:
    handler.head(200, Content_Encoding="gzip", Content_Length=len(body))
    handler.give(body)


def _error(status: int) -> Callable[[_Handler, bytes], None]:
    return lambda handler, body: handler.send_error(status)


MANNERS: dict[str, Callable[[_Handler, bytes], None]] = {
    "good": lambda handler, body: handler.answer(body),
    "no-ranges": lambda handler, body: handler.answer(body, ranges=False),
    "cut-further": _cut_further,
    "cut-at-once": lambda handler, body: handler.answer(body, handler.begin(body)),
    "cut-no-ranges": lambda handler, body: handler.answer(body, 50_000, ranges=False),
    "wrong-bytes": lambda handler, body: handler.answer(bytes(len(body))),
    "one-wrong-bit": lambda handler, body: handler.answer(body[:100] + bytes([body[100] ^ 1]) + body[101:]),
    "shorter": lambda handler, body: handler.answer(body[:-1]),
    "longer": lambda handler, body: handler.answer(body + b"x"),
    "endless": _endless,
    "silent": _silent,
    "stalling": _stalling,
    "trickle": _trickle,
    "page": _page,
    "no-http": _no_http,
    "other-range": _other_range,
    "squeezed": _squeezed,
    "circle": _redirect(lambda handler: handler.path),
    "to-file": _redirect(lambda handler: "file:///etc/hostname"),
    "moved": _redirect(lambda handler: handler.path.replace("/moved/", "/good/")),
    "416": _error(416),
    **{str(status): _error(status) for status in (401, 403, 404, 410, 429, 500, 503)},
}


class Server(ThreadingHTTPServer):
    """Files by name, and what was asked for and given."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that leave are what is tried here."""


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server in a thread of its own."""
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
