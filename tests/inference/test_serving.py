"""The page is served safely: limits hold, nothing is left, and other sites, names and signals do no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hicmae.configs import UserError
from hicmae.inference.serving import serve
from hicmae.inference.serving.uploads import PREFIX, base_folder, clip_folder
from tests.datasets.test_limits import SIDE, packed, png
from tests.inference.clips import video
from tests.inference.conftest import LABELS
from tests.inference.served import Served, served, soon
from tests.media_files import BAD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, classifier_file: Path, autoencoder_file: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving") / "tmp"
    how = {"pretrained": str(autoencoder_file), "max_mb": 1, "max_seconds": 4}
    with served(folder, classifier_file, **how, upload_seconds=30, work_seconds=10, names=["my.example"]) as page:
        yield page


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return video(tmp_path / "clip.mp4", 40).read_bytes()


def status(link: socket.socket) -> int:
    with contextlib.closing(link):
        return int(link.recv(4096).split()[1])


def test_a_clip_is_answered_and_gone(page: Served, clip: bytes) -> None:
    code, answer = page.post(clip)
    assert code == 200, answer
    (person,) = answer["people"]
    assert set(person["probabilities"]) == set(LABELS) and person["label"] in LABELS
    assert person["look"].startswith("data:image/jpeg;base64,") and "<svg" in person["lane"]
    assert answer["reconstruction"]["picture"].startswith("data:image/png;base64,")
    assert answer["span"] == pytest.approx([0, 1.6], abs=0.01)
    assert page.left() == []


@pytest.mark.parametrize("name", ["text", "playlist", "noise", "cut mp4", "cut mkv", "pictures of noise"])
def test_what_is_no_good_clip_is_refused_in_words(name: str, page: Served, tmp_path: Path) -> None:
    make, reason = BAD[name]
    code, answer = page.post(make(tmp_path).read_bytes())
    assert code == 422 and f"This clip {reason}" in answer["error"], answer
    assert str(page.temporary) not in answer["error"] and "HICMAE" not in answer["error"]
    assert page.left() == []


def test_a_clip_that_is_too_long_or_too_large_in_pixels_is_refused(page: Served, tmp_path: Path) -> None:
    long = video(tmp_path / "long.mkv", 120, height=32, width=32).read_bytes()
    code, answer = page.post(long)
    assert code == 422 and "is too long (5 s; up to 4 s are read)" in answer["error"], answer
    large = packed(tmp_path / "large.mov", "png", SIDE, [png(SIDE)] * 2).read_bytes()
    code, answer = page.post(large)
    assert code == 422 and "too large" in answer["error"], answer
    code, answer = page.post(b"")
    assert code == 422 and "is empty" in answer["error"]
    assert page.left() == []


def test_a_large_upload_is_refused_before_it_is_sent_or_while_it_is(page: Served) -> None:
    assert status(page.begun("Content-Length: 5000000000")) == 413  # not a byte of it was sent
    link = page.begun("Transfer-Encoding: chunked")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(200):  # 20 MB of a clip that states no length; some fit into the buffers of a socket
            link.sendall(b"186a0\r\n" + bytes(100_000) + b"\r\n")
    link.close()
    assert page.empty_soon()


def test_an_upload_that_is_cut_off_leaves_nothing(page: Served, clip: bytes) -> None:
    for head in ("Content-Length: 100000", "Transfer-Encoding: chunked"):
        link = page.begun(head, body=b"2710\r\n" + clip[:9000] if "chunked" in head else clip[:9000])
        assert soon(lambda: bool(page.left()))
        link.close()
        assert page.empty_soon()
    assert page.post(clip)[0] == 200


def test_a_name_that_was_stated_is_answered(page: Served) -> None:
    assert page.post(b"", Host="my.example")[0] == 422 and page.post(b"", Host="an.example")[0] == 403


def test_no_name_from_outside_is_a_path(page: Served, clip: bytes) -> None:
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2fetc%2fpasswd",
        "/look/../../x",
        "/web/page.js",
    ):
        assert page.post(clip, path)[0] in (404, 405)
    evil = 'attachment; filename="../../../evil.mp4"'
    assert page.post(clip, Content_Disposition=evil, X_File_Name="/tmp/evil.mp4")[0] == 200
    assert not list(page.temporary.parent.rglob("evil*")) and page.left() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that was made to point here
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"X_Hicmae": "0"},
    ],
)
def test_other_sites_send_nothing(headers: dict[str, str], page: Served, clip: bytes) -> None:
    code, answer = page.post(clip, **headers)
    assert code == 403 and answer["error"]


def test_every_answer_is_fenced_in(page: Served) -> None:
    import http.client

    for path in ("/", "/page.js", "/page.css", "/nowhere"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port)) as link:
            link.request("GET", path)
            answer = link.getresponse()
            text = answer.read().decode()
        rules = answer.headers["content-security-policy"]
        assert "default-src 'none'" in rules and "script-src 'self';" in rules and "frame-ancestors 'none'" in rules
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["set-cookie"] is None and answer.headers["access-control-allow-origin"] is None
        assert "http://" not in text and "https://" not in text  # nothing is loaded from elsewhere


def test_one_at_a_time_some_wait_and_more_are_told(page: Served, clip: bytes) -> None:
    held = [page.begun(f"Content-Length: {len(clip)}", body=clip[:1000]) for _ in range(4)]
    assert soon(lambda: len(page.left()) == 4)
    code, answer = page.post(clip)
    assert code == 503 and "Try again" in answer["error"]
    codes: list[int] = []
    for link in held:
        link.sendall(clip[1000:])
    threads = [threading.Thread(target=lambda link=link: codes.append(status(link))) for link in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 4
    assert page.post(clip)[0] == 200 and page.left() == []


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / f"{PREFIX}4194399-abc"  # above the greatest number a process has here
    (dead / "x").mkdir(parents=True)
    (dead / "x" / "clip").write_bytes(b"face")
    other = tmp_path / f"{PREFIX}{os.getppid()}-abc"
    other.mkdir()
    with base_folder() as base, pytest.raises(RuntimeError), clip_folder(base) as place:
        assert not dead.exists() and other.exists()
        assert base.stat().st_mode & 0o077 == 0 and place.stat().st_mode & 0o077 == 0
        (place / "clip").write_bytes(b"face")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [other]


def test_other_machines_are_let_in_only_if_told() -> None:
    for host in ("0.0.0.0", "192.168.0.1", "::", "example.org"):
        with pytest.raises(UserError, match="--allow-network"):
            serve("nowhere", host=host)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen"):
        serve("nowhere", port=taken.getsockname()[1])
    with pytest.raises(UserError, match="--max-mb must be positive"):
        serve("nowhere", port=0, max_mb=0)


def test_slow_uploads_and_clips_that_take_too_long_are_ended(page: Served, clip: bytes) -> None:
    assert status(page.begun(f"Content-Length: {len(clip)}", body=clip[:1000])) == 408 and page.empty_soon()
    first = page.worker()
    os.kill(first, signal.SIGSTOP)  # it hangs
    code, answer = page.post(clip)
    assert code == 504 and "took longer than 10 s" in answer["error"] and page.left() == []
    assert page.post(clip)[0] == 200 and page.worker() != first  # another one was started
    os.kill(page.worker(), signal.SIGKILL)
    code, answer = page.post(clip)
    assert code == 422 and "brought down" in answer["error"]


def test_ctrl_c_is_no_error_and_leaves_nothing(page: Served, clip: bytes) -> None:
    """The last test of this file."""
    with page.begun(f"Content-Length: {len(clip)}", body=clip[:1000]):
        assert soon(lambda: bool(page.left()))
        assert page.ended_by(signal.SIGINT) == (0, "")
    assert page.empty_soon(folders=True)
