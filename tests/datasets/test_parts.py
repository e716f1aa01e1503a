"""Parts made anywhere, in any order, killed and repeated, are those of one run; merging proves that all are there."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets import jobs
from hicmae.datasets.index import Index
from hicmae.datasets.shards import ShardConfig, merge_shards, write_part, write_shards
from tests.media_files import video

CONFIG = ShardConfig(size=16, per_shard=4)


def tiny(folder: Path, count: int) -> Path:
    """`count` videos of two frames, each different from the others, every tenth of them damaged."""
    folder.mkdir()
    bare = video(folder / "template.mkv", frames=2, sound=False, codec="mpeg4").read_bytes()
    (folder / "template.mkv").unlink()
    for n in range(count):
        # a comment element (EBML void) after the file makes each another one without coding it anew
        data = bare if n % 10 else bare[: len(bare) // 2]
        (folder / f"{n:05d}.mkv").write_bytes(data + b"\xec\x84" + n.to_bytes(4, "big"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def part(inputs: Path, out: Path, number: int, parts: int) -> None:
    write_part([inputs], out, number, parts, config=CONFIG, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """60 tiny videos, and what one undivided run makes of them."""
    root = tmp_path_factory.mktemp("parts")
    tiny(root / "clips", 60)
    write_shards([root / "clips"], root / "whole", config=CONFIG, progress=False)
    return root / "clips", contents(root / "whole")


def begun(work: Callable[[], object]) -> int:
    """A process that does `work`; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_parts(clips: Path, out: Path, parts: int, config: ShardConfig, *, kills: int, seed: int, step: int) -> int:
    """Do all parts, some of them again, in any order, `kills` of them stopped by SIGKILL within the next `step` shards.

    Returns how many were.
    """
    rng, killed = random.Random(seed), 0
    order = [*range(1, parts + 1), *rng.choices(range(1, parts + 1), k=kills)]
    rng.shuffle(order)
    for turn, number in enumerate(order):
        child = begun(lambda n=number: write_part([clips], out, n, parts, config=config, progress=False))  # type: ignore[misc]
        if turn < kills:
            enough = len(list(out.glob("*.jsonl"))) + rng.randint(1, step)
            while len(list(out.glob("*.jsonl"))) < enough:
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
        killed += ended(child) == -signal.SIGKILL
    return killed


def all_parts_and_merge(clips: Path, out: Path, parts: int, config: ShardConfig) -> Index:
    for number in range(parts, 0, -1):  # what was killed and not repeated
        write_part([clips], out, number, parts, config=config, progress=False)
    return merge_shards([clips], out, config=config, progress=False)


def test_parts_in_any_order_with_kills_in_between_are_the_shards_of_one_run(
    whole: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    clips, expected = whole
    assert killed_parts(clips, tmp_path / "out", 3, CONFIG, kills=2, seed=1, step=2) >= 1
    index = all_parts_and_merge(clips, tmp_path / "out", 3, CONFIG)
    assert contents(tmp_path / "out") == expected
    assert len(index) == 54 and len(index.skipped) == 6 and len(expected) == 2 + 2 * 15


# measured on two shared cores: 125 s
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_files_in_parts_with_kills_are_the_shards_of_one_run(tmp_path: Path) -> None:
    clips = tiny(tmp_path / "clips", 10_000)
    config = ShardConfig(size=16, per_shard=50)
    write_shards([clips], tmp_path / "whole", config=config, progress=False)
    assert killed_parts(clips, tmp_path / "out", 8, config, kills=6, seed=2, step=12) >= 5
    index = all_parts_and_merge(clips, tmp_path / "out", 8, config)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    told = [*index.sources, *(skip.source for skip in index.skipped)]
    assert sorted(told) == [f"{n:05d}.mkv" for n in range(10_000)] and len(index.skipped) == 1000


def test_parts_that_start_at_once_agree(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    clips, expected = whole
    children = [begun(lambda n=n: part(clips, tmp_path / "out", n, 4)) for n in (1, 2, 3, 4, 2)]  # type: ignore[misc]
    assert [ended(child) for child in children] == [0] * 5
    merge_shards([clips], tmp_path / "out", config=CONFIG, progress=False)
    assert contents(tmp_path / "out") == expected


def test_of_many_that_claim_a_folder_the_first_wins(tmp_path: Path) -> None:
    jobs.write_text(tmp_path / "a", "first", first=True)
    jobs.write_text(tmp_path / "a", "second", first=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]
    jobs.write_text(tmp_path / "a", "third")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["third"]


def test_a_part_writes_its_shards_and_no_index(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    clips, _ = whole
    done = write_part([clips], tmp_path / "out", 2, 4, config=CONFIG, progress=False)
    assert (done.shards, done.total, done.samples, done.skipped) == (4, 15, 15, 1)
    assert "part 2 of 4 is done: 4 of 15 shards, 15 samples, 1 video skipped" in done.describe()
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.jsonl")) == [
        f"shard-0000{n:02}" for n in (1, 5, 9, 13)
    ]
    with pytest.raises(UserError, match=r"not finished \(4 of 15 shards are there\); give the commands of its parts"):
        Index.load(tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if "part" not in path.name}
    assert write_part([clips], tmp_path / "out", 2, 4, config=CONFIG, progress=False) == done
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}


def test_merging_names_what_is_missing_and_who_makes_it(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    clips, expected = whole
    with pytest.raises(UserError, match=r"holds no parts to be merged; make them with --part"):
        merge_shards([clips], tmp_path / "out", config=CONFIG, progress=False)
    for number in (1, 3, 4):
        part(clips, tmp_path / "out", number, 4)
    (tmp_path / "out" / "shard-000002.tar").unlink()
    (tmp_path / "out" / "shard-000003.jsonl").unlink()
    os.truncate(tmp_path / "out" / "shard-000004.tar", 512)
    with pytest.raises(UserError, match=r"lacks 7 of 15 shards.*: shard-000001, shard-000002, shard-000003") as caught:
        merge_shards([clips], tmp_path / "out", config=CONFIG, progress=False)
    assert "--part 1/4 (1 of them), --part 2/4 (4 of them), --part 3/4 (1 of them), --part 4/4" in str(caught.value)
    assert not (tmp_path / "out" / "index.json").exists()
    (tmp_path / "out" / "config.json").rename(tmp_path / "kept")
    (tmp_path / "out" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json is damaged; choose another --out"):
        merge_shards([clips], tmp_path / "out", config=CONFIG, progress=False)
    (tmp_path / "kept").rename(tmp_path / "out" / "config.json")
    all_parts_and_merge(clips, tmp_path / "out", 4, CONFIG)
    assert contents(tmp_path / "out") == expected


def test_merging_finds_what_is_double_foreign_or_made_from_other_files(
    whole: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    clips, expected = whole
    shutil.copytree(clips, tmp_path / "clips")
    out = tmp_path / "out"
    part(tmp_path / "clips", out, 1, 1)

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            merge_shards([tmp_path / "clips"], out, config=CONFIG, progress=False)

    (out / "shard-000099.tar").write_bytes(b"")
    refused("holds shard-000099.tar, which is none of its 15 shards; move it away")
    (out / "shard-000099.tar").unlink()
    sidecar = out / "shard-000001.jsonl"
    text = sidecar.read_text()
    sidecar.write_text(text.replace("00005.mkv", "00004.mkv"))
    refused(r"shard-000001\.jsonl is not right \(00005\.mkv is told of 0 times\); delete shard-000001")
    sidecar.write_text(text.replace('"key": "00005"', '"key": "00001"'))
    refused("holds the key 00001 2 times")
    sidecar.write_text(text)
    with (tmp_path / "clips" / "00007.mkv").open("ab") as file:
        file.write(b"\xec\x80")
    refused(r"lacks 1 of 15 shards, or they were made from other files: shard-000001; give the command again without")
    shutil.copy(clips / "00007.mkv", tmp_path / "clips")
    merge_shards([tmp_path / "clips"], out, config=CONFIG, progress=False)
    assert contents(out) == expected


def test_machines_that_see_other_files_are_told_so(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    clips, _ = whole
    part(clips, tmp_path / "out", 1, 2)
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "00059.mkv").unlink()
    with pytest.raises(UserError, match=r"made from another list of videos \(60 of them, now 59"):
        part(tmp_path / "clips", tmp_path / "out", 2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "3"], "must be I/N, as in 3/8, not 3"),
        (["--part", "1/2", "--merge"], "not allowed with"),
    ],
)
def test_the_command_refuses_parts_that_cannot_be(
    words: list[str],
    message: str,
    whole: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["shard", str(whole[0]), "--out", str(tmp_path / "o"), *words])
    assert message in capsys.readouterr().err
    assert main(["shard", str(whole[0]), "--out", str(tmp_path / "o"), "--part", "4/3"]) == 2
    assert "part must be I/N with 1 <= I <= N, not 4/3" in capsys.readouterr().err


def test_a_part_tells_rate_and_time_left(
    whole: tuple[Path, dict[str, bytes]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            ["shard", str(whole[0]), "--out", str(tmp_path / "o"), "--size", "16", "--per_shard", "4", "--part", "1/3"]
        )
        == 0
    )
    said = capfd.readouterr()
    assert "shard 1/3: 100%" in said.err and "20/20" in said.err and "video/s" in said.err
    assert "give the command with --merge" in said.out


def grown(clips: Path, out: Path, count: int, config: ShardConfig) -> list[float]:
    """MB of this process after each of `count` shards."""
    sizes: list[float] = []
    write = jobs.write_text

    def watch(path: Path, text: str, **how: bool) -> None:
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        write(path, text, **how)

    jobs.write_text = watch  # type: ignore[assignment]
    try:
        write_shards([clips], out, config=config, progress=False)
    finally:
        jobs.write_text = write
    assert len(sizes) == count
    return sizes


without_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the resident size")


@without_proc
def test_memory_stays_flat_over_hundreds_of_files(tmp_path: Path) -> None:
    sizes = grown(tiny(tmp_path / "clips", 300), tmp_path / "out", 30, ShardConfig(size=16, per_shard=10))
    assert sizes[-1] - sizes[5] < 8, sizes


# measured on two shared cores: 41 s
@without_proc
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_over_ten_thousand_files(tmp_path: Path) -> None:
    sizes = grown(tiny(tmp_path / "clips", 10_000), tmp_path / "out", 200, ShardConfig(size=16, per_shard=50))
    assert sizes[-1] - sizes[10] < 30, sizes


@pytest.mark.slow  # 30 s: a cluster starts, and its workers import torch
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_writes_the_shards_of_one_run(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    clips, expected = whole
    try:
        write_part([clips], tmp_path / "out", 1, 2, config=CONFIG, progress=False, engine="ray")
        (tmp_path / "out" / "shard-000003.tar" / "in the way").mkdir(parents=True)
        with pytest.raises(UserError, match=r"cannot write .*shard-000003\.tar"):
            write_shards([clips], tmp_path / "out", config=CONFIG, progress=False, engine="ray")
        shutil.rmtree(tmp_path / "out" / "shard-000003.tar")
        write_shards([clips], tmp_path / "out", config=CONFIG, progress=False, engine="ray")
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == expected


def test_without_ray_its_engine_says_what_to_install(
    whole: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'needs Ray: pip install "hicmae\[ray\]"'):
        write_shards([whole[0]], tmp_path / "out", config=CONFIG, progress=False, engine="ray")


def test_the_slurm_script_divides_the_work_and_merges_last(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("hicmae", "sbatch"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_JOB_ID": "99", "SLURM_CPUS_PER_TASK": "8"}

    def said(script: str, words: list[str], **more: str) -> list[str]:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm, **more}
        command = ["bash", str(root / script), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    def task(number: int, **more: str) -> list[str]:
        words = ["out", "my videos", "--size", "96"]
        return said("datasets/shard.slurm.sh", words, SLURM_ARRAY_TASK_ID=str(number), **more)

    assert task(3) == ["hicmae shard my videos --size 96 --out out --part 3/4 --workers 8"]
    assert task(7, PARTS="128") == ["hicmae shard my videos --size 96 --out out --part 7/128 --workers 8"]
    merge, first = task(1)
    assert merge.startswith("sbatch --array=1 ") and "--dependency=afterok:99" in merge and "MERGE=1" in merge
    assert merge.endswith("out my videos --size 96") and first.endswith("--part 1/4 --workers 8")
    assert task(1, MERGE="1") == ["hicmae shard my videos --size 96 --out out --merge"]
    (submitted,) = said("pretrain/shard_voxceleb2.slurm.sh", ["root", "out", "--partition=cpu"])
    assert submitted.startswith("sbatch --array=1-256 --partition=cpu ")
    assert submitted.endswith("shard.slurm.sh out --card voxceleb2 --root root --box [32,0,160,160] --size 160")
