"""Tracks that somebody already has, in the three forms they come in, and how they are wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.faces import CropConfig
from hicmae.datasets.faces.boxes import read_tracks, track_files
from hicmae.datasets.faces.tracks import Track

TIMES = np.arange(50) / 25
VOXCELEB = "Identity  : \tid00012\nReference : \tabc\nOffset : \t-5\n\nFRAME \tX \tY \tW \tH \n"


def read(path: Path, text: str) -> list[Track]:
    path.write_text(text, encoding="utf-8")
    return read_tracks([path], TIMES, (200, 100), CropConfig())


def openface(success: int = 1) -> str:
    names = [f"{axis}_{k}" for axis in "xy" for k in range(68)]
    header = ", ".join(["frame", "face_id", "timestamp", "confidence", "success", *names])
    marks = np.zeros((68, 2))
    marks[36:42], marks[42:48], marks[30], marks[48], marks[54] = (70, 40), (90, 42), (80, 52), (72, 60), (88, 61)
    cells = ", ".join(f"{value:.1f}" for value in marks.T.ravel())
    return "\n".join([header, *(f"{n + 1}, 0, {n / 25:.3f}, 0.98, {success}, {cells}" for n in range(50))]) + "\n"


def test_boxes_by_frame_or_by_time_of_one_person_or_several(tmp_path: Path) -> None:
    rows = "".join(f"{n},20,10,40,54\n" for n in range(10, 40))
    (one,) = read(tmp_path / "a.csv", "frame,left,top,width,height\n" + rows)
    assert one.frames == list(range(10, 40)) and one.boxes[0].tolist() == [20, 10, 60, 64]
    eyes = one.points[0][:2]
    assert eyes[:, 1] == pytest.approx([30.8, 30.8], abs=0.1) and eyes.mean(0)[0] == pytest.approx(40)
    rows = "".join(f"{n / 25:.3f},{person},{20 + 90 * person},10,40,40\n" for n in range(40) for person in (0, 1))
    tracks = read(tmp_path / "b.csv", "time,person,left,top,width,height\n" + rows)
    assert [track.frames for track in tracks] == [list(range(40))] * 2
    assert sorted(track.boxes[0][0] for track in tracks) == [20, 110]


def test_voxcelebs_rows_are_shares_of_the_picture_at_25_per_second(tmp_path: Path) -> None:
    rows = "".join(f"{n:06d} \t0.300 \t0.200 \t0.200 \t0.500 \n" for n in range(5, 20))
    (track,) = read(tmp_path / "00001.txt", VOXCELEB + rows)
    assert track.frames == list(range(5, 20)) and track.boxes[0].tolist() == pytest.approx([60, 20, 100, 70])


def test_openfaces_landmarks_give_the_eyes(tmp_path: Path) -> None:
    (track,) = read(tmp_path / "a.csv", openface())
    assert track.frames == list(range(50))
    assert track.points[0].tolist() == [[70, 40], [90, 42], [80, 52], [72, 60], [88, 61]]
    assert read(tmp_path / "b.csv", openface(success=0)) == []


def test_files_are_found_by_the_videos_name(tmp_path: Path) -> None:
    (tmp_path / "id1" / "abc").mkdir(parents=True)
    for name in ("id1/abc/00001.txt", "id1/abc/00002.txt", "id1/other.csv", "id1/abc/notes.md"):
        (tmp_path / name).write_text("")
    assert [path.name for path in track_files(tmp_path, "id1/abc.mp4")] == ["00001.txt", "00002.txt"]
    assert [path.name for path in track_files(tmp_path, "id1/other.mkv")] == ["other.csv"]
    assert track_files(tmp_path, "id2/x.mp4") == []
    assert track_files(tmp_path / "id1" / "other.csv", "whatever.mp4") == [tmp_path / "id1" / "other.csv"]
    with pytest.raises(UserError, match=r"crop\.tracks: .*gone does not exist"):
        track_files(tmp_path / "gone", "a.mp4")


HEAD = "frame,left,top,width,height\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"a\.csv:1: has no column frame or time, left, top, width, height \(there are none\)"),
        ("frame,left,top,right,bottom\n", r"a\.csv:1: has no column width, height"),
        (HEAD + "0,1,2,3,4\n1,1,x,3,4\n", r"a\.csv:3: column top holds 'x', not a number"),
        (HEAD + "0,1,2,3\n", r"a\.csv:2: column height holds nothing"),
        (HEAD + "0,1,2,nan,4\n", r"a\.csv:2: column width holds 'nan'"),
        (HEAD + "0,1,2,0,4\n", r"a\.csv:2: the box is 0 wide and 4 high"),
        (HEAD + "77,1,2,3,4\n", r"frame 77 is not in the video, which has 50"),
        (VOXCELEB + "000001 0.1 0.1\n", r"a\.csv:6: column width holds nothing"),
        (openface() + "51, 0, 2.0, 0.9, 1\n", r"a\.csv:52: column x_0 holds nothing"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_line_and_column(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path / "a.csv", text)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.csv is not UTF-8 text \(byte 0\)"):
        read_tracks([tmp_path / "a.csv"], TIMES, (200, 100), CropConfig())


@settings(max_examples=80, deadline=None)
@given(
    head=st.sampled_from([HEAD, VOXCELEB, "time,left,top,width,height\n"]),
    body=st.text("0123456789.,-ein \n\t\"'", max_size=80),
)
def test_whatever_a_file_holds_it_is_read_or_refused(
    head: str, body: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        tracks = read(tmp_path_factory.mktemp("fuzz") / "a.csv", head + body)
    except UserError as error:
        assert "a.csv" in str(error)
    else:
        assert all(0 <= n < 50 for track in tracks for n in track.frames)
