"""What a model makes of a video: of its people and of the whole, as values, text, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.configs.errors import UserError
from hicmae.inference.people import Averaged, Person, WindowPrediction, plain, shortly

if TYPE_CHECKING:
    import pandas

__all__ = ["Prediction", "columns", "rows"]


@dataclass(frozen=True, repr=False)
class Prediction(Averaged):
    """What a model makes of a video.

    >>> parts = (WindowPrediction(0.0, 2.0, {"happy": 0.75, "sad": 0.25}),
    ...          WindowPrediction(1.0, 3.0, {"happy": 0.25, "sad": 0.75}))
    >>> result = Prediction("clip.mp4", "mae_dfer_base", parts)
    >>> result.probabilities
    {'happy': 0.5, 'sad': 0.5}
    """

    clip: str
    model: str
    windows: tuple[WindowPrediction, ...]
    """In order of time; they overlap."""
    note: str = ""
    """What a reader must know: that there was no sound to be heard, say."""
    people: tuple[Person, ...] = ()
    """Everyone whose face was followed, in order of appearance; one that stands for the square which is cut out, where
    faces are not followed. `windows` are those of the faces that the checkpoint's recipe takes of several."""
    span: tuple[float, float] | None = None
    """Seconds on the file's clock at which the video begins and ends."""

    @property
    def seconds(self) -> float:
        """From the begin of the first window to the end of the last."""
        return self.windows[-1].end - self.windows[0].start

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "clip": self.clip,
            "model": self.model,
            "seconds": round(self.seconds, 3),
            **plain(self),
            "note": self.note,
            "windows": [
                {"start": round(window.start, 3), "end": round(window.end, 3), **plain(window)}
                for window in self.windows
            ],
            "people": [person.to_dict() for person in self.people],
        }

    def frame(self) -> pandas.DataFrame:
        """A row per person and window: clip, person, start, end, label, then probabilities and numbers by name.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError('a data frame needs pandas: pip install "hicmae[predict]"') from None
        return pandas.DataFrame(rows(self), columns=columns(self))

    def plot(self, path: str | Path) -> Path:
        """Draw the timeline of every person as a PNG; returns its path.

        Raises:
            UserError: the file cannot be written, or is called something else than .png.
        """
        from hicmae.inference.timeline import write_plot  # matplotlib takes half a second

        return write_plot(self, Path(path))

    def table(self) -> str:
        """Text for a terminal: the whole clip, labels by probability with bars, then a line per window."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        names = [*(name for name, _ in ranked), *self.values]
        width = max(map(len, names))
        best = f"{self.label} ({ranked[0][1]:.1%}); " if ranked else ""
        lines = [f"{self.clip}: {best}{self.seconds:.2f} s, {self.model}"]
        lines += [f"  note: {self.note}"] if self.note else []
        lines += [f"  {name:<{width}} {value:6.1%} {'█' * round(30 * value)}".rstrip() for name, value in ranked]
        lines += [f"  {name:<{width}} {value:+.3f}" for name, value in self.values.items()]
        if len(self.windows) > 1:
            columns = [max(len(name), 6) for name in names]
            heads = " ".join(f"{name:>{column}}" for name, column in zip(names, columns, strict=True))
            lines += ["", f"  {'seconds':>17}  {heads}"]
            for window in self.windows:
                told = {name: f"{value:.1%}" for name, value in window.probabilities.items()}
                cells = [told[name] for name, _ in ranked] + [f"{value:+.3f}" for value in window.values.values()]
                shown = (f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
                lines.append(f"  {window.start:7.2f} - {window.end:7.2f}  {' '.join(shown)}")
        if len(self.people) > 1:
            long = max(len(person.name) for person in self.people)
            lines.append("")
            for person in self.people:
                words, start = shortly(person.probabilities, person.values, 3), person.windows[0].start
                lines.append(f"  {person.name:<{long}}  {person.seconds:7.2f} s from {start:.2f} s on: {words}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        told, count = shortly(self.probabilities, self.values, 3), len(self.windows)
        told += f"; {self.seconds:.2f} s in {count} window{'s' * (count != 1)}"
        told += f"; {len(self.people)} people" if len(self.people) > 1 else ""
        return f"Prediction({self.clip!r}: {told}{'; ' * bool(self.note)}{self.note})"

    __str__ = __repr__


def columns(result: Prediction) -> list[str]:
    """Names of what `rows` holds."""
    window = result.windows[0]
    return ["clip", "person", "start", "end", *(["label"] * bool(window.label)), *window.probabilities, *window.values]


def rows(result: Prediction) -> list[list[Any]]:
    """A row per person and window; of a prediction that knows no people, per window."""
    people = [(person.name, person.windows) for person in result.people] or [("", result.windows)]
    return [
        [
            *(result.clip, name, round(window.start, 3), round(window.end, 3), *([window.label] * bool(window.label))),
            *(round(x, 6) for x in (*window.probabilities.values(), *window.values.values())),
        ]
        for name, windows in people
        for window in windows
    ]
