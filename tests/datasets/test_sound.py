"""Sound belongs to the frames that are shown while it is heard, whatever the container, its clock and its gaps."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig
from hicmae.datasets.media import read_audio, read_frames, write_video
from hicmae.datasets.sampling import eval_views, pretrain_view, train_view
from hicmae.datasets.store import ClipStore
from hicmae.datasets.transforms import AugmentConfig
from tests.datasets.making import make
from tests.media_files import uneven_times

RATE = 16_000
FRAMES, FPS = 60, 25
EXACT, FRAME = 2e-3, 1 / FPS  # seconds: what is promised, and what is promised of avi
CONTAINERS = [(".mp4", EXACT), (".mov", EXACT), (".mkv", EXACT), (".webm", EXACT), (".avi", FRAME)]


def chirp(seconds: float, rate: int = RATE) -> np.ndarray:
    """(S,) float32: sound that is never like itself a moment later, so that its place can be told to a sample."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (300 * time + 500 * time**2))).astype(np.float32)


def lag(heard: np.ndarray, expected: np.ndarray, reach: int = 1600) -> float:
    """Seconds by which `heard` (S,) comes later than `expected` (S,): where they correlate best within 0.1 s."""
    size = min(len(heard), len(expected))
    spectra = np.fft.rfft(heard[:size], 2 * size) * np.fft.rfft(expected[:size], 2 * size).conj()
    by_lag = np.fft.irfft(spectra)
    near = np.concatenate([by_lag[-reach:], by_lag[: reach + 1]])
    assert near.max() > 0.8 * np.sqrt(np.square(heard[:size]).sum() * np.square(expected[:size]).sum())
    return float(near.argmax() - reach) / RATE


def flashing(at: int) -> np.ndarray:
    """(FRAMES, 48, 64, 3) uint8: dark, bright from frame `at` on."""
    pixels = np.full((FRAMES, 48, 64, 3), 30, np.uint8)
    pixels[at:] = 220
    return pixels


def flash(path: Path) -> float:
    """Seconds at which the picture becomes bright."""
    return next(time for time, pixels in read_frames(path) if pixels.mean() > 125)


@pytest.mark.parametrize("start", [0.0, 0.33])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (44_100, 2)])
@pytest.mark.parametrize(("suffix", "promised"), CONTAINERS)
def test_sound_is_in_step_with_the_frames(
    tmp_path: Path, suffix: str, promised: float, rate: int, channels: int, start: float
) -> None:
    if suffix == ".webm" and rate == 44_100:
        pytest.skip("Opus has no such rate")
    wave = np.repeat(chirp(2.0, rate)[:, None], channels, 1)
    path = write_video(tmp_path / f"a{suffix}", flashing(20), FPS, wave, rate, audio_start=start)
    found = read_audio(path)
    assert found is not None
    heard, begin = found
    assert flash(path) == pytest.approx(20 / FPS, abs=1e-3)
    whole = np.concatenate([np.zeros(round(begin * RATE), np.float32), heard])  # from the clock's zero on
    expected = np.concatenate([np.zeros(round(start * RATE), np.float32), chirp(2.0)])
    assert abs(lag(whole, expected)) <= promised


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_variable_frame_rate_and_a_late_picture_keep_sound_in_step(tmp_path: Path, suffix: str) -> None:
    times = 0.4 + uneven_times(FRAMES)
    wave = np.repeat(chirp(3.0, 48_000)[:, None], 2, 1)
    path = write_video(tmp_path / f"a{suffix}", flashing(30), FPS, wave, 48_000, times=times.tolist())
    heard, begin = read_audio(path) or pytest.fail("no sound")
    whole = np.concatenate([np.zeros(max(0, round(begin * RATE)), np.float32), heard])
    offset = flash(path) - times[30]  # a container may shift its clock, of both alike
    assert abs(lag(whole, np.concatenate([np.zeros(max(0, round(offset * RATE)), np.float32), chirp(3.0)]))) <= EXACT


def test_mp3_in_avi_is_within_one_frame(tmp_path: Path) -> None:
    wave = chirp(2.0, 44_100)
    path = write_video(tmp_path / "a.avi", flashing(20), FPS, wave, 44_100, audio_codec="libmp3lame")
    heard, begin = read_audio(path) or pytest.fail("no sound")
    whole = np.concatenate([np.zeros(round(begin * RATE), np.float32), heard])
    assert abs(lag(whole, chirp(2.0))) <= FRAME


@pytest.mark.parametrize(("suffix", "promised"), CONTAINERS)
def test_every_sample_of_a_long_video_is_in_step(tmp_path: Path, suffix: str, promised: float) -> None:
    """Three samples from one file: each must hear its own second, on the clock of its frames."""
    source = tmp_path / "in" / f"a{suffix}"
    source.parent.mkdir()
    times = None if suffix == ".avi" else (uneven_times(FRAMES) * 2.4 / uneven_times(FRAMES)[-1]).tolist()
    write_video(source, flashing(30), FPS, chirp(2.4, 48_000), 48_000, times=times)
    store = ClipStore(make([source.parent], tmp_path / "out", max_seconds=1.0, max_fps=None))
    assert len(store) == 3
    for number in range(3):
        clip = store[number]
        assert clip.audio is not None
        begin = round(clip.start * RATE)
        assert abs(lag(clip.audio, chirp(2.4)[begin : begin + len(clip.audio)])) <= promised


def track(path: Path, wave: np.ndarray, times: list[float], size: int, codec: str, rate: int = 48_000) -> Path:
    """A mkv whose sound `wave` (S,) comes in packets of `size` samples at the given `times`; more of it is left out."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=FPS)
        picture.width = picture.height = 32
        sound = out.add_stream(codec, rate=rate, layout="mono")
        for _ in range(round(FPS * times[-1])):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(picture.encode(None))
        for n, time in enumerate(times):
            piece = np.round(wave[n * size : (n + 1) * size] * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(time * rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def test_after_a_lost_packet_sound_is_in_step_again(tmp_path: Path) -> None:
    size, lost = 960, 25  # 20 ms, as calls over the network send them
    wave = chirp(2.0, 48_000)
    kept = np.delete(wave.reshape(-1, size), lost, 0).ravel()
    times = [n * size / 48_000 for n in range(100) if n != lost]
    heard, begin = read_audio(track(tmp_path / "a.mkv", kept, times, size, "pcm_s16le")) or pytest.fail("no sound")
    assert begin == 0
    for first, last in ((0.0, 0.5), (0.6, 2.0)):
        span = slice(round(first * RATE), round(last * RATE))
        assert abs(lag(heard[span], chirp(2.0)[span])) <= EXACT


def test_a_sound_card_that_runs_slow_is_followed(tmp_path: Path) -> None:
    size, wave = 1024, chirp(6.0, 48_000)
    times = [n * size / 48_000 * 1.002 for n in range(len(wave) // size)]  # 12 ms late after 6 s
    heard, _ = read_audio(track(tmp_path / "a.mkv", wave, times, size, "pcm_s16le")) or pytest.fail("no sound")
    for second in range(6):
        middle = (second + 0.5) / 1.002
        span = slice(round((second + 0.4) * RATE), round((second + 0.6) * RATE))
        there = slice(round((middle - 0.1) * RATE), round((middle + 0.1) * RATE))
        assert abs(lag(heard[span], chirp(6.0)[there], reach=800)) <= EXACT + 1e-3  # the chirp is stretched, too


def test_sound_that_ends_before_the_frames_is_not_continued(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a.mp4"
    source.parent.mkdir()
    write_video(source, flashing(20), FPS, chirp(0.8))
    clip = ClipStore(make([source.parent], tmp_path / "out"))[0]
    assert clip.audio is not None and len(clip.audio) / RATE == pytest.approx(0.8, abs=0.07)  # codecs fill a block
    assert clip.frames.times[-1] > 2


def test_missing_and_silent_sound_are_marked_and_nothing_is_put_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sounds = {"heard": chirp(2.4), "missing": None, "silent": np.zeros(38_400, np.float32)}
    for name, wave in sounds.items():
        write_video(tmp_path / "in" / f"{name}.mp4", flashing(20), FPS, wave)
    late = np.concatenate([np.zeros(24_000, np.float32), chirp(0.9)])
    write_video(tmp_path / "in" / "z_late.mp4", flashing(20), FPS, late)
    index = make([tmp_path / "in"], tmp_path / "out", max_seconds=1.2)
    told = dict(zip(index.keys.tolist(), zip(index.sound.tolist(), index.silent.tolist(), strict=True), strict=True))
    assert {key: told[key] for key in told if "heard" in key} == {"heard+0": (True, False), "heard+1": (True, False)}
    assert {told[key] for key in told if "missing" in key} == {(False, False)}
    assert {told[key] for key in told if "silent" in key} == {(True, True)}
    assert told["z_late+0"] == (True, True) and told["z_late+1"] == (True, False)  # by sample, not by file
    store = ClipStore(index)
    for number, key in enumerate(index.keys):
        audio = store[number].audio
        assert (audio is None) == ("missing" in key)
        assert audio is None or bool(np.abs(audio).max() < 1e-4) == told[key][1]


OFF = {"gain": False}
SWITCHES = [
    OFF | switch
    for switch in ({"gain": True}, {"roll": True}, {"frequency_mask": 60}, {"time_mask": 120}, {"noise": True})
]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: list(switch)[-1])
def test_each_augmentation_of_sound_is_a_switch_that_works_in_training_alone(
    tmp_path: Path, switch: dict[str, object]
) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", flashing(20), FPS, chirp(2.4))
    clip = ClipStore(make([tmp_path / "in"], tmp_path / "out"))[0]  # short: every view hears all of it
    sound, plain = SoundConfig(), AugmentConfig(policy="", flip=0, erase=0)

    def heard(view: object, seed: int) -> torch.Tensor:
        return view(clip, torch.Generator().manual_seed(seed))["audio"]  # type: ignore[operator]

    for settings, differs in ((OFF, False), (switch, True)):
        augment = SoundAugmentConfig(**settings)  # type: ignore[arg-type]
        for view in (pretrain_view(16, 4, 32, sound, augment), train_view(16, 4, 32, plain, sound, augment)):
            assert torch.equal(heard(view, 1), heard(view, 2)) != differs
            assert torch.equal(heard(view, 1), heard(view, 1))
    for view in eval_views(16, 4, 32, 2, sound):
        assert torch.equal(heard(view, 1), heard(view, 2))
