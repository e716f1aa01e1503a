"""Sound that is decoded as it is asked for is the sound of the whole file, and little of it is held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hicmae.datasets.fbank import SoundConfig, clip_sound
from hicmae.datasets.media import MediaError, read_audio, stream_audio, write_video
from hicmae.inference import hearing
from hicmae.inference.hearing import Soundtrack
from tests.inference.test_audio_visual import sweep
from tests.media_files import BAD, moving

CONFIG = SoundConfig(length=48, bins=16)


def whole(path: Path, start: float, end: float) -> torch.Tensor | None:
    """What a reader of the whole track hears."""
    found = read_audio(path)
    assert found is not None
    wave, begin = found
    first = int((start - begin) * 16_000)
    last = first + int((end - start) * 16_000)
    if min(last, len(wave)) - max(first, 0) < 400:
        return None
    late = max(0, -first)
    return clip_sound(np.concatenate([np.zeros(late, np.float32), wave]), (first + late, last + late), CONFIG)


def spoken(path: Path, seconds: float = 8.0, **how: float) -> Path:
    return write_video(path, moving(12, 16, 16), 25, sweep(seconds), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_every_stretch_sounds_as_in_the_whole_track(
    start: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_KEPT", 16_000)
    path = spoken(tmp_path / "a.mp4", audio_start=start)
    track = Soundtrack.of(path)
    assert track is not None
    # forward, backward, too short, before the begin, over the end, and behind it
    for begin in (0.0, 0.64, 1.28, 4.0, 3.5, 0.2, 7.6, 6.0, 7.97, 9.0):
        for length in (0.02, 0.05, 0.48, 1.0):
            expected, found = whole(path, begin, begin + length), track.between(begin, begin + length, CONFIG)
            assert (expected is None) == (found is None)
            if expected is not None and found is not None:
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_little_of_a_long_track_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "_KEPT", 16_000)
    track = Soundtrack.of(spoken(tmp_path / "a.mp4", 40.0))
    assert track is not None
    held = []
    for start in np.arange(0, 38, 0.5):
        track.between(start, start + 0.5, CONFIG)
        held.append(sum(map(len, track._pieces)))
    assert max(held) < 8 * 16_000 and max(held[40:]) <= max(held[:40]) + 2048


def test_loudness_is_that_of_the_whole_track(tmp_path: Path) -> None:
    path = spoken(tmp_path / "a.mp4")
    found, track = read_audio(path), Soundtrack.of(path)
    assert found is not None and track is not None
    track.between(1.0, 2.0, CONFIG)
    assert track.loudness() == pytest.approx(10 * np.log10(np.mean(found[0].astype(np.float64) ** 2)), abs=1e-6)
    silent = Soundtrack.of(write_video(tmp_path / "b.mp4", moving(12), 25, np.zeros(16_000, np.float32)))
    assert silent is not None and silent.loudness() is None
    track.close()


def test_pieces_put_together_are_the_track(tmp_path: Path) -> None:
    path = spoken(tmp_path / "a.mkv", 2.0)
    found = read_audio(path)
    assert found is not None
    pieces = list(stream_audio(path))
    assert pieces[0][0] == found[1] and [time for time, _ in pieces[1:]] == [None] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate([part for _, part in pieces]), found[0]) and len(pieces) > 10


def test_no_sound_is_none_and_damage_is_named(tmp_path: Path) -> None:
    assert Soundtrack.of(write_video(tmp_path / "mute.mp4", moving(12), 25)) is None
    with pytest.raises(MediaError, match="is cut off"):
        Soundtrack.of(BAD["cut mp4"][0](tmp_path))
