"""Findings become tracks, and tracks smooth paths."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hicmae.datasets.faces import CropConfig, Faces
from hicmae.datasets.faces.crop import Geometry
from hicmae.datasets.faces.mtcnn import Mtcnn
from hicmae.datasets.faces.path import Path, paths_of
from hicmae.datasets.faces.tracks import Track, chosen, find_tracks
from tests.datasets.astronaut import Place, agreement, scene, sway

POINTS = np.array([(-20, 0), (20, 0), (0, 22), (-16, 44), (16, 44)], np.float32)
NOTHING = Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
CONFIG = CropConfig(every=1, second_pass=False, gap=1, hold=0)


def face(x: float, y: float, scale: float = 1.0, score: float = 0.99) -> Faces:
    points = POINTS * scale + [x, y]
    box = np.array([[x - 45 * scale, y - 50 * scale, x + 45 * scale, y + 75 * scale]])
    return Faces(box.astype(np.float32), points[None].astype(np.float32), np.array([score], np.float32))


def both(*faces: Faces) -> Faces:
    return Faces(*(np.concatenate([getattr(f, name) for f in faces]) for name in ("boxes", "points", "scores")))


class Told:
    """A detector that was told what to find: frame n holds its number in its first pixel."""

    def __init__(self, found: Sequence[Faces]) -> None:
        self.found = found

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        return [self.found[int(frame[0, 0, 0])] for frame in frames]


def video(count: int, cuts: Sequence[int] = ()) -> list[tuple[float, np.ndarray]]:
    frames = []
    for n in range(count):
        frame = np.full((64, 64, 3), 60 + 100 * (sum(n >= cut for cut in cuts) % 2), np.uint8)
        frame[0, 0, 0] = n
        frames.append((n / 25, frame))
    return frames


def track(poses: Sequence[tuple[float, float, float]], frames: Sequence[int] | None = None) -> Track:
    found = Track(0, 10_000)
    for n, (x, y, scale) in zip(frames or range(len(poses)), poses, strict=True):
        here = face(x, y, scale)
        found.add(n, here.boxes[0], here.points[0], 0.99)
    return found


def test_a_face_that_moves_is_one_track_and_a_short_loss_is_bridged() -> None:
    found = [face(100 + 3 * n, 80) if not 20 <= n < 30 else NOTHING for n in range(50)]
    times, (one,) = find_tracks(video(50), Told(found), CONFIG)
    assert len(times) == 50 and len(one.frames) == 40
    (path,) = paths_of([one], times, CONFIG)
    assert (path.first, path.end) == (0, 50)
    assert np.allclose(path.poses[:, 0], 100 + 3 * np.arange(50), atol=0.1)
    assert np.isnan(path.eyes[20:30]).all() and not np.isnan(path.eyes[:20]).any()


def test_a_long_loss_ends_a_track() -> None:
    found = [face(100, 80) if not 30 <= n < 60 else NOTHING for n in range(90)]
    _, tracks = find_tracks(video(90), Told(found), CONFIG)
    assert [(t.frames[0], t.frames[-1]) for t in tracks] == [(0, 29), (60, 89)]


def test_a_crop_stays_a_while_before_and_after_its_face_but_never_beyond_the_shot() -> None:
    found = [face(100 + 3 * n, 80) if 10 <= n < 30 or n >= 53 else NOTHING for n in range(90)]
    times, tracks = find_tracks(video(90, cuts=[50]), Told(found), dataclasses.replace(CONFIG, hold=0.2))
    paths = paths_of(tracks, times, CONFIG)
    assert [(path.first, path.end) for path in paths] == [(5, 35), (50, 90)]
    assert np.allclose(paths[0].poses[-5:, :2], paths[0].poses[-6, :2], atol=1.5)


class Anywhere:
    """Sees a face in the middle of every crop that it is shown."""

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        return [face(80, 67.2, 1.0, 0.5) for _ in frames]


def test_a_face_that_is_lost_is_looked_for_where_it_was_and_never_in_another() -> None:
    near = face(100, 80)
    found = [near if not 10 <= n < 70 else NOTHING for n in range(80)]
    _, (one,) = find_tracks(video(80), Told(found), CONFIG, Anywhere())
    assert one.frames == list(range(80)) and one.scores[40] == 0.5
    assert np.allclose(one.boxes[69], one.boxes[9], atol=1) and np.allclose(one.points[69], one.points[9], atol=3)
    # not in who comes to stand there
    found = [both(face(160, 80), near) if n < 20 else face(160 - min(n, 30), 80) for n in range(60)]
    tracks = find_tracks(video(60), Told(found), CONFIG, Anywhere())[1]
    assert sorted(t.frames[-1] for t in tracks) == [19, 59]
    # and what was found by chance does not last because it is looked for
    found = [both(near, face(300, 300, 1, 0.95)) if n == 5 else near for n in range(60)]
    assert len(find_tracks(video(60), Told(found), CONFIG, Anywhere())[1]) == 1


def test_a_cut_ends_all_tracks_even_where_the_next_face_is_at_the_same_place() -> None:
    _, tracks = find_tracks(video(60, cuts=[25]), Told([face(100, 80)] * 60), CONFIG)
    assert [(t.frames[0], t.frames[-1]) for t in tracks] == [(0, 24), (25, 59)]


def test_faces_that_come_and_go_by_chance_are_dropped() -> None:
    chance = {5: (300, 300, 1, 0.95), 6: (301, 300, 1, 0.97)}
    doubtful = face(500, 90, 0.5, score=0.7)
    found = [both(face(100, 80), doubtful, *([face(*chance[n])] if n in chance else [])) for n in range(50)]
    _, tracks = find_tracks(video(50), Told(found), CONFIG)
    assert len(tracks) == 1 and len(tracks[0].frames) == 50


def test_people_who_pass_each_other_keep_their_tracks_and_the_policy_chooses() -> None:
    found = []
    for n in range(50):
        near, far = face(100 + 5 * n, 100, 1.2), face(350 - 5 * n, 60, 0.6)
        found.append(both(far, near) if n < 40 else near)
    _, tracks = find_tracks(video(50), Told([*found]), CONFIG)
    assert sorted(len(t.frames) for t in tracks) == [40, 50]
    (largest,) = chosen(tracks, "largest")
    assert largest.size == pytest.approx(48, rel=0.01) and len(chosen(tracks, "all")) == 2
    small_but_long = track([(50, 50, 0.5)] * 30)
    large_but_short = track([(250, 50, 2)] * 20)
    assert chosen([small_but_long, large_but_short], "longest") == [small_but_long]
    assert chosen([small_but_long, large_but_short], "largest") == [large_but_short]
    later = track([(250, 50, 2)] * 20, range(40, 60))
    assert chosen([small_but_long, later], "longest") == [small_but_long, later]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.2, 5), min_size=1, max_size=60), st.integers(0, 9))
def test_size_never_changes_by_more_than_one_percent_per_frame(scales: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.cumsum(rng.integers(1, 4, len(scales))).tolist()
    times = np.cumsum(rng.uniform(0.005, 0.2, frames[-1] + 1))  # a variable rate
    (path,) = paths_of([track([(300, 300, scale) for scale in scales], frames)], times, CONFIG)
    assert np.isfinite(path.poses).all() and len(path.poses) == frames[-1] - frames[0] + 1
    assert np.abs(path.poses[1:, 3] / path.poses[:-1, 3] - 1).max(initial=0) <= 0.01
    assert path.poses[:, 3].min() > 2 and path.poses[:, 3].max() < 800


def test_smoothing_neither_delays_nor_flattens_steady_motion_and_halves_jitter() -> None:
    times, rng = np.arange(100) / 25, np.random.default_rng(0)
    steady = [(100 + 4 * n, 200 - n, 1.0) for n in range(100)]
    (path,) = paths_of([track(steady)], times, CONFIG)
    assert np.allclose(path.poses[:, :2], [(x, y) for x, y, _ in steady], atol=1e-2)
    jitter = rng.normal(0, 1, 100)
    wide = CropConfig(every=1, second_pass=False, smooth=0.08)
    (path,) = paths_of([track([(100 + 4 * n + jitter[n], 200, 1.0) for n in range(100)])], times, wide)
    assert (path.poses[:, 0] - [x for x, _, _ in steady])[10:-10].std() < 0.5 * jitter.std()


def test_a_finding_gone_wrong_does_not_move_the_path() -> None:
    places = [(100.0 + n, 80.0, 1.0) for n in range(40)]
    places[20] = (160.0, 130.0, 1.8)
    (path,) = paths_of([track(places)], np.arange(40) / 25, CONFIG)
    assert np.abs(path.poses[:, 0] - (100 + np.arange(40))).max() < 3 and np.ptp(path.poses[:, 3]) < 1


def follow(places: Sequence[Place], config: CropConfig, detectors: tuple[Mtcnn, Mtcnn]) -> Path:
    frames = [(n / 25, scene([place], 480, 270)) for n, place in enumerate(places)]
    times, tracks = find_tracks(frames, detectors[0], config)
    assert len(tracks) == 1
    second = {"frames": lambda: frames, "detector": detectors[1]} if config.second_pass else {}
    (path,) = paths_of(tracks, times, config, **second)  # type: ignore[arg-type]
    assert (path.first, path.end) == (0, len(places))
    return path


@pytest.mark.parametrize(("scale", "degrees"), [(0.8, 20), (1.2, -20)])
def test_the_crop_of_a_tilted_small_face_is_that_of_a_level_large_one(scale: float, degrees: float) -> None:
    geometry, count = Geometry(0.28, 0.4), 9
    detectors = Mtcnn(), Mtcnn(0.35)
    level, tilted = sway(count, (240, 110, 1.6, 0)), sway(count, (220, 120, scale, degrees))
    worst = {}
    for second in (True, False):
        config = CropConfig(every=2 if second else 1, second_pass=second)
        there = [tilted(n) for n in range(count)]
        ours, theirs = (follow(p, config, detectors) for p in ([level(n) for n in range(count)], there))
        off = [
            agreement(a, level(n), b, there[n], geometry)
            for n, (a, b) in enumerate(zip(ours.poses, theirs.poses, strict=True))
        ]
        worst[second] = np.median(off), np.percentile(off, 95)
        leaning = np.degrees(theirs.poses[:, 2]) - [place[3] + 2.6 for place in there]  # her eyes are not level
        if second:
            assert np.percentile(np.abs(leaning), 95) < 3
    assert worst[True][0] < 4 and worst[True][1] < 8  # pixels of a crop of 160
    assert worst[True][0] < worst[False][0]
