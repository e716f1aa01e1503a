"""Many videos: those of files and folders one after the other, and those that come into a folder while it is watched.

What is done is remembered beside the results, so that the same command continues.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hicmae.configs.errors import Continuable, UserError
from hicmae.datasets.listing import Item, find_videos, keys_of
from hicmae.datasets.media import MediaError
from hicmae.inference.loading import Loaded
from hicmae.inference.people import shortly
from hicmae.inference.predict import predict_clip
from hicmae.inference.prediction import Prediction
from hicmae.inference.writing import write_prediction
from hicmae.runtime.log import say

__all__ = ["Summary", "predict_folder", "watch_folder"]

MEMORY = "predicted.jsonl"
"""A line per video that is done, in the folder of results."""


@dataclass
class Summary:
    """What became of the videos."""

    done: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    """Done by an earlier command with the same settings."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by video."""

    @property
    def code(self) -> int:
        """0: all were predicted; 1: some could not be; 2: none could."""
        return 0 if not self.failed else 1 if self.done or self.known else 2

    def __str__(self) -> str:
        told = f"{len(self.done)} predicted"
        told += f", {len(self.known)} done before" if self.known else ""
        return told + (f", {len(self.failed)} could not be predicted" if self.failed else "")


def predict_folder(
    inputs: Sequence[str | Path],
    model: Loaded,
    out: str | Path | None = None,
    *,
    again: bool = False,
    video: bool = True,
    show: bool = False,
    found: Callable[[Prediction], None] | None = None,
    **settings: Any,
) -> Summary:
    """Predict every video among files and below folders; one that cannot be used is told and the others go on.

    Args:
        model: what `load_model` gives.
        out: folder for the results (`write_prediction`); what is done there already is left out. None writes nothing.
        again: predict also what is done.
        video: draw annotated videos.
        show: progress bars.
        found: is called with each prediction.
        settings: `window`, `hop`, `batch_size` of `predict_clip`.

    Raises:
        UserError: there is no video in a folder, or results cannot be written.
        Continuable: interrupted (Ctrl-C); the same call continues where results are written.
    """
    there = [path for path in inputs if os.path.lexists(path)]
    gone = [Path(path) for path in inputs if not os.path.lexists(path)]
    items = find_videos(there)[0] if there else []
    items = [item for item in items if not _inside(item.path, out)]
    trouble = "does not exist", "check the path"
    items += [Item(source=str(path), path=path, trouble=trouble) for path in gone]
    if not items:
        raise UserError(
            f"{', '.join(map(str, inputs))}: there are no videos there; name mp4, mov, mkv, webm or avi files"
        )
    work = _Work(model, None if out is None else Path(out), again, video, show, found, settings)
    names = keys_of([item.source for item in items])
    try:
        for item, name in zip(items, names, strict=True):
            work.take(item, name)
    except KeyboardInterrupt:
        if out is None:
            raise
        done = f"{len(work.summary.done) + len(work.summary.known)} of {len(items)} videos are done"
        raise Continuable(f"interrupted; {done}, and the same command continues") from None
    return work.summary


def watch_folder(
    folder: str | Path,
    model: Loaded,
    out: str | Path,
    *,
    settle: float = 2.0,
    until: Callable[[], bool] = lambda: False,
    video: bool = True,
    show: bool = False,
    **settings: Any,
) -> Summary:
    """Predict every video that is in a folder, or comes into it, until Ctrl-C or SIGTERM.

    A video is taken once its size and time have not changed for `settle` seconds. One that could not be used is tried
    again when it changes. What is done is remembered in `out`, also for the next start. `until` ends it when it is
    True and nothing is left to do. Other arguments are those of `predict_folder`.

    Raises:
        UserError: the folder does not exist, or results cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; name the one that videos come into")
    work, sizes = _Work(model, Path(out), False, video, show, None, settings), _Sizes(settle)
    say(f"watching {folder}; results go to {out}; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt), _ended_by_terminate():
        while True:
            items = [item for item in find_videos([folder])[0] if not _inside(item.path, out)]
            ready = [n for n, item in enumerate(items) if not work.knows(item) and sizes.settled(item.path)]
            names = keys_of([item.source for item in items]) if ready else []
            for n in ready:
                work.take(items[n], names[n])
            if not ready:
                if until() and all(work.knows(item) for item in items):
                    break
                time.sleep(min(1.0, settle / 2))
    say(f"{work.summary}; the same command goes on watching")
    return work.summary


class _Known(NamedTuple):
    """What is remembered of a video."""

    state: Any
    """Its size and time, and with what it was predicted."""
    name: str
    """Of its results."""
    error: str | None
    """Why it cannot be used."""


_NEW = _Known(None, "", None)


class _Work:
    """Predicts one video after the other, and remembers."""

    def __init__(
        self,
        model: Loaded,
        out: Path | None,
        again: bool,
        video: bool,
        show: bool,
        found: Callable[[Prediction], None] | None,
        settings: dict[str, Any],
    ) -> None:
        self.model, self.out, self.again, self.video, self.show = model, out, again, video, show
        self.found, self.settings = found, settings
        self.summary = Summary()
        file = Path(str(model.meta.get("file", "")))
        stamp = file.stat().st_mtime_ns if file.is_file() else 0
        self.how = {"checkpoint": str(file), "changed": stamp, "video": video, **settings}
        self._memory = {} if out is None else self._read(out / MEMORY)
        if again:
            self._memory = {key: _Known(None, known.name, None) for key, known in self._memory.items()}

    def knows(self, item: Item) -> bool:
        """Whether a video, as it is now, is done (or was tried, and cannot be used)."""
        return item.trouble is None and self._memory.get(self._key(item), _NEW).state == self._state(item)

    def take(self, item: Item, name: str) -> None:
        """Predict a video unless that is done."""
        state = self._state(item)
        if self.knows(item):
            error = self._memory[self._key(item)].error
            if error is None:
                self.summary.known.append(item.source)
            else:
                self._failed(item, error)
            return
        self.summary.failed.pop(item.source, None)
        try:
            if item.trouble is not None:
                raise MediaError(item.path, *item.trouble)
            result = predict_clip(item.path, self.model, show=self.show, **self.settings)
            if self.out is not None:
                name = self._name(item, name)
                files = write_prediction(result, self.out, name, video=self.video, show=self.show)
                say(f"{item.source}: {shortly(result.probabilities, result.values, 2)} -> {files['page']}")
        except MediaError as error:
            self._failed(item, str(error))
            self._remember(item, _Known(state, "", str(error)))
            return
        if self.found is not None:
            self.found(result)
        self.summary.done.append(item.source)
        self._remember(item, _Known(state, name, None))

    def _failed(self, item: Item, error: str) -> None:
        say(f"error: {error}")
        self.summary.failed[item.source] = error

    def _state(self, item: Item) -> Any:
        try:
            stat = item.path.stat()
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns, self.how]

    def _key(self, item: Item) -> str:
        """A video's path from the results, so that both can be moved together."""
        return os.path.relpath(item.path, self.out) if self.out is not None else str(item.path)

    def _name(self, item: Item, name: str) -> str:
        """The name of its results: as before, or one that no other video has."""
        key = self._key(item)
        if self._memory.get(key, _NEW).name:
            return self._memory[key].name
        if any(known.name == name for known in self._memory.values()):
            name += f"-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        return name

    def _remember(self, item: Item, known: _Known) -> None:
        self._memory[self._key(item)] = known
        if self.out is None or item.trouble is not None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / MEMORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"video": self._key(item), **known._asdict()}, ensure_ascii=True) + "\n")

    @staticmethod
    def _read(path: Path) -> dict[str, _Known]:
        memory: dict[str, _Known] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut by a kill
                told = json.loads(line)
                key = told.pop("video")
                memory[key] = _Known(**told)
        return memory


class _Sizes:
    """Tells which files have stopped growing."""

    def __init__(self, settle: float) -> None:
        self.settle = settle
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def settled(self, path: Path) -> bool:
        """Whether size and time are those of so many seconds ago."""
        try:
            stat = path.stat()
        except OSError:
            return False
        here, now = (stat.st_size, stat.st_mtime_ns), time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if here != before:
            since = now
            self._seen[path] = here, since
        return stat.st_size > 0 and now - since >= self.settle


def _inside(path: Path, folder: str | Path | None) -> bool:
    """Whether a video lies among the results."""
    return folder is not None and path.name.endswith(".annotated.mp4") and path.is_relative_to(Path(folder).absolute())


@contextlib.contextmanager
def _ended_by_terminate() -> Iterator[None]:
    """SIGTERM as Ctrl-C."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
