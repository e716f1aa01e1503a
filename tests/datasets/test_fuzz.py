"""Whatever bytes lie there, nothing crashes: a file is used, or named with a reason; a shard is loaded, or refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream, evaluate_batches
from hicmae.datasets.samples import SampleError, unpack
from hicmae.datasets.sampling import pretrain_view
from hicmae.datasets.sidecars import read_head
from hicmae.datasets.store import ClipStore
from tests.datasets.making import make
from tests.media_files import video

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=QUIET)


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[float, bytes]]:
    """Places (0 to 1) and what is written there."""
    return draw(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40)), min_size=1, max_size=6))


def damaged(data: bytes, where: list[tuple[float, bytes]], kept: float) -> bytes:
    raw = bytearray(data)
    for place, put in where:
        at = int(place * (len(raw) - 1))
        raw[at : at + len(put)] = put
    return bytes(raw[: max(1, int(kept * len(raw)))])


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    suffixes = (".mp4", ".mkv", ".avi", ".webm")
    return {suffix: video(folder / f"a{suffix}", frames=6).read_bytes() for suffix in suffixes}


@settings(FUZZ, max_examples=40)
@given(
    suffix=st.sampled_from([".mp4", ".mkv", ".avi", ".webm"]), where=damage(), kept=st.floats(0.05, 1) | st.just(1.0)
)
def test_a_damaged_container_is_used_or_named(
    originals: dict[str, bytes], tmp_path: Path, suffix: str, where: list[tuple[float, bytes]], kept: float
) -> None:
    for name in ("data", "out"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"bad{suffix}").write_bytes(damaged(originals[suffix], where, kept))
    (tmp_path / "data" / "good.mp4").write_bytes(originals[".mp4"])
    index = make([tmp_path / "data"], tmp_path / "out")
    told = {*index.sources, *(skip.source for skip in index.skipped)}
    assert told == {f"bad{suffix}", "good.mp4"} and "good.mp4" in index.sources
    assert all(skip.reason and skip.remedy for skip in index.skipped)
    store = ClipStore(index)
    for number in range(len(index)):
        store[number].frames.take([0])
    store.close()


@settings(FUZZ, max_examples=150)
@given(where=damage(), kept=st.floats(0, 1) | st.just(1.0))
def test_the_bytes_of_a_sample_are_read_or_refused(
    shards: Index, where: list[tuple[float, bytes]], kept: float
) -> None:
    path = Path(str(shards.shards[0].path))
    raw = path.read_bytes()[int(shards.offset[1]) : int(shards.offset[1] + shards.size[1])]
    try:
        clip = unpack(damaged(raw, where, kept), number=1, label=0)
        clip.frames.take(range(len(clip.frames)))
    except SampleError as error:
        assert str(error)


@settings(FUZZ, max_examples=15)
@given(where=damage(), kept=st.floats(0, 1))
def test_truncated_and_scribbled_tars_never_stop_a_run_that_allows_for_them(
    shards: Index, tmp_path: Path, where: list[tuple[float, bytes]], kept: float
) -> None:
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(str(shards.folder), tmp_path / "copy")
    index = Index.load(tmp_path / "copy")
    tar = tmp_path / "copy" / "shard-000002.tar"
    tar.write_bytes(damaged(tar.read_bytes(), where, kept))  # after the index was read: a disk that fails in a run
    ((batch,),) = Stream(index, pretrain_view(2, 1, 16), batch_size=26, max_bad_share=0.5).epoch(0)
    listed = {key for key, _ in batch["skipped"]}
    assert listed <= set(index.keys[index.shard == 2]) and len(batch["key"]) == 26
    found = list(evaluate_batches(index, [pretrain_view(2, 1, 16)], batch_size=26, max_bad_share=0.5))
    assert {key for key, _ in found[0]["skipped"]} == listed and set(found[0]["key"]) == set(index.keys) - listed


@settings(FUZZ, max_examples=150)
@given(name=st.sampled_from(["index.json", "shard-000003.jsonl"]), where=damage(), kept=st.floats(0, 1) | st.just(1.0))
def test_a_damaged_description_is_loaded_or_refused_in_words(
    shards: Index, tmp_path: Path, name: str, where: list[tuple[float, bytes]], kept: float
) -> None:
    if not (tmp_path / "copy").exists():
        shutil.copytree(str(shards.folder), tmp_path / "copy")
    whole = (Path(str(shards.folder)) / name).read_bytes()
    (tmp_path / "copy" / name).write_bytes(damaged(whole, where, kept))
    try:
        assert len(Index.load(tmp_path / "copy")) <= 26
    except UserError as error:
        assert str(tmp_path / "copy") in str(error)
    if name.endswith("l"):
        try:
            assert read_head(tmp_path / "copy" / name)["samples"] is not None
        except UserError as error:
            assert name in str(error)
    (tmp_path / "copy" / name).write_bytes(whole)


@settings(FUZZ, max_examples=25)
@given(
    name=st.text(
        st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=40
    ).filter(lambda name: not name.startswith(".") and len(name.encode()) < 200)
)
def test_any_name_a_file_can_have_is_sharded(originals: dict[str, bytes], tmp_path: Path, name: str) -> None:
    for folder in ("data", "out"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / name / f"{name}.mp4").write_bytes(originals[".mp4"])
    index = make([tmp_path / "data"], tmp_path / "out", labels="folder")
    assert list(index.sources) == [f"{name}/{name}.mp4"] and index.classes == (name,)
    assert ClipStore(Index.load(tmp_path / "out"))[0].source == f"{name}/{name}.mp4"


def test_a_name_that_is_no_unicode_is_sharded(originals: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with open(os.fsencode(tmp_path / "data") + b"/caf\xe9.mp4", "wb") as file:  # noqa: PTH123
        file.write(originals[".mp4"])
    index = make([tmp_path / "data"], tmp_path / "out")
    assert len(index) == 1 and np.array_equal(Index.load(tmp_path / "out").keys, index.keys)
    assert ClipStore(index)[0].frames.take([0]).shape == (1, 3, 32, 32)
