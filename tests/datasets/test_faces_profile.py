"""A head that turns aside stays one track: looked for where it was, and bridged where it cannot be found."""

from collections.abc import Sequence

import numpy as np
import pytest
from benchmarks.faces import turned
from PIL import Image

from hicmae.datasets.faces import CropConfig, Faces
from hicmae.datasets.faces.crop import pose_of
from hicmae.datasets.faces.mtcnn import Mtcnn
from hicmae.datasets.faces.path import paths_of
from hicmae.datasets.faces.tracks import find_tracks
from tests.datasets.astronaut import EYES, astronaut

ANGLES = np.array([0, 20, 40, 55, 65, 70, 75, 80, 90, 90, 90, 90, 80, 75, 70, 65, 55, 40, 20, 0])
MIDDLE, SPAN = 0.6 * (EYES.mean(0) - [60, 0]), 0.6 * 43.5
CLOSER = Mtcnn(0.35, retry=0.3)


class Whole:
    """A detector that looks at each frame once."""

    def __init__(self, frames: Sequence[np.ndarray]) -> None:
        self.found = {id(frame): found for frame, found in zip(frames, Mtcnn(0.15)(frames), strict=True)}

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        return [self.found[id(frame)] for frame in frames]


@pytest.fixture(scope="module")
def video() -> tuple[list[tuple[float, np.ndarray]], Whole]:
    picture = np.asarray(Image.fromarray(astronaut()[:300, 60:400]).resize((204, 180)))
    frames = [turned(picture, np.array([*MIDDLE, 0, SPAN]), angle) for angle in ANGLES]
    return [(n / 12, frame) for n, frame in enumerate(frames)], Whole(frames)


def test_a_profile_is_followed_further_and_bridged_up_to_the_limit(
    video: tuple[list[tuple[float, np.ndarray]], Whole],
) -> None:
    frames, whole = video
    config = CropConfig(every=1, shortest=0.2)
    _, without = find_tracks(frames, whole, config)
    times, (one,) = find_tracks(frames, whole, config, CLOSER)
    assert {n for track in without for n in track.frames} < set(one.frames)
    assert len(find_tracks(frames, whole, CropConfig(every=1, shortest=0.2, gap=0.2), CLOSER)[1]) == 2
    (path,) = paths_of([one], times, config, lambda: frames, CLOSER)
    assert (path.first, path.end) == (0, len(frames)) and np.isfinite(path.poses).all()
    assert np.abs(path.poses[0] - path.poses[-1]).max() < 3
    eyes = MIDDLE[0] + 1.6 * SPAN * np.sin(np.radians(ANGLES))
    assert np.median(np.abs(path.poses[:, 0] - eyes)) < 0.2 * SPAN
    assert np.abs(pose_of(whole.found[id(frames[0][1])].points[0].astype(float))[3] / path.poses[:, 3] - 1).max() < 0.4
