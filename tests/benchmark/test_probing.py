"""What `check --probe` measures and concludes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hicmae.benchmark.probing import Measured, Probe, probe
from hicmae.cli import main
from hicmae.configs.errors import UserError
from hicmae.datasets.shards import ShardConfig, write_shards
from tests.media_files import video


def told(speed: float | None, *, cores: int = 8, here: str = "jpeg") -> str:
    rates = {"jpeg": (400.0, 10.0), "mp4": (100.0, 1.0), "raw": (1000.0, 150.0)}
    formats = tuple(
        Measured(kind, core, {1: core, 2: 2 * core}, size)  # type: ignore[arg-type]
        for kind, (core, size) in rates.items()
    )
    return str(Probe(formats, here, cores, speed, "the model"))


def test_the_shards_there_are_are_kept_where_they_feed_the_model() -> None:
    assert "jpeg shards feed it with 2 workers: --data.workers 2" in told(500)
    assert "so would mp4 with 7, at 10% of the bytes" in told(500)
    assert "so would" not in told(800)


def test_other_shards_are_proposed_where_these_do_not_and_the_smallest_that_do() -> None:
    assert "hicmae shard SHARDS --format jpeg --out DIR" in told(2000, here="mp4")
    assert "raw shards feed it with 4 workers" in told(3000)


def test_a_model_that_nothing_feeds_is_told_how_long_it_would_wait() -> None:
    assert "no format feeds it here: raw needs 25 workers" in told(20000)
    assert "work 40% of the time" in told(20000)
    assert "name a model" in told(None)


def test_workers_that_fall_behind_their_cores_are_doubted() -> None:
    slow = Probe((Measured("raw", 100.0, {1: 90.0, 2: 50.0}, 1.0),), "raw", 2, 10.0, "the model")
    assert "2 workers gave 25% of what as many cores could" in str(slow)
    assert "measure again" not in told(500)


def test_real_shards_are_measured_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        video(tmp_path / "clips" / f"{n}.mp4", frames=20, seed=n)
    shards = write_shards([tmp_path / "clips"], tmp_path / "out", config=ShardConfig(size=32), progress=False).folder
    found = probe(str(shards), speed=5.0, workers=(1,), seconds=0.1, frames=4, stride=2, size=32, progress=False)
    assert [one.format for one in found.formats] == ["jpeg", "mp4", "raw"] and found.here == "jpeg"
    assert all(one.core > 0 and one.workers[1] > 0 for one in found.formats)
    assert found.formats[2].kilobytes > found.formats[0].kilobytes
    with pytest.raises(UserError, match="speed must be positive"):
        probe(str(shards), speed=-1.0)
    assert main(["check", str(shards), "--speed", "3"]) == 2
    assert "go with --probe" in capsys.readouterr().err
