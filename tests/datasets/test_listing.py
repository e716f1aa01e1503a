"""Files, folders and lists are found whole, and what is wrong with a list is said line by line."""

import csv
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import find_videos, is_list, keys_of, read_list
from tests.media_files import video


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_videos_are_found_by_name_or_content_and_others_are_counted(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/deep/c.MKV", "a/.hidden.mp4", ".cache/x.mp4"):
        write(tmp_path / name, "content does not matter yet")
    video(tmp_path / "a" / "plain.mkv").rename(tmp_path / "a" / "nameless")
    write(tmp_path / "notes.txt", "text")
    os.mkfifo(tmp_path / "queue")
    items, others = find_videos([tmp_path])
    assert [item.source for item in items] == ["a/deep/c.MKV", "a/nameless", "b.mp4"] and others == 2


def test_sound_and_pictures_lie_beside_videos_and_are_not_looked_into(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.m4a", "a.wav", "a/1.jpg", "b.flv"):
        write(tmp_path / name, "")
    video(tmp_path / "c.mkv").rename(tmp_path / "c.png")
    items, others = find_videos([tmp_path])
    assert [item.source for item in items] == ["a.mp4", "b.flv"] and others == 4


def test_sources_do_not_depend_on_where_the_data_lies(tmp_path: Path) -> None:
    for root in ("here", "there/deeper"):
        for name in ("x/1.mp4", "y/2.mp4"):
            write(tmp_path / root / name, "")
    found = [[i.source for i in find_videos([tmp_path / root])[0]] for root in ("here", "there/deeper")]
    assert found[0] == found[1] == ["x/1.mp4", "y/2.mp4"]
    single, _ = find_videos([tmp_path / "here/y/2.mp4", tmp_path / "here/x"])
    assert [item.source for item in single] == ["x/1.mp4", "y/2.mp4"]


def test_links_to_files_and_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.mp4", "")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "b.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    (root / "circle").symlink_to(root)
    assert [item.source for item in find_videos([root])[0]] == ["b.mp4", "linked/a.mp4"]


def test_the_uppermost_folder_becomes_the_label(tmp_path: Path) -> None:
    for name in ("happy/a.mp4", "sad/actor1/b.mp4"):
        write(tmp_path / name, "")
    assert [item.label for item in find_videos([tmp_path], labels="folder")[0]] == ["happy", "sad"]
    write(tmp_path / "c.mp4", "")
    with pytest.raises(UserError, match=r"c\.mp4 lies in no class folder"):
        find_videos([tmp_path], labels="folder")


def test_an_input_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        find_videos([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no inputs"):
        find_videos([])


def test_keys_are_plain_unique_and_stable() -> None:
    sources = ["a/1.mp4", "a/1.mkv", "A/1.MKV", "a-1.mp4", "b.mp4", "v1.2/x.mp4", "лицо.mp4", "my clip.mp4", "..mp4"]
    keys = keys_of([*sources, "long/" * 40 + "z.mp4"])
    assert len({key.lower() for key in keys}) == len(keys)
    assert all(key and "." not in key and "/" not in key and key.isascii() and len(key) < 80 for key in keys)
    assert keys[4] == "b" and keys_of(["b.mp4", "лицо.mp4"]) == [keys[4], keys[6]]


def test_a_csv_list_brings_labels_groups_and_own_columns(tmp_path: Path) -> None:
    text = '\ufeffpath,label,group,fold\n"b, c.mp4",sad,p2,1\n\na.mp4,happy,p1,2\n'
    items, problems = read_list(write(tmp_path / "list.csv", text))
    assert problems == []
    assert [(i.source, i.label, i.group, i.extra, i.line) for i in items] == [
        ("a.mp4", "happy", "p1", {"fold": "2"}, 4),
        ("b, c.mp4", "sad", "p2", {"fold": "1"}, 2),
    ]
    assert items[0].path == tmp_path / "a.mp4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clips/a.mp4 0\nclips/b.mp4 3\n", [("clips/a.mp4", "0"), ("clips/b.mp4", "3")]),
        ("my clips/a b.mp4 happy\r\n", [("my clips/a b.mp4", "happy")]),
        ("clips/a b.mp4\nclips/c.mp4\n", [("clips/a b.mp4", None), ("clips/c.mp4", None)]),
        ("one.mp4", [("one.mp4", None)]),
    ],
)
def test_the_published_list_form_is_read(tmp_path: Path, text: str, expected: list[tuple[str, str | None]]) -> None:
    items, problems = read_list(write(tmp_path / "list.txt", text))
    assert not problems and [(item.source, item.label) for item in items] == expected


def test_paths_of_a_list_start_from_its_folder_or_a_given_one(tmp_path: Path) -> None:
    listed = write(tmp_path / "lists" / "a.csv", f"path\nx/1.mp4\n{tmp_path}/lists/y.mp4\n")
    assert [item.source for item in read_list(listed)[0]] == ["x/1.mp4", "y.mp4"]
    other, _ = read_list(listed, tmp_path / "data")
    assert {item.path for item in other} == {tmp_path / "data/x/1.mp4", tmp_path / "lists/y.mp4"}
    assert [item.source for item in other] == ["data/x/1.mp4", "lists/y.mp4"]


def test_every_wrong_line_is_named_with_its_remedy(tmp_path: Path) -> None:
    listed = write(tmp_path / "l.csv", "path,label\na.mp4,x\n,y\nb.mp4\na.mp4,x\n./a.mp4,y\nc.mp4,\nd.mp4,x,y\n")
    items, problems = read_list(listed)
    assert [item.source for item in items] == ["a.mp4"]
    assert [problem.line for problem in problems] == [3, 4, 5, 6, 7, 8]
    words = ["names no file", "1 columns", "again (first in line 2)", "again", "no label", "3 columns"]
    for problem, word in zip(problems, words, strict=True):
        assert word in problem.reason and problem.remedy
    assert str(problems[0]).startswith(f"{listed}:3: names no file; ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"file,label\na.mp4,x\n", "no column is called `path` .there are file, label"),
        ("é".encode("latin-1") * 9, "is not UTF-8 text"),
        (b"path\n" + b"a" * 200_000, "is no csv file that can be read .field larger than"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_in_words(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_list(path)


def test_a_list_is_told_from_a_video(tmp_path: Path) -> None:
    assert is_list(write(tmp_path / "a.csv", "path\n")) and is_list(write(tmp_path / "a.lst", "a.mp4 0"))
    assert not is_list(write(tmp_path / "a.mp4", "path\n")) and not is_list(video(tmp_path / "b.mkv"))
    assert not is_list(tmp_path) and not is_list(tmp_path / "none.csv")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5, unique_by=lambda row: row[0].strip().lower()))
@example(
    rows=[('my "best", clip.mp4', "it's"), ("'; drop\ttable", "0"), ("лицо 顔 é.mp4", "radość"), ("#a.mp4", "path")]
)
def test_quotes_blanks_commas_and_other_alphabets_come_through_a_list(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    items, problems = read_list(tmp_path / "list.csv")
    told = {(item.path, item.label) for item in items}
    for name, label in rows:
        path = Path(os.path.normpath(tmp_path / name.strip()))
        assert (path, label.strip()) in told or problems or not name.strip()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=80) | st.text(max_size=60).map(lambda text: f"path,label\n{text}".encode()))
def test_any_bytes_are_a_list_or_refused_in_words(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(raw)
    try:
        items, problems = read_list(tmp_path / "list.csv")
    except UserError as error:
        assert "list.csv" in str(error)
        return
    assert all(item.source and item.line for item in items) and all(problem.line for problem in problems)
