"""Windows see what training saw, cover the whole video, and need no more memory for a longer one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.configs import UserError
from hicmae.datasets import media
from hicmae.datasets.media import MediaError
from hicmae.datasets.pipeline import evaluate_batches
from hicmae.datasets.sampling import eval_views
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.transforms import normalise
from hicmae.inference import Loaded, windows
from hicmae.inference.windows import Preprocessing, middle_window
from tests.inference.clips import FPS, picture, video
from tests.media_files import corner, turned, write_video

HOW = Preprocessing(frames=4, stride=3, size=32, stored=48)


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 20, 40])
@pytest.mark.parametrize("hop", [1, 2, 4])
def test_windows_cover_a_video_from_its_first_frame_to_its_end(count: int, hop: int, tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", count)
    found = list(windows.windows(path, HOW, hop=hop))
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(count / FPS, abs=1e-3)
    assert all(window.frames.shape == (3, 4, 32, 32) for window in found)
    starts = [window.start * FPS / HOW.stride for window in found]  # in frames of a window
    steps = np.diff(starts).round(3).tolist()
    assert steps[:-1] == [hop] * len(steps[:-1])
    assert all(0 < step <= hop for step in steps)
    sampled = -(-count // HOW.stride)
    for window in found:
        places = np.round(np.array(window.times) * FPS).astype(int)
        assert places.tolist() == [min(places[0] + HOW.stride * i, HOW.stride * (sampled - 1)) for i in range(4)]


def test_a_window_shows_the_centre_square_of_its_frames(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", quality=5)
    second = list(windows.windows(path, HOW, hop=2))[1]
    square = torch.from_numpy(picture(6)[:, 16:112]).permute(2, 0, 1).float()  # frame 2 * stride, 96 x 96 of 96 x 128
    shrunk = torch.nn.functional.avg_pool2d(square, 3)
    assert (second.frames[:, 0].float() - shrunk).abs().mean() < 6


@pytest.mark.parametrize("settings", [{}, {"box": (8, 10, 80, 80)}, {"max_fps": 12.5}])
def test_windows_hold_what_a_model_saw_in_shards(settings: dict[str, Any], tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", 60, 50.0)
    index = write_shards([path], tmp_path / "shards", config=ShardConfig(size=48, **settings), progress=False)
    views = eval_views(frames=4, stride=3, size=32, segments=1)
    (batch,) = evaluate_batches(index, views, batch_size=1)
    how = Preprocessing(frames=4, stride=3, size=32, stored=48, **settings)
    found = list(windows.windows(path, how, hop=1))
    nearest = min(found, key=lambda window: (normalise(window.frames) - batch["video"][0]).abs().mean().item())
    assert nearest is found[(len(found) - 1) // 2]
    assert (normalise(nearest.frames) - batch["video"][0]).abs().mean() < 0.05  # shards hold JPEGs


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_is_seen_upright(degrees: int, tmp_path: Path) -> None:
    plain = next(windows.windows(write_video(tmp_path / "plain.mp4", corner(), 25), HOW)).frames.float()
    seen = next(windows.windows(turned(tmp_path / "phone.mp4", degrees), HOW)).frames.float()
    assert (seen - plain).abs().mean() < 5 < (seen - plain.flip(3)).abs().mean()


def test_a_video_without_end_is_seen_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = video(tmp_path / "clip.mp4"), itertools.count()

    def endless(*_: Any, **__: Any) -> Iterator[tuple[float, np.ndarray]]:
        while True:
            i = next(taken)
            yield i / FPS, picture(i)

    monkeypatch.setattr(windows, "read_frames", endless)
    assert len(list(itertools.islice(windows.windows(path, HOW), 50))) == 50
    assert next(taken) == (50 * 2 + 2) * HOW.stride + 1  # nothing was read ahead


def test_a_middle_window_decodes_only_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, times = video(tmp_path / "clip.mp4", 100), []

    def watched(*args: Any, **kwargs: Any) -> Iterator[tuple[float, np.ndarray]]:
        for time, frame in media.read_frames(*args, **kwargs):
            times.append(time)
            yield time, frame

    monkeypatch.setattr(windows, "read_frames", watched)
    window = middle_window(path, HOW)
    assert (window.start + window.end) / 2 == pytest.approx(50 / FPS, abs=1 / FPS)
    assert len(times) == 13
    assert middle_window(path, HOW, start=1.0).start == pytest.approx(1.0)
    assert middle_window(path, HOW, start=99.0).start == 0  # behind the end: the begin is shown


def test_preprocessing_is_the_checkpoints(classifier: Loaded) -> None:
    how = Preprocessing.of(classifier.model, classifier.meta)
    assert (how.frames, how.stride, how.size, how.stored, how.box, how.max_fps) == (4, 3, 32, 48, None, 30.0)
    boxed = {"preprocessing": {"crop": {"kind": "box", "box": [1, 2, 30, 30]}, "max_fps": None}}
    how = Preprocessing.of(classifier.model, boxed)
    assert how.box == (1, 2, 30, 30) and how.max_fps is None
    with pytest.raises(UserError, match="'faces'"):
        Preprocessing.of(classifier.model, {"preprocessing": {"crop": {"kind": "faces"}}})


def test_a_video_smaller_than_the_box_is_named(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match=r"clip\.mp4 is smaller than the box"):
        next(windows.windows(path, Preprocessing(box=(0, 0, 500, 500))))
