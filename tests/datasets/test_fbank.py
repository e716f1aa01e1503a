from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from hicmae.datasets.draws import Draws
from hicmae.datasets.fbank import (
    SoundAugmentConfig,
    SoundConfig,
    clip_sound,
    filter_bank,
    log_mel,
    mask_bands,
    span_by_relative_time,
    span_by_time,
    widen,
)
from hicmae.datasets.sampling import eval_indices

FIXTURES = Path(__file__).parents[1] / "fixtures"
FRONTEND = json.loads((FIXTURES / "numeric_audio_frontend.json").read_text())
ALIGNMENT = json.loads((FIXTURES / "numeric_audio_alignment.json").read_text())["rows"]
MEAN, STD = -4.2677393, 4.5689974
STILL = SoundAugmentConfig(gain=False)


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def by_kaldi(waveform: Tensor) -> Tensor:
    """(1, S) -> (frames, 128), as the published code calls it."""
    return kaldi.fbank(
        waveform,
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )


def published_waveform() -> Tensor:
    seed = int.from_bytes(hashlib.sha256(b"input.waveform").digest()[:8], "little")
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal((1, 48000)).astype("float32")
    return torch.from_numpy(drawn * np.float32(0.1))


def sine() -> Tensor:
    return torch.from_numpy(0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 16000)).float()[None]


def voice(samples: int = 41_600, batch: int = 1) -> Tensor:
    """Harmonics under a moving envelope, with silence in between."""
    time = torch.arange(samples) / 16000
    pitch = torch.linspace(90, 220, batch)[:, None]
    tones = sum(torch.sin(2 * torch.pi * pitch * k * time) / k for k in range(1, 12))
    return (tones * torch.sin(3 * time).clamp_min(0) * 0.1).float()


def distance(ours: Tensor, stats: dict[str, Any]) -> float:
    """The largest difference at the recorded places; the other records of the whole picture are compared here."""
    assert list(ours.shape) == stats["shape"] and str(ours.dtype).endswith(stats["dtype"])
    assert ours.double().mean().item() == pytest.approx(stats["mean"], abs=1e-4)
    assert ours.double().std(correction=0).item() == pytest.approx(stats["std_population"], abs=1e-4)
    assert ours.abs().max().item() == pytest.approx(stats["abs_max"], abs=1e-3)
    return float((ours.flatten()[torch.tensor(stats["indices"])] - torch.tensor(stats["values"])).abs().max())


def padded(waveform: Tensor) -> Tensor:
    """The published front end built from torchaudio: (1, S) -> (256, 128), not normalised."""
    raw = by_kaldi(waveform - waveform.mean())
    return torch.nn.functional.pad(raw, (0, 0, 0, max(0, 256 - len(raw))))[:256]


@pytest.mark.parametrize("make", [published_waveform, sine, voice, lambda: torch.zeros(1, 9000), lambda: voice(400)])
def test_the_filter_bank_equals_kaldis(make: Any) -> None:
    waveform = make()
    torch.testing.assert_close(filter_bank(waveform)[0], by_kaldi(waveform), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", FRONTEND["cases"], ids=lambda case: f"{case['num_samples']} samples")
def test_log_mel_equals_the_published_front_end(case: dict[str, Any]) -> None:
    waveform = published_waveform()[:, : case["num_samples"]]
    assert filter_bank(waveform).shape[1] == case["raw_num_frames"]
    theirs = padded(waveform)
    # another machine's Fourier transform may be farther from the recorded one, and then Kaldi's is as far
    slack = distance(theirs, case["fbank_before_norm"])
    assert slack < 4e-3
    ours = log_mel(waveform)
    assert ours.shape == (1, 1, 256, 128)
    assert distance(ours[0, 0] * (2 * STD) + MEAN, case["fbank_before_norm"]) <= slack + 1e-5
    assert distance(ours[0, 0], case["fbank_after_norm"]) <= slack + 1e-5
    torch.testing.assert_close(log_mel(waveform[0]), ours)
    if case["raw_num_frames"] < 256:
        assert ours[0, 0, -1].tolist() == pytest.approx([case["padding_value_after_norm"]] * 128, rel=1e-6)


def test_a_tone_and_silence_equal_the_published_front_end() -> None:
    slack = distance((padded(sine()) - MEAN) / (2 * STD), FRONTEND["sine440_amp0.3"]["fbank_after_norm"])
    assert slack < 4e-3
    assert distance(log_mel(sine())[0, 0], FRONTEND["sine440_amp0.3"]["fbank_after_norm"]) <= slack + 1e-6
    silence = log_mel(torch.zeros(48000))[0, 0]
    assert distance(filter_bank(torch.zeros(1, 48000))[0, :256], FRONTEND["silence"]["fbank_before_norm"]) < 1e-6
    assert distance(silence, FRONTEND["silence"]["fbank_after_norm"]) < 1e-6


def test_the_settings_are_the_published_ones() -> None:
    published = {"target_length": "length", "num_mel_bins": "bins"}
    assert {name: getattr(SoundConfig(), published.get(name, name)) for name in FRONTEND["settings"]} == FRONTEND[
        "settings"
    ]


def test_the_published_gain_gives_the_published_picture() -> None:
    recorded = FRONTEND["roll_mag_aug"]
    state = np.random.RandomState(7)
    state.randint(1)  # the published roll, which is always by 0
    assert 0.5 + state.beta(10, 10) == recorded["magnitude"]  # the law that our gains are drawn from
    waveform = published_waveform()
    louder = (waveform - waveform.mean()) * recorded["magnitude"]
    slack = distance((padded(louder) - MEAN) / (2 * STD), recorded["fbank_after_norm"])
    assert slack < 4e-3
    assert distance(log_mel(louder)[0, 0], recorded["fbank_after_norm"]) <= slack + 1e-5


def test_a_batch_equals_its_waveforms_one_by_one() -> None:
    waveforms = voice(batch=3)
    together = log_mel(waveforms)
    for row, waveform in zip(together, waveforms, strict=True):
        torch.testing.assert_close(row[None], log_mel(waveform), atol=1e-5, rtol=0)


def test_waveforms_of_unequal_length_fit_one_batch() -> None:
    lengths = [41_200, 20_000, 400, 5_555]
    waveforms = [voice(n)[0] + 0.05 for n in lengths]
    batch = torch.full((4, 41_200), 7.0)  # what lies beyond a waveform's end must not matter
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    together = log_mel(batch, samples=torch.tensor(lengths))
    for row, waveform in zip(together, waveforms, strict=True):
        torch.testing.assert_close(row[None], log_mel(waveform), atol=2e-4, rtol=0)


@pytest.mark.parametrize("length", [100, 256, 512])
def test_pictures_are_cut_and_padded(length: int) -> None:
    picture = log_mel(voice(), length=length)
    free = log_mel(voice(), length=None)
    assert free.shape == (1, 1, 258, 128)
    assert picture.shape == (1, 1, length, 128)
    assert torch.equal(picture[:, :, :258], free[:, :, :length])
    assert (picture[:, :, 258:] == torch.tensor(-MEAN / (2 * STD))).all()


def test_statistics_and_bands_are_arguments() -> None:
    raw = log_mel(voice(), mean=0.0, std=0.5, bins=64)
    assert raw.shape[-1] == 64
    torch.testing.assert_close(log_mel(voice(), mean=-2.0, std=3.0, bins=64), (raw + 2) / 6)


def test_double_precision_is_kept() -> None:
    picture = log_mel(voice().double())
    assert picture.dtype == torch.float64
    torch.testing.assert_close(picture.float(), log_mel(voice()), atol=2e-3, rtol=0)


def test_half_precision_contexts_do_not_touch_the_picture() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(voice()), expected := log_mel(voice()))
    assert torch.equal(expected, log_mel(voice()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: voice(batch=3), sine, published_waveform, lambda: torch.zeros(2, 9000), lambda: voice(400)]
)
def test_the_gpu_gives_nearly_the_same_picture(make: Any, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    waveform = make()
    there, here = filter_bank(waveform.cuda()).cpu(), filter_bank(waveform)
    torch.testing.assert_close(there, here, atol=5e-3, rtol=0)
    loudest = here.exp().amax(-1, keepdim=True)  # of the frame
    assert ((there.exp() - here.exp()).abs() <= 1e-5 * loudest).all()
    torch.testing.assert_close(log_mel(waveform.cuda()).cpu(), log_mel(waveform), atol=5e-3 / (2 * STD), rtol=0)


def test_sound_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="sound of 399 samples is shorter than one window of 400"):
        log_mel(torch.zeros(399))


@pytest.mark.parametrize(
    "row", ALIGNMENT, ids=lambda r: f"{r['sampling_rate']} {r['video_length']} {r['audio_samples']}"
)
def test_fine_tuning_hears_what_the_published_code_hears(row: dict[str, Any]) -> None:
    stride, frames, samples = row["sampling_rate"], row["video_length"], row["audio_samples"]

    def described(span: tuple[int, int]) -> list[int]:
        return [*span, span[1] - span[0]]

    first = row["train_frames"][0]
    ours = span_by_relative_time(first, first + 16 * stride, frames, samples)
    assert described(ours) == row["train_audio_start_end_len"]
    assert widen(*ours, samples) == ours
    clips = eval_indices(frames, stride=stride, segments=len(row["test_views"]))
    for view, indices in zip(row["test_views"], clips, strict=True):
        assert indices == view["frames"]
        ours = span_by_relative_time(indices[0], indices[-1] + stride, frames, samples)
        assert described(ours) == view["audio_start_end_len"]


def test_relative_time_of_a_single_frame_is_empty_and_widened() -> None:
    span = span_by_relative_time(0, 64, 1, 160_000)
    assert span == (0, 0)
    assert widen(*span, 160_000) == (0, 40_960)


def test_pretraining_hears_from_the_first_frame_to_the_end_of_the_last() -> None:
    times = np.arange(200) / 25
    assert span_by_time(times, 10, 70) == (6_400, 6_400 + int(65 / 25 * 16000))  # frames 10 to 74, whole
    # truncated as published, which may lose one sample
    begin, end = span_by_time(times, 130, 190)
    assert begin == 83_200
    assert end - begin == pytest.approx(65 / 25 * 16000, abs=1)
    assert span_by_time(times, 139, 199)[1] == 8 * 16_000  # the last frame lasts as long as the one before
    assert span_by_time([0.0], 0, 0) == (0, 0)
    uneven = [0.0, 0.5, 0.6, 2.0, 2.5]
    assert span_by_time(uneven, 1, 2, stride=1) == (8_000, 40_000)


@pytest.mark.parametrize(
    ("span", "samples", "heard"),
    [
        ((5_000, 30_000), 160_000, (5_000, 30_000)),
        ((80_000, 80_500), 160_000, (59_770, 100_730)),
        ((159_900, 160_000), 160_000, (119_040, 160_000)),
        ((0, 0), 160_000, (0, 40_960)),
        ((900, 1_200), 30_000, (0, 30_000)),  # the whole sound, as published
        ((200_000, 260_000), 160_000, (119_040, 160_000)),  # the sound ends before the frames
        ((0, 1_024), 20_000, (0, 20_000)),
        ((0, 1_025), 20_000, (0, 1_025)),
        ((150_000, 190_000), 160_000, (150_000, 160_000)),
    ],
)
def test_a_stretch_too_short_to_hear_is_widened(span: tuple[int, int], samples: int, heard: tuple[int, int]) -> None:
    assert widen(*span, samples) == heard


def test_gain_multiplies_and_roll_rotates() -> None:
    waveform = voice()[0].numpy()
    span = (0, len(waveform))
    plain = clip_sound(waveform, span, SoundConfig())
    assert torch.equal(plain, log_mel(torch.from_numpy(waveform))[0])
    assert torch.equal(clip_sound(waveform, span, SoundConfig(), STILL, draws()), plain)
    # a gain g adds 2 ln g to log energies above the floor
    louder = clip_sound(waveform, span, SoundConfig(), SoundAugmentConfig(), draws(1))
    loud = plain > plain.max() - 0.3
    shift = ((louder - plain) * 2 * STD / 2).exp()[loud]
    assert shift.std() < 0.01
    assert 0.5 < shift.mean() < 1.5
    assert abs(shift.mean() - 1) > 0.01
    rolled = clip_sound(waveform, span, SoundConfig(), SoundAugmentConfig(gain=False, roll=True), draws(2))
    turn = draws(2).integer(len(waveform))
    assert turn > 0
    centred = torch.from_numpy(waveform) - waveform.mean()
    torch.testing.assert_close(rolled, log_mel(centred.roll(turn))[0], atol=1e-2, rtol=0)
    assert (rolled - plain).abs().mean() > 0.02


def test_gains_lie_round_one() -> None:
    shared = draws()
    gains = np.array([0.5 + shared.beta(10, 10) for _ in range(1000)])
    assert gains.mean() == pytest.approx(1, abs=0.02)
    assert gains.std() == pytest.approx(1 / (2 * 21**0.5), rel=0.1)


def test_masks_blank_one_run_of_bands_and_one_of_frames() -> None:
    picture, augment, shared = torch.ones(256, 128), SoundAugmentConfig(frequency_mask=20, time_mask=50), draws()
    widths = []
    for _ in range(300):
        masked = mask_bands(picture, augment, shared)
        bands, frames = (masked == 0).all(0), (masked == 0).all(1)
        assert torch.equal(masked == 0, bands[None] | frames[:, None])
        assert bands.int().diff().abs().sum() <= 2
        assert frames.int().diff().abs().sum() <= 2
        widths.append((int(bands.sum()), int(frames.sum())))
    assert (picture == 1).all()
    assert {width for width, _ in widths} == set(range(20))
    assert max(width for _, width in widths) == 49
    assert torch.equal(mask_bands(picture, SoundAugmentConfig(), shared), picture)


def test_blanks_lie_where_padding_lies() -> None:
    waveform = voice(20_000)[0].numpy()
    augment, shared, runs = SoundAugmentConfig(gain=False, time_mask=60), draws(), []
    for _ in range(20):
        picture = clip_sound(waveform, (0, 20_000), SoundConfig(), augment, shared)[0]
        blank = (picture == picture[-1]).all(1)
        assert blank[123:].all()  # the padding
        runs.append(int(blank[:123].sum()))
    assert 20 < max(runs) < 60


def test_noise_is_small_and_shifts_the_picture() -> None:
    waveform = voice()[0].numpy()
    plain = clip_sound(waveform, (0, len(waveform)), SoundConfig())
    shared, shifts = draws(), set()
    for _ in range(60):
        noisy = clip_sound(
            waveform, (0, len(waveform)), SoundConfig(), SoundAugmentConfig(gain=False, noise=True), shared
        )
        errors = {shift: (noisy - plain.roll(shift, 1)).abs().max().item() for shift in range(-10, 10)}
        best = min(errors, key=lambda shift: errors[shift])
        assert 0 < errors[best] <= 0.1
        shifts.add(best)
    assert min(shifts) < -5
    assert max(shifts) > 5


def test_augmentation_depends_on_its_draws_alone() -> None:
    waveform = voice()[0].numpy()
    augment = SoundAugmentConfig(roll=True, frequency_mask=30, time_mask=30, noise=True)
    first = clip_sound(waveform, (0, 41_600), SoundConfig(), augment, draws(1))
    np.random.default_rng().random()
    torch.rand(2)
    assert torch.equal(first, clip_sound(waveform, (0, 41_600), SoundConfig(), augment, draws(1)))
    assert not torch.equal(first, clip_sound(waveform, (0, 41_600), SoundConfig(), augment, draws(2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoundConfig(length=0), r"sound\.length must be positive, not 0"),
        (lambda: SoundConfig(std=-1.0), r"sound\.std must be positive, not -1"),
        (lambda: SoundAugmentConfig(time_mask=-1), r"sound_augment\.time_mask must not be negative, not -1"),
    ],
)
def test_a_setting_out_of_range_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
