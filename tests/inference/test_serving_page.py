"""The served page in a real browser that reaches nothing but this machine: upload, record, mistakes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.inference.clips import video
from tests.inference.conftest import LABELS
from tests.inference.served import Served, served, soon

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true",
    reason="needs a browser: apt-get install chromium (where CI=true, its absence is a failure)",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, classifier_file: Path, autoencoder_file: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page") / "tmp"
    with served(folder, classifier_file, pretrained=autoencoder_file, max_mb=1, max_seconds=4) as page:
        yield page


@pytest.fixture(scope="module")
def browser(page: Served) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "CI must have a browser: apt-get install chromium"
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic", "--disable-gpu", blocked, *camera]
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(page: Served, browser: Any) -> Iterator[Any]:
    """The page, opened; afterwards nothing was asked of other machines, no script failed, and nothing is left."""
    told: list[str] = []
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    home = f"http://127.0.0.1:{page.port}/"
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("console", lambda line: told.append(line.text) if "status of 4" not in line.text else None)
    tab.on("request", lambda r: told.append(r.url) if not r.url.startswith((home, "blob:", "data:")) else None)
    tab.goto(home)
    yield tab
    assert told == []
    assert context.cookies() == []
    context.close()
    assert page.left() == []


def becomes(tab: Any, true: str) -> bool:
    """Whether an expression comes true; the page's own rules forbid playwright to wait for one inside of it."""
    return any(tab.evaluate(true) or tab.wait_for_timeout(100) for _ in range(300))


def test_an_uploaded_clip_is_shown_with_face_bars_timeline_and_reconstruction(tab: Any, tmp_path: Path) -> None:
    assert tab.is_hidden("#result") and "Nothing is kept" in tab.inner_text("main")
    assert "AI Act" in tab.inner_text("#use")
    tab.set_input_files("#file", video(tmp_path / "clip.webm", 40))
    tab.wait_for_selector("#result:not([hidden])")
    assert tab.inner_text("#result-title") == "One person" and tab.is_hidden("#error") and tab.is_hidden("#state")
    rows = {row.query_selector("th").inner_text(): row for row in tab.query_selector_all(".bars tbody tr")}
    assert set(rows) == set(LABELS)
    shares = {name: float(row.query_selector(".number").inner_text().split()[0]) for name, row in rows.items()}
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)
    best = max(shares, key=shares.__getitem__)
    assert tab.inner_text(".best") == f"{best}, {shares[best]:.1f} %"
    assert next(iter(rows)) == best  # the most probable one stands above
    for picture in (".person img", "#rebuilt-picture"):
        assert tab.eval_on_selector(picture, "x => x.complete && x.naturalWidth > 30 && x.alt.length > 10"), picture
    assert tab.eval_on_selector(".lane svg", "x => x.getBoundingClientRect().width") > 500
    assert len(tab.query_selector_all(".windows tbody tr")) > 2
    assert becomes(tab, "document.getElementById('player').readyState >= 2")
    lane = tab.query_selector(".lane").bounding_box()
    tab.mouse.click(lane["x"] + lane["width"] / 2, lane["y"] + 40)
    assert becomes(tab, "Math.abs(document.getElementById('player').currentTime - 0.8) < 0.1")
    tab.press(".lane", "Home")
    assert becomes(tab, "document.getElementById('player').currentTime < 0.05")
    assert becomes(tab, "document.querySelector('.lane').getAttribute('aria-valuenow') < 0.1")  # told a moment later
    drawn = "x => x.getContext('2d').getImageData(0, 0, x.width, x.height).data.some(v => v > 0)"
    assert becomes(tab, f"({drawn})(document.getElementById('frame'))")  # the square that was looked at


def test_the_page_fits_a_phone_and_the_dark(tab: Any, tmp_path: Path) -> None:
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    tab.set_viewport_size({"width": 360, "height": 700})
    tab.set_input_files("#file", video(tmp_path / "clip.mkv", 40))
    tab.wait_for_selector("#result:not([hidden])")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = (
        "[...document.querySelectorAll('button, input, img, video, [role]')].filter(x => x.checkVisibility() && !("
    )
    unnamed += "x.textContent.trim() || x.alt || x.labels?.length || x.ariaLabel)).map(x => x.outerHTML.slice(0, 80))"
    assert tab.evaluate(unnamed) == []


def test_a_mistake_is_told_and_the_next_clip_works(tab: Any, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video(tmp_path / "whole.mp4").read_bytes()[:3000])
    (tmp_path / "notes.mp4").write_bytes(b"this is not a video\n" * 20)
    (tmp_path / "large.mp4").write_bytes(bytes(1_100_000))
    for path, words in [
        (cut, "This clip is cut off"),
        (tmp_path / "notes.mp4", "This clip is not a video that can be read (it is text)"),
        (tmp_path / "large.mp4", "This clip is too large (1.1 MB). Up to 1 MB are taken"),
        (video(tmp_path / "long.mp4", 150, height=32, width=32), "This clip is too long"),
    ]:
        tab.set_input_files("#file", path)
        tab.locator("#error", has_text=words).wait_for()
        assert tab.is_visible("#error") and tab.is_hidden("#result") and tab.is_hidden("#state")
        assert str(tmp_path) not in tab.inner_text("#error")
    tab.set_input_files("#file", tmp_path / "whole.mp4")
    tab.wait_for_selector("#result:not([hidden])")
    assert tab.is_hidden("#error")


def test_a_clip_is_recorded_with_the_camera(tab: Any) -> None:
    tab.click("#record")
    assert becomes(tab, "document.getElementById('camera').readyState >= 2")
    tab.wait_for_timeout(1500)
    tab.click("#stop")
    tab.wait_for_selector("#result:not([hidden]), #error:not([hidden])")
    assert tab.is_hidden("#error"), tab.inner_text("#error")
    assert tab.query_selector_all(".windows tbody tr")  # few frames come from a busy machine
    assert tab.is_hidden("#recorder") and tab.evaluate("document.getElementById('camera').srcObject === null")
    tab.click("#record")
    tab.wait_for_selector("#recorder:not([hidden])")
    tab.click("#cancel")
    tab.wait_for_selector("#recorder", state="hidden")
    assert tab.is_hidden("#state")


def test_a_killed_server_leaves_nothing_and_its_absence_is_told(page: Served, browser: Any, tmp_path: Path) -> None:
    """The last test of this file."""
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{page.port}/")
    with page.begun("Content-Length: 5000", body=bytes(1000)):
        assert soon(lambda: bool(page.left()))
        page.process.kill()
        page.process.wait()
    tab.set_input_files("#file", video(tmp_path / "clip.webm", 10))
    tab.wait_for_selector("#error:not([hidden])")
    assert "does not answer" in tab.inner_text("#error")
    tab.close()
    assert page.empty_soon(folders=True)  # the process for clips noticed
