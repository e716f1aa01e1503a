"""Retrieval of videos by their sound: what is counted, and that features of the contrast are what is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import retrieval
from PIL import Image

from hicmae.configs import UserError
from hicmae.inference import Processor, load_model
from tests.inference.test_embed import save


def test_recall_counts_sounds_whose_video_is_among_the_first() -> None:
    alike = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert retrieval.recall(alike, 1) == pytest.approx(1 / 3)
    assert retrieval.recall(alike, 2) == pytest.approx(2 / 3)
    assert retrieval.recall(np.eye(4), 1) == 1
    assert retrieval.recall(np.zeros((4, 4)), 1) == 0  # a network that says the same of all finds nothing


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert retrieval.interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert retrieval.interval(0.0, 10)[0] == 0 and retrieval.interval(1.0, 10)[1] == 1


def test_generated_faces_are_retrieved_and_drawn(tmp_path: Path) -> None:
    source = save(tmp_path, "hicmae_tiny", "pretrain")
    result = retrieval.measure(source, None, 6, show=False)
    assert result.clips == 6 and result.likeness.shape == (6, 6)
    assert result.chance == {1: 1 / 6, 5: 5 / 6}
    assert set(result.recall) == set(result.untrained) == {1, 5} and "chance" in str(result)
    with Image.open(retrieval.draw(result, tmp_path / "retrieval.png")) as picture:
        assert np.asarray(picture).std() > 10


def test_likeness_is_the_mean_cosine_of_what_pretraining_contrasts(tmp_path: Path) -> None:
    model, meta = load_model(save(tmp_path, "hicmae_tiny", "pretrain"), device="cpu")
    from tests.inference.clips import video

    windows = []
    for n in range(2):
        wave = np.random.default_rng(n).normal(0, 0.1, 16_000).astype(np.float32)
        windows.append(next(Processor.of(model, meta)(video(tmp_path / f"{n}.mp4", 20 + n, audio=wave))))
    found = retrieval.likeness(model, windows)  # type: ignore[arg-type]
    with torch.inference_mode():
        hidden = [torch.zeros(2, n, dtype=torch.bool) for n in (32, 12)]
        for mask in hidden:
            mask[:, :1] = True  # one patch, so that a forward pass is allowed: nearly the same
        out = model(torch.cat([w.video for w in windows]), torch.cat([w.audio for w in windows]), *hidden)
    v, a = (torch.nn.functional.normalize(x, dim=-1) for x in out.levels[0])
    assert np.abs(found - (a @ v.T).numpy()).max() < 0.2


def test_a_model_without_contrast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no contrast"):
        retrieval.measure(save(tmp_path, "videomae_base", "pretrain"), None, 4, show=False)
