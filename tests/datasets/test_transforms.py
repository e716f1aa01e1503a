from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hicmae.datasets import policy
from hicmae.datasets.draws import Draws
from hicmae.datasets.transforms import (
    AugmentConfig,
    Mixup,
    augment_clip,
    erase,
    multi_scale_crop,
    normalise,
    random_resized_crop,
    resize,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from timm.data import auto_augment


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def picture(height: int = 160, width: int = 160) -> Tensor:
    """Smooth shapes, edges and a little grain: (3, H, W) uint8."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    smooth = torch.stack([torch.sin(5 * x + 2 * y), torch.cos(7 * x * y), x - y]) * 70 + 110
    smooth += 60 * ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06)
    grain = torch.randn(3, height, width, generator=torch.Generator().manual_seed(5)) * 4
    return (smooth + grain).clamp(10, 240).to(torch.uint8)


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def difference(ours: Tensor, theirs: Image.Image) -> float:
    """Mean absolute difference in grey levels of 255."""
    return float((ours.float() - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs().mean())


@pytest.mark.parametrize("size", [96, 160, 224])
def test_resizing_equals_pillows(size: int) -> None:
    image = picture(200, 140)
    theirs = pillow(image).resize((size, size), Image.Resampling.BILINEAR)
    assert difference(resize(image[None], size)[0], theirs) < 0.6


def test_normalising_bytes_equals_normalising_floats() -> None:
    video = picture(8, 8)[:, None].expand(-1, 4, -1, -1)
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (video / 255 - mean) / std
    torch.testing.assert_close(normalise(video), expected)
    floats = video / 255
    torch.testing.assert_close(normalise(floats), expected)
    assert floats.max() <= 1  # the input is left alone
    batch = video[None].expand(2, -1, -1, -1, -1)
    torch.testing.assert_close(normalise(batch)[1], expected)


def published_crops(height: int, width: int, size: int) -> set[tuple[int, int, int, int]]:
    """(top, left, height, width) of every crop the reference allows."""
    sides = [int(min(height, width) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    crops = set()
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) <= 1:
                down, right = (height - h) // 4, (width - w) // 4
                places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4)]
                places += [(1, 1), (1, 3), (3, 1), (3, 3)]
                crops |= {(a * down, b * right, h, w) for a, b in places}
    return crops


@pytest.mark.parametrize(("height", "width", "size"), [(160, 160, 160), (224, 224, 160), (120, 160, 112)])
def test_multi_scale_crops_are_the_published_ones(
    height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(-1, width)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, -1)
    frame = torch.stack([rows, columns, rows])[None]
    # what is handed to the resizing is the crop itself
    seen: Counter[tuple[int, int, int, int]] = Counter()

    def look(crop: Tensor, size: int) -> Tensor:
        seen[int(crop[0, 0, 0, 0]), int(crop[0, 1, 0, 0]), crop.shape[2], crop.shape[3]] += 1
        return crop

    monkeypatch.setattr("hicmae.datasets.transforms.resize", look)
    shared = draws()
    for _ in range(4000):
        multi_scale_crop(frame, size, shared)
    assert set(seen) == published_crops(height, width, size)


def test_a_small_frame_is_cropped_within_its_bounds() -> None:
    shared = draws()
    for _ in range(60):
        crop = multi_scale_crop(picture(158, 20)[None], 160, shared)
        assert crop.shape == (1, 3, 160, 160)


WARPED = 0.8  # bicubic kernels differ: a = -0.75 in torch, -1 in Pillow
OPERATIONS: dict[str, tuple[Any, float]] = {
    # name: (timm's operation at timm's argument, largest mean difference in grey levels)
    "AutoContrast": (auto_augment.auto_contrast, 0.6),
    "Equalize": (auto_augment.equalize, 0.01),
    "Invert": (auto_augment.invert, 0.0),
    "Rotate": (auto_augment.rotate, WARPED),
    "PosterizeIncreasing": (auto_augment.posterize, 0.0),
    "SolarizeIncreasing": (auto_augment.solarize, 0.0),
    "SolarizeAdd": (auto_augment.solarize_add, 0.0),
    "ColorIncreasing": (auto_augment.color, 0.6),
    "ContrastIncreasing": (auto_augment.contrast, 0.6),
    "BrightnessIncreasing": (auto_augment.brightness, 0.6),
    "SharpnessIncreasing": (auto_augment.sharpness, 0.6),
    "ShearX": (auto_augment.shear_x, WARPED),
    "ShearY": (auto_augment.shear_y, WARPED),
    "TranslateXRel": (auto_augment.translate_x_rel, WARPED),
    "TranslateYRel": (auto_augment.translate_y_rel, WARPED),
}


def test_the_operations_are_timms_increasing_ones() -> None:
    assert list(policy.OPERATIONS) == auto_augment._RAND_INCREASING_TRANSFORMS
    assert set(policy.OPERATIONS) == set(OPERATIONS)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.0, 3.2, 7.0, 10.0])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operations_equal_timms(name: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "PosterizeIncreasing":
        level = min(level, 9.9)  # at 10 timm asks for 0 bits, which Pillow refuses; here one stays
    # timm draws the sign inside; either is wanted here
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    image = picture(96, 128)
    make = auto_augment.LEVEL_TO_ARG[name]
    arguments = make(level, {}) if make else ()
    operation, limit = OPERATIONS[name]
    theirs = operation(pillow(image), *arguments, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    before = image.clone()
    ours = policy.OPERATIONS[name](image[None].expand(2, -1, -1, -1), level, sign)
    assert ours.shape == (2, 3, 96, 128)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours[0], ours[1])
    assert torch.equal(image, before)
    assert difference(ours[0], theirs) <= limit
    if limit == WARPED and level > 0:  # the comparison would notice the opposite direction
        assert difference(policy.OPERATIONS[name](image[None], level, -sign)[0], theirs) > 5 * WARPED


def test_the_published_policy_is_parsed() -> None:
    assert policy.RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == policy.RandAugment()
    assert policy.RandAugment.parse("rand-m9-inc1-p0.8") == policy.RandAugment(
        count=2, magnitude=9, std=0, probability=0.8
    )


@pytest.mark.parametrize(
    "text", ["rand-m7-n4", "augmix-m3", "rand-m12-inc1", "rand-m7-x4-inc1", "rand-m7-m8-inc1", "r"]
)
def test_a_policy_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"augment\.policy must read like 'rand-m7-n4-mstd0\.5-inc1'"):
        AugmentConfig(policy=text)


def test_the_policy_draws_operations_and_strengths_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float, int]] = []

    def spy(name: str) -> policy.Operation:
        def operation(frames: Tensor, level: float, sign: int) -> Tensor:
            calls.append((name, level, sign))
            return frames

        return operation

    for name in list(policy.OPERATIONS):
        monkeypatch.setitem(policy.OPERATIONS, name, spy(name))
    shared, rounds = draws(3), 3000
    for _ in range(rounds):
        policy.RandAugment()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), shared)
    assert len(calls) == pytest.approx(2 * rounds, rel=0.05)  # four operations, each with probability one half
    levels = np.array([level for _, level, _ in calls])
    assert levels.mean() == pytest.approx(7, abs=0.05)
    assert levels.std() == pytest.approx(0.5, abs=0.05)
    assert np.mean([sign for *_, sign in calls]) == pytest.approx(0, abs=0.06)
    counts = Counter(name for name, *_ in calls)
    assert set(counts) == set(policy.OPERATIONS)
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_strengths_stay_within_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[float] = []

    def operation(frames: Tensor, level: float, sign: int) -> Tensor:
        levels.append(level)
        return frames

    for name in list(policy.OPERATIONS):
        monkeypatch.setitem(policy.OPERATIONS, name, operation)
    shared = draws()
    for _ in range(200):
        policy.RandAugment(magnitude=9, std=5, probability=1)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), shared)
    assert (min(levels), max(levels)) == (0, 10)


def test_every_frame_gets_the_same_augmentation() -> None:
    clip = picture(64, 64)[None].expand(6, -1, -1, -1)
    for seed in range(12):
        video = augment_clip(clip, 48, AugmentConfig(erase=0.0), draws(seed))
        assert video.shape == (3, 6, 48, 48)
        assert (video == video[:, :1]).all()


def test_random_crops_have_the_published_areas_and_aspects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hicmae.datasets.transforms.resize", lambda crop, size: crop)
    frame, shared = torch.zeros(1, 3, 200, 200, dtype=torch.uint8), draws()
    shapes = [random_resized_crop(frame, 160, (0.08, 1.0), (0.75, 1.3333), shared).shape[-2:] for _ in range(3000)]
    areas = np.array([h * w for h, w in shapes]) / 40_000
    aspects = np.array([w / h for h, w in shapes])
    assert areas.min() > 0.075
    assert areas.max() > 0.9
    # uniform, but for the large ones that do not fit at a long aspect and are drawn anew
    assert np.mean(areas < 0.54) == pytest.approx(0.55, abs=0.04)
    assert aspects.min() > 0.74
    assert aspects.max() < 1.36
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.02)


def test_a_crop_that_never_fits_becomes_the_centre() -> None:
    frame = torch.zeros(1, 3, 20, 200, dtype=torch.uint8)
    frame[..., 95:105] = 200
    crop = random_resized_crop(frame, 30, (0.9, 1.0), (0.5, 0.5), draws())
    assert crop.shape == (1, 3, 30, 30)
    assert (crop == 200).all()


def test_a_flip_mirrors_left_and_right() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, -1)
    off = AugmentConfig(policy="", crop=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, erase=0.0)
    plain = augment_clip(ramp, 32, off, draws())
    torch.testing.assert_close(plain, normalise(ramp.transpose(0, 1)))
    flipped = augment_clip(ramp, 32, dataclasses.replace(off, flip=1.0), draws())
    assert torch.equal(flipped, plain.flip(-1))


def test_erasing_hits_one_box_with_new_noise_in_every_frame() -> None:
    shared, shares = draws(), []
    for _ in range(300):
        video = erase(torch.full((3, 4, 60, 60), 9.0), (0.02, 1 / 3), shared)
        touched = video != 9
        assert (touched == touched[:1, :1]).all()
        rows, columns = touched[0, 0].any(1), touched[0, 0].any(0)
        assert torch.equal(touched[0, 0], rows[:, None] & columns)
        if touched.any():
            assert not torch.equal(video[:, 0], video[:, 1])
            assert not torch.equal(video[0], video[1])
        shares.append(touched.float().mean().item())
    assert 0.01 < min(share for share in shares if share) < 0.03
    assert 0.3 < max(shares) < 0.35
    noise = erase(torch.full((3, 16, 60, 60), 9.0), (0.3, 0.33), shared)
    noise = noise[noise != 9]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"erase": 3}, r"augment\.erase must lie in \[0, 1\], not 3"),
        ({"smoothing": -0.1}, r"augment\.smoothing must lie in \[0, 1\], not -0\.1"),
        ({"mixup": -1}, r"augment\.mixup must be at least 0, not -1"),
        (
            {"crop": (0.5, 0.1)},
            r"augment\.crop must hold two positive numbers of at most 1, least first, not 0\.5, 0\.1",
        ),
        ({"aspect": (0, 2)}, r"augment\.aspect must hold two positive numbers, least first"),
        ({"erase_area": (0.1, 2)}, r"augment\.erase_area must hold two positive numbers of at most 1"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 4, 20, 30, generator=torch.Generator().manual_seed(0)), torch.arange(size) % 4


@pytest.mark.parametrize("size", [1, 5, 6])
def test_mixup_mixes_video_and_labels_by_the_same_weight(size: int) -> None:
    video, label = batch(size)
    mixup = Mixup(alpha=0.8, cutmix=0.0, smoothing=0.1, classes=4)
    mixed, soft = mixup(video, label, torch.Generator().manual_seed(1))
    weight = mixup.draw(20, 30, torch.Generator().manual_seed(1)).weight
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * video + (1 - weight) * video.flip(0))
    off, on = 0.1 / 4, 1 - 0.1 + 0.1 / 4
    for n in range(size):
        mine, partner = torch.full((4,), off), torch.full((4,), off)
        mine[label[n]], partner[label[size - 1 - n]] = on, on
        torch.testing.assert_close(soft[n], weight * mine + (1 - weight) * partner)


def test_cutmix_cuts_height_and_width_alike_in_every_frame_and_weighs_labels_by_area() -> None:
    video, label = batch()
    mixup = Mixup(alpha=0.0, cutmix=1.0, smoothing=0.0, classes=4)
    for seed in range(60):
        mixed, soft = mixup(video, label, torch.Generator().manual_seed(seed))
        taken = mixed != video
        assert (taken == taken[:1, :1, :1]).all()
        place = taken[0, 0, 0]
        assert torch.equal(place, place.any(1)[:, None] & place.any(0))
        assert torch.equal(mixed[taken], video.flip(0)[taken])
        kept = 1 - place.float().mean().item()
        # 0 and 5 have different classes, so the label's weight is the area's share
        assert soft[0, label[0]].item() == pytest.approx(kept, abs=1e-6)
        torch.testing.assert_close(soft.sum(1), torch.ones(6))


def test_cutmix_boxes_are_clipped_where_they_stick_out() -> None:
    mixup = Mixup(alpha=0.0, cutmix=1.0, classes=2)
    generator = torch.Generator().manual_seed(0)
    boxes = [mixup.draw(40, 40, generator).box for _ in range(500)]
    assert all(0 <= t <= b <= 40 and 0 <= left <= right <= 40 for t, b, left, right in boxes)
    assert any(t == 0 for t, *_ in boxes)
    assert any(b == 40 for _, b, *_ in boxes)


def test_cutmix_and_mixup_take_turns_and_may_stay_away() -> None:
    generator = torch.Generator().manual_seed(0)
    mixup = Mixup(prob=0.6, switch=0.25, classes=2)
    kinds = Counter(mixup.draw(40, 40, generator).kind for _ in range(3000))
    assert kinds["none"] / 3000 == pytest.approx(0.4, abs=0.04)
    assert kinds["cutmix"] / 3000 == pytest.approx(0.15, abs=0.03)
    assert Mixup(alpha=0.0, cutmix=0.0, classes=2).draw(40, 40, generator).kind == "none"


def test_mixups_weights_follow_the_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mixup = Mixup(alpha=0.8, cutmix=0.0, classes=2)
    weights = np.array([mixup.draw(8, 8, generator).weight for _ in range(2000)])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_sound_is_mixed_with_the_same_partner_and_weight(alphas: tuple[float, float]) -> None:
    audio = torch.randn(6, 1, 100, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        mix = Mixup(alpha=alphas[0], cutmix=alphas[1], classes=4).draw(50, 50, torch.Generator().manual_seed(seed))
        mixed = mix.audio(audio)
        if mix.kind == "mixup":
            torch.testing.assert_close(mixed, mix.weight * audio + (1 - mix.weight) * audio.flip(0))
        else:
            taken = (mixed != audio).any(-1)
            assert (taken == taken[:1]).all()
            assert taken[0, 0].float().mean().item() == pytest.approx(1 - mix.weight, abs=0.006)
            assert taken[0, 0].int().diff().abs().sum() <= 2  # one run
            assert torch.equal(mixed[taken], audio.flip(0)[taken])


def test_soft_labels_are_mixed_as_they_are() -> None:
    soft = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 0.5]])
    mix = Mixup(cutmix=0.0, classes=3).draw(8, 8, torch.Generator().manual_seed(0))
    expected = mix.weight * soft + (1 - mix.weight) * soft.flip(0)
    torch.testing.assert_close(mix.labels(soft, 3, smoothing=0.1), expected)


def test_an_unmixed_batch_has_smoothed_labels() -> None:
    video, label = batch()
    mixed, soft = Mixup(prob=0.0, classes=4)(video, label, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, video)
    assert soft.max(1).indices.tolist() == label.tolist()
    assert soft[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
