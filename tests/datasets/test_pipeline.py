"""Order, resuming and division of batches; every sample once in evaluation; bad samples skipped, counted and listed."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.configs.errors import UserError
from hicmae.datasets import store
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream, evaluate_batches, order_of
from hicmae.datasets.samples import Clip, SampleError

Batch = dict[str, Any]


def view(clip: Clip, generator: torch.Generator) -> Batch:
    """The first frame, and a draw that stands for augmentation."""
    return {
        "video": clip.frames.take([0]),
        "draw": torch.rand((), generator=generator),
        "label": torch.tensor(clip.label),
        "source": clip.source,
        "threads": torch.get_num_threads(),
    }


def stream(index: Index, **how: Any) -> Stream:
    return Stream(index, view, **{"batch_size": 8, "seed": 1, **how})


def steps(stream: Stream, epoch: int = 0, start: int = 0) -> list[list[Batch]]:
    return list(stream.epoch(epoch, start))


def flat(steps: list[list[Batch]], name: str = "number") -> list[Any]:
    return [value for step in steps for batch in step for value in batch[name]]


def same(a: list[list[Batch]], b: list[list[Batch]]) -> bool:
    pairs = itertools.zip_longest(itertools.chain(*a), itertools.chain(*b), fillvalue={})
    return all(
        list(x) == list(y)
        and all(torch.equal(x[n], y[n]) if isinstance(x[n], torch.Tensor) else x[n] == y[n] for n in x)
        for x, y in pairs
    )


@pytest.fixture
def damaged(shards: Index, tmp_path: Path) -> Callable[..., Index]:
    def damage(*numbers: int) -> Index:
        shutil.copytree(shards.folder, tmp_path / "damaged")
        for number in numbers:
            tar = tmp_path / "damaged" / shards.shards[shards.shard[number]].path.name
            with tar.open("r+b") as file:
                file.seek(int(shards.offset[number] + shards.size[number]) - 700)
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 1]))
        return Index.load(tmp_path / "damaged")

    return damage


def test_a_batch_holds_what_the_view_returns_and_where_it_comes_from(shards: Index) -> None:
    batches = steps(stream(shards), epoch=3)
    assert len(batches) == stream(shards).steps_per_epoch == 3
    (batch,) = batches[0]
    assert batch["video"].shape == (8, 1, 3, 16, 16) and batch["number"].dtype == torch.int64
    assert batch["epoch"] == 3 and batch["skipped"] == []
    for key, number, source, label in zip(*(batch[n] for n in ("key", "number", "source", "label")), strict=True):
        assert (key, source, label) == (shards.keys[number], shards.sources[number], shards.labels[number])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 3])
def test_order_and_augmentation_do_not_depend_on_workers(shards: Index, workers: int) -> None:
    one, many = stream(shards), stream(shards, workers=workers)
    for epoch in (0, 1):
        assert same([[{**b, "threads": 0} for b in s] for s in steps(one, epoch)],
                    [[{**b, "threads": 0} for b in s] for s in steps(many, epoch)])  # fmt: skip
    assert set(flat(steps(many), "threads")) == {1}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_micro_batches_only_divide_the_order(shards: Index, world: int, accumulate: int) -> None:
    whole = steps(stream(shards))
    ranks = [steps(stream(shards, rank=rank, world=world, accumulate=accumulate)) for rank in range(world)]
    for n, step in enumerate(whole):
        parts = [ranks[rank][n][micro] for micro in range(accumulate) for rank in range(world)]
        assert all(len(part["key"]) == 8 // (world * accumulate) for part in parts)
        for name in ("number", "draw", "video"):
            assert torch.equal(torch.cat([part[name] for part in parts]), step[0][name])


def test_an_epoch_takes_no_sample_twice_and_the_next_takes_another_order(shards: Index) -> None:
    source = stream(shards, batch_size=2)
    epochs = [flat(steps(source, epoch)) for epoch in (0, 1)]
    assert all(sorted(map(int, epoch)) == list(range(26)) for epoch in epochs) and epochs[0] != epochs[1]
    assert flat(steps(stream(shards, batch_size=2, seed=2))) != epochs[0] == flat(steps(source))
    assert flat(steps(stream(shards, shuffle=False))) == list(range(24))


def test_the_view_draws_anew_in_every_epoch(shards: Index) -> None:
    source = stream(shards, shuffle=False)
    draws = [torch.cat([batch["draw"] for (batch,) in source.epoch(epoch)]) for epoch in (0, 1)]
    assert len(set(draws[0].tolist())) == 24 and not (draws[0] == draws[1]).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_a_step_gives_the_rest_of_the_epoch(shards: Index, workers: int) -> None:
    source = stream(shards, batch_size=4, accumulate=2, workers=workers)
    whole = steps(source, epoch=2)
    for start in (1, 4, 5, 6):
        assert same(steps(source, 2, start), whole[start:])


def test_an_epoch_may_be_left_in_the_middle(shards: Index) -> None:
    source = stream(shards, batch_size=2, workers=2)
    expected = steps(source, epoch=1)
    for _ in range(2):
        next(iter(source.epoch(0)))
        assert same(steps(source, epoch=1), expected)


def test_starting_late_reads_nothing_of_what_is_skipped(shards: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    get = store.ClipStore.__getitem__
    monkeypatch.setattr(store.ClipStore, "__getitem__", lambda self, n: read.append(n) or get(self, n))
    assert [int(n) for n in flat(steps(stream(shards), start=2))] == read and len(read) == 8


def test_shards_are_read_in_groups() -> None:
    shard = np.repeat(np.arange(100), 7)
    order = order_of(shard, seed=3, epoch=5)
    assert sorted(order) == list(range(700))
    groups = [set(shard[order][at : at + 32 * 7]) for at in range(0, 700, 32 * 7)]
    assert [len(group) for group in groups] == [32, 32, 32, 4] and set.union(*groups) == set(range(100))
    assert groups[0] != set(range(32)) and np.ptp(shard[order][:14]) > 7
    # recorded: runs in progress rely on it
    assert order_of(np.repeat(np.arange(3), 4), seed=0, epoch=0).tolist() == [2, 3, 8, 11, 7, 1, 0, 10, 9, 5, 6, 4]


def test_an_order_of_a_million_is_made_at_once() -> None:
    order = order_of(np.arange(1_000_000) // 100, seed=0, epoch=0)
    assert len(np.unique(order)) == 1_000_000


@pytest.mark.parametrize("workers", [0, 1])
def test_the_runs_own_generators_are_left_alone(shards: Index, workers: int) -> None:
    before = torch.get_rng_state()
    steps(stream(shards, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_replaced_by_the_next_and_listed(damaged: Callable[..., Index], workers: int) -> None:
    index = damaged(9, 10)
    found = steps(stream(index, shuffle=False, max_bad_share=0.1, workers=workers))
    assert [batch["skipped"] for (batch,) in found][::2] == [[], []]
    (batch,) = found[1]
    assert batch["number"].tolist() == [8, 11, 11, 11, 12, 13, 14, 15] and batch["video"].shape[0] == 8
    assert [key for key, _ in batch["skipped"]] == [index.keys[9], index.keys[10]]
    assert all("are not those that were written" in reason for _, reason in batch["skipped"])


def test_too_many_bad_samples_stop_the_run_with_a_list(damaged: Callable[..., Index]) -> None:
    index = damaged(0, 3, 9)
    with pytest.raises(UserError, match=r"3 clips of .* more than max_bad_share = 0.1 of 26 allows") as caught:
        steps(stream(index, shuffle=False, max_bad_share=0.1))
    assert f"{index.keys[3]}: its bytes" in str(caught.value) and "hicmae check" in str(caught.value)
    with pytest.raises(UserError, match=r"max_bad_share = 0\.01"):
        steps(stream(index))
    with pytest.raises(UserError, match="a whole micro-batch"):
        steps(stream(index, batch_size=1, shuffle=False, max_bad_share=1))


def test_a_shard_that_vanishes_is_named(shards: Index, tmp_path: Path) -> None:
    shutil.copytree(shards.folder, tmp_path / "copy")
    index = Index.load(tmp_path / "copy")
    (tmp_path / "copy" / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar cannot be read \(No such file"):
        steps(stream(index, shuffle=False))


def picky(clip: Clip, generator: torch.Generator) -> Batch:
    if clip.audio is None:
        raise SampleError("it has no sound")
    return view(clip, generator)


def wrong(clip: Clip, generator: torch.Generator) -> Batch:
    raise RuntimeError("a mistake in a view")


def test_a_view_may_refuse_a_clip_but_its_mistakes_are_not_hidden(shards: Index) -> None:
    found = list(Stream(shards, picky, batch_size=8, max_bad_share=0.5).epoch(0))
    assert {reason for (batch,) in found for _, reason in batch["skipped"]} == {"it has no sound"}
    assert all(shards.sound[number] for number in flat(found))
    with pytest.raises(RuntimeError, match="a mistake in a view"):
        list(Stream(shards, wrong, batch_size=8).epoch(0))


def test_a_batch_that_cannot_be_made_is_refused_in_words(shards: Index) -> None:
    with pytest.raises(ValueError, match="holds 26 clips, fewer than one batch of 32"):
        stream(shards, batch_size=32)
    with pytest.raises(ValueError, match=r"a batch of 8 cannot be divided among 3 processes x 2 .* multiple of 6"):
        stream(shards, world=3, accumulate=2)


def test_indexes_are_joined_and_numbered_on(shards: Index) -> None:
    joined = Index.join([shards, shards])
    assert len(joined) == 52 and joined.keys[30] == shards.keys[4]
    found = steps(Stream([shards, shards], view, batch_size=52, shuffle=False))
    assert flat(found) == list(range(52)) and flat(found, "key") == [*shards.keys, *shards.keys]
    with pytest.raises(UserError, match="differ in classes"):
        Index.join([shards, dataclasses.replace(shards, classes=("happy",))])


def second(clip: Clip, generator: torch.Generator) -> Batch:
    return {**view(clip, generator), "video": clip.frames.take([1])}


def evaluated(batches: Iterator[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch["number"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_sees_every_sample_once_and_in_order(shards: Index, world: int, workers: int) -> None:
    parts = [
        evaluated(evaluate_batches(shards, [view], batch_size=5, rank=rank, world=world, workers=workers))
        for rank in range(world)
    ]
    assert list(itertools.chain(*parts)) == list(range(26)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_evaluation_shows_each_sample_through_every_view(shards: Index) -> None:
    batch = next(evaluate_batches(shards, [view, second], batch_size=3))
    assert batch["number"].tolist() == [0, 0, 1, 1, 2, 2] and batch["video"].shape == (6, 1, 3, 16, 16)
    clip = store.ClipStore(shards)[1]
    assert torch.equal(batch["video"][2:4, 0], clip.frames.take([0, 1]))


def test_evaluation_leaves_out_bad_samples_and_lists_them_all(damaged: Callable[..., Index]) -> None:
    index = damaged(3, 4, 5, 25)
    batches = list(evaluate_batches(index, [view], batch_size=3, max_bad_share=0.5))
    assert evaluated(iter(batches)) == [n for n in range(26) if n not in (3, 4, 5, 25)]
    assert [key for batch in batches for key, _ in batch["skipped"]] == [index.keys[n] for n in (3, 4, 5, 25)]
    with pytest.raises(UserError, match="more than max_bad_share"):
        list(evaluate_batches(index, [view], batch_size=3))
    with pytest.raises(UserError, match="which is all"):
        list(evaluate_batches(index, [wrongly], batch_size=3, max_bad_share=1))


def wrongly(clip: Clip, generator: torch.Generator) -> Batch:
    raise SampleError("never")


def test_more_ranks_than_samples_leave_some_without(shards: Index) -> None:
    parts = [evaluated(evaluate_batches(shards, [view], batch_size=4, rank=r, world=40)) for r in range(40)]
    assert list(itertools.chain(*parts)) == list(range(26)) and [] in parts
