"""Annotations of a person's copy, official or listed, become labels, groups and folds; what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.cards import load
from hicmae.datasets.corpora import compare, inputs, read_corpus
from hicmae.datasets.listing import Item
from tests.datasets.corpora_trees import touch


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def told(items: list[Item]) -> list[tuple[Any, ...]]:
    return [(item.source, item.label, item.group, item.extra) for item in items]


def folds(tests: dict[str, list[str]], path: str, line: str = "{} {}", head: str = "") -> dict[str, str]:
    """Texts of the training and test lists of five folds, `tests` being fold -> "clip label" of its test part."""
    files = {}
    for fold in "12345":
        for role in ("train", "test"):
            rows = [row for k, part in tests.items() for row in part if (k == fold) == (role == "test")]
            text = "".join(line.format(*row.split(" ", 1)) + "\n" for row in rows)
            files[path.format(fold=fold, role=role)] = head + text
    return files


DFEW = "EmoLabel_DataSplit/{role}(single-labeled)/set_{fold}.csv"
MAFW = "Train & Test Set/single/no_caption/set_{fold}/{role}.txt"
SINGLE = {"1": ["00001.mp4 anger"], "2": ["00002.mp4 helplessness"], "3": ["00003.mp4 neutral"], "4": [], "5": []}


def dfew(root: Path) -> Path:
    tests = {"1": ["1 3", "2 1"], "2": ["3 7"], "3": ["16372 6"], "4": ["5 2"], "5": ["6 5"]}
    for name, text in folds(tests, DFEW, "{},{}", "video_name,label\n").items():
        write(root / name, text)
    return touch(root, [*(f"Clip/jpg_256/{n:05d}/1.jpg" for n in (1, 2, 3, 5, 16372)), "Clip/original/6.mp4"])


def test_dfew_is_read_from_its_official_files(tmp_path: Path) -> None:
    items = read_corpus("dfew", dfew(tmp_path)).items
    assert told(items) == [
        ("Clip/jpg_256/00001", "neutral", None, {"fold": "1"}),
        ("Clip/jpg_256/00002", "happy", None, {"fold": "1"}),
        ("Clip/jpg_256/00003", "fear", None, {"fold": "2"}),
        ("Clip/jpg_256/00005", "sad", None, {"fold": "4"}),
        ("Clip/jpg_256/16372", "disgust", None, {"fold": "3"}),
        ("Clip/original/6.mp4", "surprise", None, {"fold": "5"}),
    ]
    assert "none: clip-level" in str(compare("dfew", tmp_path))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "test(single-labeled)/set_2.csv",
            "video_name",
            "clip",
            r"set_2\.csv has no column video_name \(there are clip",
        ),
        ("test(single-labeled)/set_2.csv", "3,7", "3,8", r"set_2\.csv:2: has the label 8; known are 1, 2"),
        ("test(single-labeled)/set_2.csv", "3,7", "3,7,1", r"set_2\.csv:2: has 3 columns where the header has 2"),
        ("test(single-labeled)/set_2.csv", "3,7", "1,3", r"set_2\.csv:2: is 00001 again"),
        ("train(single-labeled)/set_2.csv", "1,3", "3,7", r"train.*set_2\.csv:\d: trains on 3, which 2 tests"),
        ("train(single-labeled)/set_2.csv", "1,3", "1,4", r"says 4 of 1, where set_1\.csv:2 says 3"),
        ("train(single-labeled)/set_2.csv", "1,3", "1" * 200_000, r"train.*set_2\.csv is no csv file that can be read"),
        ("train(single-labeled)/set_2.csv", "1,3\n", "", r"lacks 1 clips that other folds test"),
    ],
)
def test_wrong_official_files_are_named_line_by_line(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = dfew(tmp_path) / "EmoLabel_DataSplit" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        inputs("dfew", tmp_path)


def test_a_missing_annotation_says_which_file_was_expected(tmp_path: Path) -> None:
    for name, file in (("dfew", "set_1.csv"), ("ferv39k", "train_All.csv"), ("mafw", "train.txt")):
        with pytest.raises(UserError, match=rf"{file} cannot be read \(No such file.*--root"):
            read_corpus(name, tmp_path)
    with pytest.raises(UserError, match=r"holds no annotations\.csv; msp_improv expects: annotations\.csv"):
        read_corpus("msp_improv", tmp_path)
    with pytest.raises(UserError, match="is no folder; give the folder of your copy of DFEW"):
        read_corpus("dfew", tmp_path / "nowhere")


def test_ferv39k_has_one_split_and_two_orders(tmp_path: Path) -> None:
    lists = tmp_path / "4_setups" / "All_scenes"
    write(lists / "train_All.csv", "Action/Happy/0001 Happy\nAction/Angry/0002 Angry\n")
    write(lists / "test_All.csv", "Crisis/Fear/0003 Fear\n")
    touch(tmp_path, [f"2_ClipsforFaceCrop/{name}/1.jpg" for name in ("Action/Happy/0001", "Crisis/Fear/0003")])
    found = read_corpus("ferv39k", tmp_path)
    assert [(item.label, item.extra["split"]) for item in found.items] == [
        ("angry", "train"),
        ("happy", "train"),
        ("fear", "test"),
    ]
    assert [item.trouble is None for item in found.items] == [False, True, True]
    report = compare("ferv39k", tmp_path)
    assert any("0002 does not exist" in str(problem) for problem in report.problems) and not report.ok
    card = load("ferv39k").variant()
    (other,) = card.orders
    assert other.labels[:3] == ("angry", "disgust", "fear") and card.labels[:3] == ("happy", "sad", "neutral")


def test_mafw_has_single_labels_with_and_without_sound_and_compound_ones_from_lists(tmp_path: Path) -> None:
    for name, text in folds(SINGLE, MAFW).items():
        write(tmp_path / name, text)
    frames = [f"data/frames/0000{n}/1.png" for n in (1, 2, 3)]
    touch(tmp_path, [*frames, "data/audio_16k/00001.wav", "data/audio_16k/00003.wav"])
    found = read_corpus("mafw", tmp_path)
    assert [(item.label, item.extra["fold"]) for item in found.items] == [("anger", "1"), ("neutral", "3")]
    assert found.left_out == {"it has no sound file": ["data/frames/00002"]}
    assert len(read_corpus("mafw", tmp_path, "11class_video").items) == 3
    for name, text in folds({"1": ["00001.mp4 42"], "2": ["00002.mp4 0"]}, "split0{fold}/{role}.csv").items():
        write(tmp_path / name, text)
    assert [item.label for item in read_corpus("mafw", tmp_path, "43class").items] == ["42", "0"]
    write(tmp_path / "split01/test.csv", "00001.mp4 43\n")
    with pytest.raises(UserError, match=r"split01/test\.csv:1: has the label 43; known are 0, 1"):
        inputs("mafw", tmp_path, "43class")


def test_iemocap_joins_excited_to_happy_and_takes_clips_by_name(tmp_path: Path) -> None:
    lines = [
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]",
        "",
        "[6.2901 - 8.2357]\tSes02F_impro01_F000\texc\t[2.5000, 2.5000, 2.5000]",
        "C-E2:\tNeutral;\t()",
        "[9.0000 - 9.9000]\tSes02F_impro01_M000\tfru\t[2.5000, 2.5000, 2.5000]",
        "[10.0000 - 11.0000]\tSes02F_impro01_M001\tang\t[1.0000, 4.0000, 4.0000]",
    ]
    write(tmp_path / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt", "\n".join(lines) + "\n")
    wav = "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav"
    touch(tmp_path, ["clips/Ses02F_impro01_F000.mp4", "Session2/dialog/avi/DivX/Ses02F_impro01.avi", wav])
    found = read_corpus("iemocap", tmp_path)
    assert found.left_out == {"its label is none of 4class-perceived": ["Ses02F_impro01_M000"]}
    happy, angry = sorted(found.items, key=lambda item: item.label or "", reverse=True)
    assert (happy.label, happy.group, happy.extra, happy.sound) == ("happy", "iemocap-2", {"fold": "2"}, tmp_path / wav)
    assert angry.trouble is not None and angry.label == "angry"


@pytest.mark.parametrize(
    ("name", "header", "row", "expected"),
    [
        ("msp_improv", "path,label,group", "{},N,3", ("neutral", "msp_improv-3", {"fold": "3"})),
        ("msp_improv", "path,label,group", "{},2,session6", ("neutral", "msp_improv-session6", {"fold": "6"})),
        (
            "mer2023",
            "path,label,split,valence",
            "{},worried,test,-1.5",
            ("worried", None, {"split": "test", "valence": "-1.5"}),
        ),
        (
            "werewolf_xl",
            "path,arousal,valence,dominance,group",
            "{},2,-.75,0,30",
            (None, "werewolf_xl-30", {"arousal": "2", "valence": "-.75", "dominance": "0", "fold": "5"}),
        ),
        (
            "avcaffe",
            "path,arousal,valence,group,split",
            "{},3,1,aiim001,train",
            ("3", "avcaffe-aiim001", {"valence": "1", "split": "train", "task": "aiim001_task_1"}),
        ),
        (
            "first_impressions",
            "path,extraversion,neuroticism,agreeableness,conscientiousness,openness,split",
            "{},0,1,.5,.25,1e-1,validation",
            (None, None, None),
        ),
        ("csv", "path,label,mood", "{},x,fine", ("x", None, {"mood": "fine"})),
    ],
)
def test_a_list_with_named_columns_serves_where_no_official_form_is_known(
    tmp_path: Path, name: str, header: str, row: str, expected: tuple[Any, ...]
) -> None:
    clip = "clips/aiim001_task_1_0007.mp4"
    touch(tmp_path, [clip])
    write(tmp_path / "annotations.csv", f"{header}\n{row.format(clip)}\n")
    ((item,), config) = inputs(name, tmp_path)
    if expected != (None, None, None):
        assert (item.label, item.group, item.extra) == expected
    assert config.protocol == load(name).protocol(load(name).variant())
    without = header.rsplit(",", 1)[0]
    if name not in ("csv", "mer2023"):
        write(tmp_path / "annotations.csv", f"{without}\n{row.format(clip).rsplit(',', 1)[0]}\n")
        with pytest.raises(UserError, match=rf"annotations\.csv has no column {header.rsplit(',', 1)[1]}"):
            inputs(name, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,1,.5,.5,.5,1.01,train", r"csv:2: has openness 1\.01, which is out of range; the card says 0 to 1"),
        ("a.mp4,1,.5,.5,.5,nan,train", "has openness nan, which is out of range"),
        ("a.mp4,1,.5,.5,.5,high,train", "has openness high, which is no number"),
        ("a.mp4,1,.5,.5,.5,,train", r"has openness \(none\), which is no number"),
        ("a.mp4,1,.5,.5,.5,.5,dev", "has split dev, which the card does not know; known are train, validation, test"),
    ],
)
def test_traits_outside_their_range_are_named(tmp_path: Path, row: str, message: str) -> None:
    touch(tmp_path, ["a.mp4"])
    head = "path,extraversion,neuroticism,agreeableness,conscientiousness,openness,split\n"
    write(tmp_path / "annotations.csv", f"{head}{row}\n")
    with pytest.raises(UserError, match=message):
        inputs("first_impressions", tmp_path)


def test_published_lists_of_another_machine_are_read_with_sound_and_values(tmp_path: Path) -> None:
    touch(tmp_path, ["faces/my clip/1.jpg", "wav/my clip.wav", "faces/b/1.jpg"])
    tests = {"1": ["X 1"], "3": ["Y 2"]}
    texts = folds(tests, "split0{fold}/{role}.csv", "{}{}")
    for name, text in texts.items():
        text = text.replace("X1", "/home2/me/faces/my clip /home2/me/wav/my_clip.wav -0.25 1 -1.5")
        write(tmp_path / name, text.replace("my_clip", "my clip").replace("Y2", "/home2/me/faces/b 0.5 0 0"))
    # a blank inside the sound's path cannot be told from the one before it
    touch(tmp_path, ["wav/a.wav"])
    for name in texts:
        path = tmp_path / name
        path.write_text(path.read_text().replace("/home2/me/wav/my clip.wav", "/home2/me/wav/a.wav"))
    items = read_corpus("werewolf_xl", tmp_path).items
    assert [(i.source, i.extra["fold"], i.extra["arousal"], i.extra["dominance"]) for i in items] == [
        ("faces/b", "3", "0.5", "0"),
        ("faces/my clip", "1", "-0.25", "-1.5"),
    ]
    assert [item.sound for item in items] == [None, tmp_path / "wav/a.wav"]


def test_folders_are_classes_and_a_stray_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["happy/лицо 顔.mp4", 'sad/it\'s a "name", or not.mp4'])
    (tmp_path / "sad" / "link.mp4").symlink_to(tmp_path / "happy" / "лицо 顔.mp4")
    items, config = inputs("folder_per_class", tmp_path)
    assert [item.label for item in items] == ["happy", "sad", "sad"] and config.classes is None
    touch(tmp_path, ["stray.mp4"])
    with pytest.raises(UserError, match=r"stray\.mp4 lies in no class folder; put it in one"):
        inputs("folder_per_class", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["happy/a.mp4", "sad/b.mp4"])
    (tmp_path / "sad").chmod(0)
    try:
        with pytest.raises(UserError, match=r"sad is a folder that cannot be read \(Permission denied\)"):
            inputs("folder_per_class", tmp_path)
    finally:
        (tmp_path / "sad").chmod(0o755)


CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        "path",
        "label",
        "group",
        "fold",
        "split",
        "a.mp4",
        "../a.mp4",
        "1",
        "-1",
        "99",
        "nan",
        '"',
        "a b.mp4",
        "x" * 300,
        "a\0b",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["csv", "msp_improv", "werewolf_xl", "mer2023", "avcaffe", "first_impressions"]),
    rows=st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=6),
    good=st.booleans(),
)
def test_any_list_is_read_or_refused_in_words(tmp_path: Path, name: str, rows: list[str], good: bool) -> None:
    head = "path,label,group,fold,split,arousal,valence,dominance\n" if good else ""
    (tmp_path / "annotations.csv").write_bytes((head + "\n".join(rows)).encode("utf-8", "surrogatepass"))
    _read_or_refuse(name, tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.binary(max_size=60) | st.text(max_size=40).map(str.encode), name=st.sampled_from(["dfew", "ferv39k", "mafw"])
)
def test_any_bytes_as_an_official_file_are_read_or_refused_in_words(tmp_path: Path, raw: bytes, name: str) -> None:
    card = load(name)
    places = {"dfew": [DFEW], "ferv39k": ["4_setups/All_scenes/{fold}_All.csv"], "mafw": [MAFW]}[name]
    for fold in card.variant().folds:
        for role in ("train", "test"):
            path = tmp_path / places[0].format(fold=fold.name, role=role)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
    _read_or_refuse(name, tmp_path)


def _read_or_refuse(name: str, root: Path) -> None:
    try:
        items, config = inputs(name, root)
    except UserError as error:
        assert str(error)
        return
    assert items and (config.classes is None or all(item.label in config.classes for item in items))
