"""Small shards in one line."""

from pathlib import Path

from hicmae.datasets.index import Index
from hicmae.datasets.shards import ShardConfig, write_shards


def make(inputs: list[Path], out: Path, **settings: object) -> Index:
    config = ShardConfig(**{"size": 32, "per_shard": 2, **settings})  # type: ignore[arg-type]
    return write_shards(inputs, out, config=config, progress=False)
