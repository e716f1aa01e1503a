"""A page served by a real process, with a temporary folder of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """The running server."""

    process: subprocess.Popen[str]
    temporary: Path
    port: int

    def post(self, body: bytes, path: str = "/look", **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and answer; `headers` with _ for -."""
        sent = {"X-Hicmae": "1", **{name.replace("_", "-"): value for name, value in headers.items()}}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=200)) as link:
            link.request("POST", path, body, sent)
            answer = link.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {"text": text.decode()}

    def left(self) -> list[str]:
        """Files that lie in the temporary folder."""
        return [str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*") if path.is_file()]

    def empty_soon(self, folders: bool = False) -> bool:
        """Whether no clip lies there any more; with `folders`, nothing at all."""
        return soon(lambda: not (list(self.temporary.iterdir()) if folders else self.left()))

    def begun(self, *head: str, body: bytes = b"") -> socket.socket:
        """A connection on which a request was begun."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        lines = ["POST /look HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "X-Hicmae: 1", *head]
        link.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return link

    def worker(self) -> int:
        """Its process that looks at clips."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        (found,) = (int(n) for n in children if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes())
        return found

    def ended_by(self, kind: signal.Signals) -> tuple[int, str]:
        """Exit code and last words after a signal."""
        self.process.send_signal(kind)
        _, words = self.process.communicate(timeout=30)
        return self.process.returncode, words


def soon(true: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether something comes true."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def served(temporary: Path, checkpoint: Path, **how: Any) -> Iterator[Served]:
    """`serve(checkpoint, port=0, **how)` in a process; `how` becomes options of the command where it has such."""
    temporary.mkdir()
    if how.keys() <= {"pretrained", "max_mb", "max_seconds"}:
        words = ["-m", "hicmae", "serve", "--checkpoint", str(checkpoint), "--port", "0", "--device", "cpu"]
        words += [word for name, value in how.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    else:
        more = "".join(f", {name}={value!r}" for name, value in how.items())
        say = "say=lambda text: print(text, flush=True)"
        code = f"serve({str(checkpoint)!r}, port=0, device='cpu', {say}{more})"
        words = ["-c", f"from hicmae.inference.serving import serve\n{code}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, (line, process.stderr.read())
        yield Served(process, temporary, int(line.partition("http://127.0.0.1:")[2].partition("/")[0]))
    finally:
        process.kill()
        process.communicate()
