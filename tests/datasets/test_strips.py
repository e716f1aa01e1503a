"""What a video becomes: frames thinned, cropped and coded, with the sound that belongs to them."""

import io
import json
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import runs_of
from hicmae.datasets.index import Index
from hicmae.datasets.media import VideoInfo, read_audio, read_frames, write_video
from hicmae.datasets.shards import ShardConfig
from hicmae.datasets.store import ClipStore
from tests.datasets.making import make
from tests.media_files import corner, moving, pulses, turned, uneven_times, video


def test_a_sample_holds_frames_sound_and_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = write_video(tmp_path / "data" / "a b.mp4", moving(25, 48, 64), 25, pulses(1.0))
    index = make([tmp_path / "data"], tmp_path / "out")
    (sample,) = webdataset.tariterators.group_by_keys(
        {**member, "__url__": ""}
        for member in webdataset.tariterators.tar_file_iterator(io.BytesIO(index.shards[0].path.read_bytes()))
    )
    meta = json.loads(sample["json"])
    assert sample["__key__"] == meta["key"] == index.keys[0] and index.keys[0].startswith("a_b-")
    assert (meta["source"], meta["frames"], meta["fps"], meta["size"], meta["start"]) == ("a b.mp4", 25, 25, 32, 0)
    assert np.allclose(meta["times"], np.arange(25) * 40) and "label" not in meta and "group" not in meta
    assert meta["crop"] == {"kind": "centre", "box": [8, 0, 48, 48], "picture": [64, 48]}
    assert meta["audio"] == {"seconds": 1.0, "offset": 0.0, "silent": False}
    for n, (_, frame) in enumerate(read_frames(path)):
        jpeg = sample["jpgs"][meta["offsets"][n] : meta["offsets"][n + 1]]
        expected = Image.fromarray(frame[:, 8:56]).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg)), int) - np.asarray(expected)).mean() < 4
    with wave.open(io.BytesIO(sample["wav"])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        stored = np.frombuffer(file.readframes(-1), "<i2") / 32768
    sound = read_audio(path)
    assert sound is not None and np.array_equal(stored.astype(np.float32), sound[0][:16_000])
    assert (index.seconds[0], index.frames[0], index.fps[0], index.sound[0]) == (1.0, 25, 25, True)


def test_a_long_video_becomes_samples_that_join_to_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.5, 0.5, 16_000 * 5).astype(np.float32)
    path = write_video(tmp_path / "long.mkv", moving(125), 25, noise, audio_codec="pcm_s16le")
    index = make([path], tmp_path / "out", max_seconds=2)
    assert list(index.keys) == ["long+0", "long+1", "long+2"] and set(index.sources) == {"long.mkv"}
    store = ClipStore(index)
    parts = [store[n] for n in range(3)]
    times = np.concatenate([part.start + part.frames.times for part in parts])
    assert np.allclose(times, np.arange(125) / 25, atol=1e-3) and max(index.seconds) <= 2
    sound = read_audio(path)
    audio = [part.audio for part in parts]
    assert sound is not None and all(piece is not None for piece in audio)
    assert np.array_equal(np.concatenate([piece for piece in audio if piece is not None]), sound[0])
    for part, seconds in zip(parts, index.seconds, strict=True):
        assert part.audio is not None and len(part.audio) == pytest.approx(seconds * 16_000, abs=16)


def test_sound_that_begins_late_keeps_its_place(tmp_path: Path) -> None:
    path = video(tmp_path / "late.mkv", frames=25, audio_start=0.2)
    clip = ClipStore(make([path], tmp_path / "out"))[0]
    assert clip.audio is not None
    onset = np.flatnonzero(np.abs(clip.audio) > 0.35)[0] / 16_000
    assert onset == pytest.approx(0.3, abs=2e-3) and not clip.audio[: int(0.15 * 16_000)].any()


def test_a_silent_track_is_marked_and_a_missing_one_absent(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(5), 25, np.zeros(3200, np.float32))
    write_video(tmp_path / "b.mp4", moving(5), 25)
    index = make([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out")
    assert (
        list(index.sound) == [True, False] and list(index.silent) == [True, False] and "(1 of it silent)" in str(index)
    )
    with tarfile.open(index.shards[0].path) as tar:
        sounds = [json.load(tar.extractfile(name))["audio"] for name in ("a.json", "b.json")]  # type: ignore[arg-type]
    assert sounds[0]["silent"] and sounds[1] is None


@pytest.mark.parametrize(
    ("fps", "limit", "kept"), [(60, 30, 30), (50, 30, 25), (30, 30, 30), (25, 30, 25), (29.97, 30, 30)]
)
def test_frames_above_the_limit_are_left_out_evenly(tmp_path: Path, fps: float, limit: float, kept: float) -> None:
    path = write_video(tmp_path / "a.mp4", moving(60), fps)
    index = make([path], tmp_path / "out", max_fps=limit)
    times = ClipStore(index)[0].frames.times
    assert index.fps[0] == pytest.approx(kept, rel=2e-3) and np.ptp(np.diff(times)) < 2e-3
    assert len(make([path], tmp_path / "all", max_fps=None)) == 1 and Index.load(tmp_path / "all").frames[0] == 60


def test_a_variable_rate_is_thinned_by_time(tmp_path: Path) -> None:
    times = uneven_times(60)
    path = write_video(tmp_path / "a.mp4", moving(60), 25, times=times)
    kept = ClipStore(make([path], tmp_path / "out", max_fps=15))[0].frames.times
    assert set(np.round(kept, 2)) <= set(np.round(times, 2)) and np.diff(kept).min() > 0.03
    assert len(kept) / kept[-1] < 15.5


def test_the_given_square_is_cut_out_and_turned_videos_stand_upright(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_video(tmp_path / "data" / "plain.mp4", corner(), 25)
    turned(tmp_path / "data" / "turned.mp4", 90)
    index = make([tmp_path / "data"], tmp_path / "box", box=(0, 0, 16, 16))
    store = ClipStore(index)
    for number in range(2):
        red, green, _ = store[number].frames.take([0])[0].float().mean((1, 2))
        assert red > 200 and green < 40
    assert index.preprocessing["crop"] == {"kind": "box", "box": [0, 0, 16, 16]}
    with pytest.raises(UserError, match=r"smaller than the box to cut out \(64 x 48"):
        make([tmp_path / "data"], tmp_path / "far", box=(40, 40, 16, 16))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, r"shard.size must lie in 16"),
        ({"quality": 100}, "shard.quality"),
        ({"per_shard": 0}, "shard.per_shard"),
        ({"labels": "names"}, "shard.labels must be `folder`"),
        ({"labels": "folder", "list": "a.csv"}, "exclude each other"),
        ({"box": (10, 10, 20, 40)}, r"nearest: \(0, 10, 40, 40\)"),
        ({"classes": ("a", "a")}, "shard.classes"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_rule(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShardConfig(**settings)


@pytest.mark.parametrize(
    ("box", "size", "rows", "columns"),
    [
        ((32, 0, 160, 160), 160, slice(0, 160), slice(32, 192)),
        ((16, 0, 192, 192), 192, slice(0, 192), slice(16, 208)),
    ],
)
def test_a_box_gives_the_published_crop_of_voxceleb2(
    box: tuple[int, int, int, int], size: int, rows: slice, columns: slice
) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    info = VideoInfo(
        container="mov", codec="h264", frames=1, seconds=1, fps=25, width=224, height=224, rotation=0, has_audio=False
    )
    (run,) = runs_of(Path("a.mp4"), ShardConfig(box=box, size=size), info, lambda: iter(()), source="a.mp4")
    assert np.array_equal(run.square(frame, 0, size)[0], frame[rows, columns])
