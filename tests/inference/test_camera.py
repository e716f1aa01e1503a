"""What a camera sees is told as it happens, of everyone in view; files stand for a camera here."""

from __future__ import annotations

import threading
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.datasets import ShardConfig
from hicmae.datasets.faces import CropConfig
from hicmae.datasets.media import read_frames
from hicmae.inference import Loaded, camera, load_model
from hicmae.inference.camera import NOTICE, camera_frames, camera_name, watch_camera
from tests.datasets.astronaut import scene
from tests.inference.clips import FPS, picture, video
from tests.inference.conftest import PREPROCESSING, save_classifier
from tests.inference.test_audio_visual import classifier as hearing_classifier


def test_the_square_is_told_every_hop_once_a_window_was_seen(classifier: Loaded) -> None:
    frames = ((i / FPS, picture(i)) for i in range(100))
    found = list(watch_camera(classifier, frames, hop=0.5))
    assert {each.person for each in found} == {"in view"}
    assert found[0].time == pytest.approx(3 * 3 / FPS, abs=0.01)  # four frames, three apart
    assert np.diff([each.time for each in found]).min() >= 0.5 - 1e-6 and len(found) == 7
    assert all(sum(each.found.probabilities.values()) == pytest.approx(1, abs=1e-5) for each in found)
    assert found[0].found.end - found[0].found.start == pytest.approx(4 * 3 / FPS)


def test_everyone_in_view_is_followed_and_who_is_gone_is_not_told(tmp_path: Path) -> None:
    crop = ShardConfig(size=48, faces="mtcnn", crop=CropConfig(gap=0.3)).preprocessing()
    model = load_model(
        save_classifier(tmp_path / "a.safetensors", preprocessing={**PREPROCESSING, **crop}), device="cpu"
    )
    both, one = scene([(90, 120, 1.1, 0), (260, 60, 0.6, 0)]), scene([(90, 120, 1.1, 0)])
    frames = [(i / FPS, both if i < 30 or i > 60 else one) for i in range(80)]
    found = list(watch_camera(model, frames, hop=0.1))
    times = {name: [each.time for each in found if each.person == name] for name in {each.person for each in found}}
    assert set(times) == {"person 1", "person 2", "person 3"}
    gone, stays = sorted(("person 1", "person 2"), key=lambda name: max(times[name]))
    assert max(times[stays]) > 2.9 and max(times[gone]) < 1.3 and min(times["person 3"]) > 2.4


def test_frames_that_come_too_late_are_left_out(tmp_path: Path) -> None:
    with av.open(str(video(tmp_path / "a.mp4", 60))) as device:
        frames = camera._newest(device)
        first, *rest = frames
        assert first[0] == 0 and 2 <= len(rest) < 60
        assert np.diff([time for time, _ in rest]).min() > 0 and rest[-1][1].shape == (96, 128, 3)
    before = threading.active_count()
    with av.open(str(tmp_path / "a.mp4")) as device:
        frames = camera._newest(device)
        next(frames)
        frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_missing_camera_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no camera /dev/video97; connect one"):
        next(camera_frames("97"))
    with pytest.raises(UserError, match="cannot be opened"):
        next(camera_frames(str(video(tmp_path / "a.mp4"))))  # there, and no camera
    monkeypatch.setattr("sys.platform", "plan9")
    with pytest.raises(UserError, match="not on plan9"):
        next(camera_frames())
    assert [camera_name(text) for text in ("webcam", "webcam:1", "webcam:/dev/video2", "a.mp4", "webcams")] == [
        *("0", "1", "/dev/video2"),
        *(None, None),
    ]


def test_the_command_says_that_nothing_is_recorded_and_records_nothing(
    classifier_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = video(tmp_path / "a.mp4", 60)
    monkeypatch.setattr(camera, "camera_frames", lambda device: read_frames(clip))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["predict", "webcam", "--checkpoint", str(classifier_file), "--device", "cpu", "--hop", "1"]) == 0
    told = capsys.readouterr()
    assert NOTICE in told.err and "nothing is recorded" in NOTICE
    assert len(told.out.splitlines()) == 2 and "in view: " in told.out
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_only_hears_has_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only hears, and no sound is recorded"):
        next(watch_camera(hearing_classifier(tmp_path, "hicmae_tiny_audio"), iter(())))
    frames = ((i / FPS, picture(i)) for i in range(40))
    assert list(watch_camera(hearing_classifier(tmp_path), frames))  # one that sees and hears is shown frames alone
