"""Drawings as SVG text in the colours of the page around them: bars, curves, histograms, sound, a confusion matrix."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["bars", "confusion", "curves", "histogram", "tally", "waveform"]

WORDY = 14
"""Classes up to which a confusion matrix shows its numbers."""
INKS = ("var(--accent)", "#c2571a", "#2e8b64", "#8a4fb0", "#b03a5b", "#7a7a1f")


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix, rows = truth: each cell shows its share of the row in percent and its count.

    Above 14 classes only the colours are drawn; every cell says its numbers when pointed at.
    """
    full, names = names, [_short(name, 28) for name in names]
    k = len(names)
    wordy = k <= WORDY
    size = 58 if k <= 8 else 44 if wordy else max(10, 560 // k)
    left = _width(names) + 30
    long = _width(names)
    slanted, letter = long > size - 8, min(12, size - 1)
    top = 30 + (22 if not slanted else 0.72 * long + 14 if wordy else long * letter / 12 + 12)
    parts: list[str] = []
    for i, row in enumerate(counts):
        total = sum(row)
        y = top + i * size
        parts.append(_word(left - 10, y + size / 2 + 4, names[i], "end", size=letter))
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            x = left + j * size
            what = f"{full[i]} taken for {full[j]}: {count} of {total} ({100 * share:.1f} %)"
            ring = ' stroke="var(--ink)" stroke-opacity=".55"' if i == j else ' stroke="var(--line)"'
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{size - 2}" height="{size - 2}" rx="3" '
                f'fill="rgba(var(--cell),{0.04 + 0.86 * share:.3f})"{ring}><title>{html.escape(what)}</title></rect>'
            )
            if wordy and total:
                ink = ' style="fill:#fff"' if share > 0.55 else ""
                middle = x + size / 2 - 1
                parts.append(_word(middle, y + size / 2 - 1, f"{100 * share:.0f}", "middle", ink=ink, size=14))
                parts.append(
                    _word(middle, y + size / 2 + 13, str(count), "middle", ink=ink or ' class="soft"', size=10)
                )
    for j, name in enumerate(names):
        x = left + j * size + size / 2 - 1
        x += 0 if wordy else letter / 3
        turn = f' transform="rotate({-45 if wordy else -90} {x:.1f} {top - 8:.1f})"' if slanted else ""
        parts.append(_word(x, top - 8, name, "start" if slanted else "middle", more=turn, size=letter))
    parts.append(_word(left + k * size / 2, 14, "predicted", "middle", ink=' class="soft"'))
    middle = top + k * size / 2
    turn = f' transform="rotate(-90 12 {middle:.1f})"'
    parts.append(_word(12, middle, "truth", "middle", ink=' class="soft"', more=turn))
    return _svg(
        left + k * size + (0.5 * long if slanted and wordy else 0) + 6, top + k * size + 6, parts, "confusion matrix"
    )


def bars(
    names: Sequence[str],
    values: Sequence[float | None],
    *,
    notes: Sequence[str] | None = None,
    reference: float | None = None,
    reference_name: str = "",
    label: str = "bars",
) -> str:
    """Horizontal bars of shares in [0, 1], one per name; None is drawn as `–`, `reference` as a dashed line."""
    full, names = names, [_short(name, 28) for name in names]
    left, width, step = _width(names) + 14, 360, 30
    room = max([_width(notes or [""]), 20])
    bottom = 14 + step * len(names)
    parts: list[str] = []
    shown: list[str] = []  # drawn last, above the dashed line
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * width
        parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}"/>')
        parts.append(_word(x, bottom + 16, f"{100 * tick:.0f}", "middle", ink=' class="soft"', size=11))
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 14 + i * step
        parts.append(_word(left - 10, y + 14, name, "end"))
        end = left
        if value is not None:
            end = left + max(0.0, min(1.0, value)) * width
            what = html.escape(f"{full[i]}: {100 * value:.1f} %")
            parts.append(
                f'<rect x="{left}" y="{y}" width="{max(1.0, end - left):.1f}" height="20" rx="3" fill="var(--accent)" '
                f'fill-opacity=".82"><title>{what}</title></rect>'
            )
        halo = ' style="paint-order:stroke;stroke:var(--card);stroke-width:4px"'
        shown.append(_word(end + 7, y + 14, "–" if value is None else f"{100 * value:.1f}", "start", ink=halo))
        if notes:
            parts.append(_word(left + width + 60, y + 14, notes[i], "start", ink=' class="soft"', size=11))
    if reference is not None:
        x = left + reference * width
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}" stroke="var(--warn)" stroke-width="1.5" '
            f'stroke-dasharray="4 3"><title>{html.escape(reference_name)}</title></line>'
        )
        if reference_name:
            parts.append(_word(x, bottom + 34, reference_name, "middle", ink=' style="fill:var(--warn)"', size=11))
    return _svg(left + width + 66 + room, bottom + (42 if reference_name else 24), parts + shown, label)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_name: str = "",
    y_name: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    x_words: Mapping[float, str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines through (x, y) of each named series; points that are not finite break the line.

    Args:
        bands: name -> (low, high) at each of its x, drawn pale behind the lines.
        x_words: x -> what is written there, instead of round numbers; they must reach from the least x to the greatest.
        y_range: ends of the upright axis, otherwise those of the values.
    """
    width, height, left, top = 420, 240, 62, 14 if len(series) < 2 else 34
    points = [(x, y) for xs, ys in series.values() for x, y in zip(xs, ys, strict=True) if math.isfinite(x + y)]
    if not points:
        return _svg(width, 40, [_word(10, 24, "nothing recorded", "start", ink=' class="soft"')], y_name or "curve")
    x_ticks = sorted(x_words) if x_words else _ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = _ticks(*(y_range or (min(y for _, y in points), max(y for _, y in points))))
    right, bottom = left + width - 20, top + height

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    parts: list[str] = []
    for tick in y_ticks:
        y = place(x_ticks[0], tick)[1]
        parts.append(f'<line class="line" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_word(left - 8, y + 4, f"{tick:.4g}", "end", ink=' class="soft"', size=11))
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        word = x_words[tick] if x_words else f"{tick:.6g}"
        parts.append(_word(x, bottom + 18, word, "middle", ink=' class="soft"', size=11))
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for name, (lows, highs) in (bands or {}).items():
        xs = series[name][0]
        ends = [*zip(xs, highs, strict=True), *reversed(list(zip(xs, lows, strict=True)))]
        shape = " L".join(f"{across:.1f} {down:.1f}" for across, down in (place(x, y) for x, y in ends))
        ink = INKS[list(series).index(name) % len(INKS)]
        parts.append(f'<path d="M{shape}Z" fill="{ink}" fill-opacity=".13"/>')
    for i, (name, (xs, ys)) in enumerate(series.items()):
        ink, pen, path = INKS[i % len(INKS)], "M", []
        for x, y in zip(xs, ys, strict=True):
            if not math.isfinite(x + y):
                pen = "M"
                continue
            across, down = place(x, y)
            path.append(f"{pen}{across:.1f} {down:.1f}")
            pen = "L"
        parts.append(
            f'<path d="{" ".join(path)}" fill="none" stroke="{ink}" stroke-width="2" stroke-linejoin="round">'
            f"<title>{html.escape(name)}</title></path>"
        )
        if len(path) == 1:
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{ink}"/>')
        if len(series) > 1:  # named in one line above
            x = left + sum(_width([before], 11) + 44 for before in list(series)[:i])
            parts.append(f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="12" y2="12" stroke="{ink}" stroke-width="3"/>')
            parts.append(_word(x + 24, 16, name, "start", size=11))
    if x_name:
        parts.append(_word((left + right) / 2, bottom + 36, x_name, "middle", ink=' class="soft"', size=11))
    return _svg(right + 24, bottom + (44 if x_name else 26), parts, y_name or "curve")


def histogram(values: Sequence[float], x_name: str, *, bins: int = 24) -> str:
    """How often values fall into equal ranges, the median as a dashed line; values that are not finite are left out."""
    width, height, left, top = 340, 130, 44, 10
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return _svg(width, 40, [_word(10, 24, "not known of any sample", "start", ink=' class="soft"')], x_name)
    ticks = _ticks(known[0], known[-1])
    low, step = ticks[0], (ticks[-1] - ticks[0]) / bins
    counts = [0] * bins
    for value in known:
        counts[min(int((value - low) / step), bins - 1)] += 1
    scale = _ticks(0, max(counts), 3)
    right, bottom = left + width - 30, top + height
    unit = (right - left) / bins
    parts: list[str] = []
    for tick in scale:
        y = bottom - tick / scale[-1] * height
        parts.append(f'<line class="line" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if tick == int(tick):
            parts.append(_word(left - 8, y + 4, f"{tick:.0f}", "end", ink=' class="soft"', size=11))
    for i, count in enumerate(counts):
        if count:
            tall = max(1.5, count / scale[-1] * height)
            what = html.escape(f"{low + i * step:.4g} to {low + (i + 1) * step:.4g}: {count}")
            parts.append(
                f'<rect x="{left + i * unit + 0.5:.1f}" y="{bottom - tall:.1f}" width="{unit - 1:.1f}" '
                f'height="{tall:.1f}" rx="1.5" fill="var(--accent)" fill-opacity=".82"><title>{what}</title></rect>'
            )
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for tick in ticks:
        x = left + (tick - low) / (ticks[-1] - low) * (right - left)
        parts.append(_word(x, bottom + 16, f"{tick:.4g}", "middle", ink=' class="soft"', size=11))
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    x = left + (middle - low) / (ticks[-1] - low) * (right - left)
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}" stroke="var(--warn)" stroke-width="1.5" '
        f'stroke-dasharray="4 3"><title>median {middle:.4g}</title></line>'
    )
    parts.append(_word((left + right) / 2, bottom + 34, x_name, "middle", ink=' class="soft"', size=11))
    return _svg(right + 16, bottom + 42, parts, x_name)


def tally(counts: Mapping[str, int], label: str) -> str:
    """Horizontal bars of numbers, one per name, each with its number."""
    left, width, step = min(_width(list(counts)), 420) + 14, 260, 26
    most = max(counts.values(), default=1)
    parts: list[str] = []
    for i, (name, count) in enumerate(counts.items()):
        y, long = 6 + i * step, max(1.5, count / most * width)
        short = name if len(name) <= 62 else f"{name[:61]}…"
        parts.append(_word(left - 10, y + 13, short, "end"))
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{long:.1f}" height="18" rx="3" fill="var(--accent)" '
            f'fill-opacity=".82"><title>{html.escape(name)}: {count}</title></rect>'
        )
        parts.append(_word(left + long + 7, y + 13, f"{count:,}", "start"))
    return _svg(left + width + 60, 8 + step * len(counts), parts, label)


def waveform(lows: Sequence[float], highs: Sequence[float], label: str = "waveform") -> str:
    """Sound from its least and greatest value in each of many equal stretches, full scale at the edges."""
    width, middle = 640, 24
    step = width / max(1, len(lows))
    up = [f"{i * step:.1f} {middle * (1 - min(1, high)):.1f}" for i, high in enumerate(highs)]
    down = [f"{i * step:.1f} {middle * (1 - max(-1, low)) + 0.5:.1f}" for i, low in enumerate(lows)]
    shape = f'<path d="M{" L".join([*up, *reversed(down)])}Z" fill="var(--accent)"/>' if up else ""
    axis = f'<line class="line" x1="0" x2="{width}" y1="{middle}" y2="{middle}"/>'
    return _svg(width, 2 * middle, [axis, shape], label)


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / (wanted - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _short(name: str, letters: int) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _width(words: Sequence[str], size: float = 12) -> float:
    """About how wide the longest of `words` is drawn."""
    return max((len(word) for word in words), default=0) * size * 0.56


def _word(x: float, y: float, text: str, anchor: str, *, ink: str = "", more: str = "", size: float = 12) -> str:
    if size != 12:  # as a style: the page's style sheet beats an attribute
        style = f"font-size:{size:g}px"
        ink = f'{ink[:-1]};{style}"' if ink.startswith(" style=") else f'{ink} style="{style}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{ink}{more}>{html.escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )
