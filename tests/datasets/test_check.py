"""The check says before any training what would stop it, naming file, line and remedy."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets import check as module
from hicmae.datasets import sheet
from hicmae.datasets.check import Report
from hicmae.datasets.index import Index
from hicmae.datasets.shards import ShardConfig, write_shards
from tests.media_files import BAD, ODD, video


def check(path: Path, **how: object) -> Report:
    return module.check(path, progress=False, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("name", [name for name in BAD if name not in ("missing", "broken link", "folder")])
def test_a_bad_video_is_a_problem_with_reason_and_remedy(tmp_path: Path, name: str, thorough: bool) -> None:
    maker, reason = BAD[name]
    report = check(maker(tmp_path), thorough=thorough)
    (problem,) = report.problems
    assert not report.ok and report.kind == "video" and problem.reason.startswith(reason) and problem.remedy
    assert str(problem) in str(report) and "1 problem:" in str(report)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_but_whole_video_is_no_problem(tmp_path: Path, name: str) -> None:
    report = check(ODD[name](tmp_path))
    assert report.ok and report.summary["usable"] == 1 and str(report).endswith("no problems")


def test_damage_inside_is_found_by_reading_all(tmp_path: Path) -> None:
    data = bytearray(video(tmp_path / "a.mp4", frames=50).read_bytes())
    at = data.index(b"mdat") + 2000
    data[at : at + 600] = bytes(600)
    (tmp_path / "a.mp4").write_bytes(data)
    assert not check(tmp_path / "a.mp4").ok


def test_a_folder_is_summed_up(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    video(tmp_path / "deep" / "b.mkv", frames=24, sound=False)
    BAD["cut mp4"][0](tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    report = check(tmp_path)
    assert report.kind == "folder" and [problem.path for problem in report.problems] == [str(tmp_path / "cut.mp4")]
    summary = report.summary
    assert (summary["videos"], summary["usable"], summary["with sound"], summary["other files"]) == (3, 2, 1, 1)
    assert summary["frame rate"] == {"25": 2} and summary["picture"] == {"64x48": 2}
    assert summary["coded as"] == {"h264 in mov": 1, "h264 in matroska": 1}
    (tmp_path / "empty").mkdir()
    assert "holds no video (0 other files)" in str(check(tmp_path / "empty"))


def test_a_list_is_checked_line_by_line(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    BAD["cut mkv"][0](tmp_path)
    lines = ["path,label,group", "a.mp4,happy,p1", "gone.mp4,sad,p2", "cut.mkv,sad,p2", "a.mp4,sad,p1", "b.mp4"]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(lines) + "\n")
    report = check(listed)
    assert report.kind == "list" and [problem.line for problem in report.problems] == [3, 4, 5, 6]
    text = str(report)
    for words in (
        f"{listed}:3: names {tmp_path}/gone.mp4, which does not exist; check the path",
        f"{listed}:4: names {tmp_path}/cut.mkv, which is cut off",
        f"{listed}:5: names a.mp4 again (first in line 2); keep one",
        f"{listed}:6: has 1 columns where the header has 3",
    ):
        assert words in text
    assert report.summary["classes"] == {"happy": 1, "sad": 2} and report.summary["groups"] == 2


def test_shards_are_hashed_and_the_damaged_sample_named(shards: Index, tmp_path: Path) -> None:
    report = check(shards.folder)
    assert report.ok and report.kind == "shards"
    assert report.summary["samples"] == 26 and report.summary["classes"] == {"happy": 13, "sad": 13}
    shutil.copytree(shards.folder, tmp_path / "copy")
    tar = tmp_path / "copy" / "shard-000002.tar"
    data = bytearray(tar.read_bytes())
    data[int(shards.offset[10]) + 600] ^= 1
    tar.write_bytes(data)
    assert check(tmp_path / "copy", thorough=False).ok
    (problem,) = check(tmp_path / "copy").problems
    assert f"is damaged (in 1 of 4 samples: {shards.keys[10]})" in str(problem) and "shard-000002" in problem.remedy


def test_every_missing_or_foreign_shard_is_named(shards: Index, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards.folder, copy)
    (copy / "shard-000001.tar").unlink()
    (copy / "shard-000002.jsonl").unlink()
    shutil.copy(copy / "shard-000003.jsonl", copy / "shard-000004.jsonl")
    text = str(check(copy))
    assert "3 problems:" in text and f"{copy}/shard-000001.tar is missing; copy it again" in text
    assert f"{copy}/shard-000002.jsonl is missing" in text
    assert f"{copy}/shard-000004.jsonl does not belong to the index.json beside it" in text
    (copy / "index.json").unlink()
    assert "is not finished" in str(check(copy))


def test_skipped_videos_are_told_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    video(tmp_path / "data" / "a.mp4", frames=3)
    BAD["text"][0](tmp_path / "data")
    write_shards([tmp_path / "data"], tmp_path / "out", config=ShardConfig(size=16), progress=False)
    report = check(tmp_path / "out")
    assert report.ok and report.summary["skipped videos"] == 1
    assert "skipped text.mp4: it is not a video that can be read (it is text)" in str(report)


def test_many_problems_are_shortened_but_counted(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{n}.mp4\n" for n in range(60)))
    text = str(check(tmp_path / "list.csv"))
    assert "60 problems:" in text and "… and 20 more" in text and len(text.splitlines()) < 60


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three videos, one of them without sound, two skipped and one damaged afterwards."""
    root = tmp_path_factory.mktemp("spoilt")
    for n in range(4):
        video(root / "in" / f"{n}.mp4", frames=30, seed=n, sound=n != 1)
    BAD["text"][0](root / "in")
    BAD["cut mp4"][0](root / "in")
    index = write_shards([root / "in"], root / "out", config=ShardConfig(size=48), progress=False)
    tar = root / "out" / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[int(index.offset[3]) + 700] ^= 1
    tar.write_bytes(data)
    return root / "out"


def test_a_page_shows_every_clip_what_was_skipped_and_what_is_wrong(spoilt: Path, tmp_path: Path) -> None:
    report = check(spoilt, html=tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert f"page: {tmp_path}/new/page.html" in str(report) and not report.ok
    assert page.count('<section class="card">') == 4 and page.count("data:image/jpeg") == 3
    assert page.count('aria-label="waveform"') == page.count("data:image/png") == 2  # one has no sound, one is damaged
    assert page.count('aria-label="crop in the source"') == 3
    for words in ("no sound", "cannot be read: its bytes", "is damaged (in 1 of 4 samples", "text.mp4", "cut.mp4"):
        assert words in page, words
    for title in ("Length", "Frame rate", "Loudness", "Face size", "Sharpness", "Videos by reason"):
        assert title in page
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|<link", page)  # nothing is fetched, nothing runs


def test_shards_are_compared_with_what_is_known_of_other_data(spoilt: Path, tmp_path: Path) -> None:
    eyes = {"eye_distance": [0.3, 0.3, 0.3], "eye_height": [0.3, 0.3, 0.3]}
    notes = check(spoilt, like={**eyes, "loudness": [-3.0, -2.0, -1.0]}, thorough=False).notes
    assert any(re.match(r"loudness -\d+.\d dBFS here, -3.0 dBFS to -1.0 dBFS there", note) for note in notes)
    assert "the eyes of these shards were not measured" in notes[-1]  # there are no faces in them
    assert "nothing that was measured of both differs" in check(spoilt, like=eyes, thorough=False).notes
    video(tmp_path / "a.mp4")
    for how in ({"html": tmp_path / "a.html"}, {"like": eyes}):
        with pytest.raises(UserError, match="is no folder of shards, and only those are drawn"):
            check(tmp_path / "a.mp4", **how)


def test_the_command_draws_and_compares(shards: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["check", str(shards.folder), "--html", str(page), "--like", str(shards.folder)]) == 0
    assert "nothing that was measured of both differs" in capsys.readouterr().out and page.is_file()
    assert main(["check", str(shards.folder), "--like", "mae_dfer_base"]) == 2
    assert "mae_dfer_base: does not say what its data measure" in capsys.readouterr().err


def test_nothing_to_check_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        check(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("crop", "eye_height", "corners"),
    [
        ({"picture": [200, 100], "box": [60, 10, 80, 80]}, None, "60,10 140,10 140,90 60,90"),
        ({"picture": [200, 100], "path": [[100, 40, 0, 80]]}, 0.25, "60,20 140,20 140,100 60,100"),
        (
            {"picture": [200, 100], "path": [[0, 0, 0, 9], [100, 40, 90, 80], [9, 9, 0, 9]]},
            0.25,
            "120,0 120,80 40,80 40,0",
        ),
        ({"picture": [100, 100], "box": [0, 0, 100, 100]}, None, ""),
        ({}, None, ""),
    ],
)
def test_the_outline_shows_where_the_crop_was(crop: dict[str, Any], eye_height: float | None, corners: str) -> None:
    drawing = sheet._where(crop, eye_height)
    assert (f'<polygon points="{corners}"' in drawing) if corners else drawing == ""
