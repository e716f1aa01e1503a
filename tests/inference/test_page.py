"""The page holds the video and everybody's timeline; in a browser they follow each other."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from hicmae.inference import Boxes, Loaded, Person, Prediction, WindowPrediction, predict_clip
from hicmae.inference.page import prediction_page
from hicmae.inference.timeline import clock, lane, marks, shown_people
from hicmae.inference.writing import write_prediction
from tests.inference.clips import video
from tests.inference.test_people import made


def page_of(result: Prediction, **how: int) -> str:
    return prediction_page(result, **how).html()  # type: ignore[arg-type]


def test_a_page_tells_everything_and_reaches_nowhere(tmp_path: Path, classifier: Loaded) -> None:
    result = predict_clip(video(tmp_path / "clip.mp4"), classifier)
    files = write_prediction(result, tmp_path / "out")
    text = files["page"].read_text()
    assert sorted(files) == ["csv", "json", "page", "plot", "video"]
    held = re.search(r'src="data:video/mp4;base64,([^"]+)"', text)
    assert held is not None and base64.b64decode(held[1]) == files["video"].read_bytes()
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in re.sub(r"http://www.w3.org/\S+", "", text)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])  # type: ignore[index]
    assert data["span"] == [0.0, 1.6] and data["classes"] == 3
    (person,) = result.people
    assert [part[:2] for part in data["people"][0]] == [[round(p.start, 3), round(p.end, 3)] for p in person.parts]
    assert files["csv"].read_text().splitlines()[0] == "clip,person,start,end,label,angry,happy,sad"
    assert json.loads(files["json"].read_text())["people"][0]["boxes"][0]["corners"][0] == [16.0, 0.0]


def test_a_large_video_lies_beside_its_page(tmp_path: Path, classifier: Loaded) -> None:
    clip = video(tmp_path / 'a "b" #1.mp4')
    text = prediction_page(predict_clip(clip, classifier), clip, embedded=1000).html()
    assert 'src="a%20%22b%22%20%231.mp4"' in text and "base64,AAAA" not in text
    assert "<video" not in page_of(predict_clip(clip, classifier))


def test_names_cannot_smuggle_code_in() -> None:
    nasty = "</script><script>alert(1)</script>"
    windows = (WindowPrediction(0.0, 2.0, {nasty: 0.7, "b": 0.3}),)
    person = Person(nasty, windows, Boxes(np.array([0.0]), np.zeros((1, 4, 2), np.float32), ((0.0, 2.0),)))
    text = page_of(Prediction(f"{nasty}.mp4", nasty, windows, nasty, (person,)))
    assert "alert" in text and "<script>alert" not in text


def test_a_lane_draws_lines_where_the_face_is_and_nothing_between() -> None:
    drawing = lane(made().people[0], (0.0, 8.0))
    svg = ElementTree.fromstring(drawing[drawing.index("<svg") : drawing.index("</svg>") + 6])
    paths = [each.get("d", "") for each in svg if each.tag.endswith("path")]
    assert len(paths) == 2 and all(path.count("M") == 2 for path in paths)  # two labels, two stretches
    happy = [tuple(map(float, each.split())) for each in re.split(r" ?[ML]", paths[0])[1:]]
    assert happy[0] == (0.0, pytest.approx(28 + 0.2 * 104)) and happy[-1][0] == pytest.approx(7 / 8 * 960)
    assert not any(3 / 8 * 960 < x < 5 / 8 * 960 for x, _ in happy)
    strips = [each for each in svg if each.tag.endswith("rect") and each.get("fill")]
    assert [each.get("fill") for each in strips] == ["#3b82d6", "#3b82d6", "#e07b2a", "#e07b2a"]


def test_numbers_have_lines_of_their_own_scale() -> None:
    windows = tuple(WindowPrediction(n, n + 1, {}, {"valence": v}) for n, v in enumerate((-0.5, 0.0, 1.5)))
    result = Prediction("a.mp4", "small", windows)
    (person,) = shown_people(result)
    drawing = lane(person, (0.0, 3.0))
    assert drawing.count("<path") == 1 and all(f">{word}</span>" in drawing for word in ("-1", "+0", "+1"))
    assert "valence +0.33" in page_of(result)


def test_only_those_seen_longest_are_drawn() -> None:
    windows = (WindowPrediction(0.0, 1.0, {"a": 1.0}),)
    people = tuple(
        Person(f"person {n}", windows, Boxes(np.zeros(1), np.zeros((1, 4, 2), np.float32), ((0.0, 0.1 + n),)))
        for n in range(20)
    )
    result = Prediction("a.mp4", "small", windows, people=people)
    assert [person.name for person in shown_people(result)] == [f"person {n}" for n in range(8, 20)]
    assert "8 more people" in page_of(result)


def test_times_read_well() -> None:
    assert [clock(each) for each in (0, 61, 3661.4)] == ["0:00", "1:01", "1:01:01"]
    assert [clock(each, True) for each in (0.04, 59.96, 3600)] == ["0:00.0", "1:00.0", "1:00:00.0"]
    assert marks(0, 7.3) == [0, 1, 2, 3, 4, 5, 6, 7] and marks(0, 1200)[-1] == 1200 and len(marks(0, 7200)) <= 9


@pytest.mark.slow
def test_in_a_browser_a_click_moves_the_video_and_the_video_moves_the_cursor(
    tmp_path: Path, classifier: Loaded
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    files = write_prediction(predict_clip(video(tmp_path / "clip.mp4", 200), classifier), tmp_path / "out")
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        page = found.new_context(viewport={"width": 390, "height": 900}, offline=True).new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"file://{files['page']}")
        page.wait_for_function("document.querySelector('video').readyState >= 2")
        assert page.evaluate("document.querySelector('video').duration") == pytest.approx(8, abs=0.05)
        box = page.locator(".lane svg").bounding_box()
        page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 50)
        page.wait_for_function("!document.querySelector('video').seeking")
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(6, abs=0.1)
        page.evaluate("document.querySelector('video').currentTime = 2")
        page.wait_for_timeout(300)
        assert float(page.locator(".lane .cursor").get_attribute("x1")) == pytest.approx(240, abs=2)
        page.locator(".lane").press("ArrowRight")
        page.wait_for_timeout(300)
        assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(3, abs=0.05)
        assert page.evaluate("document.documentElement.scrollWidth") == 390 and not wrong
        found.close()
