"""The page: self-contained, escaped, whole or not at all; drawings that say what the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hicmae.runtime import charts
from hicmae.runtime.page import Page, write_file

PNG = b"\x89PNG\r\n\x1a\n0000"
JPEG = b"\xff\xd8\xff\xe0"
DRAWING = charts.bars(["a"], [0.5])
HOSTILE = '<script>alert("&")</script>'


class Reader(HTMLParser):
    """Collects tags, their attributes and text; complains about tags closed in the wrong order."""

    void = frozenset({"meta", "img", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(page.html())
    reader.close()
    assert reader.open == []
    return reader


def full() -> Page:
    """A page with everything that takes text, given hostile text."""
    return (
        Page(HOSTILE, HOSTILE)
        .heading(HOSTILE)
        .text(HOSTILE)
        .note(HOSTILE)
        .tiles([(HOSTILE, HOSTILE, HOSTILE)])
        .facts({HOSTILE: HOSTILE})
        .table([HOSTILE], [[HOSTILE]], HOSTILE)
        .figure(DRAWING, HOSTILE)
        .figure(PNG, HOSTILE, HOSTILE)
        .figures(
            [(charts.curves({HOSTILE: ([0], [1]), "b": ([0, 1], [1, 2])}, x_name=HOSTILE, y_name=HOSTILE), HOSTILE)]
        )
        .figure(charts.confusion([[1, 2], [3, 4]], [HOSTILE, "b"]), HOSTILE)
        .figure(charts.bars([HOSTILE], [0.3], notes=[HOSTILE], reference=0.5, reference_name=HOSTILE, label=HOSTILE))
        .figure(charts.histogram([1, 2, 2, float("nan")], HOSTILE), HOSTILE)
        .figure(charts.tally({HOSTILE: 3, "b": 1}, HOSTILE), HOSTILE)
        .cards([(HOSTILE, HOSTILE, charts.waveform([-0.5], [0.5], HOSTILE), [PNG, JPEG]), (HOSTILE, "", "", [])])
        .details(HOSTILE, HOSTILE)
    )


def test_every_text_is_escaped_and_every_tag_closed() -> None:
    reader = read(full())
    assert "script" not in reader.tags
    assert sum(HOSTILE in word for word in reader.words) >= 18


def test_the_page_asks_the_network_for_nothing() -> None:
    reader = read(full())
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(reader.tags)
    links = [value or "" for name, value in reader.attributes if name in ("src", "href", "data", "action")]
    assert links and all(re.match("data:image/(png|jpeg);base64,", value) for value in links)
    assert not re.search(r"@import|url\(", full().html())


@pytest.mark.parametrize(
    "picture",
    [
        "<p>not a drawing</p>",
        "<svg><script>x()</script></svg>",
        '<svg onload="x()"></svg>',
        '<svg><a href="http://x"/></svg>',
        '<svg><rect style="fill:url(http://x)"/></svg>',
    ],
)
def test_a_drawing_that_could_run_or_fetch_is_refused(picture: str) -> None:
    with pytest.raises(ValueError, match="without links or scripts"):
        Page("x").figure(picture)


def test_numbers_stand_to_the_right_and_absent_ones_are_dashes() -> None:
    text = Page("x").table(["name", "recall", "clips"], [["a", 0.123456, 7], ["b", None, 1200]]).html()
    assert '<td>a</td><td class="n">0.1235</td><td class="n">7</td>' in text
    assert '<td>b</td><td class="n">–</td><td class="n">1200</td>' in text


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 headings"):
        Page("x").table(["a", "b"], [[1]])


def test_facts_are_shown_in_words() -> None:
    words = read(Page("x").facts({"ema": True, "labels": ["a", "b"], "rate": 0.00012346, "none": None})).words
    assert {"yes", "a, b", "0.0001235", "–"} <= set(words)


def test_a_file_that_cannot_be_written_whole_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "page.html"
    Page("first").write(target)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_file(target, "second")
    assert "first" in target.read_text()
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]


def drawn(svg: str) -> tuple[list[ET.Element], list[str]]:
    root = ET.fromstring(svg)
    inside = "{http://www.w3.org/2000/svg}"
    return root.findall(f"{inside}rect"), [e.text or "" for e in root.iter(f"{inside}text")]


@pytest.mark.parametrize("classes", [1, 2, 7, 11, 43])
def test_a_confusion_matrix_draws_every_cell_inside_the_picture(classes: int) -> None:
    counts = [[1 + (i == j) * 8 for j in range(classes)] for i in range(classes)]
    counts[-1] = [0] * classes  # a class without clips
    svg = charts.confusion(counts, [f"a long name {i}" for i in range(classes)])
    cells, words = drawn(svg)
    assert len(cells) == classes**2
    root = ET.fromstring(svg)
    for cell in cells:
        assert float(cell.attrib["x"]) >= 0 and float(cell.attrib["x"]) + 8 < float(root.attrib["width"])
        assert float(cell.attrib["y"]) >= 0 and float(cell.attrib["y"]) + 8 < float(root.attrib["height"])
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    if classes > 1:
        assert titles[1] == f"a long name 0 taken for a long name 1: 1 of {8 + classes} ({100 / (8 + classes):.1f} %)"
    assert words.count("a long name 0") == 2


def test_bars_are_as_long_as_their_values() -> None:
    boxes, words = drawn(charts.bars(["a", "b", "c"], [0.25, 1.0, None], notes=["x", "y", "z"]))
    lengths = [float(box.attrib["width"]) for box in boxes]
    assert len(lengths) == 2
    assert lengths[0] == pytest.approx(0.25 * lengths[1])
    assert {"25.0", "100.0", "–", "x", "y", "z"} <= set(words)


def test_a_curve_is_broken_where_a_value_is_not_finite() -> None:
    svg = charts.curves({"loss": ([0, 1, 2, 3, 4], [1.0, 2.0, float("nan"), 3.0, 2.5])})
    path = ET.fromstring(svg).find("{http://www.w3.org/2000/svg}path")
    assert path is not None
    assert path.attrib["d"].count("M") == 2 and path.attrib["d"].count("L") == 2


@pytest.mark.parametrize("values", [[], [float("nan")], [0.0], [5.0, 5.0], [1e-9, 2e-9], [-3e8, 7e8]])
def test_a_curve_of_any_range_is_drawn_inside_the_picture(values: list[float]) -> None:
    svg = charts.curves({"x": (list(range(len(values))), values)}, y_name="loss")
    root = ET.fromstring(svg)
    path = root.find("{http://www.w3.org/2000/svg}path")
    numbers = re.findall(r"[-\d.]+", path.attrib["d"]) if path is not None else []
    assert all(0 <= float(x) <= float(root.attrib["width"]) for x in numbers[::2])
    assert all(0 <= float(y) <= float(root.attrib["height"]) for y in numbers[1::2])
    assert len(numbers) == 2 * sum(value == value for value in values)


@pytest.mark.parametrize("values", [[3.0], [5.0, 5.0, 5.0], [-3e8, 7e8, 7e8, 1.0], [0.1, float("nan"), 0.2, 0.2]])
def test_a_histogram_counts_every_known_value_once_inside_the_picture(values: list[float]) -> None:
    svg = charts.histogram(values, "seconds")
    root = ET.fromstring(svg)
    inside = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{inside}rect")
    counted = [int(title.text.split(": ")[1]) for bar in bars if (title := bar.find(f"{inside}title")) is not None]
    assert sum(counted) == sum(value == value for value in values)
    for bar in bars:
        x, y, w, h = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= float(root.attrib["width"]) and 0 <= y < y + h <= float(root.attrib["height"])
    assert "not known of any sample" in charts.histogram([float("nan")], "seconds")


def test_a_tally_draws_numbers_as_long_as_they_are() -> None:
    boxes, words = drawn(charts.tally({"cut off": 30, "empty": 15}, "reasons"))
    assert float(boxes[0].attrib["width"]) == pytest.approx(2 * float(boxes[1].attrib["width"]))
    assert words == ["cut off", "30", "empty", "15"]


def test_a_waveform_keeps_to_full_scale() -> None:
    path = ET.fromstring(charts.waveform([-0.5, -2.0], [0.5, 2.0])).find("{http://www.w3.org/2000/svg}path")
    assert path is not None
    heights = [float(y) for y in re.findall(r"[\d.]+", path.attrib["d"])[1::2]]
    assert heights == pytest.approx([12, 0, 48, 36], abs=0.6)
