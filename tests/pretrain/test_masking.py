from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hicmae.pretrain.masking import decoded_mask, hidden_count, hidden_index, random_mask, tube_mask

FIXTURE = Path(__file__).parents[1] / "fixtures" / "numeric_masks.json"
PUBLISHED = {row["name"]: row for row in json.loads(FIXTURE.read_text())["masks"]}
GRID = (8, 10, 10)


def published(name: str) -> torch.Tensor:
    row = PUBLISHED[name]
    bits = np.unpackbits(np.array(row["packbits_big_endian"], dtype=np.uint8))[: row["length"]]
    return torch.from_numpy(bits.astype(bool))[None]


def rules(mask: torch.Tensor) -> dict[str, Any]:
    """What a published mask keeps to, read from the mask itself."""
    frames = mask.view(-1, *GRID)
    return {
        "per_frame": {int(n) for n in frames.sum((2, 3)).flatten()},
        "constant": bool((frames == frames[:, :1]).all()),
        "half": {int(n) for n in frames.view(-1, 8, 2, 5, 10).sum((3, 4)).flatten()},
        "fifth": {int(n) for n in frames.view(-1, 8, 5, 2, 10).sum((3, 4)).flatten()},
    }


@pytest.mark.parametrize(
    ("name", "ratio", "windows", "kept"),
    [
        ("tube_8x10x10_0.9", 0.9, None, ["per_frame", "constant"]),
        ("tube_8x10x10_0.75", 0.75, None, ["per_frame", "constant"]),
        ("part_window_8x10x10_0.9_win5x10", 0.9, (5, 10), ["per_frame", "constant", "half"]),
        ("part_window_8x10x10_0.9_win2x10", 0.9, (2, 10), ["per_frame", "constant", "fifth"]),
    ],
)
def test_tubes_keep_the_published_rules(
    name: str, ratio: float, windows: tuple[int, int] | None, kept: list[str]
) -> None:
    theirs = rules(published(name))
    ours = tube_mask(torch.arange(50), GRID, ratio, seed=3, epoch=1, windows=windows)
    assert ours.dtype == torch.bool
    assert ours.shape == (50, 800)
    assert (ours.sum(1) == PUBLISHED[name]["num_masked"]).all()
    for rule in kept:
        assert rules(ours)[rule] == theirs[rule], rule


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "8x10x10" in name or "sym" in name])
def test_published_masks_are_what_is_recorded_of_them(name: str) -> None:
    row, mask = PUBLISHED[name], published(name)
    frames = mask.view(8, 10, 10)
    assert int(mask.sum()) == row["num_masked"] and mask.shape[1] == row["length"]
    assert frames.sum((1, 2)).tolist() == row["masked_per_frame"]
    assert bool((frames == frames[:1]).all()) == row["identical_over_time"]
    assert frames[0].view(2, 5, 10).sum((1, 2)).tolist() == row["masked_per_half_5x10"]
    assert frames[0].view(5, 2, 10).sum((1, 2)).tolist() == row["masked_per_2x10_window"]


@pytest.mark.parametrize("name", ["part_window_sym_global", "part_window_sym_local"])
def test_symmetric_masks_have_equal_counts_in_the_regions_of_an_encoder(name: str) -> None:
    # never used for a published result and not drawn here; an encoder with regions could take them
    windows = (~published(name)).view(8, 2, 5, 2, 5).sum(4)[0].sum(1)  # visible: (upper and lower window, left, right)
    assert windows.sum(1).tolist() == [5, 5]
    assert (windows.min(1).values == 0).all()  # all visible patches of a window lie on one side
    assert rules(published(name))["half"] == {45}


def test_audio_hides_102_of_128_as_published() -> None:
    mask = random_mask(torch.arange(20), 128, 0.8, seed=0, epoch=0)
    assert (mask.sum(1) == 102).all()
    row = PUBLISHED["audio_random_16x8_0.8"]
    assert int(published("audio_random_16x8_0.8").sum()) == row["num_masked"] == 102 and row["length"] == 128


@pytest.mark.parametrize("windows", [(5, 5), (2, 5), (10, 2), (1, 10)])
def test_every_window_hides_the_same_number(windows: tuple[int, int]) -> None:
    wh, ww = windows
    frame = tube_mask(torch.arange(9), GRID, 0.8, seed=0, epoch=0, windows=windows).view(-1, *GRID)[:, 0]
    counts = frame.view(-1, 10 // wh, wh, 10 // ww, ww).sum((2, 4))
    assert (counts == hidden_count(wh * ww, 0.8)).all()


@pytest.mark.parametrize(
    ("tokens", "ratio", "count"),
    [(50, 0.9, 45), (128, 0.8, 102), (100, 0.29, 29), (50, 1 - 0.1, 45), (20, 0.1 + 0.2, 6), (300, 1 / 3, 100)],
)
def test_counts_do_not_suffer_from_float_truncation(tokens: int, ratio: float, count: int) -> None:
    assert hidden_count(tokens, ratio) == count


@pytest.mark.parametrize("ratio", [0.0, 0.001, 1.0, -0.5, 1.5])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="must hide at least one"):
        tube_mask(torch.arange(2), GRID, ratio, seed=0, epoch=0)


def test_a_window_that_does_not_divide_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="3 x 10 tokens do not divide a frame of 10 x 10"):
        tube_mask(torch.arange(2), GRID, 0.9, seed=0, epoch=0, windows=(3, 10))


def test_numbers_must_be_int64() -> None:
    with pytest.raises(ValueError, match="int64"):
        random_mask(torch.arange(2, dtype=torch.int32), 10, 0.5, seed=0, epoch=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6), st.lists(st.integers(0, 2**62), min_size=2, max_size=6))
def test_a_samples_mask_does_not_depend_on_its_batch(seed: int, epoch: int, numbers: list[int]) -> None:
    whole = tube_mask(torch.tensor(numbers), GRID, 0.9, seed=seed, epoch=epoch, windows=(5, 10))
    alone = [tube_mask(torch.tensor([n]), GRID, 0.9, seed=seed, epoch=epoch, windows=(5, 10)) for n in numbers]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_are_the_same_on_the_gpu() -> None:
    numbers = torch.arange(1000) * 10**12
    for make in (
        lambda n: tube_mask(n, GRID, 0.9, seed=-5, epoch=7, windows=(5, 10)),
        lambda n: random_mask(n, 128, 0.8, seed=2**40, epoch=7),
        lambda n: decoded_mask(tube_mask(n, GRID, 0.9, seed=1, epoch=1), n, 0.5, seed=1, epoch=1, grid=GRID),
    ):
        assert torch.equal(make(numbers), make(numbers.cuda()).cpu())


def test_masks_stay_what_they_were() -> None:
    # a run continued with a later version must see the masks of the earlier one
    tube = tube_mask(torch.tensor([0, 1, 10**9]), GRID, 0.9, seed=0, epoch=0, windows=(5, 10))[:, :100]
    assert [(~row).nonzero().flatten().tolist() for row in tube] == FROZEN


FROZEN = [
    [1, 25, 38, 41, 42, 50, 73, 75, 83, 98],
    [2, 5, 8, 31, 44, 51, 64, 65, 80, 92],
    [2, 8, 30, 35, 38, 58, 63, 67, 72, 88],
]


def test_every_token_is_hidden_equally_often() -> None:
    numbers = torch.arange(20_000)
    masks = {
        "tube": tube_mask(numbers, (1, 10, 10), 0.9, seed=11, epoch=2, windows=(5, 10)),
        "random": random_mask(numbers, 128, 0.8, seed=11, epoch=2),
    }
    for name, mask in masks.items():
        tokens = mask.shape[1]
        share = mask.double().mean().item()
        expected = len(numbers) * share
        chi2 = ((mask.double().sum(0) - expected) ** 2 / (expected * (1 - share))).sum().item()
        # about chi-squared with a mean near `tokens` and a variance of twice that; five sigma
        assert abs(chi2 - tokens) < 5 * (2 * tokens) ** 0.5, name


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@pytest.mark.parametrize("other", ["number", "epoch", "seed", "far number", "seed for epoch"])
def test_neighbouring_draws_are_independent(other: str) -> None:
    numbers = torch.arange(2_000)
    a = random_mask(numbers, 128, 0.8, seed=5, epoch=9)
    b = {
        "number": lambda: random_mask(numbers + 1, 128, 0.8, seed=5, epoch=9),
        "far number": lambda: random_mask(numbers + 2**32, 128, 0.8, seed=5, epoch=9),
        "epoch": lambda: random_mask(numbers, 128, 0.8, seed=5, epoch=10),
        "seed": lambda: random_mask(numbers, 128, 0.8, seed=6, epoch=9),
        "seed for epoch": lambda: random_mask(numbers, 128, 0.8, seed=9, epoch=5),
    }[other]()
    assert not torch.equal(a, b)
    assert abs(correlation(a, b)) < 5 / (a.numel() ** 0.5)


@pytest.mark.parametrize("lag", [1, 2, 8, 10])
def test_neighbouring_tokens_are_independent(lag: int) -> None:
    mask = random_mask(torch.arange(5_000), 128, 0.5, seed=1, epoch=0)
    # exact counts make tokens repel each other by -1/(N-1)
    assert correlation(mask[:, lag:], mask[:, :-lag]) == pytest.approx(-1 / 127, abs=5 / (5_000 * 120) ** 0.5)


def test_video_and_audio_masks_of_a_sample_are_independent() -> None:
    numbers = torch.arange(5_000)
    video = tube_mask(numbers, (1, 8, 16), 0.8, seed=4, epoch=4)
    audio = random_mask(numbers, 128, 0.8, seed=4, epoch=4)
    assert abs(correlation(video, audio)) < 5 / (video.numel() ** 0.5)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_running_cell_decodes_every_tube_in_its_share_of_the_time_steps(ratio: float) -> None:
    numbers = torch.arange(30)
    mask = tube_mask(numbers, GRID, 0.9, seed=0, epoch=0)
    decoded = decoded_mask(mask, numbers, ratio, seed=0, epoch=0, grid=GRID)
    assert not (decoded & ~mask).any()
    assert (decoded.sum(1) == hidden_count(720, ratio)).all()
    frames, tubes = decoded.view(30, 8, 100), mask.view(30, 8, 100)[:, 0]
    assert (frames.sum(1)[tubes] == 8 * ratio).all()
    # neighbours in a cell take turns: the pattern differs from one time step to the next, and between samples
    assert (frames[:, 1:] != frames[:, :-1]).any(-1).all()
    assert len({tuple(row.tolist()) for row in (decoded[:, :100] | ~mask[:, :100])}) > 4


@pytest.mark.parametrize("grid", [GRID, None, (6, 10, 10), (3, 5, 7)])
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_decoded_counts_are_exact_for_any_mask(grid: tuple[int, int, int] | None, ratio: float) -> None:
    numbers = torch.arange(20)
    tokens = grid[0] * grid[1] * grid[2] if grid else 96
    mask = random_mask(numbers, tokens, 0.8, seed=0, epoch=0)
    hidden = hidden_count(tokens, 0.8)
    decoded = decoded_mask(mask, numbers, ratio, seed=0, epoch=0, grid=grid)
    assert not (decoded & ~mask).any()
    assert (decoded.sum(1) == hidden_count(hidden, ratio)).all()
    assert torch.equal(decoded, decoded_mask(mask, numbers, ratio, seed=0, epoch=0, grid=grid, hidden=hidden))


def test_a_grid_that_does_not_fit_the_mask_is_refused() -> None:
    mask = torch.zeros(2, 90, dtype=torch.bool)
    with pytest.raises(ValueError, match="does not hold the mask's 90 tokens"):
        decoded_mask(mask, torch.arange(2), 0.5, seed=0, epoch=0, grid=GRID, hidden=40)


def test_hidden_places_come_in_ascending_order() -> None:
    mask = random_mask(torch.arange(7), 60, 0.7, seed=0, epoch=0)
    index = hidden_index(mask)
    assert torch.equal(index, torch.stack([row.nonzero().flatten() for row in mask]))
    assert torch.equal(index, hidden_index(mask, 42))
