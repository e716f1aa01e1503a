"""MTCNN finds a real face, whatever the batch, and only with the arrays it was written for."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hicmae.configs.errors import UserError
from hicmae.datasets.faces.mtcnn import Mtcnn
from hicmae.datasets.faces.nets import load_stages
from tests.datasets.astronaut import EYES, astronaut, back, scene


@pytest.fixture(scope="module")
def detector() -> Mtcnn:
    return Mtcnn()


def test_the_astronauts_face_is_found_where_it_is(detector: Mtcnn) -> None:
    (found,) = detector([astronaut()])
    assert len(found) == 1 and found.scores[0] > 0.99
    left, top, right, bottom = found.boxes[0]
    assert 165 < left < 190 and 50 < top < 80 and 255 < right < 285 and 155 < bottom < 185
    assert np.abs(found.points[0, :2] - EYES).max() < 3
    nose, mouth = found.points[0, 2], found.points[0, 3:]
    assert abs(nose[0] - 225) < 8 and abs(nose[1] - 126) < 8 and np.abs(mouth[:, 1] - 141).max() < 6
    assert mouth[0, 0] < nose[0] < mouth[1, 0]


def test_what_is_left_in_the_picture_comes_first_in_a_mirror_too(detector: Mtcnn) -> None:
    plain, mirrored = detector([astronaut(), astronaut()[:, ::-1]])
    turned = np.stack([512 - mirrored.points[0, [1, 0, 2, 4, 3], 0], mirrored.points[0, [1, 0, 2, 4, 3], 1]], 1)
    assert np.abs(turned - plain.points[0]).max() < 5


@pytest.mark.parametrize(("scale", "degrees"), [(0.5, 0), (1.0, 15), (2.0, -15)])
def test_a_face_is_found_at_any_size_and_tilt(scale: float, degrees: float, detector: Mtcnn) -> None:
    place = (300.0, 200.0, scale, degrees)
    (found,) = detector([scene([place], 640, 480)])
    assert len(found) == 1
    assert np.abs(back(found.points[0, :2], place) - EYES).max() < 6


def test_a_batch_gives_what_its_frames_give_alone(detector: Mtcnn) -> None:
    frames = [scene([(100 + 20 * n, 120, 0.8, 5 * n)]) for n in range(3)] + [scene([])]
    together = detector(frames)
    assert [len(found) for found in together] == [1, 1, 1, 0]
    for frame, found in zip(frames, together, strict=True):
        (alone,) = detector([frame])
        assert np.allclose(alone.points, found.points, atol=1e-2) and np.allclose(alone.scores, found.scores, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_what_the_cpu_finds(detector: Mtcnn) -> None:
    frames = [scene([(100 + 20 * n, 120, 0.8, 5 * n)]) for n in range(3)]
    for ours, theirs in zip(detector(frames), Mtcnn(device="cuda")(frames), strict=True):
        assert np.allclose(ours.points, theirs.points, atol=0.5) and np.allclose(ours.scores, theirs.scores, atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (16, 16), (240, 320)])
def test_nothing_is_found_where_nothing_is(shape: tuple[int, int], detector: Mtcnn) -> None:
    (found,) = detector([np.full((*shape, 3), 128, np.uint8)])
    assert (found.boxes.shape, found.points.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_arrays_are_checked_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mtcnn-1.0.0.dist-info").mkdir()
    (tmp_path / "mtcnn-1.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mtcnn\nVersion: 1.0.0\n")
    (tmp_path / "mtcnn" / "assets" / "weights").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"pnet\.lz4 cannot be read .*hicmae\[face\]"):
        load_stages()
    (tmp_path / "mtcnn" / "assets" / "weights" / "pnet.lz4").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(UserError, match=r"pnet\.lz4 is not the file of mtcnn 1\.0\.0 \(sha256 differs\)"):
        load_stages()


def test_without_the_wheel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load_stages()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r'pip install "hicmae\[face\]"'):
        load_stages()


def test_neither_tensorflow_nor_the_package_is_imported() -> None:
    load_stages()
    assert not {"tensorflow", "mtcnn"} & set(sys.modules)
