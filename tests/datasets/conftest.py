"""Small shards that several tests read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hicmae.datasets.index import Index
from hicmae.datasets.shards import ShardConfig, write_shards
from tests.media_files import video

CLIPS = 26


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 26 videos in two class folders, every third without sound."""
    root = tmp_path_factory.mktemp("clips")
    for n in range(CLIPS):
        video(root / ("happy", "sad")[n % 2] / f"{n:02d}.mp4", frames=4 + n % 3, seed=n, sound=n % 3 > 0)
    return root


@pytest.fixture(scope="session")
def shards(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The same as shards of 4 videos, labelled by folder."""
    config = ShardConfig(size=16, per_shard=4, labels="folder")
    yield write_shards([clips], tmp_path_factory.mktemp("shards"), config=config, progress=False)
