"""Everyone in a video has windows and a place of their own, and gaps stay gaps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hicmae.configs import UserError
from hicmae.datasets import ShardConfig, write_video
from hicmae.datasets.faces import CropConfig
from hicmae.inference import Boxes, Person, Prediction, WindowPrediction, predict_clip
from hicmae.inference.prediction import columns, rows
from tests.datasets.astronaut import Place, scene
from tests.inference.clips import video
from tests.inference.conftest import PREPROCESSING, save_classifier

LARGE, SMALL = (90.0, 120.0, 1.1, 0.0), (260.0, 60.0, 0.6, 0.0)
RECIPE = ShardConfig(size=48, faces="mtcnn", crop=CropConfig(eye_distance=0.33, shortest=0.2)).preprocessing()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    return save_classifier(file, preprocessing={**PREPROCESSING, **RECIPE})


def clip(path: Path, places: list[list[Place]], fps: float = 25) -> Path:
    return write_video(path, (scene(each) for each in places), fps)


def centre(person: Person, time: float) -> tuple[float, float]:
    corners = person.boxes.at(time)
    assert corners is not None
    x, y = corners.mean(0)
    return float(x), float(y)


def test_everyone_has_windows_boxes_and_a_look(weights: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "two.mp4", [[LARGE, SMALL]] * 15 + [[LARGE]] * 12)
    result = predict_clip(path, weights, device="cpu")
    first, second = result.people
    assert (first.name, second.name) == ("person 1", "person 2")
    assert result.windows == first.windows  # of several the largest, as the recipe says
    assert second.boxes.spans[0][1] == pytest.approx(15 / 25 + 0.2, abs=0.1) and second.boxes.at(1.0) is None
    assert first.boxes.spans[0] == (0.0, pytest.approx(27 / 25))
    for person, (x, y, scale, _) in ((first, LARGE), (second, SMALL)):
        across, down = centre(person, 0.3)
        assert abs(across - x) < 12 * scale and 0 < down - y < 40 * scale  # the eyes lie above the middle
        assert Image.open(io.BytesIO(person.look)).size == (48, 48)
        assert person.label in person.probabilities and person.at(0.3) is not None
    assert max(window.end for window in second.windows) <= second.boxes.spans[0][1] + 1e-6
    assert result.table().splitlines()[-1].startswith("  person 2")
    assert "; 2 people" in repr(result) and repr(second).startswith("<person 2: ")
    assert result.to_dict()["people"][1]["spans"] == [[0.0, round(second.boxes.spans[0][1], 3)]]


def test_alone_or_beside_another_a_face_gets_the_same_answer(weights: Path, tmp_path: Path) -> None:
    alone = predict_clip(clip(tmp_path / "one.mp4", [[LARGE]] * 20), weights, device="cpu")
    beside = predict_clip(clip(tmp_path / "two.mp4", [[LARGE, SMALL]] * 20), weights, device="cpu")
    assert len(alone.people) == 1 and len(beside.people) == 2
    ours = [[*window.probabilities.values()] for window in beside.people[0].windows]
    assert np.abs(np.subtract(ours, [[*window.probabilities.values()] for window in alone.windows])).max() < 0.05


def test_a_face_that_is_gone_for_a_while_leaves_a_gap(weights: Path, tmp_path: Path) -> None:
    shown = [[LARGE]] * 8
    result = predict_clip(clip(tmp_path / "gap.mp4", shown + [[]] * 26 + shown, 10), weights, device="cpu")
    ends = sorted(span for person in result.people for span in person.boxes.spans)
    assert len(ends) == 2 and ends[0][1] < 1.3 < 3.0 < ends[1][0]
    assert not any(window.start < 2.0 < window.end for person in result.people for window in person.windows)
    assert all(person.at(2.0) is None for person in result.people)


def test_after_a_cut_the_same_face_at_its_place_is_the_same_person(weights: Path, tmp_path: Path) -> None:
    near: Place = (96.0, 116.0, 1.1, 0.0)
    dark = [(np.asarray(scene([near], seed=4)) // 2) for _ in range(12)]  # the light is gone: a cut
    frames = [scene([LARGE]) for _ in range(12)] + dark
    path = write_video(tmp_path / "cut.mp4", frames, 25)
    (person,) = predict_clip(path, weights, device="cpu").people
    assert len(person.boxes.spans) == 2 and person.boxes.spans[1][0] == pytest.approx(12 / 25)
    assert person.boxes.at(0.1) is not None and person.boxes.at(0.9) is not None
    elsewhere = [scene([(230.0, 120.0, 1.1, 0.0)], seed=5) // 2 for _ in range(12)]
    path = write_video(tmp_path / "other.mp4", [*frames[:12], *elsewhere], 25)
    assert [person.name for person in predict_clip(path, weights, device="cpu").people] == ["person 1", "person 2"]


def test_without_faces_the_square_stands_for_everyone(tmp_path: Path) -> None:
    weights = save_classifier(tmp_path / "weights.safetensors")
    result = predict_clip(video(tmp_path / "a.mp4"), weights, device="cpu")
    (person,) = result.people
    assert person.name == "centre square" and person.windows == result.windows
    corners = person.boxes.at(1.0)
    assert corners is not None and corners.tolist() == [[16, 0], [112, 0], [112, 96], [16, 96]]
    assert result.span == (0.0, pytest.approx(1.6))


def made() -> Prediction:
    first = (
        WindowPrediction(0.0, 2.0, {"happy": 0.8, "sad": 0.2}, {"valence": 0.5}),
        WindowPrediction(1.0, 3.0, {"happy": 0.4, "sad": 0.6}, {"valence": -0.5}),
        WindowPrediction(5.0, 7.0, {"happy": 0.1, "sad": 0.9}, {"valence": 0.0}),
    )
    boxes = Boxes(np.array([0.0]), np.zeros((1, 4, 2), np.float32), ((0.0, 3.0), (5.0, 7.0)))
    other = Person("person 2", first[:1], boxes)
    return Prediction("a.mp4", "small", first, people=(Person("person 1", first, boxes), other), span=(0.0, 8.0))


def test_at_any_time_the_mean_of_the_windows_that_contain_it_is_told() -> None:
    person = made().people[0]
    assert [(part.start, part.end) for part in person.parts] == [(0, 1), (1, 2), (2, 3), (5, 7)]
    both = person.at(1.5)
    assert both is not None and both.probabilities == pytest.approx({"happy": 0.6, "sad": 0.4})
    assert both.values == pytest.approx({"valence": 0.0}) and both.label == "happy"
    assert person.at(2.5) == WindowPrediction(2.0, 3.0, {"happy": 0.4, "sad": 0.6}, {"valence": -0.5})
    assert person.at(4.0) is None and person.at(7.0) is None and person.at(-1.0) is None


def test_boxes_move_evenly_between_frames_and_not_across_gaps() -> None:
    corners = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 4, 2), np.float32)
    boxes = Boxes(np.array([0.0, 1.0, 5.0, 6.0]), corners, ((0.0, 2.0), (5.0, 7.0)))
    places: list[Any] = [None if at is None else float(at[0, 0]) for at in map(boxes.at, (0, 0.5, 1.9, 3, 5.5, 6.5, 7))]
    assert places == [0, 0.5, 1, None, 2.5, 3, None]


def test_tables_have_a_row_per_person_and_window() -> None:
    result = made()
    assert columns(result) == ["clip", "person", "start", "end", "label", "happy", "sad", "valence"]
    assert rows(result)[3] == ["a.mp4", "person 2", 0.0, 2.0, "happy", 0.8, 0.2, 0.5]
    frame = result.frame()
    assert frame.shape == (4, 8) and frame.groupby("person")["sad"].max().tolist() == [0.9, 0.2]
    assert json.loads(json.dumps(result.to_dict()))["people"][0]["values"] == {"valence": 0.0}


def test_a_plot_is_drawn_and_must_be_a_png(tmp_path: Path) -> None:
    result = made()
    with Image.open(result.plot(tmp_path / "deep" / "a.png")) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert drawn.shape[1] > 1000
    for colour in ((59, 130, 214), (224, 123, 42)):  # the lines of both labels
        assert (np.abs(drawn.astype(int) - colour).max(-1) < 8).sum() > 100
    with pytest.raises(UserError, match="is a PNG"):
        result.plot(tmp_path / "a.pdf")
