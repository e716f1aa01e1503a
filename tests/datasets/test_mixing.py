"""Corpora mixed by weight, and several clips per video: what an epoch is made of, and that it resumes."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.samples import Clip
from hicmae.datasets.sampling import pretrain_view
from hicmae.pretrain.masking import tube_mask
from tests.datasets.making import make
from tests.media_files import video

Batch = dict[str, Any]


def view(clip: Clip, generator: torch.Generator) -> Batch:
    return {"draw": torch.rand((), generator=generator), "turn": clip.turn, "source": clip.source}


@pytest.fixture(scope="module")
def corpora(shards: Index, tmp_path_factory: pytest.TempPathFactory) -> list[Index]:
    """One of 26 samples, one of 5."""
    kept = np.arange(len(shards)) < 5
    return [shards, shards.select(kept)]


def batches(corpora: list[Index], epoch: int = 0, start: int = 0, **how: Any) -> list[Batch]:
    stream = Stream(corpora, view, **{"batch_size": 4, "seed": 3, **how})
    return [batch for step in stream.epoch(epoch, start) for batch in step]


def numbers(corpora: list[Index], epoch: int = 0, start: int = 0, **how: Any) -> list[int]:
    return [int(number) for batch in batches(corpora, epoch, start, **how) for number in batch["number"]]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.2, 0.8), (26, 5)])
def test_each_corpus_gives_its_share_of_every_epoch(corpora: list[Index], weights: tuple[float, float]) -> None:
    for epoch in range(4):
        samples = np.array(numbers(corpora, epoch, weights=weights)) % 31
        assert len(samples) == 28  # as without weights: 31 samples are seven full batches of 4
        share = (samples < 26).sum()
        assert abs(share - 28 * weights[0] / sum(weights)) < 1


def test_a_corpus_is_spread_evenly_over_the_epoch(corpora: list[Index]) -> None:
    for epoch in range(8):
        small = np.array(numbers(corpora, epoch, weights=(3, 1))) % 31 >= 26
        for end in range(4, 29, 4):
            assert abs(small[:end].sum() - end / 4) <= 1


def test_over_time_all_samples_of_a_corpus_are_taken_equally_often(corpora: list[Index]) -> None:
    taken: Counter[int] = Counter()
    for epoch in range(26):  # 26 x 14 places for each corpus
        taken.update(number % 31 for number in numbers(corpora, epoch, weights=(1, 1)))
    assert {taken[n] for n in range(26)} == {14} and {taken[n] for n in range(26, 31)} <= {72, 73}


def test_a_sample_that_comes_again_is_another_clip(corpora: list[Index]) -> None:
    found = batches(corpora, weights=(1, 4))
    clips = [int(number) for batch in found for number in batch["number"]]
    draws = torch.cat([batch["draw"] for batch in found]).tolist()
    turns = [turn for batch in found for turn in batch["turn"]]
    assert len(set(clips)) == len(set(draws)) == 28 and max(turns) >= 3
    assert turns == [number // 31 for number in clips]
    masks = tube_mask(torch.tensor(clips), (1, 6, 6), 0.5, seed=0, epoch=0)
    assert len({tuple(mask.tolist()) for mask in masks}) == 28


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("how", [{"weights": (1, 4)}, {"clips": 3}, {"weights": (2, 1), "clips": 2}, {}])
def test_order_and_resuming_do_not_depend_on_who_reads(corpora: list[Index], how: dict[str, Any]) -> None:
    for epoch in (0, 3):
        whole = numbers(corpora, epoch, **how)
        assert whole == numbers(corpora, epoch, workers=3, **how) == numbers(corpora, epoch, **how)
        for start in (1, 4, 6):
            assert numbers(corpora, epoch, start, workers=1, **how) == whole[4 * start :]
        for world in (2, 4):
            ranks = [np.array(numbers(corpora, epoch, rank=rank, world=world, **how)) for rank in range(world)]
            assert len({len(rank) for rank in ranks}) == 1
            steps = [rank.reshape(-1, 4 // world) for rank in ranks]
            assert np.concatenate(steps, axis=1).ravel().tolist() == whole
    assert numbers(corpora, 0, **how) != numbers(corpora, 1, **how)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    shards=st.integers(1, 9),
    batch=st.integers(1, 6),
    clips=st.integers(1, 3),
    mixed=st.booleans(),
    data=st.data(),
)
def test_any_number_of_shards_and_samples_gives_every_rank_the_same_steps(
    sizes: list[int], shards: int, batch: int, clips: int, mixed: bool, data: st.DataObject
) -> None:
    corpus = np.repeat(np.arange(len(sizes)), sizes)
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=len(sizes), max_size=len(sizes))) if mixed else None
    total, world = sum(sizes), data.draw(st.integers(1, 3))
    if total * clips < batch * world:
        return
    index = bare(corpus, np.arange(total) % shards)
    streams = [
        Stream(index, view, batch_size=batch * world, rank=rank, world=world, weights=weights, clips=clips)
        for rank in range(world)
    ]
    plans = [[stream._micro_batches(epoch, 0) for stream in streams] for epoch in (0, 1, 7)]
    for parts in plans:
        assert {part.shape for part in parts} == {(total * clips // (batch * world), batch)}
        every = np.concatenate([part.ravel() for part in parts])
        assert len(np.unique(every)) == len(every) and (every >= 0).all()
        if not mixed:
            assert set(Counter((every % total).tolist()).values()) <= set(range(1, clips + 1))


def bare(corpus: np.ndarray, shard: np.ndarray) -> Index:
    """An index of nothing but places."""
    count = len(corpus)
    blank = {name: np.zeros(count, np.int64) for name in ("labels", "offset", "size", "frames", "seconds", "fps")}
    blank |= {name: np.zeros(count, bool) for name in ("sound", "silent", "sha256")}
    texts = {name: np.full(count, "", object) for name in ("keys", "sources", "groups")}
    rest: dict[str, Any] = {"classes": (), "preprocessing": {}, "extra": {}, "measures": {}, "others": 0}
    return Index(folder=Path(), shards=(), skipped=(), shard=shard, corpus=corpus, **blank, **texts, **rest)


def test_several_clips_of_a_video_come_from_parts_of_their_own_with_their_own_sound(tmp_path: Path) -> None:
    index = make([video(tmp_path / f"{n}.mp4", frames=50, seed=n) for n in range(2)], tmp_path / "out")
    sound = SoundConfig(length=16, bins=8)
    seeing = pretrain_view(4, 2, 32, sound, need_sound=True, clips=3)
    stream = Stream(index, seeing, batch_size=6, clips=3)
    assert stream.steps_per_epoch == 1
    ((batch,),) = stream.epoch(0)
    assert batch["number"].tolist() in ([0, 2, 4, 1, 3, 5], [1, 3, 5, 0, 2, 4])
    assert batch["source"].tolist() == [s for s in batch["source"][::3].tolist() for _ in range(3)]
    assert len(set(batch["source"].tolist())) == 2
    for a, b in itertools.combinations(range(6), 2):
        assert not batch["video"][a].equal(batch["video"][b]) and not batch["audio"][a].equal(batch["audio"][b])
    ((again,),) = Stream(index, seeing, batch_size=6, clips=3, workers=1).epoch(0)
    assert all(torch.equal(batch[name], again[name]) for name in ("video", "audio", "number"))


def test_a_video_that_cannot_be_used_is_listed_once(tmp_path: Path) -> None:
    index = make([video(tmp_path / f"{n}.mp4", frames=5, seed=n) for n in range(3)], tmp_path / "out", per_shard=1)
    with index.shards[1].path.open("r+b") as file:
        file.seek(600)
        file.write(b"\xff")
    stream = Stream(index, view, batch_size=9, clips=3, max_bad_share=0.4)
    ((batch,),) = stream.epoch(0)
    assert [key for key, _ in batch["skipped"]] == [index.keys[1]] and set(batch["source"]) == {"0.mp4", "2.mp4"}
    with pytest.raises(UserError, match=r"1 clips of .* more than max_bad_share = 0.3 of 3 allows"):
        list(Stream(index, view, batch_size=9, clips=3, max_bad_share=0.3).epoch(0))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), "there are 1 weights for 2 data sets: give one for each"),
        ((1, 0), "weights must be positive, not 1, 0: leave a data set out"),
        ((1, float("nan")), "weights must be positive"),
        ((1, 1, 1), "data set number 3 has a weight and no usable clip"),
    ],
)
def test_weights_that_do_not_fit_are_refused(corpora: list[Index], weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stream(corpora, view, batch_size=4, weights=weights)


def test_a_mixture_of_millions_is_ordered_at_once() -> None:
    corpus = np.repeat([0, 1], [1_000_000, 50_000])
    stream = Stream(bare(corpus, np.arange(len(corpus)) // 100), view, batch_size=512, weights=(1, 1))
    plan = stream._micro_batches(3, 0)
    assert plan.shape == (2050, 512) and abs(((plan % len(corpus)) < 1_000_000).mean() - 0.5) < 1e-3
