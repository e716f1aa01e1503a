"""The annotated video shows the original's frames at their times, with its sound, and what is said of each face."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.datasets.media import open_video, read_audio, read_frames, write_video
from hicmae.inference import Boxes, Loaded, Person, Prediction, WindowPrediction, predict_clip
from hicmae.inference.annotate import Marker, annotate_video
from tests.media_files import ODD, uneven_times

FPS = 25
FLASHES = (10, 30, 55)


def square(left: float, top: float, side: float) -> np.ndarray:
    ends = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    return np.array([ends], np.float32)


def told(clip: Path, seconds: float = 3.0, width: float = 40.0) -> Prediction:
    windows = (WindowPrediction(0.0, seconds, {"happy": 0.75, "sad": 0.25}),)
    person = Person("person 1", windows, Boxes(np.array([0.0]), square(60, 40, width), ((0.0, seconds),)))
    return Prediction(str(clip), "small", windows, people=(person,))


def clapper(path: Path, times: np.ndarray | None = None, rate: int = 16_000, **how: object) -> Path:
    """Frames that flash, and a click with each flash."""
    begins = np.arange(70) / FPS if times is None else times
    wave = np.zeros(round((begins[-1] + 0.04) * rate), np.float32)
    for k in FLASHES:
        at = round(begins[k] * rate)
        wave[at : at + rate // 50] = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(rate // 50) / rate)
    frames = (np.full((96, 160, 3), 230 if i in FLASHES else 40, np.uint8) for i in range(len(begins)))
    start = float(how.pop("audio_start", 0.0))  # type: ignore[arg-type]
    wave = wave[round(start * rate) :]
    return write_video(path, frames, FPS, wave, rate, times=times, audio_start=start, **how)  # type: ignore[arg-type]


def lags(path: Path) -> list[float]:
    """Seconds from each flash to the click that belongs to it."""
    flashes = [time for time, pixels in read_frames(path) if pixels[:, :40].mean() > 150]
    found = read_audio(path)
    assert found is not None
    wave, begin = found
    loud = begin + np.flatnonzero(np.abs(wave) > 0.3) / 16_000
    return [float(loud[loud > flash - 0.2][0] - flash) for flash in flashes]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {}),
        ("late.mp4", {"audio_start": 0.3}),
        ("uneven.mp4", {"times": uneven_times(70)}),
        ("fine.mp4", {"rate": 44_100}),
        ("a.mkv", {}),
        ("a.webm", {"rate": 48_000}),
        ("a.avi", {}),
        ("mp3.mp4", {"rate": 44_100, "audio_codec": "libmp3lame"}),
    ],
)
def test_sound_stays_in_time_with_the_picture(name: str, how: dict[str, object], tmp_path: Path) -> None:
    clip = clapper(tmp_path / name, **how)  # type: ignore[arg-type]
    made = annotate_video(told(clip), tmp_path / "out.mp4")
    before, after = lags(clip), lags(made)
    assert len(after) == len(FLASHES)
    assert np.abs(np.subtract(after, before)).max() < 0.010  # a quarter of a frame
    assert np.abs(after).max() < 1 / FPS + (0.03 if name.endswith("avi") else 0)
    old, new = ([time for time, _ in read_frames(each)] for each in (clip, made))
    assert np.abs(np.subtract(old, new)).max() < 1e-3  # every frame, at its time
    with av.open(str(made)) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]


def test_aac_is_copied_bit_by_bit(tmp_path: Path) -> None:
    clip = clapper(tmp_path / "a.mp4")
    made = annotate_video(told(clip), tmp_path / "out.mp4")

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    assert packets(clip) == packets(made)


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_video_is_drawn_into(name: str, tmp_path: Path, classifier: Loaded) -> None:
    clip = ODD[name](tmp_path)
    result = predict_clip(clip, classifier)
    made = annotate_video(result, tmp_path / "out.mp4")
    before, after = open_video(clip), open_video(made)
    assert 0 <= after.width - before.width <= 1 and 0 <= after.height - before.height <= 1
    assert after.has_audio == before.has_audio and after.rotation == 0
    assert sum(1 for _ in read_frames(made)) == sum(1 for _ in read_frames(clip))


def test_the_box_lies_where_the_face_is_and_goes_with_it(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", (np.full((240, 320, 3), 60, np.uint8) for _ in range(50)), FPS)
    times = np.arange(25) / FPS
    corners = np.concatenate([square(60 + 4 * i, 80, 60) for i in range(25)])
    windows = (WindowPrediction(0.0, 1.0, {"happy": 1.0}),)
    person = Person("person 1", windows, Boxes(times, corners, ((0.0, 1.0),)))
    marker = Marker(Prediction(str(clip), "small", windows, people=(person,)), open_video(clip))
    plain = np.full((240, 320, 3), 60, np.uint8)
    for frame in (0, 10, 24):
        drawn = marker.draw(plain, frame / FPS)
        changed = np.flatnonzero((drawn[110] != plain[110]).any(-1) & (np.arange(320) < 125 + 4 * frame))
        assert changed[0] == pytest.approx(60 + 4 * frame, abs=3) and changed[-1] <= 124 + 4 * frame
    assert (marker.draw(plain, 1.5) == plain).all()  # nobody is there
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        annotate_video(told(clip), tmp_path / "a.avi")


def test_a_failed_video_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clapper(tmp_path / "a.mp4")
    count = iter(range(5))
    monkeypatch.setattr(Marker, "draw", lambda self, pixels, time: (next(count), pixels)[1])
    with pytest.raises((StopIteration, RuntimeError)):
        annotate_video(told(clip), tmp_path / "out" / "out.mp4")
    assert not list((tmp_path / "out").iterdir())
