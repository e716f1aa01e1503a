"""Folders of frames, as DFEW, FERV39k and MAFW are distributed, are clips."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hicmae.datasets.images import read_folder
from hicmae.datasets.listing import Item
from hicmae.datasets.media import MediaError
from hicmae.datasets.samples import unpack
from hicmae.datasets.strips import ShardConfig, samples_of
from tests.datasets.test_corpora_sound import wav
from tests.media_files import pulses


def frames(folder: Path, count: int, form: str = "{}.png", side: int = 24) -> Path:
    """Frame n is grey of level 10 n."""
    folder.mkdir(parents=True)
    for n in range(count):
        Image.fromarray(np.full((side, side, 3), 10 * n, np.uint8)).save(folder / form.format(n + 1))
    return folder


@pytest.mark.parametrize("form", ["{}.png", "{:05d}.jpg", "frame_{}_x2.jpeg"])
def test_frames_come_in_natural_order_of_their_names(tmp_path: Path, form: str) -> None:
    folder = frames(tmp_path / "00001", 12, form)
    (folder / "notes.txt").write_text("text")
    info, read = read_folder(folder)
    assert (info.frames, info.fps, info.width, info.has_audio) == (12, 25.0, 24, False)
    assert [(round(time * 25), round(pixels.mean() / 10)) for time, pixels in read()] == [(n, n) for n in range(12)]


def test_a_folder_of_frames_with_a_sound_file_lasts_as_long_as_it_sounds(tmp_path: Path) -> None:
    folder = frames(tmp_path / "00001", 12)
    sound = wav(tmp_path / "00001.wav", pulses(1.2, 48_000))
    config = ShardConfig(size=16, max_fps=None)
    ((raw, row),) = samples_of(Item(source="00001", path=folder, sound=sound), "a", config)
    clip = unpack(raw, number=0, label=-1)
    assert row["frames"] == 12 and row["fps"] == pytest.approx(10) and row["sound"]
    assert clip.audio is not None and len(clip.audio) == pytest.approx(1.2 * 16_000, abs=2)
    ((_, row),) = samples_of(Item(source="00001", path=folder), "a", config)
    assert row["fps"] == pytest.approx(25) and not row["sound"]


def test_a_folder_without_pictures_or_with_a_damaged_one_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder; name the video inside it"):
        list(samples_of(Item(source="tmp", path=tmp_path), "a", ShardConfig()))
    folder = frames(tmp_path / "a", 3)
    (folder / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(MediaError, match=r"a holds a frame that cannot be used \(2\.png is damaged"):
        list(samples_of(Item(source="a", path=folder), "a", ShardConfig(size=16)))
    folder = frames(tmp_path / "b", 3)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "3.png")
    with pytest.raises(MediaError, match="changes its picture size midway"):
        list(samples_of(Item(source="b", path=folder), "b", ShardConfig(size=16)))
