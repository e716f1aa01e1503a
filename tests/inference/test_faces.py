"""A raw video is cropped for a model as the clips it was trained on were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.datasets import ClipStore, ShardConfig, write_shards, write_video
from hicmae.datasets.faces import CropConfig
from hicmae.datasets.media import MediaError
from hicmae.inference import load_model, predict_clip, reconstruct_clip
from hicmae.inference.windows import Preprocessing, middle_window, windows
from tests.datasets.astronaut import scene, sway
from tests.inference.clips import video
from tests.inference.conftest import PREPROCESSING, save_autoencoder, save_classifier

CONFIG = ShardConfig(size=48, faces="mtcnn", crop=CropConfig(eye_distance=0.33, shortest=0.2))
RECIPE = {**PREPROCESSING, **CONFIG.preprocessing()}


def small(path: Path, frames: int = 25) -> Path:
    """A face that fills a tenth of the picture, and a smaller one."""
    at = sway(frames, (90, 120, 1.1, 12), 25)
    return write_video(path, (scene([at(n), (260, 60, 0.6, 0)]) for n in range(frames)), 25)


def of(recipe: dict[str, Any], tmp_path: Path) -> Preprocessing:
    loaded = load_model(save_classifier(tmp_path / "weights.safetensors", preprocessing=recipe), device="cpu")
    return Preprocessing.of(loaded.model, loaded.meta)


def test_windows_are_cropped_as_the_shards_are(tmp_path: Path) -> None:
    path = small(tmp_path / "a.mp4")
    index = write_shards([path], tmp_path / "shards", config=CONFIG, progress=False)
    stored = ClipStore(index)[0].frames.take(range(25)).float()
    how = of({**RECIPE, **index.preprocessing}, tmp_path)
    assert how.faces == "mtcnn" and how.crop == CONFIG.crop
    whole = Preprocessing(**{**vars(how), "size": 48})
    (first, *others) = windows(path, whole)
    seen = first.frames.permute(1, 0, 2, 3).float()
    assert (seen - stored[[0, 3, 6, 9]]).abs().mean() < 4 < (seen - stored[[12, 15, 18, 21]]).abs().mean()  # JPEG
    assert len(others) == 3 and others[-1].end == pytest.approx(1.0, abs=0.01)


def test_a_prediction_sees_the_face_and_one_of_several(tmp_path: Path) -> None:
    crop = {**RECIPE["crop"], "several": "all"}
    weights = save_classifier(tmp_path / "weights.safetensors", preprocessing={**RECIPE, "crop": crop})
    path = small(tmp_path / "a.mp4")
    found = predict_clip(path, weights, device="cpu")
    assert len(found.windows) == 4 and found.note == ""
    centre = save_classifier(tmp_path / "centre.safetensors")
    other = predict_clip(path, centre, device="cpu")
    assert np.abs(np.subtract([*found.probabilities.values()], [*other.probabilities.values()])).max() > 1e-3
    with pytest.raises(MediaError, match=r"clip\.mp4 shows no face that was found \(by mtcnn\)"):
        predict_clip(video(tmp_path / "clip.mp4"), weights, device="cpu")


def test_a_model_trained_on_boxes_gets_the_face_and_the_prediction_says_so(tmp_path: Path) -> None:
    crop = {**RECIPE["crop"], "kind": "boxes"}
    weights = save_classifier(tmp_path / "weights.safetensors", preprocessing={**RECIPE, "crop": crop})
    found = predict_clip(small(tmp_path / "a.mp4", 12), weights, device="cpu")
    assert found.note == "the face was found by mtcnn, where the training clips were cropped by boxes from files"


def test_the_middle_of_a_video_is_cropped_too(tmp_path: Path) -> None:
    path, how = small(tmp_path / "a.mp4", 36), of(RECIPE, tmp_path)
    window = middle_window(path, how)
    assert (window.start + window.end) / 2 == pytest.approx(0.72, abs=0.1)
    weights = save_autoencoder(tmp_path / "pretrained.safetensors", preprocessing=RECIPE)
    assert reconstruct_clip(path, weights, out=tmp_path / "out.png", device="cpu").stat().st_size > 10_000


def test_clips_that_were_cropped_already_must_be_square(tmp_path: Path) -> None:
    how = of({**RECIPE, "crop": {"kind": "none"}}, tmp_path)
    assert next(windows(video(tmp_path / "square.mp4", height=64, width=64), how)).frames.shape[1:] == (4, 32, 32)
    with pytest.raises(MediaError, match=r"is not square, as cropped faces are \(128 x 96"):
        next(windows(video(tmp_path / "wide.mp4"), how))
