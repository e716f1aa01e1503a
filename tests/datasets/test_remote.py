"""Shards on a server: read by ranges, tried again where that may help, and clear words where it does not."""

import http.server
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from hicmae.configs.errors import UserError
from hicmae.datasets import remote
from hicmae.datasets.check import check
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream, evaluate_batches
from hicmae.datasets.remote import Remote, place_of
from hicmae.datasets.samples import Clip
from hicmae.datasets.store import ClipStore

Batch = dict[str, Any]


class Server:
    """Serves a folder by ranges; `fault(path, turn)` says what goes wrong with the turn-th request for a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, list[tuple[str, str | None]]()
        self.fault: Callable[[str, int], str | int | None] = lambda path, turn: None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/shards"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        name = handler.path.partition("?")[0].rpartition("/")[2]
        wanted = handler.headers.get("Range")
        self.log.append((name, wanted))
        fault = self.fault(name, sum(logged == name for logged, _ in self.log) - 1)
        path = self.folder / name
        if isinstance(fault, int) or not path.is_file():
            handler.send_error(fault if isinstance(fault, int) else 404)
            return
        data, state = path.read_bytes(), 200
        if wanted and fault != "no ranges":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data, state = data[int(first) : int(last) + 1 if last else None], 206
        handler.send_response(state)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if fault == "cut":
            data = data[: len(data) // 2]
        if fault == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        handler.wfile.write(data)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(shards: Index, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "WAIT", 0.001)
    assert isinstance(shards.folder, Path)
    made = Server(shards.folder)
    yield made
    made.stop()


def view(clip: Clip, generator: torch.Generator) -> Batch:
    return {"video": clip.frames.take([0]), "draw": torch.rand((), generator=generator)}


def steps(index: Index, **how: Any) -> list[Batch]:
    return [batch for step in Stream(index, view, **{"batch_size": 8, **how}).epoch(0) for batch in step]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside the server's threads
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_on_a_server_are_those_of_the_folder(shards: Index, server: Server, workers: int) -> None:
    index = Index.load(server.url)
    assert str(index.folder) == server.url and str(index.shards[2].path) == f"{server.url}/shard-000002.tar"
    assert list(index.keys) == list(shards.keys) and np.array_equal(index.offset, shards.offset)
    there, here = steps(index, workers=workers), steps(shards)
    for a, b in zip(there, here, strict=True):
        assert a["key"] == b["key"] and torch.equal(a["video"], b["video"]) and torch.equal(a["draw"], b["draw"])
    tars = [wanted for name, wanted in server.log if name.endswith(".tar")]
    assert len(tars) == 24 and all(wanted and wanted.startswith("bytes=") for wanted in tars)
    assert [name for name, _ in server.log].count("shard-000000.jsonl") == 1


def test_shards_on_a_server_are_checked_and_drawn_as_those_of_a_folder(
    shards: Index, server: Server, tmp_path: Path
) -> None:
    there, here = check(server.url, progress=False), check(shards.folder, progress=False)
    assert there.ok and there.summary == here.summary and str(there).startswith(f"{server.url} (shards)")
    server.log.clear()
    assert check(server.url, thorough=False, html=tmp_path / "a.html", progress=False).ok
    assert (tmp_path / "a.html").read_text().count('<section class="card">') == 24
    assert {wanted for name, wanted in server.log if name.endswith(".tar")} != {None}
    server.fault = lambda name, turn: {"shard-000003.tar": "wrong", "shard-000001.tar": 404}.get(name)
    words = [str(problem) for problem in check(server.url, progress=False).problems]
    assert len(words) == 2 and "shard-000001.tar cannot be read (the server answers 404" in words[0]
    assert "shard-000003.tar is damaged (in 4 of 4 samples" in words[1]
    server.fault = lambda name, turn: 404
    assert f"{server.url} holds no shards (no index.json); give the address of the folder" in str(check(server.url))


def test_a_signed_address_keeps_its_signature(shards: Index, server: Server) -> None:
    index = Index.load(f"{server.url}/?token=a%20b")
    assert str(index.shards[0].path) == f"{server.url}/shard-000000.tar?token=a%20b"
    assert ClipStore(index)[0].key == shards.keys[0]


@pytest.mark.parametrize("fault", [503, 500, 429, "cut"])
def test_what_passes_is_tried_again(shards: Index, server: Server, fault: str | int) -> None:
    server.fault = lambda name, turn: fault if turn in (0, 1) else None
    index = Index.load(server.url)
    assert len(index) == 26 and [batch["skipped"] for batch in steps(index)] == [[], [], []]


def test_wrong_bytes_are_skipped_counted_and_listed(shards: Index, server: Server) -> None:
    index = Index.load(server.url)
    server.fault = lambda name, turn: "wrong" if name == "shard-000003.tar" else None
    found = steps(index, shuffle=False, max_bad_share=0.2)
    bad = [key for batch in found for key, _ in batch["skipped"]]
    assert bad == list(index.keys[(index.shard == 3)])
    assert all("are not those that were written" in why for batch in found for _, why in batch["skipped"])
    with pytest.raises(UserError, match=r"4 clips .*more than max_bad_share = 0\.1 of 26"):
        steps(index, shuffle=False, max_bad_share=0.1)


@pytest.mark.parametrize("state", [404, 403])
def test_a_shard_that_is_not_there_is_not_asked_for_again(shards: Index, server: Server, state: int) -> None:
    index = Index.load(server.url)
    server.fault = lambda name, turn: state if name == "shard-000001.tar" else None
    found = steps(index, shuffle=False, max_bad_share=0.2)
    whys = [why for batch in found for _, why in batch["skipped"]]
    assert len(whys) == 4 and all(f"shard-000001.tar cannot be read (the server answers {state}" in why for why in whys)
    assert [name for name, _ in server.log].count("shard-000001.tar") == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_is_gone_stops_the_run_in_words_and_soon(
    server: Server, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    index = Index.load(server.url)
    server.stop()
    with pytest.raises(
        UserError, match=r"shard-00000\d\.tar cannot be read after 6 tries \(.*refused.*\); see that the"
    ) as caught:
        steps(index, workers=workers)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot be read after 6 tries"):
        list(evaluate_batches(index, [view], batch_size=4, workers=workers))
    with pytest.raises(UserError, match=r"index\.json cannot be read after 6 tries"):
        Index.load(server.url)


def test_a_server_that_stays_ill_is_given_up(server: Server) -> None:
    server.fault = lambda name, turn: 503 if name == "index.json" else None
    with pytest.raises(UserError, match=r"after 6 tries \(HTTP Error 503"):
        Index.load(server.url)
    assert len(server.log) == 6


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT", 0.001)
    monkeypatch.setattr(remote, "TIMEOUT", 0.05)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(UserError, match=r"after 6 tries \(.*timed out"):
        Index.load(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_a_server_without_ranges_is_refused(server: Server) -> None:
    index = Index.load(server.url)
    server.fault = lambda name, turn: "no ranges"
    with pytest.raises(UserError, match="the server gives whole files only"):
        steps(index)


def test_what_is_no_folder_of_shards_is_said(server: Server, tmp_path: Path) -> None:
    server.folder = tmp_path
    with pytest.raises(UserError, match="holds no shards"):
        Index.load(server.url)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not finished"):
        Index.load(server.url)
    (tmp_path / "index.json").write_text("[1]")
    with pytest.raises(UserError, match="holds shards of format None"):
        Index.load(server.url)


def test_a_description_that_is_missing_there_is_named(shards: Index, server: Server) -> None:
    server.fault = lambda name, turn: 404 if name in ("shard-000002.jsonl", "shard-000004.jsonl") else None
    with pytest.raises(UserError, match=r"shard-000002\.jsonl cannot be read .*1 problems more"):
        Index.load(server.url)


def test_object_stores_are_read_through_fsspec(shards: Index) -> None:
    store = fsspec.filesystem("memory")
    for path in Path(str(shards.folder)).iterdir():
        store.pipe(f"/bucket/shards/{path.name}", path.read_bytes())
    index = Index.load("memory://bucket/shards")
    assert [batch["key"] for batch in steps(index)] == [batch["key"] for batch in steps(shards)]
    store.rm("/bucket/shards/shard-000001.tar")
    found = steps(index, max_bad_share=0.5)
    assert {why.split(" (")[0] for batch in found for _, why in batch["skipped"]} == {
        "memory://bucket/shards/shard-000001.tar cannot be read"
    }
    store.rm("/bucket", recursive=True)


def test_an_address_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match="Protocol not known: gopher"):
        Index.load("gopher://host/shards")


def test_a_store_whose_reader_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r's3://bucket/shards cannot be read \(.*s3fs.*\): pip install "hicmae\[remote\]"'
    ):
        Index.load("s3://bucket/shards")


def test_commands_are_run_only_where_the_environment_allows_it(shards: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Path(str(shards.folder)) / "ran"
    where = f"pipe:sh -c 'touch {mark}; exec tail -c +1 {shards.folder}/{{name}}'"
    with pytest.raises(UserError, match="commands are run only where the environment says HICMAE_PIPE=1"):
        Index.load(where)
    assert not mark.exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_command_that_is_allowed_reads_ranges(shards: Index, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HICMAE_PIPE", "1")
    index = Index.load(f"pipe:curl -sf -r {{range}} {server.url}/{{name}}")
    assert len(index) == 26 and ClipStore(index)[7].key == shards.keys[7]
    with pytest.raises(UserError, match=r"\(shard-000000\.tar\) cannot be read after 6 tries \(it ended with 7"):
        server.stop()
        ClipStore(index)[0]


@pytest.mark.parametrize("where", ["data/shards", "C:shards", "a:b", "http:/x", "/tmp/x", Path("x")])
def test_paths_stay_paths(where: str | Path) -> None:
    assert place_of(where) == Path(where)


def test_addresses_are_taken_apart_as_paths_are() -> None:
    there = Remote("https://host/a/") / "shard-000001.tar"
    assert str(there) == "https://host/a/shard-000001.tar" and there.stem == "shard-000001"
    assert str(there.with_suffix(".jsonl")) == "https://host/a/shard-000001.jsonl" and there.parent == Remote(
        "https://host/a/"
    )
