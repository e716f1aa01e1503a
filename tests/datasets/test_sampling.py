from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hicmae.datasets.fbank import RATE, SoundAugmentConfig, SoundConfig, log_mel
from hicmae.datasets.sampling import (
    eval_indices,
    eval_views,
    pretrain_indices,
    pretrain_starts,
    pretrain_view,
    train_indices,
    train_view,
)
from hicmae.datasets.transforms import AugmentConfig, normalise

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "numeric_frame_sampling.json").read_text())
MODES = [
    pytest.param(row, id=f"rate {row['sampling_rate']}, {row['video_length']} frames") for row in RECORDED["modes"]
]
WALKS = [pytest.param(row, id=f"{row['num_segments']} of {row['video_length']} frames") for row in RECORDED["pretrain"]]


class PublishedDraws:
    """numpy's legacy generator as the published code seeds it; every draw of one call has the same range."""

    def __init__(self) -> None:
        self.state = np.random.RandomState(1234)

    def __call__(self, high: int) -> int:
        return int(self.state.randint(high))


def published_span_draw(low: int, high: int) -> Any:
    """The published code draws the end of the span from [low, high); ours draws its beginning from 0."""
    end = int(np.random.RandomState(1234).randint(low, high)) if high > low else low
    return lambda count: end - low


@pytest.mark.parametrize("row", MODES)
def test_training_frames_equal_the_published_ones(row: dict[str, Any]) -> None:
    frames, stride = row["video_length"], row["sampling_rate"]
    ours = train_indices(frames, stride=stride, draw=published_span_draw(16 * stride, frames))
    assert ours == row["train"] == row["validation"]


@pytest.mark.parametrize("segments", [2, 5])
@pytest.mark.parametrize("row", MODES)
def test_test_clips_equal_the_published_ones(row: dict[str, Any], segments: int) -> None:
    ours = eval_indices(row["video_length"], stride=row["sampling_rate"], segments=segments)
    views = row[f"test_views_{segments}seg_2crop"]
    assert ours == [view["frames"] for view in views if view["crop"] == 0]
    # the two published crops choose the same frames; squared frames leave them nothing else to differ in
    assert ours == [view["frames"] for view in views if view["crop"] == 1]


@pytest.mark.parametrize("row", MODES)
def test_test_clips_are_taken_from_the_published_candidates(row: dict[str, Any]) -> None:
    candidates = row["test_all_index"]
    starts = len(candidates) - 15  # a clip from every possible start
    clips = eval_indices(row["video_length"], stride=row["sampling_rate"], segments=max(2, starts))
    assert clips[:starts] == [candidates[start : start + 16] for start in range(starts)]


@pytest.mark.parametrize("row", WALKS)
def test_pretraining_frames_equal_the_published_ones(row: dict[str, Any]) -> None:
    frames, clips = row["video_length"], row["num_segments"]
    starts = pretrain_starts(frames, clips=clips, draw=PublishedDraws())
    assert starts == [int(offset) - 1 for offset in row["offsets_one_based"]]
    walked = [pretrain_indices(start, frames) for start in starts]
    assert [frame for clip in walked for frame in clip] == row["frame_ids"]


def test_more_clips_than_possible_starts_are_drawn_freely_and_sorted() -> None:
    starts = pretrain_starts(66, clips=20, draw=PublishedDraws())
    assert starts == sorted(starts)
    assert set(starts) == {0, 1, 2}
    assert pretrain_starts(64, clips=20, draw=PublishedDraws()) == [0] * 20


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 32), st.integers(1, 8), st.integers(1, 7), st.integers(0, 2**32))
def test_frames_exist_and_are_in_order_whatever_the_length(
    frames: int, clip: int, stride: int, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    starts = pretrain_starts(frames, clip=clip, stride=stride, clips=count, draw=draw)
    assert starts == sorted(starts)
    chosen = [
        *(pretrain_indices(start, frames, clip=clip, stride=stride) for start in starts),
        train_indices(frames, clip=clip, stride=stride, draw=draw),
        *eval_indices(frames, clip=clip, stride=stride, segments=count),
    ]
    for indices in chosen:
        assert len(indices) == clip
        assert indices == sorted(indices)
        assert indices[0] >= 0
        assert indices[-1] < frames


def test_one_segment_is_the_middle_clip() -> None:
    (middle,) = eval_indices(168, segments=1)
    assert middle[0] == 168 - 4 - middle[-1]
    assert middle == eval_indices(168, segments=3)[1]


def test_training_spans_reach_every_start_but_the_last() -> None:
    highs: list[int] = []

    def last(high: int) -> int:
        highs.append(high)
        return high - 1

    # as published, the last possible span is never drawn
    assert train_indices(70, draw=last)[0] == 5
    assert highs == [6]


@pytest.mark.parametrize("call", [lambda: eval_indices(10, segments=0), lambda: train_indices(0, draw=lambda h: 0)])
def test_counts_below_one_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        call()


class Strip:
    """Frames whose colour tells their number; it counts what is asked of it."""

    def __init__(self, frames: int, height: int = 40, width: int = 40) -> None:
        self.shape, self.asked = (frames, height, width), list[int]()
        self.times = np.arange(frames) / 25

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, indices: Sequence[int]) -> Tensor:
        assert all(0 <= i < len(self) for i in indices)
        self.asked += indices
        numbers = torch.tensor(list(indices), dtype=torch.uint8).view(-1, 1, 1, 1)
        return numbers.expand(-1, 3, *self.shape[1:]).clone()


@dataclass(frozen=True)
class FakeClip:
    frames: Strip
    audio: np.ndarray | None = None
    label: int = 3
    source: str = "a.mp4"
    turn: int = 0


PLAIN = AugmentConfig(policy="", crop=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, erase=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 64, 200])
@pytest.mark.parametrize("height", [32, 40, 57])
def test_views_give_clips_of_one_shape_whatever_the_video(frames: int, height: int) -> None:
    clip = FakeClip(Strip(frames, height=height))
    item = pretrain_view(frames=16, stride=4, size=32)(clip, seeded())
    assert item["video"].shape == (3, 16, 32, 32)
    assert item["video"].dtype == torch.uint8
    assert item["video"].is_contiguous()
    for view in (train_view(16, 4, 32, AugmentConfig()), *eval_views(16, 4, 32, segments=3)):
        item = view(clip, seeded())
        assert item["video"].shape == (3, 16, 32, 32)
        assert item["video"].dtype == torch.float32
        assert item["video"].is_contiguous()
        assert item["label"] == 3


def test_frames_stay_in_order_on_their_way_through_a_view() -> None:
    clip = FakeClip(Strip(200))
    item = pretrain_view(frames=16, stride=4, size=32)(clip, seeded())
    assert item["video"][0, :, 5, 5].tolist() == clip.frames.asked
    clip = FakeClip(Strip(200))
    item = train_view(16, 4, 32, PLAIN)(clip, seeded())
    expected = normalise(torch.tensor(clip.frames.asked, dtype=torch.uint8).view(1, -1, 1, 1).expand(3, -1, 32, 32))
    torch.testing.assert_close(item["video"], expected)
    for view, indices in zip(eval_views(16, 4, 32, 2), eval_indices(200, segments=2), strict=True):
        clip = FakeClip(Strip(200))
        view(clip, seeded())
        assert clip.frames.asked == indices


@pytest.mark.parametrize("view", [pretrain_view(16, 4, 32), train_view(16, 4, 32, AugmentConfig(erase=1.0))])
def test_a_views_result_depends_on_its_generator_alone(view: Any) -> None:
    clip = FakeClip(Strip(250))
    first = view(clip, seeded(1))["video"]
    torch.rand(3)
    np.random.default_rng().random()
    assert torch.equal(first, view(clip, seeded(1))["video"])
    assert not torch.equal(first, view(clip, seeded(2))["video"])


def test_views_travel_to_spawned_workers() -> None:
    clip = FakeClip(Strip(80))
    for view in (pretrain_view(16, 4, 32), train_view(16, 4, 32, PLAIN), *eval_views(16, 4, 32, 1)):
        again = pickle.loads(pickle.dumps(view))
        assert torch.equal(again(clip, seeded())["video"], view(clip, seeded())["video"])


def chirp(seconds: float) -> np.ndarray:
    """Sound whose pitch tells the time."""
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 * time + 40 * time**2))).astype(np.float32)


STILL = SoundAugmentConfig(gain=False)
SOUND = SoundConfig(length=256)


def test_pretraining_hears_the_time_of_its_frames() -> None:
    clip = FakeClip(Strip(250), audio=chirp(10))
    item = pretrain_view(16, 4, 32, SOUND, STILL)(clip, seeded(4))
    start = clip.frames.asked[0]
    assert start > 0
    begin = int(start / 25 * RATE)
    end = begin + int((clip.frames.asked[-1] + 4 + 1 - start) / 25 * RATE)
    assert clip.audio is not None
    torch.testing.assert_close(item["audio"], log_mel(torch.from_numpy(clip.audio[begin:end]))[0], atol=2e-2, rtol=0)
    assert item["has_audio"]
    assert item["audio"].shape == (1, 256, 128)


@pytest.mark.parametrize("frames", [1, 3, 30, 250])
def test_sound_has_one_shape_whatever_the_clip(frames: int) -> None:
    for audio in (chirp(10), chirp(0.06), chirp(0.01), None):
        clip = FakeClip(Strip(frames), audio=audio)
        for view in (
            pretrain_view(16, 4, 32, SOUND),
            train_view(16, 4, 32, PLAIN, SOUND),
            *eval_views(16, 4, 32, 2, SOUND),
        ):
            item = view(clip, seeded())
            assert item["audio"].shape == (1, 256, 128)
            assert torch.isfinite(item["audio"]).all()
            assert item["has_audio"].item() is (audio is not None and len(audio) >= 400)


def test_a_clip_without_sound_is_marked_and_not_heard() -> None:
    item = pretrain_view(16, 4, 32, SOUND)(FakeClip(Strip(80)), seeded())
    assert not item["has_audio"]
    assert not item["audio"].any()
    assert "audio" not in pretrain_view(16, 4, 32)(FakeClip(Strip(80), audio=chirp(3)), seeded())


def test_gain_acts_in_training_only() -> None:
    clip = FakeClip(Strip(50), audio=chirp(2))  # short: every view hears all of it
    for view in (pretrain_view(16, 4, 32, SOUND), train_view(16, 4, 32, PLAIN, SOUND)):
        assert not torch.equal(view(clip, seeded(1))["audio"], view(clip, seeded(2))["audio"])
    for view in eval_views(16, 4, 32, 2, SOUND):
        assert torch.equal(view(clip, seeded(1))["audio"], view(clip, seeded(2))["audio"])


def test_clips_of_one_source_carry_the_same_number() -> None:
    view = pretrain_view(16, 4, 32, SOUND)
    numbers = [view(FakeClip(Strip(80), source=name), seeded())["source"] for name in ("a.mp4", "a.mp4", "b.mp4")]
    assert numbers[0] == numbers[1] != numbers[2]
    assert numbers[0].dtype == torch.int64
