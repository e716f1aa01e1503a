"""What curves of robustness look like: a page, a table and lines for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.configs.errors import UserError
from hicmae.finetune.disturbances import Kind, level_word
from hicmae.runtime import charts
from hicmae.runtime.areas import FIGURES
from hicmae.runtime.metrics import Estimate
from hicmae.runtime.page import Page, write_file

if TYPE_CHECKING:
    from hicmae.finetune.robustness import Curve, Robustness

__all__ = ["page", "told", "write"]

FAMILIES = {"missing": "Missing modality", "noise": "Noise"}


def write(result: Robustness, folder: Path) -> Path:
    """Write robustness.json, robustness.csv and robustness.html; returns the page."""
    try:
        write_file(folder / "robustness.json", json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n")
        write_file(folder / "robustness.csv", _csv(result))
        return page(result).write(folder / "robustness.html")
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror}); choose another --out") from None


def told(result: Robustness) -> str:
    """Areas, as lines."""
    lines = [result.title, ""]
    width = max(len(name) for name in result.models)
    for kind, found in _by_kind(result).items():
        lines.append(f"{kind.title} ({_range(kind)})")
        for name, curve in found.items():
            parts = [f"{figure.upper()} {_percent(curve.figures[figure][0])} clean" for figure in FIGURES[:1]]
            parts += [
                f"{_percent(curve.figures[figure][-1])} at {level_word(kind.levels[-1])}" for figure in FIGURES[:1]
            ]
            parts += [f"area {figure.upper()} {_with_interval(curve.area[figure])}" for figure in FIGURES]
            lines.append(f"  {name:{width}}  {', '.join(parts)}")
        for other, gaps in result.differences.items():
            if kind.name in gaps:
                lines.append(f"  less {other}: area UAR {_with_interval(gaps[kind.name]['uar'], sign='+')}")
    return "\n".join([*lines, "", *(f"note: {note}" for note in result.notes)]).rstrip()


def page(result: Robustness) -> Page:
    """The page."""
    first = next(iter(result.plain.values()))
    name, chance = next(iter(result.models)), 100 / len(first.labels)
    subtitle = f"{len(first.truth):,} clips, {len(first.labels)} classes, chance {chance:.1f} % UAR"
    made = Page(f"Missing modalities and noise: {', '.join(result.models)}", subtitle)
    several = f" of {name}" if len(result.models) > 1 else ""
    clean = _percent(next(iter(result.curves.values())).figures["uar"][0])
    made.text(f"UAR{several} on clips as they are is {clean} %. Its mean along each of the curves below, in percent:")
    made.tiles((kind, _percent(curve.area["uar"]), _short(curve.area["uar"])) for kind, curve in _titled(result.curves))
    for note in result.notes:
        made.note(note)
    for family, heading in FAMILIES.items():
        drawings = [
            (_drawing(kind, found), f"{kind.title}: {AFTER[kind.name]}")
            for kind, found in _by_kind(result).items()
            if kind.family == family
        ]
        if drawings:
            made.heading(heading).figures(drawings)
    made.heading("Area under the curves").table(*_areas(result))
    if result.differences:
        made.table(*_gaps(result))
    made.text(
        "The area is the mean height of a curve from its first level to its last one (of noise, over the levels with a "
        "signal-to-noise ratio). Intervals: 95 %, bootstrap over persons where they are known, with the same draws for "
        "all levels and models."
    )
    made.heading("All levels").table(*_rows(result))
    made.heading("How this was measured").facts(first.protocol)
    return made


AFTER = {
    "missing-video": "UAR when this share of the clips has sound only.",
    "missing-audio": "UAR when this share of the clips has frames only.",
    "spans-video": "UAR when each clip's frames are blank for this share of its time.",
    "spans-audio": "UAR when each clip's sound is blank for this share of its time.",
    "babble": "UAR when four other clips are heard at once.",
    "white": "UAR under white noise.",
    "blur": "UAR of blurred frames.",
    "occlusion": "UAR when a rectangle hides this share of the picture.",
    "frame-drop": "UAR when this share of the frames is replaced by the frame before.",
}


def _drawing(kind: Kind, found: Mapping[str, Curve]) -> str:
    """UAR in percent with intervals; where a level is not a number all are evenly spaced."""
    places = list(kind.levels) if len(kind.x) == len(kind.levels) else [float(i) for i in range(len(kind.levels))]
    points = {name: (places, [100 * e.value for e in curve.figures["uar"]]) for name, curve in found.items()}
    bands = {
        name: ([100 * e.low for e in curve.figures["uar"]], [100 * e.high for e in curve.figures["uar"]])
        for name, curve in found.items()
    }
    words = {place: level_word(level) for place, level in zip(places, kind.levels, strict=True)}
    return charts.curves(points, x_name=kind.axis, y_name="UAR in %", bands=bands, x_words=words, y_range=(0, 100))


def _by_kind(result: Robustness) -> dict[Kind, dict[str, Curve]]:
    kinds: dict[Kind, dict[str, Curve]] = {}
    for name, found in result.models.items():
        for curve in found.values():
            kinds.setdefault(curve.kind, {})[name] = curve
    return kinds


def _titled(curves: Mapping[str, Curve]) -> list[tuple[str, Curve]]:
    return [(curve.kind.title, curve) for curve in curves.values()]


def _areas(result: Robustness) -> tuple[list[str], list[list[str]], str]:
    several = len(result.models) > 1
    head = ["what", *(["model"] if several else []), "clean", "worst", "area UAR", "95 %", "area WAR", "95 %"]
    rows = []
    for kind, found in _by_kind(result).items():
        for name, curve in found.items():
            uar = curve.figures["uar"]
            row = [kind.title, *([name] if several else []), _percent(uar[0]), _percent(uar[-1])]
            for figure in FIGURES:
                row += [_percent(curve.area[figure]), _short(curve.area[figure])]
            rows.append(row)
    return head, rows, "In percent; clean and worst: UAR at the ends of a curve."


def _gaps(result: Robustness) -> tuple[list[str], list[list[str]], str]:
    titles = {curve.kind.name: title for title, curve in _titled(result.curves)}
    rows = [
        [
            titles[kind],
            name,
            *(cell for f in FIGURES for cell in (f"{100 * gap[f].value:+.2f}", _short(gap[f], sign="+"))),
        ]
        for name, found in result.differences.items()
        for kind, gap in found.items()
    ]
    first = next(iter(result.models))
    return (
        ["what", "model", "UAR", "95 %", "WAR", "95 %"],
        rows,
        f"Area of {first} less that of the model, paired draws.",
    )


def _rows(result: Robustness) -> tuple[list[str], list[list[str]], str]:
    several = len(result.models) > 1
    head = ["what", *(["model"] if several else []), "level", "UAR", "95 %", "WAR", "95 %"]
    rows = []
    for kind, found in _by_kind(result).items():
        for name, curve in found.items():
            for number, level in enumerate(kind.levels):
                row = [kind.title, *([name] if several else []), level_word(level)]
                for figure in FIGURES:
                    e = curve.figures[figure][number]
                    row += [_percent(e), _short(e)]
                rows.append(row)
    return head, rows, "Figures at each level, in percent; robustness.csv has them too."


def _csv(result: Robustness) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    named = [f"{figure}{end}" for figure in FIGURES for end in ("", "_low", "_high")]
    writer.writerow(["model", "kind", "level", *named, *(f"area_{name}" for name in named)])
    for kind, found in _by_kind(result).items():
        for name, curve in found.items():
            area = [x for figure in FIGURES for x in curve.area[figure]]
            for number, level in enumerate(kind.levels):
                row: list[Any] = [x for figure in FIGURES for x in curve.figures[figure][number]]
                writer.writerow([name, kind.name, level_word(level), *row, *area])
    return text.getvalue()


def _range(kind: Kind) -> str:
    ends: Sequence[float] = (kind.x[0], kind.x[-1])
    return f"{kind.axis}, {level_word(ends[0])} … {level_word(ends[1])}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f}"


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    return f"{100 * estimate.value:{sign}.2f} ({_short(estimate, sign)})"


def _short(estimate: Estimate, sign: str = "") -> str:
    return f"{100 * estimate.low:{sign}.1f} … {100 * estimate.high:{sign}.1f}"
