"""The demo: the whole way, small in every run and at its real size over three seeds in the slow proofs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hicmae.demo import DemoConfig, generated_faces, own_videos
from tests.media_files import video


def test_the_whole_way_from_faces_to_the_page(tmp_path: Path) -> None:
    small = DemoConfig(train=4, test=2, unlabeled=32, pretrain_epochs=2, finetune_epochs=2)
    result = generated_faces(tmp_path, small)
    told = str(result)
    assert (result.chance, result.ceiling) == (pytest.approx(1 / 6), 0.5)
    assert all(0 <= row.low <= row.value <= row.high <= 0.5 + 1e-9 for row in result.rows.values())  # twins look alike
    assert "from scratch" in told and "from the pretrained checkpoint" in told and "best possible without sound" in told
    assert result.picture.stat().st_size > 10_000
    assert result.page.read_text(encoding="utf-8").startswith("<!")
    assert json.loads((tmp_path / "results.json").read_text())["ceiling"] == 0.5
    again = generated_faces(tmp_path, small)  # continues: nothing is trained again
    assert again.rows == result.rows


def test_own_videos_are_sharded_learnt_and_drawn(tmp_path: Path) -> None:
    for n in range(3):
        video(tmp_path / "videos" / f"clip {n}.mp4", frames=40, seed=n)
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    told = own_videos(tmp_path / "videos", tmp_path / "out", steps=2)
    assert "loss" in told
    assert (tmp_path / "out" / "reconstruction.png").stat().st_size > 10_000


@pytest.mark.slow  # about 15 minutes on two cores
@pytest.mark.timeout(3600)
def test_over_three_seeds_the_video_model_lies_between_twice_chance_and_its_ceiling(tmp_path: Path) -> None:
    result = generated_faces(tmp_path, DemoConfig(seeds=3))
    row = result.rows["from the pretrained checkpoint"]
    assert row.low > 2 * result.chance, str(result)
    assert row.high <= result.ceiling + 1e-9, str(result)
