"""From files to batches: reading media, writing and indexing shards, sampling and transforming clips."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicmae.datasets.check import Report, check_data
    from hicmae.datasets.index import Index
    from hicmae.datasets.media import MediaError, VideoInfo, open_video, read_audio, read_frames, write_video
    from hicmae.datasets.pipeline import Stream, View, evaluate_batches
    from hicmae.datasets.samples import Clip, JpegStrip, SampleError
    from hicmae.datasets.shards import ShardConfig, write_shards
    from hicmae.datasets.store import ClipStore

# Names resolve on first use: who lists files need not wait for torch.
_HOME = {
    "Clip": "samples",
    "ClipStore": "store",
    "Index": "index",
    "JpegStrip": "samples",
    "MediaError": "media",
    "Report": "check",
    "SampleError": "samples",
    "ShardConfig": "shards",
    "Stream": "pipeline",
    "VideoInfo": "media",
    "View": "pipeline",
    "check_data": "check",
    "evaluate_batches": "pipeline",
    "open_video": "media",
    "read_audio": "media",
    "read_frames": "media",
    "write_shards": "shards",
    "write_video": "media",
}

__all__ = [
    "Clip",
    "ClipStore",
    "Index",
    "JpegStrip",
    "MediaError",
    "Report",
    "SampleError",
    "ShardConfig",
    "Stream",
    "VideoInfo",
    "View",
    "check_data",
    "evaluate_batches",
    "open_video",
    "read_audio",
    "read_frames",
    "write_shards",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hicmae.datasets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"hicmae.datasets.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
