from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hicmae.pretrain import losses

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hicmae_pretrain_dim512.json"


def pair(batch: int = 5, width: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=generator), torch.randn(batch, width, generator=generator)


def test_contrast_of_the_published_logits_is_the_published_loss() -> None:
    fixture = json.loads(FIXTURE.read_text())
    levels = []
    for stats, (rows, columns) in zip(
        fixture["logits_per_video"], fixture["losses"]["contrastive_ce_per_level_video_audio"], strict=True
    ):
        logits = torch.tensor(stats, dtype=torch.float64)
        levels.append(losses.symmetric_cross_entropy(logits))
        assert levels[-1].item() == pytest.approx((rows + columns) / 2, rel=1e-5)
    recorded, total = fixture["losses"], torch.stack(levels).sum().item()
    assert total == pytest.approx(recorded["contrastive"], rel=1e-5)
    assert recorded["video"] + recorded["audio"] + 0.0025 * total == pytest.approx(recorded["total"], rel=1e-5)


def test_mse_is_the_mean_over_all_hidden_values() -> None:
    pred, target = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    assert losses.masked_mse(pred, target).item() == (4 + 9) / 4


def test_half_precision_predictions_are_compared_in_the_targets_precision() -> None:
    target = torch.full((1, 1, 4), 1.001)
    assert losses.masked_mse(torch.ones(1, 1, 4, dtype=torch.bfloat16), target).item() == pytest.approx(1e-6, rel=1e-3)


def test_appearance_and_motion_are_weighted() -> None:
    pred, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[..., 2:] = 3
    motion = torch.tensor([False, False, True, True])
    assert [x.item() for x in losses.split_mse(pred, target, motion)] == [1, 9]
    assert losses.appearance_motion(pred, target, motion, 0.25).item() == 0.75 * 1 + 0.25 * 9
    assert losses.appearance_motion(pred, target, motion) == losses.appearance_motion(pred, target, motion, 0.5) == 5


def test_an_uneven_motion_part_is_averaged_over_its_own_values() -> None:
    pred, target = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [2.0, 2.0]]])
    motion = torch.tensor([[[False, True], [True, True]]])
    assert [x.item() for x in losses.split_mse(pred, target, motion)] == [1, 4]
    assert [x.item() for x in losses.split_mse(pred, target, torch.zeros(2, dtype=torch.bool))] == [3.25, 0]


def test_contrast_equals_its_definition() -> None:
    video, audio = pair()
    total = 0.0
    cosine = [[torch.cosine_similarity(v, a, dim=0).item() / 0.07 for a in audio] for v in video]
    for i in range(5):
        total -= cosine[i][i] - math.log(sum(math.exp(c) for c in cosine[i]))
        total -= cosine[i][i] - math.log(sum(math.exp(row[i]) for row in cosine))
    assert losses.contrastive(video, audio).item() == pytest.approx(total / 10, rel=1e-5)


def test_contrast_is_symmetric_in_the_modalities() -> None:
    video, audio = pair()
    torch.testing.assert_close(losses.contrastive(video, audio), losses.contrastive(audio, video))


def test_contrast_at_chance_is_the_logarithm_of_the_batch() -> None:
    same = torch.ones(6, 4)
    assert losses.contrastive(same, same).item() == pytest.approx(math.log(6))


def test_levels_are_summed() -> None:
    levels = [pair(seed=s) for s in range(3)]
    total = sum(losses.contrastive(*level) for level in levels)
    torch.testing.assert_close(losses.hierarchical_contrastive(levels), total)


def test_clips_of_one_video_are_never_each_others_negatives() -> None:
    video, audio = pair(batch=4)
    source = torch.tensor([3, 8, 3, 9])
    logits = losses.similarity(video, audio)
    rows = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    terms = [
        -logits[i, i] + logits[i, r].logsumexp(0) - logits[i, i] + logits[r, i].logsumexp(0) for i, r in enumerate(rows)
    ]
    expected = torch.stack(terms).mean() / 2
    torch.testing.assert_close(losses.contrastive(video, audio, source=source), expected)
    # distinct sources change nothing
    torch.testing.assert_close(
        losses.contrastive(video, audio, source=torch.arange(4)), losses.contrastive(video, audio)
    )


def test_a_batch_of_one_source_has_finite_loss_and_gradient() -> None:
    video, audio = (x.requires_grad_() for x in pair())
    loss = losses.contrastive(video, audio, source=torch.zeros(5, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert video.grad is not None
    assert torch.isfinite(video.grad).all()


def test_a_zero_vector_gives_no_nan() -> None:
    video, audio = pair()
    video[2] = 0
    video.requires_grad_()
    loss = losses.contrastive(video, audio)
    loss.backward()
    assert torch.isfinite(loss)
    assert video.grad is not None
    assert torch.isfinite(video.grad).all()


def test_chance_scale_keeps_the_weights_meaning() -> None:
    assert losses.chance_scale(40) == 1
    assert losses.chance_scale(640) * math.log(640) == pytest.approx(math.log(40))
    with pytest.raises(ValueError, match="at least 2 clips, not 1"):
        losses.chance_scale(1)
