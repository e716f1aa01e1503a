"""Where the eyes come to lie in a crop, and what surrounds them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.crop import Geometry, cropped, from_crop, pose_of, to_crop

GEOMETRY = Geometry(0.3, 0.4)
FRONT = np.array([[-20, 0], [20, 0], [0, 22], [-16, 44], [16, 44]], np.float64)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])


def dotted(points: np.ndarray, side: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] + 0.5
    picture = np.full((side, side, 3), 90, np.uint8)
    for (x, y), colour in zip(points, ((255, 0, 0), (0, 0, 255)), strict=True):
        picture[np.hypot(columns - x, rows - y) < radius] = colour
    return picture


@pytest.mark.parametrize("degrees", [-30, 0, 20])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_eyes_come_to_lie_at_their_place(degrees: float, scale: float) -> None:
    points = turned(FRONT * scale, degrees) + np.array([260, 240])
    pose = pose_of(points)
    crop = cropped(dotted(points[:2], 512, 6 * scale), pose, GEOMETRY, 100)
    for channel, x in ((0, 35), (2, 65)):
        weight = np.clip(crop[..., channel].astype(float) - crop[..., 2 - channel] - 60, 0, None)
        centre = [(weight.sum(axis) * (np.arange(100) + 0.5)).sum() / weight.sum() for axis in (0, 1)]
        assert centre == pytest.approx([x, 40], abs=0.3)


def test_a_level_crop_at_the_pictures_scale_is_the_picture() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    pose = np.array([150.0, 80.0, 0.0, 30.0])  # a crop 100 wide, from (100, 40)
    assert np.array_equal(cropped(frame, pose, GEOMETRY, 100), frame[40:140, 100:200])


def test_what_lies_outside_is_black_and_fine_patterns_do_not_alias() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    crop = cropped(white, np.array([0.0, 50.0, 0.0, 30.0]), GEOMETRY, 100)
    assert not crop[:, :49].any() and (crop[:89, 51:] == 255).all()
    assert not cropped(white, np.array([900.0, 900.0, 0.3, 90.0]), GEOMETRY, 100).any()
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    small = cropped(stripes, np.array([400.0, 400.0, 0.4, 120.0]), GEOMETRY, 100)
    assert small.std() < 8 and abs(small.mean() - 127) < 8


def test_a_face_turned_aside_keeps_its_size_and_stays_level() -> None:
    size = pose_of(FRONT)[3]
    for degrees in (0, 30, 60, 85):
        aside = FRONT * [math.cos(math.radians(degrees)), 1]
        assert pose_of(aside)[3] == pytest.approx(size, rel=0.2)
        aside[0, 1] += 4 * math.sin(math.radians(degrees))  # what a detector is off by tilts a short line much
        assert abs(pose_of(aside)[2]) < math.radians(12)
    assert pose_of(FRONT)[2] == 0 and pose_of(turned(FRONT, 25))[2] == pytest.approx(math.radians(25))


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(-500, 2000)] * 2), st.floats(-3, 3), st.floats(1, 800), st.tuples(*[st.floats(-50, 300)] * 2)
)
def test_there_and_back_is_where_it_was(place: tuple, roll: float, span: float, point: tuple) -> None:
    pose = np.array([*place, roll, span])
    again = to_crop(from_crop(np.array(point), pose, GEOMETRY, 224), pose, GEOMETRY, 224)
    assert np.allclose(again, point, atol=1e-6)


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"eye_distance": 0}, "crop.eye_distance must lie in"),
        ({"eye_height": 1}, "crop.eye_height"),
        ({"several": "some"}, "crop.several must be largest, longest or all"),
        ({"missing": "guess"}, "crop.missing"),
        ({"every": 0}, "crop.every"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(settings_: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CropConfig(**settings_)
