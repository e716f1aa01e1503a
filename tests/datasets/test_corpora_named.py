"""Corpora whose file names say everything: their generated splits have the published counts."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.cards import load
from hicmae.datasets.corpora import compare, inputs, read_corpus
from hicmae.datasets.listing import find_videos
from tests.datasets.corpora_trees import crema_d_names, enterface_names, ravdess_names, touch


def splits(root: Path, name: str, variant: str | None = None) -> tuple[dict[str, int], dict[str, int], set[str]]:
    """Clips per fold and per class, and the groups; and what the card says holds."""
    items = read_corpus(name, root, variant).items
    chosen = load(name).variant(variant)
    folds = Counter(item.extra["fold"] for item in items)
    for fold in chosen.folds:
        if fold.others is not None:
            assert (len(items) - folds[fold.name], folds[fold.name]) == (fold.others, fold.clips)
    groups: dict[str, set[str]] = {}
    for item in items:
        groups.setdefault(str(item.group), set()).add(item.extra["fold"])
    assert all(len(parts) == 1 for parts in groups.values()), "a person is in two folds"
    return dict(folds), dict(Counter(str(item.label) for item in items)), set(groups)


def test_ravdess_has_six_folds_of_1200_and_240(tmp_path: Path) -> None:
    touch(tmp_path, ravdess_names())
    folds, classes, actors = splits(tmp_path, "ravdess")
    assert folds == dict.fromkeys("123456", 240) and len(actors) == 24
    assert classes == load("ravdess").variant().classes and classes["neutral"] == 96
    assert compare("ravdess", tmp_path).ok
    item = next(i for i in read_corpus("ravdess", tmp_path).items if i.path.stem == "01-01-05-02-01-01-17")
    assert (item.label, item.group, item.extra["fold"]) == ("angry", "ravdess-17", "5")


def test_ravdess_without_sound_files_inside_takes_picture_and_sound_files_together(tmp_path: Path) -> None:
    names = ravdess_names(["02"])
    touch(
        tmp_path, [*names, *(f"sound/{Path(name).with_suffix('.wav').name.replace('02-', '03-', 1)}" for name in names)]
    )
    found = read_corpus("ravdess", tmp_path)
    assert len(found.items) == 1440 and all(item.sound is not None for item in found.items)
    assert all(item.sound and item.sound.stem[3:] == item.path.stem[3:] for item in found.items)


def test_ravdess_takes_each_clip_once_and_no_song(tmp_path: Path) -> None:
    touch(tmp_path, [*ravdess_names(["01", "02"], ["01", "02"]), "readme.txt", "Actor_01/odd name.mp4"])
    found = read_corpus("ravdess", tmp_path)
    assert len(found.items) == 1440 and not found.problems
    assert {why: len(names) for why, names in found.left_out.items()} == {
        "it is song": 2880,
        "the same with sound is there": 1440,
        "its name is none of the corpus' clips": 1,
    }
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "01-01-03-01-02-01-12.mp4").touch()
    with pytest.raises(UserError, match=r"again/01-01-03-01-02-01-12\.mp4 is 01-03-01-02-01-12 again"):
        inputs("ravdess", tmp_path)


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = crema_d_names()
    assert len(set(names)) == 7442
    return touch(tmp_path_factory.mktemp("crema_d"), names)


def test_crema_d_has_91_actors_in_folds_of_18_18_18_18_19(crema_d: Path) -> None:
    folds, classes, actors = splits(crema_d, "crema_d")
    assert folds == {"1": 1463, "2": 1470, "3": 1475, "4": 1474, "5": 1555} and sum(folds.values()) == 7437
    assert classes == {"anger": 1271, "disgust": 1270, "fear": 1271, "happy": 1271, "neutral": 1086, "sad": 1268}
    assert len(actors) == 91
    parts = {item.group: item.extra["fold"] for item in read_corpus("crema_d", crema_d).items}
    per_fold = Counter(parts.values())
    assert per_fold == {"1": 18, "2": 18, "3": 18, "4": 18, "5": 19}
    assert compare("crema_d", crema_d).ok


@pytest.mark.parametrize(("variant", "clips"), [("6class_video", 7442), ("4class", 4896)])
def test_the_other_settings_of_crema_d_have_their_counts(crema_d: Path, variant: str, clips: int) -> None:
    assert len(read_corpus("crema_d", crema_d, variant).items) == clips
    assert compare("crema_d", crema_d, variant).ok


def test_votes_of_raters_are_counted_by_what_they_were_shown(tmp_path: Path) -> None:
    touch(tmp_path, [f"VideoFlash/{name}.flv" for name in ("1001_DFA_ANG_XX", "1020_DFA_SAD_XX", "1091_IEO_HAP_HI")])
    rows = ["clipName,queryType,respEmo"]
    rows += ["1001_DFA_ANG_XX,3,A"] * 3 + ["1001_DFA_ANG_XX,3,D"] + ["1001_DFA_ANG_XX,1,N"] * 2
    rows += ["1020_DFA_SAD_XX,3,S", "1020_DFA_SAD_XX,3,N", "1091_IEO_HAP_HI,1,H"]
    (tmp_path / "finishedResponses.csv").write_text("\n".join(rows) + "\n")
    both = read_corpus("crema_d", tmp_path, "6class-votes_both")
    assert [(i.label, i.extra["votes"], i.extra["fold"]) for i in both.items] == [("anger", "3 1 0 0 0 0", "1")]
    assert both.left_out == {
        "its raters have no majority": ["VideoFlash/1020_DFA_SAD_XX.flv"],
        "it has no votes": ["VideoFlash/1091_IEO_HAP_HI.flv"],
    }
    heard = read_corpus("crema_d", tmp_path, "6class-votes_audio").items
    assert [item.label for item in heard] == ["neutral", "happy"]
    keys = {load("crema_d").protocol(variant) for variant in load("crema_d").variants}
    assert "crema_d/6class-intended/subject-5fold" in keys and "crema_d/6class-votes_both/subject-5fold" in keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"finishedResponses\.csv cannot be read \(No such file"),
        ("clip,answer\n", "has no column clipName, queryType, respEmo"),
        ("clipName,queryType,respEmo\nx,3,Q\n", r"csv:2: has the answer Q; known are A, D"),
    ],
)
def test_votes_that_cannot_be_read_are_told_in_words(tmp_path: Path, text: str | None, message: str) -> None:
    touch(tmp_path, ["1001_DFA_ANG_XX.flv"])
    if text is not None:
        (tmp_path / "finishedResponses.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        inputs("crema_d", tmp_path, "6class-votes_both")


@pytest.mark.parametrize("seed", [0, 1])
def test_enterface05_has_43_subjects_in_five_blocks(tmp_path: Path, seed: int) -> None:
    touch(tmp_path, enterface_names(seed))
    folds, _, subjects = splits(tmp_path, "enterface05")
    assert folds == {"1": 270, "2": 270, "3": 267, "4": 270, "5": 210} and sum(folds.values()) == 1287
    assert len(subjects) == 43 and "enterface05-6" not in subjects
    assert compare("enterface05", tmp_path).ok
    item = next(i for i in read_corpus("enterface05", tmp_path).items if i.path.stem == "s44_su_5")
    assert (item.label, item.extra) == ("surprise", {"sentence": "5", "fold": "5"})


def test_a_person_whom_the_card_does_not_know_is_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, ["1092_DFA_ANG_XX.flv"])
    with pytest.raises(UserError, match=r"has group 1092, which the card does not know"):
        inputs("crema_d", tmp_path)


def test_voxceleb2_pairs_clips_with_the_sound_files_of_the_release(tmp_path: Path) -> None:
    clips = [f"dev/mp4/id0001{n}/video-{n}/0000{k}.mp4" for n in range(3) for k in (1, 2)]
    sounds = [name.replace("mp4/", "aac/").replace(".mp4", ".m4a") for name in clips[:4]]
    touch(tmp_path, [*clips, *sounds, "test/mp4/id9/v/00001.mp4", "dev/mp4/stray.mp4"])
    for root in (tmp_path, tmp_path / "dev", tmp_path / "dev" / "mp4"):
        found = read_corpus("voxceleb2", root)
        assert len(found.items) == 6 and sum(item.sound is not None for item in found.items) == 4
        item = found.items[0]
        assert (item.group, item.label, item.extra) == ("voxceleb2-id00010", None, {"video": "video-0", "split": "dev"})
        assert item.sound and item.sound.relative_to(tmp_path).as_posix() == sounds[0]
    assert len(read_corpus("voxceleb2", tmp_path).left_out) == 2


WORDS = st.sampled_from(
    [
        "01",
        "02",
        "03",
        "08",
        "24",
        "25",
        "1001",
        "1091",
        "1092",
        "ANG",
        "XX",
        "s1",
        "s44",
        "an",
        "5",
        "id7",
        "mp4",
        "a b",
    ]
) | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=5)
FILES = st.builds(
    lambda words, mark: mark.join(words), st.lists(WORDS, min_size=1, max_size=7), st.sampled_from("-_ /")
)


@settings(max_examples=25, deadline=None)
@given(names=st.lists(FILES, max_size=8, unique=True), suffix=st.sampled_from([".mp4", ".flv", ".avi", ".AVI"]))
@example(names=["01-01-03-01-02-01-25", "01-01-09-01-02-01-12", "02-01-03-01-02-01-12"], suffix=".mp4")
@example(names=["1001_DFA_ANG_XX", "x/1001_DFA_ANG_XX", "1092_DFA_ANG_XX", "1001_DFA_BAD_XX"], suffix=".flv")
@example(names=["s1_an_1", "s01_AN_1", "s45_an_1", "s1_an_1 ", "subject 1/s2_su_5"], suffix=".avi")
@pytest.mark.parametrize("name", ["ravdess", "crema_d", "enterface05", "voxceleb2", "folder_per_class"])
def test_every_video_of_any_tree_is_a_clip_or_left_out_or_a_problem(name: str, names: list[str], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in names:
            path = Path(folder, *(part.strip(".") or "x" for part in f"{file}{suffix}".split("/")))
            with contextlib.suppress(OSError):  # a name that is a folder elsewhere, or too long
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        count = len(find_videos([folder])[0])
        found = read_corpus(name, folder)
        assert len(found.items) + len(found.problems) + sum(map(len, found.left_out.values())) == count
        known = load(name).variant()
        assert all(item.label in known.labels for item in found.items if known.labels)
        assert all(
            item.extra[known.column] in [fold.name for fold in known.folds] for item in found.items if known.folds
        )
