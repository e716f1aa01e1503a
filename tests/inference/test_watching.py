"""Folders: each video is done once, a bad one does not stop the others, and what is done is remembered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hicmae.cli import main
from hicmae.configs.errors import Continuable, UserError
from hicmae.inference import Loaded, watching
from hicmae.inference.watching import predict_folder, watch_folder
from tests.inference.clips import video
from tests.media_files import BAD

KINDS = (".annotated.mp4", ".csv", ".html", ".json", ".png")


def counted(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None] = lambda path: None) -> list[str]:
    """Names of the videos that are really predicted; `act` happens before each."""
    seen: list[str] = []
    real = watching.predict_clip

    def watched(path: Path, *args: Any, **more: Any) -> Any:
        act(path)
        seen.append(path.name)
        return real(path, *args, **more)

    monkeypatch.setattr(watching, "predict_clip", watched)
    return seen


def test_a_folder_is_predicted_once_and_bad_files_are_told(
    classifier: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, seen = tmp_path / "in", tmp_path / "out", counted(monkeypatch)
    (folder / "deep").mkdir(parents=True)
    good = [video(folder / "a.mp4", 16), video(folder / "deep" / "a.mp4", 16)]
    BAD["cut mp4"][0](folder)
    first = predict_folder([folder, tmp_path / "gone.mp4"], classifier, out)
    assert len(first.done) == 2 and first.code == 1 and set(seen) == {"a.mp4", "cut.mp4"}
    assert len(first.failed) == 2
    said = capsys.readouterr().err
    assert "cut.mp4 is cut off" in said and "gone.mp4 does not exist" in said
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([f"{name}{kind}" for name in ("a", "deep-a") for kind in KINDS] + ["predicted.jsonl"])
    assert json.loads((out / "deep-a.json").read_text())["clip"] == str(good[1])
    seen.clear()
    second = predict_folder([folder], classifier, out)
    assert (len(second.known), second.done, len(second.failed), seen) == (2, [], 1, [])
    video(good[0], 20)  # another video under an old name
    assert predict_folder([folder], classifier, out).done == ["a.mp4"] and seen == ["a.mp4"]
    assert len(predict_folder([folder], classifier, out, hop=0.2).done) == 2  # other settings
    assert len(predict_folder([good[0]], classifier, out, again=True, hop=0.2).done) == 1


def test_videos_of_one_name_from_two_folders_do_not_overwrite_each_other(classifier: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        predict_folder([video(tmp_path / name / "a.mp4", 16)], classifier, out, video=False)
    clips = {json.loads(path.read_text())["clip"] for path in out.glob("*.json")}
    assert clips == {str(tmp_path / name / "a.mp4") for name in ("one", "two")}


def test_an_interrupted_command_goes_on(classifier: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        video(tmp_path / f"{name}.mp4", 16)

    def stop(path: Path) -> None:
        if path.name == "b.mp4" and not os.environ.get("GO"):
            raise KeyboardInterrupt

    seen = counted(monkeypatch, stop)
    with pytest.raises(Continuable, match="1 of 3 videos are done"):
        predict_folder([tmp_path], classifier, tmp_path / "out", video=False)
    monkeypatch.setenv("GO", "1")
    summary = predict_folder([tmp_path], classifier, tmp_path / "out", video=False)
    assert summary.known == ["a.mp4"] and seen == ["a.mp4", "b.mp4", "c.mp4"] and summary.code == 0
    with pytest.raises(UserError, match="there are no videos"):
        (tmp_path / "empty").mkdir()
        predict_folder([tmp_path / "empty"], classifier)


def test_a_video_that_comes_is_taken_when_it_has_stopped_growing(
    classifier: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, sizes = tmp_path / "in", tmp_path / "in" / "out", []
    folder.mkdir()
    data = video(tmp_path / "whole.mp4", 16).read_bytes()
    seen = counted(monkeypatch, lambda path: sizes.append(path.stat().st_size))
    video(folder / "there.mp4", 16)

    def write() -> None:
        with (folder / "new.mp4").open("wb") as file:
            for n in range(8):
                file.write(data[n * len(data) // 8 : (n + 1) * len(data) // 8])
                file.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    summary = watch_folder(folder, classifier, out, settle=0.4, until=lambda: not writer.is_alive())
    writer.join()
    assert seen == ["there.mp4", "new.mp4"] and sizes[1] == len(data)  # results inside are no videos to predict
    assert summary.code == 0 and not summary.failed and (out / "new.html").exists()
    seen.clear()
    watch_folder(folder, classifier, out, settle=0.1, until=lambda: True)
    assert seen == []


def test_a_damaged_video_is_taken_again_when_it_changes(classifier: Loaded, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    path = BAD["cut mp4"][0](folder)
    how: dict[str, Any] = {"settle": 0.1, "until": lambda: True, "video": False}
    assert watch_folder(folder, classifier, out, **how).code == 2
    video(path, 16)
    summary = watch_folder(folder, classifier, out, **how)
    assert summary.done == ["cut.mp4"] and not summary.failed
    with pytest.raises(UserError, match="is no folder"):
        watch_folder(tmp_path / "nowhere", classifier, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_ends_well(number: signal.Signals, classifier_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    video(tmp_path / "in" / "a.mp4", 16)
    words = ["predict", "--watch", "in", "--out", "out", "--checkpoint", str(classifier_file), "--device", "cpu"]
    memory, patience = tmp_path / "out" / "predicted.jsonl", time.monotonic() + 120
    with subprocess.Popen(
        [sys.executable, "-m", "hicmae", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not memory.exists() and time.monotonic() < patience:
                time.sleep(0.1)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "1 predicted; the same command goes on watching" in said and "Traceback" not in said
    assert not list((tmp_path / "out").glob(".*"))


def test_the_command_tells_what_could_not_be_done(
    classifier_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = video(tmp_path / "a.mp4", 16), tmp_path / "gone.mp4"
    run = ["--checkpoint", str(classifier_file), "--device", "cpu"]
    assert main(["predict", str(bad), str(good), "--json", *run]) == 1
    told = capsys.readouterr()
    assert [each["clip"] for each in json.loads(told.out)] == [str(good)]
    assert "error: " in told.err and "gone.mp4 does not exist; check the path" in told.err
    assert main(["predict", str(bad), *run]) == 2
    assert main(["predict", str(good), *run]) == 0
    for words, message in (
        ([], "nothing to predict"),
        (["--watch", str(tmp_path)], "needs --out"),
        ([str(good), "--hop", "0"], "--hop must be positive"),
        (["webcam", "--out", "x"], "nothing is recorded"),
        (["webcam:97"], "there is no camera"),
    ):
        assert main(["predict", *words, *run]) == 2
        assert message in capsys.readouterr().err
