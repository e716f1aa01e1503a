"""What is measured of clips is true, what differs is named by the stated rule, and a crop that matches is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import crop_detector
from hicmae.datasets.faces import CropConfig
from hicmae.datasets.faces.detect import Faces
from hicmae.datasets.fingerprint import QUANTITIES, Gauge, differences, matching, sum_up
from hicmae.datasets.index import Index
from hicmae.datasets.media import write_video
from hicmae.datasets.synthetic import MIDDLE, Identity, Take
from hicmae.datasets.synthetic.face import EYE_LINE
from tests.datasets.making import make


class Finder:
    """A detector of drawn faces: the left eye is green, the right one blue, and nothing else is."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        self.frames += len(frames)
        return [self._one(frame.astype(int)) for frame in frames]

    def _one(self, frame: np.ndarray) -> Faces:
        eyes = []
        for channel in (1, 2):
            rest = [c for c in range(3) if c != channel]
            rows, columns = np.nonzero((frame[..., channel] > 140) & (frame[..., rest].max(-1) < 110))
            if not len(rows):
                return Faces(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
            eyes.append((columns.mean() + 0.5, rows.mean() + 0.5))
        points = np.array([[*eyes, *[eyes[0]] * 3]], np.float32)
        low, high = points[0].min(0), points[0].max(0)
        return Faces(np.array([[*low, *high]], np.float32), points, np.ones(1, np.float32))


def face(
    eyes: tuple[float, float], distance: float, roll: float = 0.0, size: tuple[int, int] = (200, 200)
) -> np.ndarray:
    """(H, W, 3) uint8: eyes `distance` pixels apart about the point `eyes`, their line turned by `roll` degrees."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    picture = np.stack([90 + 50 * np.sin(x / 7), 80 + 0 * x, 80 + 20 * np.cos(y / 9)], -1)
    half = distance / 2 * np.array([cos(radians(roll)), sin(radians(roll))])
    for sign, colour in ((-1, (20, 230, 20)), (1, (20, 20, 230))):
        at = np.array(eyes) + sign * half
        picture[(x - at[0]) ** 2 + (y - at[1]) ** 2 < (0.12 * distance) ** 2] = colour
    return picture.astype(np.uint8)


@pytest.mark.parametrize(("x", "y", "distance", "roll"), [(100, 76, 84, 0), (90, 110, 60, 12), (104, 80, 70, -25)])
def test_eyes_are_measured_where_they_are(x: float, y: float, distance: float, roll: float) -> None:
    gauge = Gauge(Finder())
    for _ in range(3):
        gauge.look(face((x, y), distance, roll))
    values = gauge.measures()
    assert values["eye_distance"] == pytest.approx(distance / 200, abs=0.003)
    assert values["eye_height"] == pytest.approx(y / 200, abs=0.003)
    assert values["roll"] == pytest.approx(roll, abs=0.6)


def test_eyes_that_the_crop_knows_are_not_looked_for_again() -> None:
    finder = Finder()
    gauge = Gauge(finder)
    gauge.look(face((100, 76), 84), np.array([[50.0, 90.0], [150.0, 90.0]]))
    assert gauge.measures()["eye_distance"] == 0.5 and not finder.frames


def test_without_a_detector_or_a_face_the_eyes_stay_unknown_and_the_rest_is_known() -> None:
    for gauge in (Gauge(), Gauge(Finder())):
        picture = face((100, 76), 84)
        gauge.look(picture if gauge.detector is None else picture[:40])
        assert gauge.measures(np.full(1000, 0.5, np.float32)).keys() == {"sharpness", "loudness"}


@pytest.mark.parametrize("frames", [1, 8, 9, 50, 120])
def test_few_frames_from_all_over_the_clip_are_looked_at(frames: int) -> None:
    finder = Finder()
    gauge = Gauge(finder)
    for n in range(frames):
        gauge.look(face((100, 60 + 80 * n / frames), 80, size=(160, 200)))
    height = gauge.measures()["eye_height"]
    assert min(frames, 4) <= finder.frames <= 8
    assert frames == 1 or height == pytest.approx(100 / 160, abs=0.09)  # the middle of the clip


def test_a_blurred_picture_is_less_sharp_and_a_darker_one_is_not() -> None:
    noise = np.random.default_rng(0).integers(0, 200, (40, 40, 3), np.uint8)
    picture = Image.fromarray(noise).resize((224, 224), Image.Resampling.BICUBIC)
    looks = [picture, picture.filter(ImageFilter.GaussianBlur(3)), picture.point(lambda value: value // 2)]
    sharpness = []
    for look in looks:
        gauge = Gauge()
        gauge.look(np.asarray(look))
        sharpness.append(gauge.measures()["sharpness"])
    assert sharpness[1] < sharpness[0] - 5 and sharpness[2] == pytest.approx(sharpness[0], abs=0.3)
    gauge = Gauge()
    gauge.look(np.full((64, 64, 3), 90, np.uint8))
    assert "sharpness" not in gauge.measures()


@pytest.mark.parametrize("amplitude", [0.9, 0.1, 0.001])
def test_loudness_is_the_power_of_the_sound(amplitude: float) -> None:
    wave = (amplitude * np.sin(np.arange(16_000) * 0.3)).astype(np.float32)
    assert Gauge().measures(wave)["loudness"] == pytest.approx(20 * np.log10(amplitude / 2**0.5), abs=0.01)
    assert "loudness" not in Gauge().measures(np.zeros(16_000, np.float32)) | Gauge().measures(None)


def test_a_corpus_is_summed_up_by_median_and_percentiles() -> None:
    values = np.concatenate([np.arange(101.0), [np.nan] * 9])
    summed = sum_up({"fps": values, "roll": np.full(4, np.nan), "side": values})
    assert summed == {**dict.fromkeys(QUANTITIES), "fps": [5.0, 50.0, 95.0]}
    assert json.loads(json.dumps(summed)) == summed


@pytest.mark.parametrize("name", QUANTITIES)
def test_what_lies_outside_by_more_than_the_slack_is_named_with_what_it_means(name: str) -> None:
    quantity = QUANTITIES[name]
    there = {name: [10.0, 11.0, 12.0]}
    for middle, meaning in ((10 - 1.1 * quantity.slack, quantity.less), (12 + 1.1 * quantity.slack, quantity.more)):
        (line,) = differences({name: [0.0, middle, 20.0]}, there)
        assert line.startswith(quantity.words) and meaning in line
    for middle in (10 - 0.9 * quantity.slack, 11.0, 12 + 0.9 * quantity.slack):
        assert differences({name: [0.0, middle, 20.0]}, there) == []
    assert differences({name: None}, there) == differences({}, there) == differences(there, {name: None}) == []


def marked(path: Path, eyes: tuple[float, float], distance: float, **how: object) -> Path:
    """A video of 320 x 240 in which a face stands still."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = [face(eyes, distance, size=(240, 320))] * 10
    return write_video(path, pixels, 25, **how)  # type: ignore[arg-type]


def eyes_of(index: Index) -> dict[str, list[float] | None]:
    """The fingerprint of shards whose faces the drawn faces' detector finds."""
    from hicmae.datasets.check import with_eyes

    return with_eyes(index, Finder()).fingerprint


def test_a_box_that_matches_other_shards_is_found(tmp_path: Path) -> None:
    marked(tmp_path / "there" / "a.mp4", (150, 100), 60)
    marked(tmp_path / "here" / "b.mp4", (170, 120), 48)
    there = make([tmp_path / "there"], tmp_path / "1", size=160, box=(60, 30, 170, 170))
    here = make([tmp_path / "here"], tmp_path / "2", size=160, box=(70, 10, 200, 200))
    wanted, found = eyes_of(there), eyes_of(here)
    assert wanted["eye_distance"] and wanted["eye_distance"][1] == pytest.approx(60 / 170, abs=0.01)
    assert wanted["eye_height"] and wanted["eye_height"][1] == pytest.approx(70 / 170, abs=0.01)
    named = " ".join(differences(found, wanted))
    assert "eye distance / crop width 0.24" in named and "faces are smaller" in named and "faces lie lower" in named
    option, box = matching(found, wanted, here.preprocessing["crop"]).split(" ")
    assert option == "--box"
    again = make([tmp_path / "here"], tmp_path / "3", size=160, box=tuple(json.loads(box)))
    assert not [line for line in differences(eyes_of(again), wanted) if "eye" in line]


def test_nothing_is_matched_where_the_eyes_are_unknown(tmp_path: Path) -> None:
    marked(tmp_path / "a.mp4", (150, 100), 60)
    index = make([tmp_path / "a.mp4"], tmp_path / "out")
    known = {"eye_distance": [0.4, 0.4, 0.4], "eye_height": [0.3, 0.3, 0.3]}
    for here, there, whose in ((index.fingerprint, known, "these shards"), (known, {}, "the data to be matched")):
        with pytest.raises(UserError, match=rf"the eyes of {whose} were not measured.*hicmae\[face\]"):
            matching(here, there, index.preprocessing["crop"])


def test_shards_hold_the_measures_of_each_sample_and_their_sum(tmp_path: Path) -> None:
    loud = (0.5 * np.sin(np.arange(6400) * 0.2)).astype(np.float32)
    marked(tmp_path / "in" / "a.mp4", (150, 100), 60, audio=loud)
    marked(tmp_path / "in" / "b.mp4", (150, 100), 60)
    index = make([tmp_path / "in"], tmp_path / "out", size=160)
    assert index.measures["loudness"][0] == pytest.approx(-9, abs=0.3) and np.isnan(index.measures["loudness"][1])
    assert np.isfinite(index.measures["sharpness"]).all() and (index.measures["side"] == 240).all()
    stored = json.loads((tmp_path / "out" / "index.json").read_text())["fingerprint"]
    assert stored == Index.load(tmp_path / "out").fingerprint == index.fingerprint
    assert stored["fps"] == [25.0, 25.0, 25.0] and stored["eye_distance"] is None
    assert index.select(index.sound).fingerprint["loudness"] == index.fingerprint["loudness"]
    assert Index.join([index, index]).fingerprint["sharpness"] == index.fingerprint["sharpness"]


def test_other_crops_are_matched_by_one_that_follows_faces() -> None:
    here = {"eye_distance": [0.2, 0.22, 0.24], "eye_height": [0.4, 0.45, 0.5]}
    there = {"eye_distance": [0.3, 0.33, 0.36], "eye_height": [0.3, 0.38, 0.4]}
    assert (
        matching(here, there, {"kind": "centre"}) == "--faces mtcnn --crop.eye_distance 0.330 --crop.eye_height 0.380"
    )
    stated = {"kind": "boxes", "eye_distance": 0.21, "eye_height": 0.44}  # what is measured lies beside it by as much
    assert matching(here, there, stated) == "--faces boxes --crop.eye_distance 0.315 --crop.eye_height 0.370"


def test_eyes_in_crops_that_follow_nothing_are_measured_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hicmae.datasets.strips.crop_detector", Finder)
    marked(tmp_path / "a.mp4", (150, 100), 60)
    known = make([tmp_path / "a.mp4"], tmp_path / "1", size=160, eyes=True).fingerprint["eye_distance"]
    assert known and known[1] == pytest.approx(60 / 240, abs=0.01)
    assert make([tmp_path / "a.mp4"], tmp_path / "2", size=160).fingerprint["eye_distance"] is None


@pytest.mark.parametrize("seed", range(4))
def test_generated_faces_are_measured_where_they_are_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    person = Identity.draw(rng)
    take = Take.draw(rng, person, seconds=2.0, fps=12.5)
    gauge, pose = Gauge(crop_detector()), take.expression(0)
    for frame in take.video(0, 160):
        gauge.look(frame)
    found = gauge.measures()
    unit = take.scene.unit  # half of the picture's width is 1
    assert found["eye_distance"] == pytest.approx(person.eye_spacing * unit, abs=0.03)
    drawn = (1 + MIDDLE + unit * (np.median(pose.y) + EYE_LINE)) / 2
    assert found["eye_height"] == pytest.approx(drawn, abs=0.06)  # a detector takes the lids for the eye
    assert found["roll"] == pytest.approx(np.degrees(np.median(pose.roll)), abs=4)


def test_a_crop_that_follows_faces_matches_other_shards(tmp_path: Path) -> None:
    for n in range(2):
        rng = np.random.default_rng(n)
        frames = Take.draw(rng, Identity.draw(rng), seconds=2.0, fps=12.5).video(0, 160)[:10]
        write_video(tmp_path / f"{n}.mp4", frames, 12.5)
    first = CropConfig(eye_distance=0.36, eye_height=0.46, shortest=0)
    there = make([tmp_path], tmp_path / "out1", size=160, faces="mtcnn", crop=first)
    here = make([tmp_path], tmp_path / "out2", size=160, eyes=True)
    wanted = there.fingerprint
    assert wanted["eye_distance"] and wanted["eye_distance"][1] == pytest.approx(0.36, abs=0.01)
    assert [line for line in differences(here.fingerprint, wanted) if "eye distance" in line and "smaller" in line]
    words = matching(here.fingerprint, wanted, here.preprocessing["crop"]).split(" ")
    assert words[:2] == ["--faces", "mtcnn"]
    told = {words[at].split(".")[1]: float(words[at + 1]) for at in (2, 4)}
    again = make([tmp_path], tmp_path / "out3", size=160, faces="mtcnn", crop=CropConfig(**told, shortest=0))
    assert not [line for line in differences(again.fingerprint, wanted) if "eye" in line]
