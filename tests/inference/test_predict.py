"""Any file gives a prediction, or words about what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hicmae.configs import UserError
from hicmae.datasets.media import MediaError, read_frames
from hicmae.datasets.transforms import normalise, resize
from hicmae.inference import Loaded, Prediction, WindowPrediction, predict_clip
from hicmae.models.factory import create_model
from tests.inference.clips import FPS, video
from tests.inference.conftest import LABELS, PREPROCESSING, SHAPE, save_classifier
from tests.media_files import BAD, ODD


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_video_is_predicted(name: str, classifier: Loaded, tmp_path: Path) -> None:
    result = predict_clip(ODD[name](tmp_path), classifier)
    assert list(result.probabilities) == LABELS
    for probabilities in (result.probabilities, *(window.probabilities for window in result.windows)):
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert result.seconds > 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_reason_and_remedy(name: str, classifier: Loaded, tmp_path: Path) -> None:
    make, reason = BAD[name]
    path = make(tmp_path)
    with pytest.raises(MediaError) as error:
        predict_clip(path, classifier)
    assert str(path) in str(error.value)
    assert error.value.reason.startswith(reason) and error.value.remedy


def test_the_whole_clip_is_the_mean_of_plain_forward_passes(classifier: Loaded, tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", 40)
    frames = []
    for _, pixels in read_frames(path):
        square = Image.fromarray(pixels[:, 16:112]).resize((48, 48), Image.Resampling.BICUBIC, reducing_gap=3.0)
        frames.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    clip = resize(torch.stack(frames[::3]), 32)  # 14 frames
    passes = []
    with torch.no_grad():
        for start in (0, 2, 4, 6, 8, 10):
            batch = normalise(clip[None, start : start + 4].transpose(1, 2))
            passes.append(classifier.model(batch).softmax(-1)[0])
    result = predict_clip(path, classifier, batch_size=4)
    expected = torch.stack(passes)
    found = torch.tensor([list(window.probabilities.values()) for window in result.windows])
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(torch.tensor(list(result.probabilities.values())), expected.mean(0), atol=1e-6)
    assert found.std(0).max() > 1e-3  # or the comparison would prove nothing


def test_batches_do_not_change_the_prediction(classifier: Loaded, tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    one, many = predict_clip(path, classifier, batch_size=1), predict_clip(path, classifier, batch_size=100)
    assert list(one.probabilities.values()) == pytest.approx(list(many.probabilities.values()), abs=1e-6)


def test_window_and_hop_are_seconds(classifier: Loaded, tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", 100)
    result = predict_clip(path, classifier, window=0.8, hop=0.4)
    assert [window.start for window in result.windows][:4] == pytest.approx([0, 0.4, 0.8, 1.2])
    assert result.windows[0].end == pytest.approx(0.8)
    assert result.windows[-1].end == pytest.approx(100 / FPS)
    for wrong in ({"window": 0.0}, {"hop": -1.0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="must be positive"):
            predict_clip(path, classifier, **wrong)


def test_a_checkpoint_file_will_do_and_one_without_classes_will_not(
    classifier_file: Path, classifier: Loaded, autoencoder_file: Path, autoencoder: Loaded, tmp_path: Path
) -> None:
    path = video(tmp_path / "clip.mp4")
    assert predict_clip(path, classifier_file, device="cpu").to_dict() == predict_clip(path, classifier).to_dict()
    for without in (autoencoder_file, autoencoder):
        with pytest.raises(UserError, match="fine-tune it"):
            predict_clip(path, without)


def test_labels_are_the_checkpoints_and_must_fit(classifier: Loaded, tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    with pytest.raises(UserError, match="names 2 labels for 3 outputs"):
        predict_clip(path, Loaded(classifier.model, {**classifier.meta, "labels": ["a", "b"]}))
    assert list(predict_clip(path, classifier.model).probabilities) == ["class 0", "class 1", "class 2"]
    with pytest.raises(UserError, match="num_classes=0"):
        predict_clip(path, create_model("videomae_base", num_classes=0, **SHAPE))


def test_a_model_in_training_predicts_as_in_evaluation_and_goes_on(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    model = create_model("videomae_base", num_classes=3, drop_path=0.9, init_scale=100.0, **SHAPE | {"depth": 4})
    evaluated = predict_clip(path, model.eval()).to_dict()
    assert predict_clip(path, model.train()).to_dict() == evaluated
    assert model.training


def test_outputs_per_frame_are_averaged(tmp_path: Path) -> None:
    model = create_model("videomae_base", num_classes=3, keep_temporal=True, **SHAPE)
    assert len(predict_clip(video(tmp_path / "clip.mp4"), model).probabilities) == 3


def test_a_prediction_reads_well() -> None:
    parts = (
        WindowPrediction(0.0, 2.0, {"happy": 0.75, "sad": 0.25}),
        WindowPrediction(1.0, 3.0, {"happy": 0.35, "sad": 0.65}),
    )
    result = Prediction("clip.mp4", "mae_dfer_base", parts)
    assert result.label == "happy" and [part.label for part in parts] == ["happy", "sad"]
    assert result.probabilities == pytest.approx({"happy": 0.55, "sad": 0.45})
    assert repr(result) == "Prediction('clip.mp4': happy 55%, sad 45%; 3.00 s in 2 windows)"
    assert repr(parts[0]) == "<0.00-2.00 s: happy 75%>"
    told = json.loads(json.dumps(result.to_dict()))
    assert told["windows"][1] == {"start": 1, "end": 3, "label": "sad", "probabilities": {"happy": 0.35, "sad": 0.65}}
    assert result.table().splitlines() == [
        "clip.mp4: happy (55.0%); 3.00 s, mae_dfer_base",
        "  happy  55.0% ████████████████",
        "  sad    45.0% ██████████████",
        "",
        "            seconds   happy    sad",
        "     0.00 -    2.00   75.0%  25.0%",
        "     1.00 -    3.00   35.0%  65.0%",
    ]


def test_a_clip_unlike_the_training_data_is_noted(tmp_path: Path) -> None:
    clip = video(tmp_path / "a.mp4")
    measured = {"sharpness": [-90.0, -85.0, -80.0], "fps": [24.5, 25.0, 25.0], "loudness": [-5.0, -4.0, -3.0]}
    file = save_classifier(tmp_path / "a.safetensors", preprocessing={**PREPROCESSING, "fingerprint": measured})
    note = predict_clip(clip, file, device="cpu").note
    assert note.startswith("unlike the clips it was trained on: sharpness") and "sharper" in note
    assert "frame rate" not in note and "loudness" not in note  # alike, and not known
    assert not predict_clip(clip, save_classifier(tmp_path / "b.safetensors"), device="cpu").note
