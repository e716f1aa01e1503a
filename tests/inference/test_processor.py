"""What prepares a model's input: it says itself in JSON, and gives what prediction shows the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hicmae
from hicmae.configs import UserError
from hicmae.inference import Processor, load_model, opened, predict_clip
from hicmae.models.factory import create_model, save_weights
from tests import media_files
from tests.inference import clips
from tests.inference.conftest import PREPROCESSING, save_classifier


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"dim": 32, "depth": 2, "heads": 2, "frames": 4, "size": 32, "patch": [2, 8, 8], "audio_frames": 64}
    model = create_model("hicmae_base", num_classes=2, init_scale=100.0, mels=32, fusion_depth=1, **sizes)
    file = tmp_path_factory.mktemp("heard") / "weights.safetensors"
    save_weights(file, model, {"labels": ["no", "yes"], "preprocessing": PREPROCESSING})
    return file


def test_a_processor_is_the_same_after_it_was_written_and_read(heard: Path, classifier_file: Path) -> None:
    for file in (heard, classifier_file):
        processor = hicmae.from_pretrained(file, device="cpu").processor
        beside = file.with_name("copy.json")
        processor.save(beside)
        assert Processor.load(beside) == processor
        assert json.loads(beside.read_text())["inputs"] == list(processor.inputs)


def test_its_windows_give_what_prediction_gives(heard: Path, tmp_path: Path) -> None:
    clip = media_files.video(tmp_path / "clip.mp4", frames=50)
    model, processor, meta = hicmae.from_pretrained(heard, device="cpu")
    with torch.inference_mode():
        found = [(x.start, x.end, model(x.video, x.audio).softmax(-1)[0, 1].item()) for x in processor(clip)]
    told = predict_clip(clip, opened((model, processor, meta)))
    assert len(found) == len(told.windows) > 1
    for (start, end, chance), window in zip(found, told.windows, strict=True):
        assert (start, end) == (window.start, window.end)
        assert chance == pytest.approx(window.probabilities["yes"], abs=1e-5)


def test_a_model_that_only_sees_is_given_frames_alone(classifier_file: Path, tmp_path: Path) -> None:
    clip = clips.video(tmp_path / "clip.mp4")
    model, processor, _ = hicmae.from_pretrained(classifier_file, device="cpu")
    window = next(processor(clip))
    assert window.audio is None and window.video is not None
    assert window.video.shape == (1, 3, 4, 32, 32) and model(window.video).shape == (1, 3)


def test_what_stands_in_processor_json_counts(tmp_path: Path) -> None:
    file = save_classifier(tmp_path / "model.safetensors")
    processor = hicmae.from_pretrained(file, device="cpu").processor
    values = processor.to_dict() | {"stride": 1}
    (tmp_path / "processor.json").write_text(json.dumps(values))
    assert hicmae.from_pretrained(tmp_path, device="cpu").processor.how.stride == 1
    assert hicmae.from_pretrained(tmp_path, device="cpu").labels == ("angry", "happy", "sad")
    with pytest.raises(UserError, match="has no decoder"):
        hicmae.from_pretrained(tmp_path, "pretrain", device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a readable processor.json"),
        ("[]", "holds a list"),
        ('{"strid": 4}', "unknown key strid; did you mean stride"),
        ('{"crop": {"eye": 1}}', "does not say how clips become input"),
        ('{"sound": {"std": 0}}', "sound.std must be positive"),
    ],
)
def test_a_processor_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "processor.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Processor.load(tmp_path / "processor.json")
    assert "processor.json" in str(error.value)


def test_any_model_can_be_opened(classifier_file: Path) -> None:
    loaded = load_model(classifier_file, device="cpu")
    assert opened(loaded) is not loaded and opened(loaded).model is loaded.model
    assert opened(loaded.model).meta == {"name": "videomae_base"}
    assert opened(classifier_file, "finetune", device="cpu").meta["labels"] == loaded.meta["labels"]
