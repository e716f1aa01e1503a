"""A drawing as SVG text: boxes with words, arrows, grids of tokens. The same calls give the same bytes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["INKS", "Drawing"]

INKS = {  # kind -> ground, edge
    "video": ("#d8efec", "#1f7a70"),
    "audio": ("#fde6d3", "#b8651b"),
    "both": ("#efe3c8", "#8a6a1f"),
    "messenger": ("#e6daf2", "#7a4fa3"),
    "decoder": ("#dde7f6", "#3f67a8"),
    "loss": ("#ffffff", "#b03a48"),
    "plain": ("#ffffff", "#777777"),
    "hidden": ("#dcdcd6", "#b4b4ac"),
}
WORDS, SOFT, LINE = "#1d2326", "#555d60", "#4a5357"
Point = tuple[float, float]


class Drawing:
    """Shapes are added in order, later ones on top; lengths are in pixels from the upper left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: float, y: float, wide: float, high: float, lines: Sequence[str], kind: str = "plain") -> None:
        """A rounded box; its first line of words is bold."""
        ground, edge = INKS[kind]
        dash = ' stroke-dasharray="5 3"' if kind == "loss" else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="6" fill="{ground}" stroke="{edge}"'
            f' stroke-width="1.4"{dash}/>'
        )
        top = y + high / 2 - 9.5 * (len(lines) - 1) + 5
        for i, line in enumerate(lines):
            self.words(x + wide / 2, top + 19 * i, line, bold=i == 0, soft=i > 0, size=15 if i == 0 else 13.5)

    def words(
        self, x: float, y: float, text: str, *, bold: bool = False, soft: bool = False, size: float = 13.5,
        anchor: str = "middle",
    ) -> None:  # fmt: skip
        """One line of text whose baseline is at `y`."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{SOFT if soft else WORDS}"'
            f"{weight}>{html.escape(text, quote=False)}</text>"
        )

    def arrow(self, *points: Point, kind: str = "", both: bool = False, dashed: bool = False) -> None:
        """A line through points, with a head at its end (`both`: at its start too)."""
        ink = INKS[kind][1] if kind else LINE
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<polyline points="{way}" fill="none" stroke="{ink}" stroke-width="1.6"{dash}/>')
        self._head(points[-2], points[-1], ink)
        if both:
            self._head(points[1], points[0], ink)

    def _head(self, start: Point, end: Point, ink: str) -> None:
        (x0, y0), (x, y) = start, end
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        u, v = (x - x0) / length, (y - y0) / length
        a = (x - 9 * u - 4.5 * v, y - 9 * v + 4.5 * u)
        b = (x - 9 * u + 4.5 * v, y - 9 * v - 4.5 * u)
        corners = " ".join(f"{p:.1f},{q:.1f}" for p, q in ((x, y), a, b))
        self.parts.append(f'<polygon points="{corners}" fill="{ink}"/>')

    def tokens(
        self, x: float, y: float, columns: int, rows: int, side: float, kind: str = "video",
        visible: Iterable[Point] | None = None,
    ) -> None:  # fmt: skip
        """A grid of squares; with `visible`, (column, row) each, all others are grey."""
        seen = None if visible is None else set(visible)
        for row in range(rows):
            for column in range(columns):
                ground, edge = INKS[kind if seen is None or (column, row) in seen else "hidden"]
                self.parts.append(
                    f'<rect x="{x + column * side:g}" y="{y + row * side:g}" width="{side - 1:g}" height="{side - 1:g}"'
                    f' fill="{ground}" stroke="{edge}" stroke-width="0.7"/>'
                )

    def frame(self, x: float, y: float, wide: float, high: float, text: str) -> None:
        """A part of the drawing, named in its upper left corner."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="8" fill="#f4f4f0" stroke="#cfcfc8"/>'
        )
        self.words(x + 12, y + 22, text, bold=True, anchor="start", size=14.5)

    def svg(self) -> str:
        """The whole drawing."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
            f' height="{self.height}" role="img" font-family="system-ui, \'DejaVu Sans\', Arial, sans-serif">'
            f"<title>{html.escape(self.title)}</title>"
        )
        return "\n".join([head, '<rect width="100%" height="100%" fill="#fcfcfa"/>', *self.parts, "</svg>"]) + "\n"
