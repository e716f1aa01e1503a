"""From shards to batches: who reads which sample when, and what becomes of one that cannot be used.

The order of an epoch is a function of (seed, epoch). Step s takes positions s * B … s * B + B - 1 of it; ranks and
workers only divide that list, so it does not depend on how many there are, and starting anywhere costs the same.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.datasets.samples import Clip, SampleError
from hicmae.datasets.sampling import View
from hicmae.datasets.store import ClipStore

__all__ = ["Stream", "View", "evaluate_batches", "order_of"]

Batch = dict[str, Any]

_GROUP = 32  # shards whose samples are shuffled together: keeps reads of remote or spinning disks near each other


def order_of(shard: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: shards permuted, then samples within groups of 32 shards; (N,) -> (N,) int64.

    Sorted by integer hashes rather than drawn, so that it is the same on every machine and library version.
    """
    shards, which = np.unique(shard, return_inverse=True)
    place = np.empty(len(shards), np.int64)
    place[np.argsort(_hash(seed, epoch, shards, salt=1), kind="stable")] = np.arange(len(shards))
    group = place[which] // _GROUP
    return np.lexsort((_hash(seed, epoch, np.arange(len(shard)), salt=2), group))


class Stream:
    """Endless training batches from shards.

    Every batch has `key` (list of str), `number` (B,) int64, `epoch` (int), `skipped` (list of (key, reason)), and
    what the view returns, tensors stacked along a new first axis, other values in lists. A clip that cannot be used
    is replaced by the next usable one of its micro-batch, so that shapes stay the same.

    Args:
        indexes: one index, or several to be joined.
        view: sampling and transforms, which may raise `SampleError` to have a clip skipped; gets each clip with a
            generator seeded from (seed, epoch, number) alone, so that augmentation is the same on any rank, in any
            worker, and after resuming.
        batch_size: clips per optimiser step over all ranks and micro-batches.
        accumulate: micro-batches per step.
        rank, world: which of how many processes this is; each takes its slice of every micro-batch.
        workers: reading processes; 0 reads in this one.
        max_bad_share: the share of this rank's clips of an epoch that may be unusable.

    Raises:
        ValueError: the batch cannot be divided, or the data set is smaller than one batch.
    """

    def __init__(
        self,
        indexes: Index | Sequence[Index],
        view: View,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        shuffle: bool = True,
        max_bad_share: float = 0.01,
    ) -> None:
        index = indexes if isinstance(indexes, Index) else Index.join(list(indexes))
        if batch_size % (world * accumulate):
            raise ValueError(
                f"a batch of {batch_size} cannot be divided among {world} processes x {accumulate} micro-batches: "
                f"make it a multiple of {world * accumulate}"
            )
        if len(index) < batch_size:
            raise ValueError(f"{index.folder} holds {len(index)} clips, fewer than one batch of {batch_size}")
        self.index, self.seed, self.shuffle = index, seed, shuffle
        self.batch_size, self.accumulate, self.rank, self.world = batch_size, accumulate, rank, world
        self.steps_per_epoch = len(index) // batch_size
        self._limit = _Limit(index, len(index) / world, max_bad_share)
        self._plan = _Plan()
        self._loader = _loader(_Batches(index, [view], seed, replace=True), self._plan, workers)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from step `start` on; each is this rank's list of `accumulate` micro-batches.

        Raises:
            UserError: more clips are unusable than `max_bad_share` allows, or a whole micro-batch is.
        """
        self._plan.epoch, self._plan.batches = epoch, self._micro_batches(epoch, start)
        self._limit.bad.clear()
        step: list[Batch] = []
        for batch in self._loader:
            self._limit.count(batch)
            if not batch["key"]:
                raise self._limit.error("a whole micro-batch")
            step.append(batch)
            if len(step) == self.accumulate:
                yield step
                step = []

    def _micro_batches(self, epoch: int, start: int) -> np.ndarray:
        """(steps left x accumulate, clips of this rank) numbers."""
        order = np.arange(len(self.index))
        if self.shuffle:
            order = order_of(self.index.shard, seed=self.seed, epoch=epoch)
        steps = order[: self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, -1)[start:]
        return steps.reshape(-1, self.world, self.batch_size // (self.world * self.accumulate))[:, self.rank]


def evaluate_batches(
    index: Index,
    views: Sequence[View],
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    max_bad_share: float = 0.01,
) -> Iterator[Batch]:
    """Every sample exactly once, in order, seen through each of V views.

    A batch has at most `batch_size` samples: the views of the first, then those of the second: `video` (B * V, ...),
    `key` and `number` repeated likewise. Ranks take consecutive parts of the index, which may differ in length by one
    sample. Samples that cannot be used are left out and listed in some batch's `skipped`.

    Raises:
        UserError: more samples are unusable than `max_bad_share` allows.
    """
    first, last = (len(index) * part // world for part in (rank, rank + 1))
    limit = _Limit(index, last - first, max_bad_share)
    plan = _Plan()
    plan.batches = [np.arange(at, min(at + batch_size, last)) for at in range(first, last, batch_size)]
    held: Batch | None = None  # a batch without a usable sample passes on what it skipped
    skipped: list[tuple[str, str]] = []
    for batch in _loader(_Batches(index, list(views), 0, replace=False), plan, workers):
        limit.count(batch)
        if not batch["key"]:
            skipped += batch["skipped"]
            continue
        if held is not None:
            yield held
        held = {**batch, "skipped": skipped + batch["skipped"]}
        skipped = []
    if held is not None:
        yield {**held, "skipped": held["skipped"] + skipped}
    elif skipped:
        raise limit.error("which is all")


class _Plan(Sampler[tuple[int, list[int]]]):
    """The batches to be read next, as (epoch, numbers); changed between epochs while the loader lives on."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: Sequence[np.ndarray] | np.ndarray = []

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((self.epoch, numbers.tolist()) for numbers in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Batches(Dataset[Batch]):
    """Makes the batch of given numbers; lives in the workers."""

    def __init__(self, index: Index, views: list[View], seed: int, *, replace: bool) -> None:
        self.store, self.views, self.seed, self.replace = ClipStore(index), views, seed, replace

    def __getitem__(self, wanted: tuple[int, list[int]]) -> Batch:
        epoch, numbers = wanted
        skipped: list[tuple[str, str]] = []
        rows: list[list[Batch]] = []  # per number its views; none where it is bad
        seeds = _hash(self.seed, epoch, np.asarray(numbers), salt=3)
        for number, seed in zip(numbers, seeds, strict=True):
            try:
                clip = self.store[number]
                rows.append([{"key": clip.key, "number": number, **self._see(view, clip, seed)} for view in self.views])
            except SampleError as error:
                rows.append([])
                skipped.append((str(self.store.index.keys[number]), str(error)))
        if self.replace:
            rows = [next((rows[(i + k) % len(rows)] for k in range(len(rows)) if rows[(i + k) % len(rows)]), [])
                    for i in range(len(rows))]  # fmt: skip
        batch = _collate([row for views in rows for row in views])
        return {**batch, "epoch": epoch, "skipped": skipped}

    @staticmethod
    def _see(view: View, clip: Clip, seed: np.uint64) -> Batch:
        return view(clip, torch.Generator().manual_seed(int(seed >> np.uint64(1))))


def _collate(rows: list[Batch]) -> Batch:
    batch: Batch = {"key": [row["key"] for row in rows]}
    batch["number"] = torch.tensor([row["number"] for row in rows], dtype=torch.int64)
    for name in rows[0] if rows else ():
        if name not in batch:
            values = [row[name] for row in rows]
            batch[name] = torch.stack(values) if all(isinstance(value, Tensor) for value in values) else values
    return batch


class _Limit:
    """Counts clips that cannot be used, and stops a run that has too many of them."""

    def __init__(self, index: Index, clips: float, share: float) -> None:
        self.index, self.clips, self.share = index, clips, share
        self.bad: dict[str, str] = {}

    def count(self, batch: Batch) -> None:
        self.bad |= dict(batch["skipped"])
        if len(self.bad) > self.share * self.clips:
            raise self.error(f"more than max_bad_share = {self.share} of {self.clips:.0f} allows")

    def error(self, why: str) -> UserError:
        shown = "\n".join(f"  {key}: {reason}" for key, reason in list(self.bad.items())[:5])
        more = f"\n  … and {len(self.bad) - 5} more" if len(self.bad) > 5 else ""
        return UserError(
            f"{len(self.bad)} clips of {self.index.folder} cannot be used, {why}:\n{shown}{more}\n"
            f"See `hicmae check {self.index.folder}`; shard them again, or raise max_bad_share."
        )


def _loader(batches: _Batches, plan: _Plan, workers: int) -> DataLoader[Batch]:
    """Batches in the plan's order, read ahead by `workers` processes of one thread each (torch sees to that)."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator().manual_seed(0),  # its own, so that a run's generator is left alone
    )


def _leave_signals_to_the_run(_: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; readers must outlive the step that writes the checkpoint."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _hash(seed: int, epoch: int, numbers: np.ndarray, *, salt: int) -> np.ndarray:
    """(N,) uint64, uniform: splitmix64 chained over what it depends on."""
    state = np.zeros(len(numbers), np.uint64)
    for word in (salt, seed, epoch, np.asarray(numbers)):
        mixed = np.asarray(word).astype(np.uint64) + state + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = mixed ^ (mixed >> np.uint64(31))
    return state
