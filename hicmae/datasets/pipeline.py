"""From shards to batches: who reads which sample when, and what becomes of one that cannot be used.

The order of an epoch is a function of (seed, epoch). Step s takes positions s * B … s * B + B - 1 of it; ranks and
workers only divide that list, so it does not depend on how many there are, and starting anywhere costs the same.

A clip has a number: that of its sample among the N of the index, plus N for every clip that the sample gave before it
in the epoch, where it gives several. Augmentation and masks are drawn from it, so no two clips are alike.
"""

from __future__ import annotations

import atexit
import dataclasses
import math
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hicmae.configs.errors import Continuable, UserError
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

    Without weights an epoch takes every sample once, but for the rest of a last batch that would not be full. With
    weights it has as many clips; each corpus gives its share of them, to within one sample, spread evenly over the
    epoch. It goes through its samples in an order of its own, starts again at its end in another one, and continues
    in the next epoch where it stopped: over time all samples of a corpus are taken equally often.

    Args:
        indexes: one index, or several to be joined.
        weights: how much of an epoch each of the joined indexes gives, in any unit; None takes every sample once.
        clips: clips that a sample gives whenever it is taken, one after another; `pretrain_view` needs to know too.
        view: sampling and transforms, which may raise `SampleError` to have a clip skipped; gets each clip with a
            generator seeded from (seed, epoch, number) alone, so that augmentation is the same on any rank, in any
            worker, and after resuming.
        batch_size: clips per optimiser step over all ranks and micro-batches.
        accumulate: micro-batches per step.
        rank, world: which of how many processes this is; each takes its slice of every micro-batch.
        workers: reading processes; 0 reads in this one.
        max_bad_share: the share of this rank's clips of an epoch that may be unusable.
        timeout: seconds that a batch of a reading process may take before the run ends with an error.
        pin: put batches where a GPU can fetch them while it computes.
        finish: what is still to be done to a batch in this process, as decoding on a GPU.

    Raises:
        ValueError: the batch cannot be divided, the data set is smaller than one batch, or weights do not fit.
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
        timeout: float = 600,
        weights: Sequence[float] | None = None,
        clips: int = 1,
        pin: bool = False,
        finish: Callable[[Batch], Batch] | None = None,
    ) -> None:
        index = indexes if isinstance(indexes, Index) else Index.join(list(indexes))
        if batch_size % (world * accumulate):
            raise ValueError(
                f"a batch of {batch_size} cannot be divided among {world} processes x {accumulate} micro-batches: "
                f"make it a multiple of {world * accumulate}"
            )
        if len(index) * clips < batch_size:
            raise ValueError(
                f"{index.folder} holds {len(index) * clips} clips, fewer than one batch of {batch_size}: lower "
                "loop.batch_size"
            )
        self.index, self.seed, self.shuffle, self.clips = index, seed, shuffle, clips
        self.batch_size, self.accumulate, self.rank, self.world = batch_size, accumulate, rank, world
        self.steps_per_epoch = len(index) * clips // batch_size
        self._taken = -(-self.steps_per_epoch * batch_size // clips)  # samples of an epoch, the last perhaps in part
        self._shares = None if weights is None else _shares(index, weights, self._taken)
        seen = len(index) if self._shares is None else int(np.minimum(self._shares, np.bincount(index.corpus)).sum())
        self._limit = _Limit(index, seen / world, max_bad_share)
        self._plan, self._finish = _Plan(), finish
        self._loader = _loader(_Batches(index, [view], seed, replace=True), self._plan, workers, timeout, pin)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from step `start` on; each is this rank's list of `accumulate` micro-batches.

        Raises:
            UserError: more clips are unusable than `max_bad_share` allows, or a whole micro-batch is.
        """
        self._plan.epoch, self._plan.batches = epoch, self._micro_batches(epoch, start)
        self._limit.bad.clear()
        step: list[Batch] = []
        for batch in _read(self._loader):
            self._limit.count(batch)
            if not batch["key"]:
                raise self._limit.error("a whole micro-batch")
            step.append(batch if self._finish is None else self._finish(batch))
            if len(step) == self.accumulate:
                yield step
                step = []

    def _micro_batches(self, epoch: int, start: int) -> np.ndarray:
        """(steps left x accumulate, clips of this rank) numbers of clips."""
        taken, times = self._order(epoch)
        turns = times[:, None] * self.clips + np.arange(self.clips)
        numbers = (taken[:, None] + len(self.index) * turns).ravel()
        steps = numbers[: self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, -1)[start:]
        return steps.reshape(-1, self.world, self.batch_size // (self.world * self.accumulate))[:, self.rank]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples of an epoch, and how often each was taken before it in this epoch; (taken,) twice."""
        index = self.index
        if self._shares is None:
            whole = self._pass(index.shard, epoch)[: self._taken]
            return whole, np.zeros_like(whole)
        parts, places = [], []
        for corpus in np.flatnonzero(self._shares):
            members, share = np.flatnonzero(index.corpus == corpus), int(self._shares[corpus])
            at = np.arange(epoch * share, (epoch + 1) * share)  # of its own endless order
            passes, within = np.divmod(at, len(members))
            walks = {p: members[self._pass(index.shard[members], int(p))] for p in np.unique(passes)}
            parts.append((np.concatenate([walk[within[passes == p]] for p, walk in walks.items()]), passes - passes[0]))
            # one place drawn in each of as many equal parts of the epoch
            jitter = _hash(self.seed, epoch, np.arange(share), salt=16 + int(corpus)) / 2.0**64 if self.shuffle else 0.5
            places.append((np.arange(share) + jitter) / share)
        order = np.argsort(np.concatenate(places), kind="stable")
        taken, times = (np.concatenate(columns)[order] for columns in zip(*parts, strict=True))
        return taken, times

    def _pass(self, shard: np.ndarray, turn: int) -> np.ndarray:
        return order_of(shard, seed=self.seed, epoch=turn) if self.shuffle else np.arange(len(shard))


def _shares(index: Index, weights: Sequence[float], taken: int) -> np.ndarray:
    """How many of the `taken` samples of an epoch each corpus gives: int64, by largest remainder."""
    sizes = np.bincount(index.corpus, minlength=len(weights))
    if len(sizes) != len(weights):
        raise ValueError(f"there are {len(weights)} weights for {len(sizes)} data sets: give one for each")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be positive, not {', '.join(map(str, weights))}: leave a data set out instead")
    if not sizes.all():
        raise ValueError(f"data set number {int(np.argmin(sizes)) + 1} has a weight and no usable clip: leave it out")
    exact = np.asarray(weights, float) / sum(weights) * taken
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: taken - shares.sum()]] += 1
    return shares


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
    for batch in _read(_loader(_Batches(index, list(views), 0, replace=False), plan, workers)):
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
        skipped: dict[str, str] = {}
        rows: list[list[Batch]] = []  # per number its views; none where it is bad
        read: tuple[int, Clip] | None = None
        for number, seed in zip(numbers, _hash(self.seed, epoch, np.asarray(numbers), salt=3), strict=True):
            turn, sample = divmod(number, len(self.store))
            try:
                read = read if read is not None and read[0] == sample else (sample, self.store[sample])
                clip = dataclasses.replace(read[1], turn=turn)
                rows.append([{"key": clip.key, "number": number, **self._see(view, clip, seed)} for view in self.views])
            except SampleError as error:
                rows.append([])
                skipped[str(self.store.index.keys[sample])] = str(error)
            except UserError as error:  # said in words by whoever reads the batches: a worker's would be a traceback
                return {"key": [], "error": str(error), "skipped": []}
        if self.replace:
            rows = [next((rows[(i + k) % len(rows)] for k in range(len(rows)) if rows[(i + k) % len(rows)]), [])
                    for i in range(len(rows))]  # fmt: skip
        batch = _collate([row for views in rows for row in views])
        return {**batch, "epoch": epoch, "skipped": list(skipped.items())}

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
        if "error" in batch:
            raise UserError(batch["error"])
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


def _loader(batches: _Batches, plan: _Plan, workers: int, timeout: float = 600, pin: bool = False) -> DataLoader[Batch]:
    """Batches in the plan's order, read ahead by `workers` processes of one thread each (torch sees to that)."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        timeout=timeout if workers else 0,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator().manual_seed(0),  # its own, so that a run's generator is left alone
    )


def _read(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The batches of a loader, whose readers end with the run even where it ends by an error while they read ahead."""
    batches: Any = iter(loader)
    if loader.num_workers:
        # registered after multiprocessing's own, so run before it: that one would wait for readers deaf to SIGTERM
        if not _READERS:
            atexit.register(_end_readers)
        _READING.add(batches)
        _READERS.update(batches._workers)
    try:
        yield from batches
    except RuntimeError as error:
        told = str(error)
        if "DataLoader timed out" in told:
            told = f"reading has stalled: no batch came within {loader.timeout:.0f} s (loop.timeout)"
        elif "DataLoader worker" not in told:
            raise
        raise Continuable(f"{told}; the same command continues from the last checkpoint") from None


_READING: weakref.WeakSet[Any] = weakref.WeakSet()
_READERS: weakref.WeakSet[Any] = weakref.WeakSet()


def _end_readers() -> None:
    for batches in list(_READING):
        batches._shutdown_workers()
    for reader in list(_READERS):  # a loader that the garbage collector found cannot tell its readers to end
        if reader.is_alive():
            reader.kill()


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
