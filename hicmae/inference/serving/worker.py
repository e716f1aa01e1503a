"""The process that looks at clips: it holds the models, and is ended when a clip takes too long or brings it down."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.configs.errors import UserError

__all__ = ["ClipError", "Job", "TimeError", "Worker"]


class ClipError(UserError):
    """A clip that cannot be looked at, in words for whoever gave it."""


class TimeError(UserError):
    """A clip that took too long."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the process is to do."""

    checkpoint: str
    pretrained: str | None = None
    device: str = "auto"
    max_seconds: int = 60
    max_pixels: int = 10_000_000


class Worker:
    """The process as its owner sees it. Only one thread at a time may ask it."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self._process: Any = None
        self._pipe: Any = None
        self._closed = threading.Event()

    def start(self) -> dict[str, Any]:
        """Load the models; returns what they are.

        Raises:
            UserError: one cannot be loaded; the message says why.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share the server's sockets
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self.job, str(self.folder)), daemon=True)
        self._process.start()
        theirs.close()
        kind, told = self._heard(None)
        if kind != "ready":
            self.end()
            raise UserError(told)
        return told

    def look(self, clip: Path, seconds: float) -> dict[str, Any]:
        """What is found in a clip.

        Raises:
            ClipError: it cannot be looked at.
            TimeError: it took longer than `seconds`; the process was ended.
        """
        if self._process is None:  # ended with the clip before
            self.start()
        self._pipe.send(str(clip))
        kind, told = self._heard(seconds)
        if kind in ("late", "gone"):
            self.end()
        if kind == "late":
            raise TimeError(f"This clip took longer than {seconds:.0f} s. Give a shorter or smaller one.")
        if kind == "gone":
            raise ClipError("This clip brought down the process that looked at it. Try another one.")
        if kind == "refused":
            raise ClipError(told)
        return told

    def end(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def close(self) -> None:
        """End it, and whatever waits for it."""
        self._closed.set()

    def _heard(self, seconds: float | None) -> tuple[str, Any]:
        until = None if seconds is None else time.monotonic() + seconds
        try:
            while not self._pipe.poll(0.1):
                if self._closed.is_set() or not (self._process.is_alive() or self._pipe.poll(0)):
                    return "gone", "the process that holds the model ended; its last words are above"
                if until is not None and time.monotonic() > until:
                    return "late", None
            return self._pipe.recv()
        except (EOFError, OSError):
            return "gone", "the process that holds the model ended; its last words are above"


def _work(pipe: Any, job: Job, folder: str) -> None:
    """The process: load, say so, and answer until the pipe closes. If its owner was killed, it removes what is left."""
    for name in (signal.SIGINT, signal.SIGTERM):  # of a terminal's Ctrl-C its owner takes care
        signal.signal(name, signal.SIG_IGN)
    os.environ.setdefault("HICMAE_MAX_PIXELS", str(job.max_pixels))
    os.environ["HICMAE_MAX_SECONDS"] = str(job.max_seconds)
    # imported here: only this process needs torch
    from hicmae.inference.serving.looking import load, look

    try:
        models = load(job)
        pipe.send(("ready", models.about))
    except (UserError, ValueError) as error:
        pipe.send(("refused", str(error)))
        return
    while True:
        try:
            clip = Path(pipe.recv())
        except (EOFError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            return
        try:
            answer: tuple[str, Any] = ("found", look(clip, models))
        except (UserError, ValueError, MemoryError) as error:
            answer = ("refused", words(error, clip))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            answer = ("refused", "Something went wrong here that is not this clip's fault; the terminal says what.")
        try:
            pipe.send(answer)
        except OSError:
            continue  # nobody waits any more; the next turn cleans up


def words(error: Exception, clip: Path) -> str:
    """An error as a sentence for the page, which knows no paths and cannot set variables."""
    if isinstance(error, MemoryError):
        return "This clip needs more memory than there is. Give a shorter or smaller one."
    reason, remedy = getattr(error, "reason", None), getattr(error, "remedy", "")
    text = f"This clip {reason}; {remedy}" if reason else str(error)
    text = text.replace(str(clip), "this clip").partition(", or raise the limit by HICMAE_")[0]
    if reason and reason.startswith("shows no face"):
        return (
            "No face was found in this clip. Give one in which a face is large, in good light, and seen from the front."
        )
    text = text.replace("; leave it out", "")
    return f"{text[0].upper()}{text[1:]}."
