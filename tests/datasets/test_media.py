"""Frames come by their timestamps and upright, sound at its time, and a bad file is refused in words."""

import gc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.datasets.containers import declared_bytes, describe, sniff
from hicmae.datasets.media import MediaError, open_video, read_audio, read_frames, write_video
from tests.media_files import BAD, ODD, corner, moving, pulses, turned, uneven_times, video

SUFFIXES = [".mp4", ".mov", ".mkv", ".webm", ".avi"]


def onsets(sound: tuple[np.ndarray, float] | None) -> list[float]:
    assert sound is not None
    wave, start = sound
    loud = np.flatnonzero(np.abs(wave) > 0.35) / 16_000 + start
    return [float(loud[0])] + [float(b) for a, b in pairwise(loud) if b - a > 0.05]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_video_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    frames = moving(20)
    path = write_video(tmp_path / f"a{suffix}", frames, 25, pulses(0.8))
    read = list(read_frames(path))
    assert np.allclose([time for time, _ in read], np.arange(20) / 25, atol=1e-3)
    assert all(np.abs(got.astype(int) - frame).mean() < 6 for (_, got), frame in zip(read, frames, strict=True))
    info = open_video(path)
    assert (info.width, info.height, info.rotation, info.has_audio) == (64, 48, 0, True)
    assert info.fps == pytest.approx(25, rel=0.01) and info.seconds == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_stands_at_its_time_on_the_videos_clock(tmp_path: Path, suffix: str, rate: int) -> None:
    if suffix == ".webm" and rate == 44_100:
        pytest.skip("Opus has no such rate")
    for start in (0.0, 0.2):
        path = write_video(tmp_path / f"a{suffix}", moving(25), 25, pulses(1.0, rate), rate, audio_start=start)
        assert np.allclose(onsets(read_audio(path)), start + np.array([0.25, 0.5, 0.75]), atol=2e-3)


def test_stereo_is_mixed_down_evenly(tmp_path: Path) -> None:
    one_sided = np.stack([pulses(1.0, 48_000), np.zeros(48_000, np.float32)], 1)
    sound = read_audio(write_video(tmp_path / "a.mkv", moving(25), 25, one_sided, 48_000, audio_codec="pcm_s16le"))
    assert sound is not None and np.abs(sound[0]).max() == pytest.approx(0.4, abs=0.05)


def test_a_gap_in_the_sound_track_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 32
        sound = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(picture.encode(None))
        for second in (0, 2):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 8192, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), second * 16_000
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    result = read_audio(path)
    assert result is not None and len(result[0]) == pytest.approx(2.5 * 16_000, abs=32)
    loud = np.abs(result[0]) > 0.1
    assert loud[:7900].all() and not loud[8100:31_900].any() and loud[32_100:39_900].all()


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    assert read_audio(video(tmp_path / "a.mp4", sound=False)) is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_of_a_variable_rate_keep_their_times(tmp_path: Path, suffix: str) -> None:
    times = uneven_times()
    path = write_video(tmp_path / f"a{suffix}", moving(12), 25, times=times)
    assert np.allclose([time for time, _ in read_frames(path)], times, atol=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_phone_video_is_read_upright(tmp_path: Path, degrees: int) -> None:
    path = turned(tmp_path / "a.mp4", degrees)
    info = open_video(path)
    assert (info.width, info.height) == (64, 48) and info.rotation == -degrees % 360
    for _, frame in read_frames(path):
        assert np.abs(frame.astype(int) - corner(1)[0]).mean() < 8


@pytest.mark.parametrize("name", ODD)
def test_an_odd_but_whole_video_is_read(tmp_path: Path, name: str) -> None:
    path = ODD[name](tmp_path)
    info = open_video(path)
    read = list(read_frames(path))
    times = [time for time, _ in read]
    assert read and all(a < b for a, b in pairwise(times))
    assert all(frame.shape == (info.height, info.width, 3) and frame.dtype == np.uint8 for _, frame in read)
    assert (read_audio(path) is not None) == info.has_audio


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_reason_and_remedy(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    path = make(tmp_path)
    with pytest.raises(MediaError) as caught:
        open_video(path)
        list(read_frames(path))
    assert caught.value.reason.startswith(reason)
    assert caught.value.remedy and path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = video(tmp_path / f"a{suffix}", frames=25).read_bytes()
    for share in np.linspace(0.02, 0.999, 24):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError, match=r"is cut off|is damaged"):
            list(read_frames(cut))


def test_a_live_recording_without_declared_size_is_compared_with_its_declared_length(tmp_path: Path) -> None:
    whole = bytearray(video(tmp_path / "a.mkv", frames=50, sound=False).read_bytes())
    at = whole.index(b"\x18S\x80g") + 4
    whole[at : at + 8] = b"\x01" + b"\xff" * 7  # the segment's size: unknown
    path = tmp_path / "live.mkv"
    path.write_bytes(whole)
    assert declared_bytes(path, "matroska") is None and len(list(read_frames(path))) == 50
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"is cut off \(\d"):
        list(read_frames(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_bytes_never_raise_anything_but_a_media_error(tmp_path: Path, suffix: str) -> None:
    whole = video(tmp_path / f"a{suffix}", frames=6).read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / f"bad{suffix}", 0
    for _ in range(40):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 4):
            data[at] ^= rng.integers(1, 256)
        path.write_bytes(data)
        try:
            open_video(path), list(read_frames(path)), read_audio(path)
        except MediaError:
            refused += 1
    assert refused


def test_a_span_is_read_by_seeking_and_equals_the_whole(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", frames=60)
    whole = list(read_frames(path))
    for start, stop in [(0.0, 0.4), (0.84, 1.6), (2.0, None), (None, 0.2)]:
        span = list(read_frames(path, start=start, stop=stop))
        expected = [pair for pair in whole if (start or 0) <= pair[0] < (stop or 99)]
        assert [time for time, _ in span] == [time for time, _ in expected] != []
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(span, expected, strict=True))


def test_the_same_frames_give_the_same_file_and_no_partial_one(tmp_path: Path) -> None:
    first, second = (video(tmp_path / name) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ValueError):  # a picture of another shape, half-way
        write_video(tmp_path / "c.mp4", [moving(1)[0], np.zeros((4, 4), np.uint8)], 25)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "c.mp4", iter(()), 25)
    with pytest.raises(ValueError, match="suffix"):
        write_video(tmp_path / "c.gif", moving(2), 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    good = video(tmp_path / "a.mp4")
    bad = BAD["pictures of noise"][0](tmp_path)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        frames = read_frames(good)
        next(frames)
        frames.close()  # type: ignore[attr-defined]
        with pytest.raises(MediaError):
            list(read_frames(bad))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"ID3\x04", "MP3"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "WAV"),
        (b"\x00\x00\x00\x20ftypM4A ", "sound"),
        (b"plain words", "text"),
        (b"\x00\x01\x02", "unknown"),
    ],
)
def test_what_is_no_video_is_named(head: bytes, words: str) -> None:
    assert sniff(head) is None and words in describe(head)
