"""Faces of whole videos become samples: whatever the video, whoever is in it, always the same bytes."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hicmae.configs import load
from hicmae.configs.errors import UserError
from hicmae.datasets.faces import CropConfig
from hicmae.datasets.faces.mtcnn import Mtcnn
from hicmae.datasets.index import Index
from hicmae.datasets.media import write_video
from hicmae.datasets.shards import ShardConfig
from hicmae.datasets.store import ClipStore
from tests.datasets.astronaut import Place, scene, sway
from tests.datasets.making import make
from tests.media_files import moving, pulses

FRAMES = 9


def people(
    path: Path, places: Sequence[Place], width: int, height: int, fps: float = 25, frames: int = FRAMES, **how: Any
) -> Path:
    """A video of the same astronaut at several places at a time."""
    swaying = [sway(frames, place, 12) for place in places]
    pictures = [scene([at(n) for at in swaying], width, height) for n in range(frames)]
    return write_video(path, pictures, fps, how.pop("audio", None), **how)


def recipes(index: Index) -> list[dict[str, Any]]:
    with tarfile.open(index.shards[0].path) as tar:
        return [json.load(tar.extractfile(f"{key}.json"))["crop"] for key in index.keys]  # type: ignore[arg-type]


WAYS: dict[str, tuple[str, Sequence[Place], int, int, dict[str, Any]]] = {
    "portrait without sound": ("a.mp4", [(360, 420, 2.5, 5)], 720, 1280, {"frames": 5}),
    "a wide shot": ("a.mp4", [(900, 200, 0.7, 0)], 1280, 720, {"frames": 5, "audio": pulses(0.2)}),
    "29.97 frames per second": ("a.mkv", [(200, 120, 1.2, -10)], 400, 300, {"fps": 30000 / 1001}),
    "30 frames per second": ("a.mov", [(200, 120, 1.2, 0)], 400, 300, {"fps": 30}),
    "mpeg4": ("a.avi", [(200, 120, 1.2, 10)], 400, 300, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_face_is_one_level_sample_however_it_was_filmed(way: str, tmp_path: Path) -> None:
    name, places, width, height, how = WAYS[way]
    index = make([people(tmp_path / name, places, width, height, **how)], tmp_path / "out", size=160, faces="mtcnn")
    assert list(index.keys) == ["a"] and index.frames[0] == how.get("frames", FRAMES)
    assert index.fps[0] == pytest.approx(how.get("fps", 25), rel=1e-3) and index.sound[0] == ("audio" in how)
    (crop,) = recipes(index)
    path = np.array(crop["path"])
    assert crop["kind"] == "mtcnn" and crop["picture"] == [width, height] and len(path) == index.frames[0]
    assert np.abs(path[1:, 3] / path[:-1, 3] - 1).max() <= 0.01
    crops = [frame.permute(1, 2, 0).numpy() for frame in ClipStore(index)[0].frames.take(range(len(path)))]
    eyes = np.stack([found.points[0, :2] for found in Mtcnn(0.2)(crops)])
    lines = eyes[:, 1] - eyes[:, 0]
    assert np.percentile(np.degrees(np.abs(np.arctan2(lines[:, 1], lines[:, 0]))), 95) < 3
    assert np.median(np.linalg.norm(lines, axis=1)) / 160 == pytest.approx(0.28, abs=0.02)
    assert np.abs(np.median(eyes.mean(1), 0) / 160 - [0.5, 0.4]).max() < 0.02


def test_of_several_people_the_policy_takes_the_largest_or_all(tmp_path: Path) -> None:
    video = people(tmp_path / "two.mp4", [(130, 120, 1.0, 0), (360, 130, 1.5, 0)], 500, 300)
    (one,) = recipes(make([video], tmp_path / "largest", faces="mtcnn"))
    assert np.median([row[0] for row in one["path"]]) == pytest.approx(360, abs=15)
    index = make([video], tmp_path / "all", faces="mtcnn", crop=CropConfig(several="all"))
    assert sorted(index.keys) == ["two+0", "two+1"] and set(index.sources) == {"two.mp4"}
    places = sorted(np.median([row[0] for row in each["path"]]) for each in recipes(index))
    assert places == pytest.approx([130, 360], abs=15)
    assert index.preprocessing["crop"]["kind"] == "mtcnn" and index.preprocessing["crop"]["several"] == "all"
    assert "device" not in index.preprocessing["crop"] and "tracks" not in index.preprocessing["crop"]


def test_shots_become_samples_and_long_faces_several(tmp_path: Path) -> None:
    left, right = sway(30, (90, 110, 1.0, 0), 8), sway(30, (230, 110, 1.0, 0), 8)
    pictures = [scene([left(n)], seed=1) for n in range(30)] + [255 - scene([], seed=2)] * 3
    pictures += [scene([right(n)], seed=4) for n in range(14)]
    path = write_video(tmp_path / "a.mp4", pictures, 25)
    index = make([path], tmp_path / "out", faces="mtcnn", max_seconds=1, crop=CropConfig(shortest=0.3))
    assert list(index.keys) == ["a+0+0", "a+0+1", "a+1"] and list(index.frames) == [15, 15, 14]
    starts = [ClipStore(index)[n].start for n in range(3)]
    assert starts == pytest.approx([0, 0.6, 33 / 25], abs=1e-3)


def test_a_video_without_a_face_is_skipped_with_the_reason_or_cut_at_its_centre(tmp_path: Path) -> None:
    people(tmp_path / "face.mp4", [(160, 110, 1, 0)], 320, 240, frames=3)
    write_video(tmp_path / "bar.mp4", moving(5), 25)
    both = [tmp_path / "face.mp4", tmp_path / "bar.mp4"]
    index = make(both, tmp_path / "skip", faces="mtcnn")
    assert list(index.keys) == ["face"] and index.reasons() == {"shows no face that was found": 1}
    index = make(both, tmp_path / "centre", faces="mtcnn", crop=CropConfig(missing="centre"))
    assert [crop["kind"] for crop in recipes(index)] == ["centre", "mtcnn"]


def test_a_picture_is_a_clip_of_one_frame_with_a_face_too(tmp_path: Path) -> None:
    Image.fromarray(scene([(160, 110, 1, 20)])).save(tmp_path / "a.png")
    index = make([tmp_path / "a.png"], tmp_path / "out", faces="mtcnn", images=True)
    (x, y, roll, width), *others = recipes(index)[0]["path"]
    assert (x, y) == pytest.approx((160, 110), abs=4) and roll == pytest.approx(22.6, abs=4) and not others
    assert index.frames[0] == 1 and width == pytest.approx(43.5 / 0.28, rel=0.1)


def test_the_same_video_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    path = people(tmp_path / "a.mp4", [(160, 110, 1, 8)], 320, 240)
    before, digests = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            digests.add(make([path], tmp_path / str(threads), faces="mtcnn").shards[0].sha256)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_boxes_from_files_are_cropped_and_a_wrong_file_skips_its_video(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a", "b", "c"):
        write_video(tmp_path / "videos" / f"{name}.mp4", [scene([(160, 110, 1, 0)])] * 25, 25)
    (tmp_path / "tracks").mkdir()
    rows = "".join(f"{n},117,72,86,116\n" for n in range(25))
    (tmp_path / "tracks" / "a.csv").write_text("frame,left,top,width,height\n" + rows)
    (tmp_path / "tracks" / "b.csv").write_text("frame,left,top,width,height\n0,x,1,1,1\n")
    config = CropConfig(tracks=str(tmp_path / "tracks"))
    index = make([tmp_path / "videos"], tmp_path / "out", size=160, faces="boxes", crop=config)
    assert list(index.keys) == ["a"] and index.preprocessing["crop"]["kind"] == "boxes"
    assert {skip.source: skip.reason.split(" (")[0] for skip in index.skipped} == {
        "b.mp4": "has a track file that cannot be used",
        "c.mp4": "shows no face that was found",
    }
    assert "column left holds 'x'" in index.skipped[0].reason
    (found,) = Mtcnn(0.2)([ClipStore(index)[0].frames.take([3])[0].permute(1, 2, 0).numpy()])
    eyes = found.points[0, :2] / 160
    assert np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(0.28, abs=0.06) and abs(eyes[:, 1].mean() - 0.4) < 0.06


def test_what_is_cropped_already_is_taken_whole_if_it_is_square(tmp_path: Path) -> None:
    write_video(tmp_path / "square.mp4", moving(4, 64, 64), 25)
    write_video(tmp_path / "wide.mp4", moving(4, 48, 64), 25)
    index = make([tmp_path / "square.mp4", tmp_path / "wide.mp4"], tmp_path / "out", faces="none")
    assert list(index.keys) == ["square"] and index.preprocessing["crop"] == {"kind": "none"}
    assert index.skipped[0].reason == "is not square, as cropped faces are (64 x 48 pixels)"


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shard\.box and shard\.faces=mtcnn exclude each other"):
        ShardConfig(faces="mtcnn", box=(0, 0, 9, 9))
    with pytest.raises(ValueError, match=r"shard\.faces=boxes needs crop\.tracks"):
        ShardConfig(faces="boxes")
    assert load(ShardConfig, {}, ["--faces", "mtcnn", "--crop.several", "all"]).crop.several == "all"
    with pytest.raises(UserError, match=r"crop\.several"):
        load(ShardConfig, {}, ["--faces", "mtcnn", "--crop.several", "some"])
