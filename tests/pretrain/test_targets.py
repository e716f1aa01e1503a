from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hicmae.pretrain import targets
from hicmae.pretrain.masking import random_mask, tube_mask

FIXTURES = Path(__file__).parents[1] / "fixtures"
MEAN = torch.tensor(targets.IMAGENET_MEAN).view(3, 1, 1, 1)
STD = torch.tensor(targets.IMAGENET_STD).view(3, 1, 1, 1)


@cache
def recorded(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


@cache
def published_input(name: str, shape: tuple[int, ...]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype("float32"))


def published_mask(fixture: dict[str, Any], modality: str) -> Tensor:
    stored = fixture["masks"][modality]
    rows = [np.unpackbits(np.array(row, dtype=np.uint8)) for row in stored["packbits_big_endian"]]
    return torch.from_numpy(np.stack(rows)[:, : stored["shape"][1]].astype(bool))


def largest_difference(ours: Tensor, stats: dict[str, Any]) -> float:
    """In units of the recorded standard deviation."""
    assert list(ours.shape) == stats["shape"]
    values = ours.double().flatten()[torch.tensor(stats["indices"])]
    return float((values - torch.tensor(stats["values"], dtype=torch.float64)).abs().max()) / stats["std_population"]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    "name",
    ["mae_dfer_pretrain_base", "hicmae_pretrain_dim512", "videomae_pretrain_base160", "svfap_pretrain_dim512_paper"],
)
def test_video_targets_equal_the_published_ones(name: str, dtype: torch.dtype, limit: float) -> None:
    fixture = recorded(name)
    video = published_input("input.video", (2, 3, 16, 160, 160)).to(dtype)
    moving = name.startswith(("mae_dfer", "hicmae"))
    target = (targets.appearance_motion if moving else targets.pixels)(video, published_mask(fixture, "video"))
    assert target.dtype == dtype
    stats = fixture["target_video"] if dtype == torch.float32 else fixture["float64"]["target_video"]
    assert largest_difference(target, stats) < limit
    assert target.double().std(correction=0).item() == pytest.approx(stats["std_population"], rel=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_audio_targets_equal_the_published_ones(dtype: torch.dtype, limit: float) -> None:
    fixture = recorded("hicmae_pretrain_dim512")
    audio = published_input("input.audio", (2, 1, 256, 128)).to(dtype)
    target = targets.spectrogram(audio, published_mask(fixture, "audio"))
    stats = fixture["target_audio"] if dtype == torch.float32 else fixture["float64"]["target_audio"]
    assert largest_difference(target, stats) < limit


def clip(frames: int = 8, height: int = 8, width: int = 12, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Bytes, and the same clip normalised as models see it."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (batch, 3, frames, height, width), generator=generator, dtype=torch.uint8)
    return video, (video.double() / 255 - MEAN.double()) / STD.double()


PATCH = (2, 4, 4)
GRID = (4, 2, 3)
MASK = random_mask(torch.arange(2), 24, 0.6, seed=0, epoch=0)


def by_loops(video: Tensor, mask: Tensor, group: int, motion: str, normalise: bool) -> Tensor:
    """The definition, spelt out on whole clips in [0, 1]."""

    def standardised(whole: Tensor) -> Tensor:
        out = torch.empty_like(whole)
        for t in range(0, whole.shape[2], 2):
            for y in range(0, whole.shape[3], 4):
                for x in range(0, whole.shape[4], 4):
                    place = (..., slice(t, t + 2), slice(y, y + 4), slice(x, x + 4))
                    part = whole[place].flatten(2)
                    value = (part - part.mean(2, keepdim=True)) / (part.std(2, keepdim=True) + 1e-6)
                    out[place] = value.view(whole[place].shape)
        return out

    shown = standardised(video) if normalise else video
    source = shown if motion == "normalised" else video
    frames = []
    for t in range(video.shape[2]):
        frames.append(source[:, :, t] - source[:, :, t // group * group] if t % group else shown[:, :, t])
    whole = torch.stack(frames, 2)
    rows = []
    for b, row in enumerate(mask):
        tokens = []
        for n in row.nonzero().flatten().tolist():
            t, y, x = n // 6 * 2, n // 3 % 2 * 4, n % 3 * 4
            tokens.append(whole[b, :, t : t + 2, y : y + 4, x : x + 4].permute(1, 2, 3, 0).flatten())
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("motion", ["normalised", "raw"])
@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_differences_are_taken_within_groups_of_any_length(group: int, motion: Any, normalise: bool) -> None:
    video = clip()[1]
    ours = targets.appearance_motion(video, MASK, group=group, motion=motion, normalise=normalise, patch=PATCH)
    unit = video * STD.double() + MEAN.double()
    torch.testing.assert_close(ours, by_loops(unit, MASK, group, motion, normalise), atol=1e-6, rtol=0)
    if group == 1:
        torch.testing.assert_close(ours, targets.pixels(video, MASK, normalise=normalise, patch=PATCH))


def test_a_group_within_a_longer_token_and_one_across_tokens_agree_with_the_definition() -> None:
    video = clip(frames=12)[1]
    mask = tube_mask(torch.arange(2), (6, 2, 3), 0.5, seed=0, epoch=0)
    ours = targets.appearance_motion(video, mask, group=3, patch=PATCH)  # groups start in the middle of tokens
    unit = video * STD.double() + MEAN.double()
    torch.testing.assert_close(ours, by_loops(unit, mask, 3, "normalised", True), atol=1e-6, rtol=0)

    long = tube_mask(torch.arange(2), (3, 2, 3), 0.5, seed=0, epoch=0)  # tokens of 4 frames hold two groups of 2
    moved = targets.appearance_motion(video, long, group=2, patch=(4, 4, 4), normalise=False)
    plain = targets.pixels(video, long, patch=(4, 4, 4), normalise=False).unflatten(2, (2, 2, -1))
    torch.testing.assert_close(
        moved, torch.stack([plain[:, :, :, 0], plain[:, :, :, 1] - plain[:, :, :, 0]], 3).flatten(2)
    )


@pytest.mark.parametrize("group", [2, 3, 4])
def test_the_motion_part_marks_what_vanishes_in_a_still_clip(group: int) -> None:
    still = clip(frames=12)[1][:, :, :1].expand(-1, -1, 12, -1, -1)
    mask = random_mask(torch.arange(2), 36, 0.6, seed=0, epoch=0)
    target = targets.appearance_motion(still, mask, group=group, patch=PATCH)
    part = targets.motion_part(mask, (6, 2, 3), group=group, patch=PATCH).expand_as(target)
    assert (target[part] == 0).all()
    assert (target[~part] != 0).all()


@pytest.mark.parametrize("make", [targets.pixels, targets.appearance_motion])
def test_bytes_and_normalised_floats_give_the_same_targets(make: Any) -> None:
    raw, normalised = clip()
    expected = make(normalised, MASK, patch=PATCH)
    torch.testing.assert_close(make(raw, MASK, patch=PATCH).double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(make(normalised.float(), MASK, patch=PATCH).double(), expected, atol=1e-5, rtol=0)
    assert make(normalised.bfloat16(), MASK, patch=PATCH).dtype == torch.float32


@pytest.mark.parametrize("value", [0, 1, 77, 124, 255])
@pytest.mark.parametrize("make", [targets.pixels, targets.appearance_motion])
def test_constant_patches_give_exact_zeros(make: Any, value: int) -> None:
    raw = torch.full((1, 3, 4, 32, 32), value, dtype=torch.uint8)
    mask = torch.ones(1, 8, dtype=torch.bool)
    for video in (raw, (raw / 255 - MEAN) / STD):
        assert not make(video, mask).any()


def test_constant_audio_patches_give_exact_zeros() -> None:
    padding = torch.full((1, 1, 32, 32), 0.4670334)
    assert not targets.spectrogram(padding, torch.ones(1, 4, dtype=torch.bool)).any()


def test_visible_patches_do_not_touch_the_targets() -> None:
    video = clip()[1]
    frame = tube_mask(torch.arange(2), GRID, 0.5, seed=0, epoch=0)
    hidden = frame.view(2, 1, 4, 2, 3).repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    other = torch.where(hidden, video, torch.randn_like(video))
    for group in (2, 4):
        ours = targets.appearance_motion(video, frame, group=group, patch=PATCH)
        assert torch.equal(ours, targets.appearance_motion(other, frame, group=group, patch=PATCH))


@pytest.mark.parametrize("group", [1, 2])
def test_a_perfect_prediction_restores_the_clip(group: int) -> None:
    video = clip()[1]
    unit = video * STD.double() + MEAN.double()
    perfect = targets.appearance_motion(video, MASK, group=group, patch=PATCH)
    patches = targets.restore(perfect, video, MASK, group=group, patch=PATCH)
    index = MASK.nonzero()[:, 1].view(2, -1)
    blank = torch.zeros_like(unit)
    placed = targets.place_patches(patches, index, blank, PATCH)
    hidden = MASK.view(2, 1, 4, 2, 3).repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    torch.testing.assert_close(placed, unit * hidden, atol=1e-6, rtol=0)
    assert not blank.any()  # a copy was written to


def test_given_the_number_of_hidden_tokens_the_mask_need_not_be_read() -> None:
    video = clip()[1]
    count = int(MASK[0].sum())
    assert torch.equal(targets.pixels(video, MASK, patch=PATCH), targets.pixels(video, MASK, patch=PATCH, hidden=count))


def test_sizes_that_do_not_fit_are_named() -> None:
    video = clip()[0]
    with pytest.raises(ValueError, match=r"patches of \(2, 16, 16\) do not divide a video of \(8, 8, 12\)"):
        targets.pixels(video, MASK)
    with pytest.raises(ValueError, match="groups of 3 frames do not divide a clip of 8 frames"):
        targets.appearance_motion(video, MASK, group=3, patch=PATCH)
    with pytest.raises(ValueError, match=r"uint8 or floating point, not torch\.int32"):
        targets.pixels(video.int(), MASK, patch=PATCH)
