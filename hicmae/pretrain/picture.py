"""Rows of frames with titles and a caption as one PNG."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hicmae.configs.errors import UserError

__all__ = ["COLUMNS", "Row", "draw", "font", "footnote", "frames_shown", "sheet", "write"]

COLUMNS = 8
CELL, GAP, MARGIN, SIDE = 152, 6, 28, 176  # pixels
INK, FAINT, PAPER = (28, 28, 32), (106, 108, 116), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """Frames side by side."""

    title: str
    frames: Tensor
    """(columns, H, W, 3) float in [0, 1]; a single one is as wide as all columns."""
    note: str = ""
    """Smaller words under the title; line breaks are kept."""


def frames_shown(count: int) -> list[int]:
    """Which of a clip's frames a picture shows: up to 8, the second of each pair, since motion is asked of that."""
    return list(range(1, count, 2))[:: max(1, count // (2 * COLUMNS))][:COLUMNS] or [0]


def footnote(normalised: bool) -> str:
    """How a reconstruction is to be read; a model of plain pixels predicts brightness and contrast itself."""
    words = "visible patches are pasted in. Errors: mean squares over hidden patches, beside the simplest guess."
    borrowed = "Each hidden patch borrows its mean and contrast from the original; "
    return borrowed + words if normalised else words[0].upper() + words[1:]


def draw(path: Path, *, rows: Sequence[Row], columns: Sequence[str], title: str, caption: str, footnote: str) -> None:
    """Write the `sheet`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write(sheet(rows=rows, columns=columns, title=title, caption=caption, footnote=footnote), path)


def sheet(*, rows: Sequence[Row], columns: Sequence[str], title: str, caption: str, footnote: str) -> Image.Image:
    """Rows of frames under a title.

    Args:
        columns: words under each column.
    """
    width = max(2 * MARGIN + SIDE + len(columns) * (CELL + GAP) - GAP, 720)
    foot = textwrap.wrap(footnote, int((width - 2 * MARGIN) / 7.5))
    top = MARGIN + 70
    height = top + len(rows) * (CELL + GAP) + 32 + 20 * len(foot) + MARGIN
    paper = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((MARGIN, MARGIN - 6), _fitting(pen, title, 24, width - 2 * MARGIN), INK, font(24, bold=True))
    pen.text((MARGIN, MARGIN + 30), _fitting(pen, caption, 16, width - 2 * MARGIN), FAINT, font(16))
    for i, row in enumerate(rows):
        y = top + i * (CELL + GAP)
        _label(pen, row, y)
        wide = CELL if len(row.frames) == len(columns) else len(columns) * (CELL + GAP) - GAP
        for j, frame in enumerate(row.frames):
            paper.paste(_cell(frame, wide), (MARGIN + SIDE + j * (CELL + GAP), y))
    y = top + len(rows) * (CELL + GAP)
    for j, words in enumerate(columns):
        pen.text((MARGIN + SIDE + j * (CELL + GAP) + CELL / 2, y + 2), words, FAINT, font(14), anchor="ma")
    for i, line in enumerate(foot):
        pen.text((MARGIN, y + 36 + 20 * i), line, FAINT, font(14))
    return paper


def _label(pen: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    lines = [(line, 17, INK) for line in textwrap.wrap(row.title, 16)]
    lines += [(line, 14, FAINT) for part in row.note.splitlines() for line in textwrap.wrap(part, 20)]
    at = y + (CELL - sum(size + 6 for _, size, _ in lines)) / 2
    for line, size, ink in lines:
        pen.text((MARGIN, at), line, ink, font(size))
        at += size + 6


def _cell(frame: Tensor, width: int) -> Image.Image:
    picture = Image.fromarray((frame * 255).round().byte().numpy())
    return picture.resize((width, CELL), Image.Resampling.BICUBIC)


def _fitting(pen: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """`text`, its end cut off where it is too wide."""
    bold = size > 20
    while pen.textlength(text, font(size, bold)) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Letters of so many pixels, on every machine the same."""
    # matplotlib carries a font that covers most scripts of Europe, on every machine
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def write(sheet: Image.Image, path: Path) -> None:
    """Save as a PNG, whole or not at all; raises UserError where it cannot be."""
    partial = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(partial, "PNG")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from None
