"""The one writer of HTML: a self-contained page (no network, no script) that reads well on a screen and on paper.

>>> page = Page("A run")
>>> page.heading("Numbers").table(["class", "recall"], [["happy", 0.93]])
>>> page.html().startswith("<!doctype html>")
True
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

__all__ = ["Page", "write_file"]

STYLE = """
:root{color-scheme:light dark;--ground:#fbfbfa;--card:#fff;--ink:#1d2327;--soft:#5d6770;--line:#e0e3e6;--accent:#2563a8;
--good:#1f7a53;--warn:#8a5300;--warn-ground:#fdf3e0;--cell:37,99,168}
@media(prefers-color-scheme:dark){:root{--ground:#15181b;--card:#1d2125;--ink:#e6e9eb;--soft:#9aa5ae;--line:#333a41;
--accent:#7db2ec;--good:#6bcf9f;--warn:#f0c06a;--warn-ground:#33290f;--cell:96,160,230}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .8rem}
p{margin:.5rem 0 1rem;max-width:46rem}
.sub{color:var(--soft);margin:0 0 1.5rem;overflow-wrap:anywhere}
.note{border-left:4px solid var(--warn);background:var(--warn-ground);padding:.6rem .9rem;border-radius:0 6px 6px 0;
max-width:none}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}
.tile,.scroll,figure{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:.8rem 1rem}
.tile b{display:block;font-size:1.65rem;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.scroll{overflow-x:auto;margin:.8rem 0 1.2rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
caption,figcaption{color:var(--soft);font-size:.87rem;text-align:left}
caption{padding:.7rem .9rem .2rem}
th,td{padding:.42rem .9rem;text-align:left;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody tr:hover{background:rgba(var(--cell),.06)}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.3rem 1.4rem;margin:.8rem 0 1.2rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
figure{margin:.8rem 0 1.2rem;padding:1rem}
figure svg,figure img{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption{margin-top:.7rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:1rem}
.pair figure{margin:0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr));gap:1rem;margin:.8rem 0 1.2rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden;break-inside:avoid}
.card header{display:flex;gap:.8rem;justify-content:space-between;padding:.6rem .8rem;overflow-wrap:anywhere}
.card header b{display:block;font-size:.9rem}.card header span{color:var(--soft);font-size:.82rem}
.card header svg{flex:none}
.card>img,.card>svg{display:block;width:100%;height:auto}
details{margin:1rem 0}summary{cursor:pointer;color:var(--accent)}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.9rem;overflow:auto;font-size:.82rem;
line-height:1.45}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem;border-top:1px solid var(--line);padding-top:.8rem}
svg text{fill:var(--ink);font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
svg .soft{fill:var(--soft)}svg .line{stroke:var(--line)}svg .axis{stroke:var(--soft)}
@media print{body{background:#fff}main{padding:0}.tile,.scroll,figure{break-inside:avoid}}
""".strip()

# What a drawing could use to reach outside the page or to run.
_ACTIVE = re.compile(r"<\s*(script|foreignObject|image|iframe)|\son\w+\s*=|(href|src)\s*=|url\(|@import", re.I)


class Page:
    """A page put together from top to bottom; every method returns the page. All text is escaped."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="sub">{_text(subtitle)}</p>')

    def heading(self, text: str) -> Page:
        """A section's heading."""
        return self._add(f"<h2>{_text(text)}</h2>")

    def text(self, text: str) -> Page:
        """A paragraph."""
        return self._add(f"<p>{_text(text)}</p>")

    def note(self, text: str) -> Page:
        """A paragraph the reader must not miss."""
        return self._add(f'<p class="note">{_text(text)}</p>')

    def tiles(self, tiles: Iterable[tuple[str, str, str]]) -> Page:
        """Headline numbers: (what it is, its value, a word on it)."""
        cells = (
            f'<div class="tile"><span>{_text(name)}</span><b>{_text(value)}</b><span>{_text(word)}</span></div>'
            for name, value, word in tiles
        )
        return self._add(f'<div class="tiles">{"".join(cells)}</div>')

    def facts(self, facts: Mapping[str, Any]) -> Page:
        """A list of names and values."""
        rows = (f"<dt>{_text(name)}</dt><dd>{_text(_shown(value))}</dd>" for name, value in facts.items())
        return self._add(f"<dl>{''.join(rows)}</dl>")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Page:
        """A table; a column whose values are all numbers (or absent) is aligned to the right.

        Numbers are shown as given when they are strings or integers, floats with four significant digits. Raises
        ValueError for a row of another length than the head.
        """
        rows = [list(row) for row in rows]
        for row in rows:
            if len(row) != len(head):
                raise ValueError(f"a row of {len(row)} cells under {len(head)} headings: {row}")
        kinds = [' class="n"' if rows and all(_numeric(row[i]) for row in rows) else "" for i in range(len(head))]

        def line(cells: Sequence[Any], tag: str) -> str:
            inner = (
                f"<{tag}{kind}>{_breakable(_text(_shown(c)))}</{tag}>" for c, kind in zip(cells, kinds, strict=True)
            )
            return f"<tr>{''.join(inner)}</tr>"

        words = f"<caption>{_text(caption)}</caption>" if caption else ""
        body = "".join(line(row, "td") for row in rows)
        return self._add(
            f'<div class="scroll"><table>{words}<thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'
        )

    def figure(self, picture: str | bytes, caption: str = "", alt: str = "") -> Page:
        """A drawing (SVG text) or a picture (PNG or JPEG bytes) with a caption."""
        return self._add(_figure(picture, caption, alt))

    def figures(self, figures: Iterable[tuple[str | bytes, str]]) -> Page:
        """Several (picture, caption), side by side where there is room."""
        return self._add(f'<div class="pair">{"".join(_figure(p, c, c) for p, c in figures)}</div>')

    def cards(self, cards: Iterable[tuple[str, str, str, Sequence[str | bytes]]]) -> Page:
        """Cards in columns: (title, words, a small drawing for its corner or nothing, pictures from top to bottom).

        Pictures are as wide as the card: drawings (SVG text), PNG or JPEG bytes.
        """
        parts = []
        for title, words, corner, pictures in cards:
            head = f"<div><b>{_breakable(_text(title))}</b><span>{_text(words)}</span></div>"
            head += _picture(corner, title) if corner else ""
            body = "".join(_picture(picture, title) for picture in pictures)
            parts.append(f'<section class="card"><header>{head}</header>{body}</section>')
        return self._add(f'<div class="cards">{"".join(parts)}</div>')

    def details(self, summary: str, text: str) -> Page:
        """Preformatted text behind a heading that opens on a click."""
        return self._add(f"<details><summary>{_text(summary)}</summary><pre>{_text(text)}</pre></details>")

    def html(self) -> str:
        """The whole page."""
        from hicmae import __version__

        when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{_text(self.title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
            + "\n".join(self._parts)
            + f"\n<footer>hicmae {_text(__version__)}, {when}</footer>\n</main></body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page to `path`, whole or not at all; returns `path`."""
        return write_file(path, self.html())

    def _add(self, part: str) -> Page:
        self._parts.append(part)
        return self


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, making its folder; an earlier file stays until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _text(text: str) -> str:
    return html.escape(str(text))


def _breakable(text: str) -> str:
    """Long names, as paths, may be broken after a slash or an underscore."""
    return re.sub(r"([/_])(?=[^<>]{6})", r"\1<wbr>", text) if len(text) > 32 else text


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    return str(value)


def _numeric(value: Any) -> bool:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return True
    return (
        isinstance(value, str) and re.fullmatch(r"[-+–]?\d*[\d.,]*\s?%?|[\d.]+ (…|±) [\d.]+", value.strip()) is not None
    )


def _figure(picture: str | bytes, caption: str, alt: str) -> str:
    words = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f"<figure>{_picture(picture, alt or caption)}{words}</figure>"


def _picture(picture: str | bytes, alt: str) -> str:
    if isinstance(picture, bytes):
        kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
        return f'<img alt="{_text(alt)}" src="data:image/{kind};base64,{base64.b64encode(picture).decode()}">'
    drawing = picture[picture.find("<svg") :] if "<svg" in picture else ""
    if not drawing or _ACTIVE.search(drawing):
        raise ValueError("a figure is SVG text without links or scripts, or PNG or JPEG bytes")
    return drawing
