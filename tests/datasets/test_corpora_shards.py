"""From a copy of a corpus to shards whose folds are chosen by a condition, by the commands a person gives."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets.check import check
from hicmae.datasets.corpora import compare, inputs
from hicmae.datasets.index import Index
from hicmae.datasets.shards import write_shards
from hicmae.datasets.store import ClipStore
from tests.datasets.corpora_trees import ravdess_names, touch
from tests.media_files import video


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of CREMA-D in Flash, two of each of four folds, one of them cut off."""
    root = tmp_path_factory.mktemp("crema")
    clip = video(root / "clip.flv", frames=4)
    (root / "VideoFlash").mkdir()
    for actor in (1001, 1018, 1019, 1036, 1037, 1054, 1090, 1091):
        shutil.copy(clip, root / "VideoFlash" / f"{actor}_DFA_{'SAD' if actor % 2 else 'HAP'}_XX.flv")
    (root / "VideoFlash" / "1090_DFA_HAP_XX.flv").write_bytes(clip.read_bytes()[:-40])
    clip.unlink()
    return root


@pytest.fixture(scope="module")
def shards(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "crema_d"
    assert main(["shard", "--card", "crema_d", "--root", str(copy), "--out", str(out), "--size", "16"]) == 0
    return out


def test_a_corpus_becomes_one_set_of_labelled_folded_shards(shards: Path) -> None:
    index = Index.load(shards)
    assert index.classes == ("anger", "disgust", "fear", "happy", "neutral", "sad")
    assert index.protocol == "crema_d/6class-intended/subject-5fold" and index.selection == ""
    assert list(index.extra["fold"]) == ["1", "1", "2", "2", "3", "3", "5"] and index.sound.all()
    assert [index.classes[label] for label in index.labels[:2]] == ["sad", "happy"]
    assert index.groups[0] == "crema_d-1001"
    assert check(shards, progress=False).summary["protocol"] == index.protocol
    assert [(skip.source, skip.reason[:10]) for skip in index.skipped] == [
        ("VideoFlash/1090_DFA_HAP_XX.flv", "is cut off")
    ]


def test_parts_of_a_corpus_are_its_shards(copy: Path, shards: Path, tmp_path: Path) -> None:
    given = ["shard", "--card", "crema_d", "--root", str(copy), "--out", str(tmp_path / "o"), "--size", "16"]
    for part in ("2/2", "1/2"):
        assert main([*given, "--part", part]) == 0
    assert main([*given, "--merge"]) == 0
    assert np.array_equal(Index.load(tmp_path / "o").sha256, Index.load(shards).sha256)


def test_what_is_left_out_and_what_the_card_says_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs("crema_d", copy, "4class")
    said = capsys.readouterr().err
    assert "crema_d/4class-intended/subject-5fold: 8 clips where the card says 4,896" in said
    inputs("crema_d", copy, "6class")
    assert "6class-intended" in capsys.readouterr().err


@pytest.mark.parametrize("form", [str, Path])
def test_a_condition_chooses_a_fold_and_its_opposite_the_rest(shards: Path, form: type) -> None:
    whole, test, train = (Index.load(form(f"{shards}{words}")) for words in ("", "@fold=1", "@fold!=1"))
    assert len(test) == 2 and len(train) == 5 and test.selection == "fold=1" and train.selection == "fold!=1"
    assert sorted([*test.keys, *train.keys]) == sorted(whole.keys)
    assert not set(test.groups) & set(train.groups)
    assert test.protocol == whole.protocol
    some = Index.load(f"{shards}@fold=1,2@sentence=DFA")
    assert len(some) == 4 and len(Index.load(f"{shards}@group=crema_d-1001")) == 1
    joined = Index.join([test, train])
    assert joined.protocol == whole.protocol and joined.selection == "fold=1 + fold!=1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("@fold=9", "no sample has 9; there are 1, 2, 3, 5"),
        ("@fold!=9", "no sample has 9"),
        ("@part=1", "its samples have no column part; there are group, fold, intensity, sentence"),
        ("@fold!=1,2,3,5", "no sample is left"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(shards: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Index.load(f"{shards}{words}")


def test_a_folder_whose_name_looks_like_a_condition_is_itself(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "a@fold=1")
    assert len(Index.load(tmp_path / "a@fold=1")) == 7


def test_check_names_what_is_missing_and_superfluous_with_exit_code_1(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(copy, ["VideoFlash/holiday.mp4", "VideoFlash/1076_MTI_SAD_XX.flv"])
    assert main(["check", "--card", "crema_d", "--root", str(copy)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "clips 8, card: 7,437 (-7,429)",
        "fold 4 0, card: 1,474 (-1,474)",
        "class happy 4, card: 1,271 (-1,267)",
        "groups 8 (subject)",
        "fold 5 2, where the card says 1,555; complete your copy",
        "crema_d/6class-intended/subject-5fold",
        "1 left out, its name is none of the corpus' clips: VideoFlash/holiday.mp4",
        "1 left out, the published lists lack it: VideoFlash/1076_MTI_SAD_XX.flv",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shard", "--card", "crema_d", "--out", "o"], "a corpus by --card NAME and its folder by --root DIR"),
        (["shard", "--out", "o"], "name files or folders, or a corpus"),
        (["shard", "a.mp4", "--card", "crema_d", "--root", ".", "--out", "o"], "not both"),
        (["check", "--root", "."], "a corpus by --card NAME"),
        (["check", "--card", "crema", "--root", "."], "did you mean crema_d"),
        (["check", "--card", "crema_d", "--root", ".", "--variant", "5class"], "no variant '5class'; known: 6class-"),
        (["shard", "--card", "crema_d", "--root", ".", "--out", "o"], "holds no clip of CREMA-D; expected is"),
        (["shard", "--card", "crema_d", "--root", ".", "--out", "o", "--labels", "folder"], "holds no clip"),
    ],
)
def test_a_mistake_is_told_in_words(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_labels_may_be_given_in_another_order_but_not_others(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["shard", "--card", "crema_d", "--root", str(copy), "--size", "16", "--out"]
    assert main([*given, str(tmp_path / "a"), "--classes", "[sad,neutral,happy,fear,disgust,anger]"]) == 0
    assert Index.load(tmp_path / "a").classes[0] == "sad"
    assert main([*given, str(tmp_path / "b"), "--classes", "[sad,happy]"]) == 2
    assert "must be the card's labels in another order" in capsys.readouterr().err


def test_check_says_whose_clips_are_fewer_than_usual(tmp_path: Path) -> None:
    names = ravdess_names()
    touch(tmp_path, [name for name in names if "/01-01-08" not in name or "Actor_17" not in name])
    report = compare("ravdess", tmp_path)
    assert "fewer clips than the usual 60: ravdess-17 52" in report.notes and not report.ok
    assert [problem.path for problem in report.problems] == ["clips", "class surprised", "fold 5"]


def test_clips_of_one_recording_of_voxceleb2_are_known_as_such(tmp_path: Path) -> None:
    for name in ("id1/one/00001", "id1/one/00002", "id2/two/00001"):
        video(tmp_path / "v" / "dev" / "mp4" / f"{name}.mp4", frames=3, seed=len(name))
    items, config = inputs("voxceleb2", tmp_path / "v")
    index = write_shards(items, tmp_path / "s", config=dataclasses.replace(config, size=16), progress=False)
    assert [ClipStore(index)[n].source for n in range(3)] == ["one", "one", "two"]
    assert list(index.groups) == ["voxceleb2-id1", "voxceleb2-id1", "voxceleb2-id2"] and (index.labels == -1).all()
