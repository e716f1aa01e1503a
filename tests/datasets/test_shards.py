"""Videos become shards: what is in them, that a killed run continues, and that nothing is lost without a word."""

import dataclasses
import itertools
import os
import resource
import shutil
import signal
import tarfile
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.configs.errors import UserError
from hicmae.datasets import jobs
from hicmae.datasets.index import Index
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.store import ClipStore
from tests.datasets.making import make
from tests.media_files import BAD, ODD, video


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def in_child(work: Callable[[], object]) -> tuple[int, str]:
    """What `work` returns, or the error made for people, as text from a process of its own, and how that ended."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            try:
                said = str(work())
            except UserError as error:
                said = f"error: {error}"
            except BaseException:
                said = traceback.format_exc()
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp(prefix="hicmae-test-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_the_index_knows_every_sample(shards: Index, clips: Path) -> None:
    assert len(shards) == 26 and len(shards.shards) == 7 and shards.skipped == () and shards.classes == ("happy", "sad")
    assert list(shards.sources) == sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4"))
    assert list(shards.labels) == [0] * 13 + [1] * 13 and list(shards.groups) == [None] * 26
    assert len(set(shards.keys)) == 26 and list(shards.frames[:3]) == [4, 6, 5]
    assert shards.preprocessing == {"crop": {"kind": "centre"}, "size": 16, "max_fps": 30.0, "sound_rate": 16_000}
    store = ClipStore(shards)
    for number in range(26):
        clip = store[number]
        assert (clip.key, clip.number, clip.label) == (shards.keys[number], number, shards.labels[number])
        assert len(clip.frames) == shards.frames[number] and (clip.audio is not None) == shards.sound[number]
    members = []
    for shard in shards.shards:
        with tarfile.open(shard.path) as tar:
            members += tar.getnames()
    assert sum(name.endswith(".json") for name in members) == 26
    again = Index.load(shards.folder)
    for field in dataclasses.fields(Index):
        np.testing.assert_equal(getattr(again, field.name), getattr(shards, field.name), field.name)


def test_a_clips_frames_are_decoded_where_asked_for(shards: Index) -> None:
    clip = ClipStore(shards)[1]
    taken = clip.frames.take([2, 0, 2])
    assert taken.shape == (3, 3, 16, 16) and str(taken.dtype) == "torch.uint8" and taken[0].equal(taken[2])
    assert np.allclose(clip.frames.times, np.arange(6) / 25)
    with pytest.raises(IndexError, match="frame 6 of a clip of 6"):
        clip.frames.take([6])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_videos_give_the_same_bytes_wherever_they_lie_and_by_however_many(
    clips: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(clips, tmp_path / "elsewhere")
    one = write_shards([clips], tmp_path / "one", config=ShardConfig(size=16, per_shard=9), progress=False)
    config = ShardConfig(size=16, per_shard=9)
    write_shards([tmp_path / "elsewhere"], tmp_path / "two", config=config, progress=False, workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(one.shards) == 3


def test_a_run_that_was_killed_continues_to_the_same_bytes(shards: Index, clips: Path, tmp_path: Path) -> None:
    config = ShardConfig(size=16, per_shard=4, labels="folder")

    def killed_in_the_tenth_video() -> None:
        whole, count = jobs.samples_of, itertools.count(1)

        def samples_of(*arguments: Any) -> Any:
            if next(count) == 10:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*arguments)

        jobs.samples_of = samples_of  # type: ignore[assignment]
        write_shards([clips], tmp_path / "out", config=config, progress=False)

    assert in_child(killed_in_the_tenth_video)[0] == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    whole = ["config.json", *(f"shard-00000{n}.{kind}" for n in (0, 1) for kind in ("jsonl", "tar"))]
    assert [name for name in left if not name.endswith(".tmp")] == whole and len(left) == 6
    with pytest.raises(UserError, match=r"is not finished \(2 of 7 shards are there\).*once more"):
        Index.load(tmp_path / "out")
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in whole}
    write_shards([clips], tmp_path / "out", config=config, progress=False)
    assert contents(tmp_path / "out") == contents(shards.folder)
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in whole}


def test_a_changed_video_is_sharded_again_and_the_rest_left(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for n in range(4):
        video(data / f"{n}.mp4", frames=3)
    (data / "3.mp4").write_bytes(b"")
    assert len(make([data], tmp_path / "out").skipped) == 1
    stamp = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    video(data / "3.mp4", frames=3)
    index = make([data], tmp_path / "out")
    assert len(index) == 4 and not index.skipped
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == stamp


def test_shards_made_otherwise_are_not_mixed(tmp_path: Path) -> None:
    first, second = (video(tmp_path / name / "a.mp4", frames=3) for name in ("one", "two"))
    make([first], tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"other settings \(quality is 80, was 90\); choose another --out"):
        make([first], tmp_path / "out", quality=80)
    video(tmp_path / "two" / "b.mp4", frames=3)
    with pytest.raises(UserError, match=r"another list of videos \(1 of them, now 2"):
        make([second.parent], tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(UserError, match="not made by this version"):
        make([first], tmp_path / "foreign")


def test_every_bad_file_is_skipped_and_named_and_every_odd_one_kept(tmp_path: Path) -> None:
    bad, odd = tmp_path / "bad", tmp_path / "odd"
    bad.mkdir(), odd.mkdir()
    inputs = {name: maker(bad) for name, (maker, _) in BAD.items()}
    kept = {name: maker(odd) for name, maker in ODD.items()}
    lines = [f"{path}" for path in [*inputs.values(), *kept.values()]]
    quoted = ['"' + line.replace('"', '""') + '"' for line in lines]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(quoted) + "\n", encoding="utf-8")
    index = make([], tmp_path / "out", list=str(tmp_path / "list.csv"), per_shard=7)
    assert set(index.sources) == {path.relative_to(tmp_path).as_posix() for path in kept.values()}
    reasons = {skip.source: skip.reason for skip in index.skipped}
    assert set(reasons) == {path.relative_to(tmp_path).as_posix() for path in inputs.values()}
    for name, (_, reason) in BAD.items():
        assert reasons[inputs[name].relative_to(tmp_path).as_posix()].startswith(reason)
    assert all(skip.remedy for skip in index.skipped)
    text = index.describe()
    assert all(f"skipped {source}: it {reason}" in text for source, reason in reasons.items())
    store = ClipStore(index)
    for number in range(len(index)):
        clip = store[number]
        assert clip.frames.take(range(len(clip.frames))).shape[1:] == (3, 32, 32)


def test_no_usable_video_is_an_error_that_lists_why(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(UserError, match="no video among the inputs"):
        make([folder], tmp_path / "out0")
    for name in ("empty", "text", "cut mp4"):
        BAD[name][0](folder)
    with pytest.raises(UserError, match="none of the 3 videos") as caught:
        make([folder], tmp_path / "out")
    assert all(word in str(caught.value) for word in ("cut.mp4 is cut off", "empty.mp4 is empty", "(it is text)"))


def test_what_may_not_be_read_is_named_to_an_ordinary_user(open_folder: Path) -> None:
    data, out = open_folder / "data", open_folder / "out"
    good = video(data / "good.mp4", frames=3)
    video(data / "locked.mp4", frames=3).chmod(0)
    video(data / "closed" / "inside.mp4", frames=3)
    (data / "closed").chmod(0)
    out.mkdir()
    out.chmod(0o777)

    def as_nobody(inputs: Path, target: Path) -> str:
        def work() -> str:
            if os.geteuid() == 0:
                os.setgid(65534), os.setuid(65534)
            return write_shards([inputs], target, config=ShardConfig(size=16), progress=False).describe()

        return in_child(work)[1]

    said = as_nobody(data, out)
    assert "1 samples" in said and "2 videos skipped" in said
    assert "skipped closed: it is a folder that cannot be read (Permission denied); change its" in said
    assert "skipped locked.mp4: it cannot be read (permission denied); change its" in said
    said = as_nobody(data / "closed", out)
    assert said.startswith(f"error: folder {data}/closed cannot be read (permission denied); change its")
    said = as_nobody(good, open_folder / "mine")
    assert said.startswith(f"error: cannot write {open_folder}/mine (Permission denied); choose another")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(shards: Index, clips: Path, tmp_path: Path) -> None:
    sizes = [shard.bytes for shard in shards.shards]
    limit = max(sizes) - 1
    fits = sizes.index(max(sizes))
    config = ShardConfig(size=16, per_shard=4, labels="folder")

    def on_a_full_disk() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return write_shards([clips], tmp_path / "out", config=config, progress=False)

    said = in_child(on_a_full_disk)[1]
    assert said.startswith("error: no room to write") and f"shard-{fits:06d}.tar" in said
    assert "what is finished is kept" in said and "Traceback" not in said
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["config.json"] + [f"shard-{n:06d}.{kind}" for n in range(fits) for kind in ("jsonl", "tar")]
    write_shards([clips], tmp_path / "out", config=config, progress=False)
    assert contents(tmp_path / "out") == contents(shards.folder)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make([video(tmp_path / "a.mp4", frames=3)], tmp_path / "out")


def test_a_list_labels_samples_in_the_order_asked_for(tmp_path: Path) -> None:
    for name in "abc":
        video(tmp_path / f"{name}.mp4", frames=3)
    (tmp_path / "l.csv").write_text("path,label,group,fold\na.mp4,sad,p1,1\nb.mp4,happy,p2,2\nc.mp4,sad,p2,1\n")
    index = make([], tmp_path / "sorted", list=str(tmp_path / "l.csv"))
    assert index.classes == ("happy", "sad") and list(index.labels) == [1, 0, 1]
    assert list(index.groups) == ["p1", "p2", "p2"] and list(index.extra["fold"]) == ["1", "2", "1"]
    index = make([], tmp_path / "given", list=str(tmp_path / "l.csv"), classes=("sad", "neutral", "happy"))
    assert list(index.labels) == [0, 2, 0]
    assert len(make([tmp_path / "l.csv"], tmp_path / "direct")) == 3
    with pytest.raises(UserError, match=r"label happy, which is none of the classes hapy, sad; did you mean hapy\?"):
        make([], tmp_path / "wrong", list=str(tmp_path / "l.csv"), classes=("hapy", "sad"))


def test_numbers_as_labels_count_in_their_order(tmp_path: Path) -> None:
    for n in range(3):
        video(tmp_path / f"{n}.mp4", frames=3)
    (tmp_path / "l.txt").write_text("0.mp4 10\n1.mp4 2\n2.mp4 2\n")
    index = make([], tmp_path / "out", list=str(tmp_path / "l.txt"))
    assert index.classes == ("2", "10") and list(index.labels) == [1, 0, 0]
    (tmp_path / "l.txt").write_text("0.mp4 1\n1.mp4 0\n2.mp4 1\n")
    index = make([], tmp_path / "named", list=str(tmp_path / "l.txt"), classes=("sad", "happy"))
    assert index.classes == ("sad", "happy") and list(index.labels) == [1, 0, 1]


def test_a_wrong_list_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label\na.mp4,x\nb.mp4\n")
    with pytest.raises(UserError, match=r"l\.csv:3: has 1 columns where the header has 2; "):
        make([], tmp_path / "out", list=str(tmp_path / "l.csv"))
    assert not (tmp_path / "out").exists()


def test_shards_that_are_not_whole_are_not_loaded(shards: Index, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(shards.folder, tmp_path / name)
        return tmp_path / name

    with pytest.raises(UserError, match="is no folder of shards; make one with `hicmae shard"):
        Index.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no shards"):
        Index.load(tmp_path)
    (copy("a") / "shard-000003.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000003\.tar is missing; copy it again"):
        Index.load(tmp_path / "a")
    os.truncate(copy("b") / "shard-000002.tar", 5000)
    with pytest.raises(UserError, match=r"another size than when it was written \(5,000 bytes"):
        Index.load(tmp_path / "b")
    sidecar = copy("c") / "shard-000001.jsonl"
    sidecar.write_text("".join(sidecar.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"cannot be read \(lines are missing\); delete shard-000001"):
        Index.load(tmp_path / "c")
    sidecar = copy("e") / "shard-000001.jsonl"
    sidecar.write_text(sidecar.read_text().replace('"sound"', '"noise"'))
    with pytest.raises(UserError, match=r"cannot be read \(a sample has no sound\)"):
        Index.load(tmp_path / "e")
    (copy("d") / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
        Index.load(tmp_path / "d")
