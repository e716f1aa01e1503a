"""Sound that lies in a file beside its video, as VoxCeleb2 has it, is read on the video's clock."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.datasets.listing import Item, read_list
from hicmae.datasets.media import MediaError, open_video, read_audio
from hicmae.datasets.samples import unpack
from hicmae.datasets.strips import ShardConfig, samples_of
from tests.media_files import BAD, pulses, video

CONFIG = ShardConfig(size=16)


def m4a(path: Path, sound: np.ndarray) -> Path:
    with av.open(str(path), "w", format="ipod") as out:
        stream = out.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def wav(path: Path, sound: np.ndarray, rate: int = 48_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("kind", ["m4a", "wav"])
def test_a_sound_file_is_read_and_is_no_video(tmp_path: Path, kind: str) -> None:
    rate = {"m4a": 16_000, "wav": 48_000}[kind]
    path = {"m4a": m4a, "wav": wav}[kind](tmp_path / f"a.{kind}", pulses(1.0, rate))
    heard = read_audio(path)
    assert heard is not None
    sound, begin = heard
    loud = np.flatnonzero(np.abs(sound) > 0.3)
    assert begin == 0 and abs(loud[0] / 16_000 - 0.25) < 0.002
    with pytest.raises(MediaError, match="is not a video"):
        open_video(path)


def test_sound_beside_a_video_lands_in_its_sample_at_its_time(tmp_path: Path) -> None:
    item = Item(source="a.mp4", path=video(tmp_path / "a.mp4", frames=25, sound=False))
    ((raw, row),) = samples_of(item, "a", CONFIG)
    assert not row["sound"] and unpack(raw, number=0, label=-1).audio is None
    item = Item(source="a.mp4", path=item.path, sound=wav(tmp_path / "a.wav", pulses(1.0, 48_000)))
    ((raw, row),) = samples_of(item, "a", CONFIG)
    audio = unpack(raw, number=0, label=-1).audio
    assert row["sound"] and audio is not None and len(audio) == 16_000
    assert abs(np.flatnonzero(np.abs(audio) > 0.3)[0] / 16_000 - 0.25) < 0.002


@pytest.mark.parametrize("name", ["empty", "text", "missing", "cut mp4", "folder"])
def test_a_sound_file_that_cannot_be_used_is_named_with_its_video(tmp_path: Path, name: str) -> None:
    item = Item(source="v.mp4", path=video(tmp_path / "v.mp4", sound=False), sound=BAD[name][0](tmp_path))
    with pytest.raises(MediaError, match=r"v\.mp4 has sound that cannot be used \(\w+\.mp4 (is|does)") as told:
        list(samples_of(item, "v", CONFIG))
    assert str(tmp_path) not in told.value.reason  # the same on every machine


def test_a_list_names_sound_files(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("path,sound,label,fold\nv/a.mp4,s/a.wav,x,1\nv/b.mp4,,y,2\n")
    items, problems = read_list(listed)
    assert not problems and [item.extra for item in items] == [{"fold": "1"}, {"fold": "2"}]
    assert [item.sound for item in items] == [tmp_path / "s/a.wav", None]
