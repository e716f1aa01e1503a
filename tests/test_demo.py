"""The demo: the whole way, small in every run and at its real size over three seeds in the slow proofs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hicmae.demo import ROWS, DemoConfig, generated_faces, own_videos
from tests.media_files import video


def test_the_whole_way_from_faces_to_the_page(tmp_path: Path) -> None:
    small = DemoConfig(train=4, test=2, unlabeled=32, pretrain_epochs=2, finetune_epochs=2)
    result = generated_faces(tmp_path, small)
    told = str(result)
    assert (result.chance, result.ceilings) == (pytest.approx(1 / 6), {"video": 0.5, "audio": 0.5, "both": 1.0})
    assert list(result.rows) == list(ROWS)
    assert all(name in told for name in ("look alike", "sound alike", "best possible from one alone", *ROWS))
    for row in result.rows.values():
        assert all(0 <= part.low <= part.value <= part.high <= 1 for part in vars(row).values())
    # twins are told apart by nobody who is deaf, or blind, to what differs
    frames, sound = result.rows["frames alone"], result.rows["sound alone"]
    assert (frames.look_alike.value, sound.sound_alike.value) == (0.5, 0.5)
    assert max(frames.uar.high, sound.uar.high) <= 0.5 + 1e-9
    assert result.picture.stat().st_size > 10_000
    assert result.page.read_text(encoding="utf-8").startswith("<!")
    assert json.loads((tmp_path / "results.json").read_text())["ceilings"]["video"] == 0.5
    again = generated_faces(tmp_path, small)  # continues: nothing is trained again
    assert again.rows == result.rows


def test_own_videos_are_sharded_learnt_and_drawn(tmp_path: Path) -> None:
    for n in range(3):
        video(tmp_path / "videos" / f"clip {n}.mp4", frames=40, seed=n)
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    told = own_videos(tmp_path / "videos", tmp_path / "out", steps=2)
    assert "loss" in told
    assert (tmp_path / "out" / "reconstruction.png").stat().st_size > 10_000


@pytest.mark.slow  # about 13 minutes on two cores
@pytest.mark.timeout(3600)
def test_over_three_seeds_both_modalities_beat_either_on_the_pairs_that_need_it(tmp_path: Path) -> None:
    result = generated_faces(tmp_path, DemoConfig(seeds=3))
    frames, sound, both = (result.rows[name] for name in ("frames alone", "sound alone", "both"))
    assert both.look_alike.low > frames.look_alike.high, str(result)
    assert both.sound_alike.low > sound.sound_alike.high, str(result)
    assert both.uar.low > max(frames.uar.high, sound.uar.high), str(result)
    assert frames.uar.low > 2 * result.chance, str(result)
    assert frames.uar.high <= result.ceilings["video"] + 1e-9, str(result)
