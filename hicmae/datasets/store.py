"""Random access to the samples of shards: bytes by range, checked against their hash."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from hicmae.datasets.index import Index
from hicmae.datasets.remote import Remote
from hicmae.datasets.samples import Clip, SampleError, unpack

__all__ = ["ClipStore"]


class ClipStore:
    """The clips of an index by number. Files are opened once per process and read at offsets, so that forked workers
    do not move each other's position; what lies elsewhere is asked for by its range."""

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
            UserError: nothing answers where it lies.
        """
        index, hashed = self.index, self.index.hashed(number)
        shard, offset, size = (int(column[number]) for column in (index.shard, index.offset, index.size))
        raw = self._read(shard, offset, hashed)
        if hashlib.sha256(raw).digest() != index.sha256[number].tobytes():
            raise SampleError(f"its bytes in {index.shards[shard].path} are not those that were written")
        rest = None if hashed == size else partial(self._fill, shard, offset + hashed)
        return unpack(raw, number=number, label=int(index.labels[number]), read=rest)

    def _read(self, shard: int, offset: int, size: int) -> bytearray:
        buffer = bytearray(size)
        self._fill(shard, offset, 0, memoryview(buffer))
        return buffer

    def _fill(self, shard: int, begin: int, at: int, buffer: memoryview) -> None:
        """Read into a buffer; what is missing at the end its hash tells."""
        path = self.index.shards[shard].path
        try:
            if isinstance(path, Remote):
                buffer[:] = path.read(begin + at, len(buffer))
            else:
                os.preadv(self._open(shard, path), [buffer], begin + at)
        except OSError as error:
            raise SampleError(f"{path} cannot be read ({error.strerror or error})") from error

    def _open(self, shard: int, path: Path) -> int:
        if self._process != os.getpid():  # forked: the parent's files stay the parent's
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            if len(self._files) >= 64:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(path, os.O_RDONLY)
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
