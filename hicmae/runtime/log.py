"""What a run tells while it runs: progress bars, one JSON line per logged step, TensorBoard scalars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from hicmae.configs.errors import UserError

__all__ = ["RunLog", "UserError", "progress", "say"]


def say(message: str) -> None:
    """Print one line for the person at the terminal (to stderr, above any progress bar)."""
    tqdm.write(message, file=sys.stderr)


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    initial: int = 0,
    show: bool = True,
    scale: bool = False,
) -> tqdm:
    """A progress bar with rate and ETA; where no terminal listens it writes a line every 20 seconds instead.

    `scale` writes thousands as k, M, G.
    """
    quiet = not sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        disable=not show,
        mininterval=20.0 if quiet else 0.2,
        dynamic_ncols=not quiet,
        ascii=quiet,
        smoothing=0.1,
        unit_scale=scale,
    )


class RunLog:
    """The log of one run: `log.jsonl` (one object per logged step) and TensorBoard events beside it.

    Lines of steps at or after `resume_step` are dropped on opening, so that a continued run's log reads like an
    undisturbed one's. Only one process of a run should write (`write=False` makes every call a no-op).

    `elapsed` counts the seconds of the run, those before it was continued included; the first line since a start names
    the `device`. `listener` is told every line's step and values too.
    """

    def __init__(
        self,
        folder: Path,
        listener: Callable[[int, Mapping[str, float]], None] | None = None,
        *,
        write: bool = True,
        resume_step: int = 0,
        device: str = "",
    ) -> None:
        self.path, self._listener = folder / "log.jsonl", listener
        self.write = write
        self._board: Any = None
        if not write:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._since, self._device = time.monotonic(), device
        kept: list[str] = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found = json.loads(line)
                    if found["step"] <= resume_step:
                        kept.append(line)
                        self._since = time.monotonic() - found.get("elapsed", 0.0)
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # a line cut by a kill
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")
        # imported here because it takes a second, and only the writing process needs it
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def scalars(self, step: int, values: Mapping[str, float], **extra: Any) -> None:
        """Record `values` at `step`; `extra` (strings, lists) goes to the JSON line only."""
        if not self.write:
            return
        line: dict[str, Any] = {
            "step": step,
            "time": round(time.time(), 3),
            "elapsed": round(time.monotonic() - self._since, 3),
        }
        line |= {**values, **extra, **({"device": self._device} if self._device else {})}
        self._device = ""
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=True) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._listener is not None:
            self._listener(step, values)

    def close(self) -> None:
        """Flush and close both files."""
        if self.write:
            self._file.close()
            self._board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
