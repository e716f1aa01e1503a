"""Shards of three formats: what each gives back, and conversion from one to another."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hicmae.configs.errors import UserError
from hicmae.datasets.check import check
from hicmae.datasets.coding import Coder
from hicmae.datasets.frames import SampleError, VideoFrames
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.samples import parts_of
from hicmae.datasets.sampling import pretrain_view
from hicmae.datasets.shards import ShardConfig, merge_shards, write_part, write_shards
from hicmae.datasets.store import ClipStore
from tests.media_files import moving, video

FORMATS = ("jpeg", "mp4", "raw")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos in class folders, one longer than two groups of pictures, one silent, one that is none."""
    root = tmp_path_factory.mktemp("videos")
    for n, frames in enumerate((110, 30, 7, 1, 61)):
        video(root / ("happy", "sad")[n % 2] / f"{n}.mp4", frames=frames, seed=n, sound=n != 1)
    (root / "happy" / "broken.mp4").write_bytes(b"no video at all")
    return root


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    """Shards of the same videos in every format."""
    return {kind: shard(folder, tmp_path_factory.mktemp(kind) / "out", format=kind) for kind in FORMATS}


def shard(source: Path | str, out: Path, **settings: object) -> Index:
    usual = {} if (Path(source) / "index.json").exists() else {"size": 48, "per_shard": 4, "labels": "folder"}
    config = ShardConfig(**{**usual, **settings})  # type: ignore[arg-type]
    return write_shards([source], out, config=config, progress=False)


def frames_of(index: Index, number: int) -> torch.Tensor:
    frames = ClipStore(index)[number].frames
    return frames.take(range(len(frames)))


def tree(folder: Path | object) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(str(folder)).iterdir()}


def test_every_format_holds_the_same_samples_and_sound(made: dict[str, Index]) -> None:
    for index in made.values():
        assert index.keys.tolist() == made["jpeg"].keys.tolist() and len(index) == 5
        for number in range(len(index)):
            ours, theirs = ClipStore(index)[number], ClipStore(made["jpeg"])[number]
            assert np.array_equal(ours.frames.times, theirs.frames.times)
            assert (ours.label, ours.source, ours.start, ours.crop) == (
                *(theirs.label, theirs.source, theirs.start),
                theirs.crop,
            )
            assert (ours.audio is None) == (theirs.audio is None)
            assert ours.audio is None or np.array_equal(ours.audio, theirs.audio)


def test_raw_frames_are_what_was_given_and_the_others_lose_little(made: dict[str, Index]) -> None:
    pixels = moving(12, 48, 48, seed=3)
    for kind, most in (("raw", 0.0), ("jpeg", 4.0), ("mp4", 4.0)):
        for number in range(5):
            exact, coded = frames_of(made["raw"], number).float(), frames_of(made[kind], number).float()
            assert (exact - coded).abs().mean() <= most
    coder = Coder("raw", 90)
    for frame in pixels:
        coder.add(frame)
    assert coder.finish(25).data == pixels.tobytes()


def test_a_part_of_a_video_is_decoded_to_the_same_bits_as_the_whole(made: dict[str, Index]) -> None:
    clip = ClipStore(made["mp4"])[0]
    frames = clip.frames
    assert isinstance(frames, VideoFrames) and len(frames) == 110
    with av.open(io.BytesIO(bytes(frames.data))) as container:  # as any player reads it
        whole = [frame.reformat(format="rgb24", threads=1).to_ndarray() for frame in container.decode(video=0)]
    assert len(whole) == 110
    for wanted in ([0], [109], [3, 7, 11], [5, 5, 4], list(range(41, 102, 4)), list(range(0, 110, 7))):
        for i, frame in zip(wanted, frames.take(wanted), strict=True):
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), whole[i])


def test_frames_that_nothing_refers_to_are_left_out(made: dict[str, Index], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = ClipStore(made["mp4"])[0].frames
    sent, real = [], av.Packet
    monkeypatch.setattr(av, "Packet", lambda data: sent.append(len(data)) or real(data))
    frames.take(range(0, 48, 4))
    assert len(sent) == 12  # every fourth refers to the one before, and to nothing between
    sent.clear()
    frames.take([70])
    assert len(sent) < 10  # from the key frame at 48 on


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("kind", FORMATS)
def test_conversion_keeps_samples_and_loses_nothing_on_the_way_to_raw(
    source: str, kind: str, made: dict[str, Index], tmp_path: Path
) -> None:
    before = made[source]
    if kind == source:
        with pytest.raises(UserError, match=f"holds {kind} shards already"):
            shard(before.folder, tmp_path / "out", format=kind)  # type: ignore[arg-type]
        return
    after = shard(before.folder, tmp_path / "out", format=kind)  # type: ignore[arg-type]
    for name in ("keys", "sources", "groups", "labels", "frames", "seconds", "fps", "sound", "silent", "shard"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (before.classes, before.preprocessing, before.fingerprint, before.skipped) == (
        *(after.classes, after.preprocessing, after.fingerprint),
        after.skipped,
    )
    assert Index.join([before, after]).keys.size == 10  # formats may be mixed
    for number in range(len(before)):
        ours, theirs = ClipStore(after)[number], ClipStore(before)[number]
        assert (ours.crop, ours.start, ours.source) == (theirs.crop, theirs.start, theirs.source)
        assert ours.audio is None or np.array_equal(ours.audio, theirs.audio)
        difference = (frames_of(after, number).float() - frames_of(before, number).float()).abs()
        assert difference.max() == 0 if kind == "raw" else difference.mean() < 4
    assert check(after.folder).ok  # type: ignore[arg-type]


def test_a_conversion_that_was_killed_continues_to_the_same_bytes_in_parts_too(
    made: dict[str, Index], tmp_path: Path
) -> None:
    config, source = ShardConfig(format="raw"), [made["mp4"].folder]
    whole = tree(write_shards(source, tmp_path / "a", config=config, progress=False).folder)  # type: ignore[arg-type]
    begun = tmp_path / "b"
    write_part(source, begun, 2, 2, config=config, progress=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is not finished"):
        Index.load(begun)
    write_part(source, begun, 1, 2, config=config, progress=False)  # type: ignore[arg-type]
    merge_shards(source, begun, config=config, progress=False)  # type: ignore[arg-type]
    assert tree(begun) == whole
    (begun / "shard-000001.jsonl").unlink()
    stamp = (begun / "shard-000000.tar").stat().st_mtime_ns
    write_shards(source, begun, config=config, progress=False)  # type: ignore[arg-type]
    assert tree(begun) == whole and (begun / "shard-000000.tar").stat().st_mtime_ns == stamp


def test_jpeg_shards_say_nothing_of_their_format_so_that_older_ones_are_continued(made: dict[str, Index]) -> None:
    for name in ("config.json", "index.json"):
        assert "format" not in json.loads((Path(str(made["jpeg"].folder)) / name).read_text())["config"]
    assert json.loads((Path(str(made["raw"].folder)) / "index.json").read_text())["config"]["format"] == "raw"


def test_conversion_refuses_what_it_would_not_do(made: dict[str, Index], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --size"):
        shard(made["jpeg"].folder, tmp_path / "a", format="raw", size=32)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="one folder of them at a time"):
        write_shards([folder, str(made["jpeg"].folder)], tmp_path / "b", progress=False)
    with pytest.raises(UserError, match="other settings"):
        shard(made["jpeg"].folder, Path(str(made["raw"].folder)), format="raw")  # type: ignore[arg-type]


def test_damage_to_a_raw_frame_is_noticed_when_it_is_taken_and_by_the_check(
    made: dict[str, Index], tmp_path: Path
) -> None:
    for name, data in tree(made["raw"].folder).items():
        (tmp_path / name).write_bytes(data)
    index = Index.load(tmp_path)
    at, tar = int(index.offset[1] + index.hashed(1)), tmp_path / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[at + 3 * 48**2 * 2 + 5] ^= 1
    tar.write_bytes(data)
    frames = ClipStore(index)[1].frames
    frames.take([0, 1, 3])
    with pytest.raises(SampleError, match="its frame 2 are not"):
        frames.take([1, 2])
    assert [problem.reason for problem in check(tmp_path).problems] == [
        f"is damaged (in 1 of 3 samples: {index.keys[1]})"
    ]
    data[at - 2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(SampleError, match="not those that were written"):
        ClipStore(index)[1]


@pytest.mark.parametrize("kind", FORMATS)
def test_training_reads_every_format_in_the_same_order_with_the_same_crops(kind: str, made: dict[str, Index]) -> None:
    def batches(index: Index) -> list[dict]:
        stream = Stream(index, pretrain_view(4, 2, 32), batch_size=2, seed=5)
        return [batch for step in stream.epoch(0) for batch in step]

    for ours, theirs in zip(batches(made[kind]), batches(made["raw"]), strict=True):
        assert ours["key"] == theirs["key"]
        assert ours["video"].shape == (2, 3, 4, 32, 32) and ours["video"].dtype == torch.uint8
        assert (ours["video"].float() - theirs["video"].float()).abs().mean() < (4 if kind != "raw" else 1e-9)


def test_a_sample_of_raw_frames_ends_with_them(made: dict[str, Index]) -> None:
    index = made["raw"]
    tar = (Path(str(index.folder)) / "shard-000000.tar").read_bytes()
    raw = tar[int(index.offset[0]) : int(index.offset[0] + index.size[0])]
    parts, begin = parts_of(raw)
    assert set(parts) == {"json", "wav"} and begin == index.hashed(0)
