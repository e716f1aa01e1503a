"""Downloads: what arrives is the file or nothing, and what goes wrong is told with what to do. The server is real."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hicmae.configs import UserError
from hicmae.runtime import hub
from hicmae.runtime.hub import DownloadError, RemoteFile, fetch, fetch_small, place_of, store
from hicmae.runtime.mirrors import Patience
from tests.file_server import Server, serving

CONTENT = hashlib.shake_256(b"weights").digest(200_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
HASTE = Patience(connect=1, silence=0.4, slow=0.3, rate=10_000, tries=2, pause=0.01)

DAMAGED = {  # manner of the server -> what the message says of it
    "cut-at-once": "broke off",
    "cut-no-ranges": r"broke off.*tries",
    "wrong-bytes": "sent something else: it has sha256",
    "one-wrong-bit": "sent something else: it has sha256",
    "shorter": "answers with a file of 199,999 bytes, where 200,000 bytes were expected",
    "longer": "answers with a file of 200,001 bytes",
    "endless": "sends more than the 200,000 bytes of the file",
    "silent": r"sent nothing for 0\.4 s",
    "stalling": r"sent nothing for 0\.4 s",
    "trickle": "is too slow",
    "page": "answers with a web page, as expired links do",
    "no-http": "broke off|cannot be reached",
    "other-range": "was asked for what follows byte 50,000 and sent something else",
    "squeezed": "sends the file in another encoding",
    "circle": "cannot be reached .*redirects",
    "to-file": "cannot be reached",
    "401": "HTTP 401: gives it to those only who are logged in",
    "403": "HTTP 403: does not give it to us",
    "404": r"HTTP 404: has no such file \(any more\)",
    "410": "HTTP 410: has the file no longer",
    "416": "does not have as much of the file",
    "429": "HTTP 429: asks to come back later",
    "500": "HTTP 500: has an error of its own",
    "503": "HTTP 503: has an error of its own",
}


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    with serving({"weights.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def server(one_server: Server) -> Server:
    one_server.sent = 0
    one_server.asked.clear()
    return one_server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "HICMAE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HICMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wanted(*mirrors: str, name: str = "weights.bin") -> RemoteFile:
    return RemoteFile(name=name, size=len(CONTENT), sha256=SHA, mirrors=mirrors)


def at(server: Server, *manners: str) -> RemoteFile:
    return wanted(*(f"{server.url}/{manner}/weights.bin" for manner in manners))


def part(file: RemoteFile) -> Path:
    return place_of(file).with_name("weights.bin.part")


def leave(file: RemoteFile, content: bytes) -> None:
    """As a download that ended early leaves it."""
    part(file).parent.mkdir(parents=True)
    part(file).write_bytes(content)


def test_a_file_is_downloaded_once_and_verified_each_time(server: Server, cache: Path) -> None:
    file = at(server, "good")
    assert fetch(file) == cache / "files" / SHA[:16] / "weights.bin"
    assert fetch(file).read_bytes() == CONTENT and len(server.asked) == 1
    place_of(file).write_bytes(CONTENT[:-1] + b"x")  # a disk that forgets
    assert fetch(file).read_bytes() == CONTENT and len(server.asked) == 2
    assert not part(file).exists()


@pytest.mark.parametrize("manner", DAMAGED)
def test_a_damaged_download_leaves_no_file_and_says_what_to_do(manner: str, server: Server, cache: Path) -> None:
    file = at(server, manner)
    with pytest.raises(DownloadError, match=DAMAGED[manner]) as error:
        fetch(file, patience=HASTE)
    told = str(error.value)
    assert file.mirrors[0] in told and "Try the same command again later" in told
    assert f"put the file by hand at\n  {place_of(file)}\n(200,000 bytes, sha256 {SHA})" in told
    kept = {path.name for path in cache.rglob("*") if path.is_file()} - {"weights.bin.lock"}
    assert kept <= {"weights.bin.part"}
    if kept:  # only what is a true beginning is kept, and it is said to be
        assert CONTENT.startswith(part(file).read_bytes())
        assert (part(file).stat().st_size == 0) != ("have arrived and are continued" in told)
    assert fetch(at(server, "good")).read_bytes() == CONTENT  # and it is no obstacle


@pytest.mark.parametrize("manner", DAMAGED)
def test_the_next_mirror_is_tried_and_the_failure_of_the_first_is_told(
    manner: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(at(server, manner, "good"), patience=HASTE).read_bytes() == CONTENT
    assert f"/{manner}/weights.bin: " in capsys.readouterr().err


def test_what_was_cut_off_is_continued_where_it_stopped(server: Server) -> None:
    assert fetch(at(server, "cut-further"), patience=HASTE).read_bytes() == CONTENT
    assert [span for _, span, _ in server.asked] == [None, "bytes=60000-", "bytes=120000-", "bytes=180000-"]
    assert server.sent == len(CONTENT)  # not one byte twice


def test_another_mirror_continues_what_the_first_began(server: Server) -> None:
    assert fetch(at(server, "stalling", "good"), patience=HASTE).read_bytes() == CONTENT
    assert server.asked[-1][:2] == ("/good/weights.bin", "bytes=100000-")


def test_a_process_that_was_killed_is_continued_where_it_stopped(server: Server, cache: Path) -> None:
    file = at(server, "stalling")
    code = (
        "import sys; from hicmae.runtime.hub import *\n"
        f"fetch(RemoteFile(name='weights.bin', size={len(CONTENT)}, sha256='{SHA}', mirrors=('{file.mirrors[0]}',)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (part(file).exists() and part(file).stat().st_size >= 65_536):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part(file).stat().st_size
    before = server.sent
    assert fetch(at(server, "good")).read_bytes() == CONTENT
    assert server.sent - before == len(CONTENT) - have


def test_a_server_without_ranges_begins_again(server: Server) -> None:
    file = at(server, "no-ranges")
    leave(file, CONTENT[:150_000])
    assert fetch(file).read_bytes() == CONTENT and server.asked[0][1] == "bytes=150000-"


@pytest.mark.parametrize("left", [b"x" * 100_000, b"x" * len(CONTENT), b"x" * 300_000, CONTENT])
def test_what_lies_there_from_before_is_not_trusted(left: bytes, server: Server) -> None:
    file = at(server, "good")
    leave(file, left)
    assert fetch(file, patience=HASTE).read_bytes() == CONTENT
    assert len(server.asked) == (0 if left == CONTENT else 2 if len(left) == 100_000 else 1)


def test_a_file_that_moved_is_followed(server: Server) -> None:
    assert fetch(at(server, "moved")).read_bytes() == CONTENT


def test_a_closed_door_and_a_wrong_address_are_told() -> None:
    with serving({}) as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch(wanted(f"{url}/good/weights.bin"), patience=HASTE)
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch(wanted("http://[::1/weights.bin"), patience=HASTE)


def test_the_hub_is_a_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.files["ann/faces/resolve/v1.0/weights.bin"] = CONTENT
    assert fetch(wanted("hf://ann/faces@v1.0/weights.bin")).read_bytes() == CONTENT
    assert server.asked == [("/ann/faces/resolve/v1.0/weights.bin", None, "Bearer hf_secret")]
    place_of(wanted()).unlink()
    with pytest.raises(DownloadError, match=r"HTTP 404.*accept its terms there and say: hf auth login"):
        fetch(wanted("hf://ann/voices/weights.bin"))
    place_of(wanted()).parent.joinpath("weights.bin").unlink(missing_ok=True)
    server.asked.clear()
    fetch(at(server, "good"))
    assert server.asked[0][2] is None  # nobody else is told the token


@pytest.mark.parametrize("form", ["{}", "{}/weights.bin", "file://{}/weights.bin"])
def test_a_folder_is_a_mirror_even_offline(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HICMAE_OFFLINE", "1")
    (tmp_path / "usb stick").mkdir()
    (tmp_path / "usb stick" / "weights.bin").write_bytes(CONTENT)
    assert fetch(wanted("https://nowhere.invalid/x", form.format(tmp_path / "usb stick"))).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "cut", "other"])
def test_a_folder_that_does_not_have_the_file_is_told(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "mirror" / "weights.bin"
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    if kind in ("cut", "other"):
        place.write_bytes(CONTENT[:1000] if kind == "cut" else bytes(len(CONTENT)))
    words = {"cut": "broke off after 1,000 bytes of 0.2 MB", "other": "sent something else", "pipe": "is no file"}
    with pytest.raises(DownloadError, match=words.get(kind, "there is no such file|is no file")):
        fetch(wanted(str(place)), patience=HASTE)
    assert not place_of(wanted()).exists()


@pytest.mark.parametrize("name", ["HICMAE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fails_at_once_with_the_place_for_the_file(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    file = at(server, "good")
    since = time.monotonic()
    with pytest.raises(DownloadError, match=f"{name}=1 forbids downloading it") as error:
        fetch(file)
    assert time.monotonic() - since < 0.5 and server.asked == []
    place = Path(str(error.value).splitlines()[1].strip())
    place.write_bytes(CONTENT)  # as the message says
    assert fetch(file) == place
    place.write_bytes(b"another file")
    with pytest.raises(DownloadError, match="put the file by hand at"):
        fetch(file)
    with pytest.raises(DownloadError, match=f"{name}=1 forbids the network"):
        fetch_small(f"{server.url}/good/weights.bin")


def test_a_file_without_mirrors_says_where_to_put_it() -> None:
    with pytest.raises(DownloadError, match="no mirror of it is known; put the file by hand at"):
        fetch(wanted())


WORKER = """
import resource, sys
from hicmae.configs import UserError
from hicmae.runtime.hub import RemoteFile, fetch
url, size, sha, most = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    print(fetch(RemoteFile(name="weights.bin", size=size, sha256=sha, mirrors=(url,))))
except UserError as error:
    sys.exit(str(error))
"""


def fetching(server: Server, manner: str, most: int = 0) -> subprocess.Popen[str]:
    words = [f"{server.url}/{manner}/weights.bin", str(len(CONTENT)), SHA, str(most)]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", WORKER, *words], stdout=pipe, stderr=pipe, text=True)


def test_processes_that_want_the_same_file_download_it_once(server: Server) -> None:
    working = [fetching(server, "cut-further") for _ in range(3)]
    told = [process.communicate(timeout=60) for process in working]
    assert [process.returncode for process in working] == [0, 0, 0], told
    assert {out.strip() for out, _ in told} == {str(place_of(wanted()))}
    assert server.sent == len(CONTENT) and place_of(wanted()).read_bytes() == CONTENT


def test_a_disk_that_is_full_is_told_and_the_download_continues_when_there_is_room(server: Server) -> None:
    process = fetching(server, "good", most=120_000)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "is full; make room, or name a folder on another disk by HICMAE_CACHE" in told
    file = at(server, "good")
    assert not place_of(file).exists() and CONTENT.startswith(part(file).read_bytes())
    assert fetch(file).read_bytes() == CONTENT
    assert server.asked[-1][1] is not None  # continued


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_device_without_room_is_a_full_disk(server: Server) -> None:
    file = at(server, "good")
    part(file).parent.mkdir(parents=True)
    part(file).symlink_to("/dev/full")
    with pytest.raises(UserError, match="is full; make room"):
        fetch(file)
    assert not place_of(file).exists()


def test_room_is_looked_for_before_anything_is_written(server: Server) -> None:
    file = RemoteFile(name="weights.bin", size=1 << 60, sha256=SHA, mirrors=(f"{server.url}/good/weights.bin",))
    with pytest.raises(
        UserError, match=r"more are needed there and .* are free; make room, or name a folder on another"
    ):
        fetch(file)
    assert server.asked == []


def test_a_cache_that_cannot_be_written_is_told(server: Server, cache: Path) -> None:
    cache.write_text("a file in its place")
    with pytest.raises(UserError, match=r"cannot be written .*; name a folder you may write to by HICMAE_CACHE"):
        fetch(at(server, "good"))


NAMES = [
    "../weights.bin",
    "a/b",
    "/etc/passwd",
    "..",
    ".",
    "",
    ".hidden",
    "a\\b",
    "a\0b",
    "a\nb",
    "C:evil",
    "x.part",
    "~x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not the name of a file here"):
        wanted(name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "its size must be positive"),
        ({"sha256": "abc"}, "its sha256 must be 64 digits"),
        ({"sha256": SHA.upper()}, "its sha256 must be 64 digits"),
        ({"mirrors": ("ftp://host/file",)}, "ftp://host/file: a mirror is hf://owner/repo@revision/file, https://"),
        ({"mirrors": ("hf://only-a-name/file",)}, "this is none of them"),
        ({"mirrors": ("hf://a/b@main/../../secret",)}, "this is none of them"),
    ],
)
def test_a_file_that_is_not_described_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RemoteFile(**{"name": "weights.bin", "size": 3, "sha256": SHA, **change})


def test_a_small_file_may_not_be_large(server: Server) -> None:
    with pytest.raises(DownloadError, match=r"is larger than 0\.1 MB, and should be small"):
        fetch_small(f"{server.url}/endless/weights.bin", 100_000)
    assert server.sent < 30_000_000  # of 41 million: the rest never left the buffers


def test_pieces_at_hand_are_verified_like_a_download(cache: Path) -> None:
    for pieces, message in (
        ([b"x"], "broke off"),
        ([CONTENT, b"x"], "sends more"),
        ([bytes(len(CONTENT))], "was not kept"),
    ):
        with pytest.raises(UserError, match=message):
            store(wanted(), iter(pieces))
        assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert store(wanted(), iter([CONTENT])).read_bytes() == CONTENT


def test_the_cache_is_in_the_home_folder_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HICMAE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / ".cache" / "hicmae"
