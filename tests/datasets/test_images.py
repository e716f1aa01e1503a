"""Pictures join videos as clips of one frame: upright, sampled by every view, refused in words if damaged."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hicmae.configs.errors import UserError
from hicmae.datasets.check import check
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.images import is_image, read_image
from hicmae.datasets.media import MediaError
from hicmae.datasets.pipeline import Stream, evaluate_batches
from hicmae.datasets.sampling import eval_views, pretrain_view, train_view
from hicmae.datasets.store import ClipStore
from tests.datasets.making import make
from tests.media_files import BAD, video

SOUND = SoundConfig(length=32, bins=16)


def corner(height: int = 48, width: int = 64) -> Image.Image:
    """Black, with a red square in the upper left corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 3, : height // 3, 0] = 255
    return Image.fromarray(pixels)


def picture(path: Path, image: Image.Image | None = None, orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    (image or corner()).save(path, exif=exif)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two classes, each of two videos and three pictures of several kinds."""
    for name in ("happy", "sad"):
        folder = tmp_path / "mixed" / name
        for n in range(2):
            video(folder / f"{n}.mp4", frames=20, seed=n)
        picture(folder / "a b.jpg")
        picture(folder / "c.PNG")
        picture(folder / "d.jpeg", orientation=6)
    return tmp_path / "mixed"


def test_pictures_are_taken_where_asked_for(mixed: Path, tmp_path: Path) -> None:
    without = make([mixed], tmp_path / "videos", labels="folder")
    assert len(without) == 4 and without.others == 6
    index = make([mixed], tmp_path / "all", labels="folder", images=True)
    assert len(index) == 10 and index.others == 0 and not index.skipped
    still = index.frames == 1
    assert np.isnan(index.pace[still]).all() and (index.pace[~still] == 25).all()
    assert check(tmp_path / "all", progress=False).summary["frame rate"] == {"stills": 6, "25": 4}
    assert still.sum() == 6 and not index.sound[still].any() and list(index.labels) == [0] * 5 + [1] * 5
    clip = ClipStore(index)[int(np.flatnonzero(still)[0])]
    assert clip.frames.take([0]).shape == (1, 3, 32, 32) and clip.audio is None and clip.frames.times.tolist() == [0]


def test_a_picture_without_its_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a.png").rename(tmp_path / "data" / "a")
    assert len(make([tmp_path / "data"], tmp_path / "out", images=True)) == 1


def test_a_picture_that_is_named_but_not_asked_for_says_how_to_ask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a video \(it is a picture\); .* --images true"):
        make([picture(tmp_path / "a.png")], tmp_path / "out")


def test_a_list_may_name_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "my face.jpg"), video(tmp_path / "b.mp4", frames=3)
    (tmp_path / "l.txt").write_text("my face.jpg\nb.mp4\n")
    index = make([tmp_path / "l.txt"], tmp_path / "out", images=True)
    assert sorted(index.sources) == ["b.mp4", "my face.jpg"] and index.classes == ()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    ("orientation", "turns", "mirrored"), [(1, 0, False), (3, 2, False), (6, 3, False), (8, 1, False), (2, 0, True)]
)
def test_pictures_are_turned_as_their_camera_says(
    tmp_path: Path, suffix: str, orientation: int, turns: int, mirrored: bool
) -> None:
    info, pixels = read_image(picture(tmp_path / f"a{suffix}", orientation=orientation))
    expected = np.rot90(np.asarray(corner()), turns)
    expected = expected[:, ::-1] if mirrored else expected
    assert pixels.shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(pixels.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_becomes_colour(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    _, pixels = read_image(picture(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), image))
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    assert np.corrcoef(pixels[..., 0].ravel(), np.asarray(grey).ravel())[0, 1] > 0.5


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_picture_that_was_cut_off_is_skipped_and_named(tmp_path: Path, suffix: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = picture(tmp_path / f"a{suffix}", noise).read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(data[: int(len(data) * share)])
    video(tmp_path / "b.mp4", frames=3)
    index = make([tmp_path], tmp_path.with_name(tmp_path.name + "-out"), images=True)
    (skip,) = index.skipped
    assert skip.source == f"a{suffix}" and skip.reason.startswith("is damaged or cut off (") and skip.remedy


def test_what_is_neither_is_still_refused(tmp_path: Path) -> None:
    video(tmp_path / "good.mp4", frames=3)
    names = [name for name in BAD if name not in ("missing", "folder", "broken link", "pipe", "png")]
    for name in names:
        BAD[name][0](tmp_path)
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(50))
    (tmp_path / "b.png").write_bytes(b"no picture at all")
    index = make([tmp_path], tmp_path.with_name(tmp_path.name + "-out"), images=True)
    assert len(index) == 1 and len(index.skipped) == len(names) + 1 and index.others == 1


def to_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    corner().save(buffer, kind)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["JPEG", "PNG"]), data=st.data())
def test_no_bytes_bring_the_reader_down(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    raw = bytearray(to_bytes(kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(3, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    (tmp_path / "a").write_bytes(raw)
    assert is_image(tmp_path / "a") in (True, False)
    try:
        info, pixels = read_image(tmp_path / "a")
    except MediaError as error:
        assert error.reason and error.remedy
    else:
        assert pixels.shape == (info.height, info.width, 3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [0, 2])
def test_pretraining_and_fine_tuning_run_on_pictures_among_videos(mixed: Path, tmp_path: Path, workers: int) -> None:
    index = make([mixed], tmp_path / "out", labels="folder", images=True)
    how: dict[str, Any] = {"batch_size": 10, "workers": workers}
    ((batch,),) = Stream(index, pretrain_view(8, 2, 32, SOUND), **how).epoch(0)
    assert batch["video"].shape == (10, 3, 8, 32, 32) and batch["audio"].shape == (10, 1, 32, 16)
    still = torch.tensor([bool(index.frames[n] == 1) for n in batch["number"]])
    assert batch["has_audio"].tolist() == (~still).tolist() and still.sum() == 6
    frames = batch["video"][still].float()
    assert torch.equal(frames, frames[:, :, :1].expand_as(frames)) and frames.amax() > 100
    assert not batch["audio"][still].any()
    ((batch,),) = Stream(index, train_view(8, 2, 32, None, SOUND), **how).epoch(0)
    assert batch["video"].shape == (10, 3, 8, 32, 32) and sorted(batch["label"].tolist()) == [0] * 5 + [1] * 5
    (batch,) = evaluate_batches(index, eval_views(8, 2, 32, 2, SOUND), batch_size=10, workers=workers)
    assert batch["video"].shape == (20, 3, 8, 32, 32) and torch.isfinite(batch["video"]).all()
