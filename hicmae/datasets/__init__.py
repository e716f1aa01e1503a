"""From files to batches: reading media, writing and indexing shards, sampling and transforming clips."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicmae.datasets.check import Report
    from hicmae.datasets.faces import CropConfig
    from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig, log_mel
    from hicmae.datasets.frames import JpegStrip
    from hicmae.datasets.index import Index
    from hicmae.datasets.media import MediaError, VideoInfo, open_video, read_audio, read_frames, write_video
    from hicmae.datasets.pipeline import Stream, evaluate_batches
    from hicmae.datasets.samples import Clip, SampleError
    from hicmae.datasets.sampling import View, eval_views, pretrain_view, train_view
    from hicmae.datasets.shards import ShardConfig, merge_shards, write_part, write_shards
    from hicmae.datasets.store import ClipStore
    from hicmae.datasets.synthetic import Corpus, make_corpus
    from hicmae.datasets.transforms import AugmentConfig, Mixup, normalise

# Names resolve on first use: who lists files need not wait for torch.
_HOME = {
    "AugmentConfig": "transforms",
    "Clip": "samples",
    "ClipStore": "store",
    "Corpus": "synthetic",
    "CropConfig": "faces",
    "Index": "index",
    "JpegStrip": "frames",
    "MediaError": "media",
    "Mixup": "transforms",
    "Report": "check",
    "SampleError": "samples",
    "ShardConfig": "shards",
    "SoundAugmentConfig": "fbank",
    "SoundConfig": "fbank",
    "Stream": "pipeline",
    "VideoInfo": "media",
    "View": "sampling",
    "eval_views": "sampling",
    "evaluate_batches": "pipeline",
    "log_mel": "fbank",
    "make_corpus": "synthetic",
    "merge_shards": "shards",
    "normalise": "transforms",
    "open_video": "media",
    "pretrain_view": "sampling",
    "read_audio": "media",
    "read_frames": "media",
    "train_view": "sampling",
    "write_part": "shards",
    "write_shards": "shards",
    "write_video": "media",
}

__all__ = [
    "AugmentConfig",
    "Clip",
    "ClipStore",
    "Corpus",
    "CropConfig",
    "Index",
    "JpegStrip",
    "MediaError",
    "Mixup",
    "Report",
    "SampleError",
    "ShardConfig",
    "SoundAugmentConfig",
    "SoundConfig",
    "Stream",
    "VideoInfo",
    "View",
    "eval_views",
    "evaluate_batches",
    "log_mel",
    "make_corpus",
    "merge_shards",
    "normalise",
    "open_video",
    "pretrain_view",
    "read_audio",
    "read_frames",
    "train_view",
    "write_part",
    "write_shards",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hicmae.datasets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"hicmae.datasets.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
