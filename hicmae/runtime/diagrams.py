"""More drawings as SVG text: confidence against correctness, and points of several classes."""

from __future__ import annotations

import html
from collections.abc import Sequence

from hicmae.runtime.charts import INKS, _short, _svg, _ticks, _width, _word

__all__ = ["reliability", "scatter"]


def reliability(bins: Sequence[tuple[float, float, int, float, float]]) -> tuple[str, str]:
    """A reliability diagram and the histogram of confidence below it, as two drawings of one width.

    Each of `bins` is (low, high, count, mean confidence, share that is right). In the first, a bar is as high as that
    share, its gap to the diagonal is filled in another colour; the second draws how many there are.
    """
    left, top, side, head, low_side = 46, 12, 300, 40, 150
    right, bottom = left + side, top + side
    total = max(1, sum(count for _, _, count, _, _ in bins))
    parts: list[str] = []
    counted: list[str] = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y, word = left + share * side, bottom - share * side, f"{100 * share:.0f}"
        parts.append(f'<line class="line" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_word(left - 8, y + 4, word, "end", ink=' class="soft"', size=11))
        for where, base in ((parts, bottom), (counted, head + low_side)):
            where.append(_word(x, base + 16, word, "middle", ink=' class="soft"', size=11))
    most = max(count for _, _, count, _, _ in bins)
    scale = [tick for tick in _ticks(0, max(1, most), 4) if tick == int(tick)]
    for tick in scale:
        y = head + low_side * (1 - tick / scale[-1])
        counted.append(f'<line class="line" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        counted.append(_word(left - 8, y + 4, f"{tick:.0f}", "end", ink=' class="soft"', size=11))

    def bar(x: float, wide: float, high: float, low: float, base: float, ink: str, what: str) -> str:
        tall = max(1.0, high - low)
        return (
            f'<rect x="{x + 0.5:.1f}" y="{base - low - tall:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}" rx="1.5" '
            f"{ink}><title>{html.escape(what)}</title></rect>"
        )

    for low, high, count, confidence, share in bins:
        if not count:
            continue
        x, wide = left + low * side, (high - low) * side
        what = (
            f"confidence {100 * low:.0f} to {100 * high:.0f} %: {count:,} clips, {100 * confidence:.1f} % sure, "
            f"{100 * share:.1f} % right"
        )
        gap = sorted((confidence, share))
        accent, warn = 'fill="var(--accent)" fill-opacity=".82"', 'fill="var(--warn)" fill-opacity=".28"'
        parts.append(bar(x, wide, share * side, 0, bottom, accent, what))
        parts.append(bar(x, wide, gap[1] * side, gap[0] * side, bottom, f'{warn} stroke="var(--warn)"', what))
        counted.append(bar(x, wide, low_side * count / scale[-1], 0, head + low_side, accent, what))
    parts.append(
        f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{top}" stroke="var(--soft)" stroke-dasharray="4 3"/>'
    )
    for n, (word, place) in enumerate((("sure", 3), ("right", 4))):
        mean = sum(part[2] * part[place] for part in bins) / total
        x, ink = left + mean * side, ("var(--warn)", "var(--ink)")[n]
        counted.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{head - 4}" y2="{head + low_side}" stroke="{ink}" '
            'stroke-width="1.5" stroke-dasharray="4 3"/>'
        )
        far = x > left + side / 2
        text, anchor = f"{word} {100 * mean:.1f} %", "end" if far else "start"
        ink = f' style="fill:{ink}"'
        counted.append(_word(x + (-5 if far else 5), 14 + 16 * n, text, anchor, ink=ink, size=11))
    for where, base in ((parts, bottom), (counted, head + low_side)):
        where.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>')
        where.append(_word(left + side / 2, base + 34, "confidence, percent", "middle", ink=' class="soft"', size=11))
    return (
        _svg(right + 16, bottom + 42, parts, "reliability diagram"),
        _svg(right + 16, head + low_side + 42, counted, "histogram of confidence"),
    )


def scatter(points: Sequence[tuple[float, float, int, bool, str]], names: Sequence[str], label: str) -> str:
    """Points (x, y, class, whether they are filled or rings, what they say when pointed at), and their classes' names.

    Above twelve classes colours repeat in other strengths: the word on pointing is what tells them apart.
    """
    width, height, edge = 640, 440, 10
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    left, low = (min(values) for values in (xs, ys))
    across, up = ((max(values) - min(values)) or 1.0 for values in (xs, ys))
    radius = 4.5 if len(points) <= 300 else 3
    parts: list[str] = []
    for x, y, kind, filled, what in points:
        right = edge + (x - left) / across * (width - 2 * edge)
        down = height - edge - (y - low) / up * (height - 2 * edge)
        ink = _hue(kind, len(names))
        parts.append(
            f'<circle cx="{right:.1f}" cy="{down:.1f}" r="{radius}" fill="{ink}" fill-opacity="'
            f'{".75" if filled else "0"}" stroke="{ink}" stroke-width="{1 if filled else 1.8}">'
            f"<title>{html.escape(what)}</title></circle>"
        )
    used = sorted({point[2] for point in points})
    short = {kind: _short(names[kind], 26) for kind in used}
    wide = _width(list(short.values())) + 34
    columns = max(1, int(width // wide))
    for n, kind in enumerate(used):
        x, y = 8 + n % columns * wide, height + 20 + n // columns * 20
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="{_hue(kind, len(names))}"/>')
        parts.append(_word(x + 11, y + 4, short[kind], "start"))
    return _svg(width, height + 20 + 20 * -(-len(used) // columns), parts, label)


def _hue(number: int, count: int) -> str:
    """A colour per class that reads on light and dark ground."""
    if count <= len(INKS):
        return INKS[number]
    step = min(count, 12)
    turn, light = 360 * (number % step) / step, (52, 66, 40, 74)[number // step % 4]
    return f"hsl({turn:.0f} {70 - 12 * (number // step % 2)}% {light}%)"
