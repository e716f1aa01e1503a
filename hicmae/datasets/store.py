"""Random access to the samples of shards: bytes by range, checked against their hash."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from hicmae.datasets.index import Index
from hicmae.datasets.samples import Clip, SampleError, unpack

__all__ = ["ClipStore"]


class ClipStore:
    """The clips of an index by number. Files are opened once per process and read at offsets, so that forked workers
    do not move each other's position."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._files: dict[int, int] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Clip:
        """Clip `number`, its frames not yet decoded.

        Raises:
            SampleError: it cannot be read, or is not what was written.
        """
        index = self.index
        shard, offset, size = (int(column[number]) for column in (index.shard, index.offset, index.size))
        try:
            raw = os.pread(self._open(shard), size, offset)
        except OSError as error:
            raise SampleError(f"{index.shards[shard].path} cannot be read ({error.strerror})") from error
        if hashlib.sha256(raw).digest() != index.sha256[number].tobytes():
            raise SampleError(f"its bytes in {index.shards[shard].path} are not those that were written")
        return unpack(raw, number=number, label=int(index.labels[number]))

    def _open(self, shard: int) -> int:
        if self._process != os.getpid():  # forked: the parent's files stay the parent's
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            if len(self._files) >= 64:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(self.index.shards[shard].path, os.O_RDONLY)
        return self._files[shard]

    def close(self) -> None:
        """Close the files."""
        if self._process == os.getpid():
            for file in self._files.values():
                os.close(file)
        self._files = {}

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}
