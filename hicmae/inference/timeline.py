"""Timelines: what is said of each person over time, as a drawing for pages and as a picture (PNG)."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from hicmae.configs.errors import UserError
from hicmae.inference.people import Person, WindowPrediction
from hicmae.inference.prediction import Prediction
from hicmae.runtime.charts import _ticks

__all__ = ["INKS", "clock", "ink", "lane", "marks", "shown_people", "stretch", "write_plot"]

INKS = (
    *("#3b82d6", "#e07b2a", "#2f9e6b", "#a65fd0", "#d6457a", "#9a8f1f"),
    *("#1fa3b3", "#8d6e57", "#6f7f95", "#c9483a", "#5b9a2e", "#6a63d9"),
)
"""Colours of labels in their order, on light and dark ground and on video alike."""
MOST = 12
"""People who are drawn; those who are seen longest."""
WIDTH, STRIP, TOP, HEIGHT = 960, 16, 28, 104  # units of a lane's drawing; its lines begin below TOP


def ink(number: int) -> str:
    """The colour of a label or number by its place in the checkpoint's order."""
    return INKS[number % len(INKS)]


def clock(seconds: float, parts: bool = False) -> str:
    """Seconds as `1:02` or `1:01:02`; with `parts` of short times the tenths too."""
    whole = round(seconds, 1) if parts else round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}" if parts else f"{int(rest):02d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def stretch(result: Prediction) -> tuple[float, float]:
    """Seconds at which the timeline begins and ends."""
    return result.span or (result.windows[0].start, result.windows[-1].end)


def marks(start: float, end: float, wanted: int = 8) -> list[float]:
    """Round times between two."""
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((step for step in steps if (end - start) / step <= wanted), steps[-1])
    first = -int(-start // step)
    return [n * step for n in range(first, int(end // step) + 1)]


def shown_people(result: Prediction) -> list[Person]:
    """Those who are drawn, in order of appearance; one for all where the prediction knows no people."""
    people = result.people or (_whole(result),)
    longest = sorted(people, key=lambda person: -person.seconds)[:MOST]
    return [person for person in people if person in longest]


def lane(person: Person, span: tuple[float, float]) -> str:
    """HTML of one person's time: a strip in the colour of the most probable label, the stronger the surer, and below it
    a line for each label or number. Where the face is not seen both are empty.

    Its width is `span`, from edge to edge, so that a page can tell the time of a click; `hicmae.inference.page` holds
    the style it needs.
    """
    start, end = span
    scale = WIDTH / max(end - start, 1e-6)
    low, high = _range(person)
    bottom = TOP + HEIGHT
    parts = [f'<rect class="ground" x="0" y="0" width="{WIDTH}" height="{STRIP}"/>']
    words = []
    for level in _ticks(low, high, 3 if person.probabilities else 4):
        if low <= level <= high:
            y = bottom - (level - low) / (high - low) * HEIGHT
            parts.append(f'<line class="line" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
            word = f"{100 * level:.0f} %" if person.probabilities else f"{level:+g}"
            words.append(f'<span class="level" style="top:{100 * y / bottom:.1f}%">{word}</span>')
    labels = list(person.probabilities)
    for part in person.parts:
        if part.label is not None:
            chance = part.probabilities[part.label]
            what = html.escape(f"{clock(part.start, True)}-{clock(part.end, True)}: {part.label} {chance:.0%}")
            parts.append(
                f'<rect x="{(part.start - start) * scale:.1f}" y="0" width="{(part.end - part.start) * scale:.1f}" '
                f'height="{STRIP}" fill="{ink(labels.index(part.label))}" fill-opacity="{0.25 + 0.75 * chance:.2f}">'
                f"<title>{what}</title></rect>"
            )
    for number, name, line in _lines(person):
        path = []
        for stroke in line:
            places = ((x, bottom - (y - low) / (high - low) * HEIGHT) for x, y in stroke)
            path.append("M" + " L".join(f"{(x - start) * scale:.1f} {y:.1f}" for x, y in places))
        parts.append(f'<path d="{" ".join(path)}" stroke="{ink(number)}"><title>{html.escape(name)}</title></path>')
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="0" y2="{bottom}"/>')
    times = []
    for moment in marks(start, end):
        place = 100 * (moment - start) / max(end - start, 1e-6)
        edge = ";transform:translateX(-100%)" if place > 96 else ""
        words_at = clock(moment, parts=end - start < 5)
        times.append(f'<span style="left:{place:.2f}%{edge}">{words_at}</span>')
    label = html.escape(f"timeline of {person.name}")
    return (
        f'<div class="lane" tabindex="0" role="slider" aria-label="{label}" aria-valuemin="{start:.2f}" '
        f'aria-valuemax="{end:.2f}" aria-valuenow="{start:.2f}"><div class="drawn"><svg viewBox="0 0 {WIDTH} {bottom}" '
        f'preserveAspectRatio="none" role="img" aria-label="{label}">{"".join(parts)}</svg>{"".join(words)}</div>'
        f'<div class="times">{"".join(times)}</div></div>'
    )


def write_plot(result: Prediction, path: Path) -> Path:
    """The timelines of all people, one below the other, as a PNG; see `Prediction.plot`."""
    from matplotlib.figure import Figure

    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: the plot is a PNG; give a name that ends in .png")
    people, (start, end) = shown_people(result), stretch(result)
    tall = 1.1 + 1.75 * len(people)
    figure = Figure(figsize=(12, tall), dpi=110, layout="constrained")
    axes = figure.subplots(len(people), 1, sharex=True, squeeze=False)[:, 0]
    for axis, person in zip(axes, people, strict=True):
        _draw(axis, person)
        axis.set_xlim(start, max(end, start + 0.1))
    ticks = marks(start, end, 12)
    axes[-1].set_xticks(ticks, [clock(moment, parts=end - start < 5) for moment in ticks])
    handles = {name: number for person in people for number, name, _ in _lines(person)}
    drawn = [axes[0].plot([], [], color=ink(number), label=name)[0] for name, number in handles.items()]
    figure.legend(handles=drawn, loc="outside lower center", ncols=min(len(drawn), 8), frameon=False, fontsize=9)
    left = len(result.people) - len(people)
    title = f"{Path(result.clip).name}  ·  {result.model}" + (f"  ·  {left} more people" if left > 0 else "")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format="png")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _draw(axis: Any, person: Person) -> None:
    """One person into matplotlib axes."""
    low, high = _range(person)
    room = 0.13 * (high - low)
    labels = list(person.probabilities)
    for part in person.parts:
        if part.label is not None:
            chance = part.probabilities[part.label]
            axis.add_patch(
                _bar(
                    (part.start, high + 0.25 * room),
                    part.end - part.start,
                    0.75 * room,
                    labels.index(part.label),
                    chance,
                )
            )
    for number, _, line in _lines(person):
        for stroke in line:
            axis.plot(*zip(*stroke, strict=True), color=ink(number), linewidth=1.5, solid_capstyle="round")
    axis.set_ylim(low - 0.02 * (high - low), high + 1.1 * room if labels else high)
    if labels:
        axis.set_yticks([0, 0.5, 1], ["0", "50", "100 %"])
    axis.set_title(person.name, fontsize=10, loc="left", pad=3)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _bar(corner: tuple[float, float], width: float, height: float, number: int, chance: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor=ink(number), alpha=0.25 + 0.75 * chance, linewidth=0)


def _lines(person: Person) -> list[tuple[int, str, list[list[tuple[float, float]]]]]:
    """Place in the checkpoint's order, name, and line of every label or number: strokes of (seconds, value), a new one
    after each gap. A stretch's value stands at its middle; the first and the last reach to the stroke's ends."""
    strokes: list[list[WindowPrediction]] = []
    for part in person.parts:
        if not strokes or part.start > strokes[-1][-1].end:
            strokes.append([])
        strokes[-1].append(part)
    lines = []
    for number, name in enumerate([*person.probabilities, *person.values]):
        line = []
        for stroke in strokes:
            values = [(part.probabilities | part.values)[name] for part in stroke]
            middles = [((part.start + part.end) / 2, value) for part, value in zip(stroke, values, strict=True)]
            line.append([(stroke[0].start, values[0]), *middles, (stroke[-1].end, values[-1])])
        lines.append((number, name, line))
    # those of joint models: numbers beside probabilities have another scale, and are told in words
    return [each for each in lines if each[1] in person.probabilities] or lines


def _range(person: Person) -> tuple[float, float]:
    """Least and greatest value of the axis: 0 to 1, or of numbers -1 to 1 and beyond where they are."""
    if person.probabilities:
        return 0.0, 1.0
    values = [x for window in person.windows for x in window.values.values()]
    return min(-1.0, *values), max(1.0, *values)


def _whole(result: Prediction) -> Person:
    import numpy as np

    from hicmae.inference.people import Boxes

    return Person("clip", result.windows, Boxes(np.zeros(0), np.zeros((0, 4, 2), np.float32), ()))
