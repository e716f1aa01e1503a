"""Generated talking faces hold the answers they are meant to hold, where they are meant to hold them, and no others."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hicmae.datasets.media import open_video, read_audio, read_frames
from hicmae.datasets.synthetic import (
    AGREEMENT,
    EMOTIONS,
    LOOK_ALIKE,
    MIDDLE,
    MOTION_ONLY,
    MOTIONS,
    RATE,
    REGIONS,
    SOUND_ALIKE,
    SOUND_ONLY,
    VOICES,
    Identity,
    Take,
    Task,
    ceilings,
    make_corpus,
    synthesise_voice,
)

SIZE = 64


@dataclass
class Clip:
    label: str
    group: str
    motion: int
    voice: int
    frames: np.ndarray
    sound: np.ndarray
    path: Path


def read_list(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_clips(listed: Path) -> list[Clip]:
    clips = []
    for row in read_list(listed):
        path = listed.parent / row["path"]
        frames = np.stack([pixels for _, pixels in read_frames(path)])
        found = read_audio(path)
        assert found is not None
        clips.append(Clip(row["label"], row["group"], int(row["motion"]), int(row["voice"]), frames, found[0], path))
    return clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    made = make_corpus(
        tmp_path_factory.mktemp("faces"), train_identities=25, test_identities=15, size=SIZE, progress=False
    )
    return read_clips(made.train_csv) + read_clips(made.test_csv)


def chance_bound(chance: float, trials: int) -> float:
    """What a guesser exceeds once in ten thousand times."""
    return chance + 3.72 * math.sqrt(chance * (1 - chance) / trials)


def held_out_accuracy(model: Any, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Accuracy on people the classifier has not seen."""
    guess = cross_val_predict(make_pipeline(StandardScaler(), model), features, labels, groups=groups, cv=GroupKFold(5))
    return float((guess == labels).mean())


def linear() -> LogisticRegression:
    return LogisticRegression(C=0.01, max_iter=300)


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """(N, 64, 64, 3) -> (N, 32 * 32) grey."""
    return frames.mean(-1).reshape(len(frames), 32, 2, 32, 2).mean((2, 4)).reshape(len(frames), -1)


# What can be seen and heard


def pair_of(clips: list[Clip], names: tuple[str, str]) -> tuple[list[Clip], list[Clip]]:
    first, second = ([clip for clip in clips if clip.label == name] for name in names)
    assert [clip.group for clip in first] == [clip.group for clip in second]
    return first, second


@pytest.mark.parametrize("names", LOOK_ALIKE, ids="-".join)
def test_look_alike_twins_have_identical_frames_and_different_sound(clips: list[Clip], names: tuple[str, str]) -> None:
    for a, b in zip(*pair_of(clips, names), strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert not np.allclose(a.sound, b.sound, atol=0.01)


@pytest.mark.parametrize("names", SOUND_ALIKE, ids="-".join)
def test_sound_alike_twins_have_identical_sound_and_different_frames(clips: list[Clip], names: tuple[str, str]) -> None:
    for a, b in zip(*pair_of(clips, names), strict=True):
        assert np.array_equal(a.sound, b.sound)
        assert np.abs(a.frames.astype(int) - b.frames).max() > 20


def test_motion_energy_of_the_regions_tells_the_motion(clips: list[Clip]) -> None:
    features = []
    for clip in clips:
        energy = np.abs(np.diff(clip.frames.astype(np.float32), axis=0)).mean(-1)
        row = []
        for box in REGIONS.values():  # face units to pixels, for the middle of the range of face sizes
            left, top, right, bottom = (round((edge * 0.775 + 1) * SIZE / 2) for edge in box)
            down = round(MIDDLE * SIZE / 2)
            row.append(math.log(energy[:, top + down : bottom + down, left:right].mean()))
        features.append(row)
    motion, groups = np.array([clip.motion for clip in clips]), np.array([clip.group for clip in clips])
    assert held_out_accuracy(LogisticRegression(C=10), np.array(features), motion, groups) > 0.9


def pitch_track(sound: np.ndarray) -> np.ndarray:
    """Semitones over 100 Hz every 10 ms, NaN where nothing is voiced: the highest peak of the autocorrelation."""
    window, hop = 512, 160
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 2 * window)) ** 2
    correlation = np.fft.irfft(power)[:, : window // 2]
    correlation /= np.fft.irfft(np.abs(np.fft.rfft(np.hanning(window), 2 * window)) ** 2)[: window // 2]
    shortest, longest = RATE // 420, RATE // 85
    lag = correlation[:, shortest:longest].argmax(1) + shortest
    voiced = (correlation[np.arange(len(lag)), lag] > 0.6 * correlation[:, 0]) & (
        correlation[:, 0] > 0.1 * correlation[:, 0].max()
    )
    return np.where(voiced, 12 * np.log2(RATE / lag / 100), np.nan)


def test_pitch_contour_tells_the_voice(clips: list[Clip]) -> None:
    features = []
    for clip in clips:
        step = np.diff(pitch_track(clip.sound))
        step = step[np.isfinite(step) & (np.abs(step) < 2.5)]  # not the jump to the next syllable
        features.append([np.mean(step), np.median(step), np.mean(np.abs(step))])
    voice, groups = np.array([clip.voice for clip in clips]), np.array([clip.group for clip in clips])
    assert held_out_accuracy(LogisticRegression(C=10), np.array(features), voice, groups) > 0.9


def test_lips_follow_the_sound() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        take = Take.draw(rng, Identity.draw(rng), seconds=2.0)
        for voice in range(3):
            sound = take.sound(voice)
            starts = (np.arange(take.frames) * RATE / take.fps).astype(int)
            loud = [np.sqrt(np.mean(sound[max(0, at - 320) : at + 320] ** 2)) for at in starts]
            assert np.corrcoef(loud, take.expression(0).mouth)[0, 1] > 0.6


# What cannot


def single_frames(clips: list[Clip], names: tuple[str, str], place: float) -> tuple[np.ndarray, ...]:
    chosen = [clip for pair in zip(*pair_of(clips, names), strict=True) for clip in pair]
    frames = np.stack([clip.frames[int(place * (len(clip.frames) - 1))] for clip in chosen])
    labels = np.array([clip.label for clip in chosen])
    return frames, labels, np.array([clip.group for clip in chosen])


@pytest.mark.parametrize("place", [0.1, 0.45, 1.0])
def test_a_linear_classifier_on_one_frame_is_at_chance_on_the_motion_only_pairs(
    clips: list[Clip], place: float
) -> None:
    right, trials = 0.0, 0
    for names in SOUND_ALIKE:
        frames, labels, groups = single_frames(clips, names, place)
        right += held_out_accuracy(linear(), thumbnails(frames), labels, groups) * len(labels)
        trials += len(labels)
    assert right / trials < chance_bound(0.5, trials)


def test_a_linear_classifier_on_one_frame_finds_a_cue_that_was_planted(clips: list[Clip]) -> None:
    frames, labels, groups = single_frames(clips, SOUND_ALIKE[0], 0.45)
    frames = frames.astype(np.float32)
    frames[labels == SOUND_ALIKE[0][0], 20:28, 20:44] += 12
    assert held_out_accuracy(linear(), thumbnails(frames), labels, groups) > chance_bound(0.5, len(labels))


def test_every_part_of_the_face_is_distributed_alike_in_any_frame_whatever_moves() -> None:
    people = [np.random.default_rng(seed) for seed in range(600)]
    takes = [Take.draw(rng, Identity.draw(rng), seconds=1.6) for rng in people]
    bound = 1.95 / math.sqrt(len(takes))  # Kolmogorov-Smirnov, once in a thousand
    for motion in range(3):
        shown = [take.expression(motion) for take in takes]
        for frame in (0, 7, 19):
            parts = np.array([[e.brow[frame], e.corner[frame], e.lid[frame]] for e in shown])
            expected = 0.5 + np.arcsin(np.sort(parts, axis=0)) / np.pi
            assert np.abs(expected - np.linspace(0, 1, len(parts))[:, None]).max() < bound
            assert np.abs(np.corrcoef(parts.T) - np.eye(3)).max() < 4 / math.sqrt(len(parts))
        spread = np.array([[np.ptp(e.brow), np.ptp(e.corner), np.ptp(e.lid)] for e in shown])
        assert spread[:, motion].min() > 1.5
        assert np.delete(spread, motion, axis=1).max() == 0


def sound_statistics(sound: np.ndarray) -> np.ndarray:
    """Mean and spread of the log spectrum in 32 bands, and of the pitch."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, 512)[::160] * np.hanning(512)
    bands = np.log(np.abs(np.fft.rfft(frames))[:, 1:].reshape(len(frames), 32, 8).mean(-1) + 1e-4)
    pitch = pitch_track(sound)
    pitch = pitch[np.isfinite(pitch)]
    return np.concatenate([bands.mean(0), bands.std(0), [pitch.mean(), pitch.std(), *np.quantile(pitch, [0.1, 0.9])]])


@pytest.mark.parametrize("names", [*SOUND_ALIKE, LOOK_ALIKE[0]], ids="-".join)
def test_sound_statistics_are_at_chance_on_pairs_that_sound_alike_and_on_rising_against_falling(
    clips: list[Clip], names: tuple[str, str]
) -> None:
    chosen = [clip for pair in zip(*pair_of(clips, names), strict=True) for clip in pair]
    features = np.stack([sound_statistics(clip.sound) for clip in chosen])
    labels, groups = np.array([clip.label for clip in chosen]), np.array([clip.group for clip in chosen])
    assert held_out_accuracy(linear(), features, labels, groups) < chance_bound(0.5, len(labels))


def cues(clip: Clip) -> list[float]:
    """Whatever a file gives away without being watched: duration, size, brightness, loudness."""
    info = open_video(clip.path)
    assert (info.codec, info.width, info.height) == ("h264", SIZE, SIZE)
    spectrum = np.abs(np.fft.rfft(clip.sound)) ** 2
    centroid = (spectrum * np.arange(len(spectrum))).sum() / spectrum.sum() / len(spectrum)
    grey = clip.frames.mean(-1)
    return [
        len(clip.frames),
        len(clip.sound),
        clip.path.stat().st_size,
        info.fps,
        grey.mean(),
        grey.std(),
        *clip.frames.mean((0, 1, 2)),
        np.log(np.sqrt((clip.sound**2).mean())),
        np.log(np.abs(clip.sound).max()),
        centroid,
    ]


@pytest.fixture(scope="module")
def all_cues(clips: list[Clip]) -> np.ndarray:
    return np.array([cues(clip) for clip in clips])


@pytest.mark.parametrize(
    "model",
    [lambda: LogisticRegression(max_iter=300), lambda: RandomForestClassifier(30, random_state=0)],
    ids=["linear", "forest"],
)
def test_duration_size_codec_brightness_and_loudness_are_at_chance_on_all_classes(
    clips: list[Clip], all_cues: np.ndarray, model: Callable
) -> None:
    features, labels = all_cues, np.array([clip.label for clip in clips])
    groups = np.array([clip.group for clip in clips])
    bound = chance_bound(1 / 6, len(clips))
    assert held_out_accuracy(model(), features, labels, groups) < bound
    for column in (2, 4, 9):  # the same classifier does find a cue in the size, the brightness, the loudness
        planted = features.copy()
        planted[labels == "anger", column] += 3 * features[:, column].std()
        assert held_out_accuracy(model(), planted, labels, groups) > bound


# The corpus


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs(tmp_path: Path) -> None:
    def made(name: str, jobs: int, seed: int) -> dict[str, bytes]:
        root = tmp_path / name
        make_corpus(
            root, train_identities=3, test_identities=1, unlabeled=2, size=48, jobs=jobs, seed=seed, progress=False
        )
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    one, two, other = made("one", 1, 0), made("two", 3, 0), made("other", 2, 1)
    assert len(one) == 4 * 6 + 2 + 3
    assert one == two
    common = [name for name in one if name in other and name.endswith(".mp4")]
    assert len(common) >= 4 * 6
    assert all(one[name] != other[name] for name in common)


def test_a_person_is_the_same_however_many_others_there_are(tmp_path: Path) -> None:
    few = make_corpus(tmp_path / "few", train_identities=1, test_identities=1, size=48, progress=False)
    more = make_corpus(tmp_path / "more", train_identities=2, test_identities=1, takes=2, size=48, progress=False)
    name = read_list(few.train_csv)[0]["path"]
    assert (few.root / name).read_bytes() == (more.root / name).read_bytes()


def test_lists_name_every_clip_and_people_of_the_parts_differ(tmp_path: Path) -> None:
    made = make_corpus(
        tmp_path, train_identities=2, test_identities=1, takes=2, unlabeled=3, size=48, task=AGREEMENT, progress=False
    )
    assert made.unlabeled_csv is not None
    train, test, unlabeled = map(read_list, (made.train_csv, made.test_csv, made.unlabeled_csv))
    assert made.clips == {"train": len(train), "test": len(test), "unlabeled": len(unlabeled)}
    assert (len(train), len(test), len(unlabeled)) == (2 * 2 * 4, 2 * 4, 3)
    assert list(train[0]) == ["path", "label", "group", "motion", "voice", "take"]
    assert "label" not in unlabeled[0]
    for row in train:
        assert row["label"] == ("agree" if row["motion"] == row["voice"] else "differ")
    people = [{row["group"] for row in rows} for rows in (train, test, unlabeled)]
    assert len(set.union(*people)) == sum(map(len, people)) == 2 + 1 + 3
    on_disk = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4")}
    assert {row["path"] for row in train + test + unlabeled} == on_disk
    for row in train + unlabeled:
        info = open_video(tmp_path / row["path"])
        assert (info.codec, info.width, info.height, info.fps, info.has_audio) == ("h264", 48, 48, 12.5, True)


def test_sound_and_picture_of_a_clip_are_equally_long(clips: list[Clip]) -> None:
    lengths = {len(clip.frames) for clip in clips}
    assert len(lengths) > 5
    for clip in clips:
        assert abs(len(clip.sound) / RATE - len(clip.frames) / 12.5) < 0.07  # whole packets of sound


def test_twin_tables_say_what_the_classes_are() -> None:
    (pairs,) = zip(*EMOTIONS.values(), strict=True)
    assert len(set(pairs)) == 6
    for table, shared in ((LOOK_ALIKE, 0), (SOUND_ALIKE, 1)):
        assert sorted(name for twins in table for name in twins) == sorted(EMOTIONS)
        for a, b in table:
            assert EMOTIONS[a][0][shared] == EMOTIONS[b][0][shared]
            assert EMOTIONS[a][0][1 - shared] != EMOTIONS[b][0][1 - shared]


@pytest.mark.parametrize(
    ("task", "video", "audio"),
    [(EMOTIONS, 1 / 2, 1 / 2), (MOTION_ONLY, 1, 1 / 3), (SOUND_ONLY, 1 / 3, 1), (AGREEMENT, 1 / 2, 1 / 2)],
    ids=["emotions", "motion", "sound", "agreement"],
)
def test_ceilings_follow_from_what_a_task_shows(task: Task, video: float, audio: float) -> None:
    assert ceilings(task) == pytest.approx({"video": video, "audio": audio, "both": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_identities": 0}, "train_identities must be at least 1"),
        ({"takes": 0}, "takes must be at least 1"),
        ({"unlabeled": -1}, "unlabeled must not be negative"),
        ({"size": 63}, "even number"),
        ({"seconds": (2.0, 1.5)}, "shortest"),
        ({"fps": 5}, "at least 10"),
        ({"task": {}}, "at least two classes"),
        ({"task": {"a": [(0, 3)], "b": [(0, 0)]}}, "0, 1 or 2"),
        ({"task": {"a": [(0, 1)], "b": [(0, 1)]}}, "both 'a' and 'b'"),
    ],
)
def test_arguments_that_make_no_corpus_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict, message: str
) -> None:
    arguments = {"train_identities": 1, "test_identities": 1, "progress": False, **change}
    with pytest.raises(ValueError, match=message):
        make_corpus(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_an_unknown_motion_or_voice_names_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    take = Take.draw(rng, Identity.draw(rng), seconds=1.0)
    with pytest.raises(ValueError, match=MOTIONS[1]):
        take.expression(3)
    with pytest.raises(ValueError, match=VOICES[2]):
        synthesise_voice(take.identity, take.speech, -1)
