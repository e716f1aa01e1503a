"""The script that measures `predict`, at tiny sizes, and a film of twenty minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import predict

from hicmae.datasets.media import open_video, read_audio, read_frames

ROOT = Path(__file__).resolve().parents[2]
FILM = """
import json, sys
from pathlib import Path
import torch
from benchmarks.predict import LABELS, SMALL, moving_face, peak_bytes, repeated
from hicmae.datasets import ShardConfig
from hicmae.datasets.faces import CropConfig
from hicmae.inference import Loaded, predict_clip
from hicmae.inference.writing import write_prediction
from hicmae.models import create_model
torch.set_num_threads(1)
folder = Path(sys.argv[1])
film = repeated(moving_face(folder / "clip.mp4", 50, 160, 120, fps=5, sound=True), folder / "film.mp4", 1200)
crop = ShardConfig(size=96, faces="mtcnn", crop=CropConfig(second_pass=False)).preprocessing()
net = create_model("videomae_base", num_classes=len(LABELS), **SMALL).eval()
result = predict_clip(film, Loaded(net, {"name": "small", "labels": LABELS, "preprocessing": {"stride": 4, **crop}}))
write_prediction(result, folder / "out")
print(json.dumps([peak_bytes(), result.seconds, len(result.people), result.people[0].seconds]))
"""


def test_a_film_is_a_clip_again_and_again(tmp_path: Path) -> None:
    clip = predict.moving_face(tmp_path / "clip.mp4", 25, 64, 48, sound=True)
    film = predict.repeated(clip, tmp_path / "film.mp4", 2.5)
    assert open_video(film).seconds == pytest.approx(3.0, abs=0.05)
    times = [time for time, _ in read_frames(film)]
    assert len(times) == 75 and np.diff(times) == pytest.approx(0.04, abs=1e-3)
    found = read_audio(film)
    assert found is not None and len(found[0]) / 16_000 == pytest.approx(3.0, abs=0.1)


def test_memory_is_watched_while_a_film_is_predicted() -> None:
    rows = predict.long_film(10 / 3600, every=0.005, show=False)
    assert [(row.measure, row.target) for row in rows] == [("drift of memory", 5.0), ("peak memory", 2048)]
    assert 100 < rows[1].value < 20_000 and abs(rows[0].value) < 100


def test_the_pipeline_shows_every_face_to_the_image_model(tmp_path: Path) -> None:
    clip = predict.moving_face(tmp_path / "clip.mp4", 6, 160, 120)
    assert predict.frame_by_frame(clip, "resnet10t")() == 6


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_twenty_minutes_stay_under_two_gigabytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILM, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak, seconds, people, in_view = json.loads(done.stdout.splitlines()[-1])
    assert seconds == pytest.approx(1200, abs=12) and people == 1 and in_view == pytest.approx(seconds, abs=12)
    assert peak < 2e9, f"{peak / 1e6:.0f} MB"
    assert (tmp_path / "out" / "film.html").exists()
