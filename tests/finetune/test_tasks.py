"""Classification as a value: targets, mixing, and when the mixing is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune.tasks import Classification


class Recorder(nn.Module):
    """Logits from the mean of each colour; remembers what it was shown."""

    def forward(self, video: Tensor) -> Tensor:
        self.seen = video
        return video.mean((2, 3, 4))


def batch(epoch: int = 0, key: str = "a") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(4, 3, 2, 16, 16, generator=generator)
    return {"video": video, "label": torch.tensor([0, 1, 2, 0]), "key": [key, "x", "y", "z"], "epoch": epoch}


def seen(task: Classification, given: dict[str, Any]) -> Tensor:
    model = Recorder()
    task(model, given)
    return model.seen


def test_without_mixing_and_smoothing_the_loss_is_plain_cross_entropy() -> None:
    given, model = batch(), Recorder()
    step = Classification(classes=3, augment=AugmentConfig(mix=0, smoothing=0))(model, given)
    torch.testing.assert_close(step.loss, F.cross_entropy(model(given["video"]), given["label"]))
    right = (model(given["video"]).argmax(-1) == given["label"]).float().mean()
    assert step.parts["accuracy"] == right


def test_smoothing_alone_is_that_of_torch() -> None:
    given, model = batch(), Recorder()
    step = Classification(classes=3, augment=AugmentConfig(mix=0, smoothing=0.1))(model, given)
    wanted = F.cross_entropy(model(given["video"]), given["label"], label_smoothing=0.1)
    torch.testing.assert_close(step.loss, wanted)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_a_mixed_batch_has_the_loss_of_both_labels_in_the_shares_of_what_is_shown(mixup: float, cutmix: float) -> None:
    task = Classification(classes=3, augment=AugmentConfig(mixup=mixup, cutmix=cutmix, smoothing=0))
    given = batch()
    # clip 0 all ones, its partner (the last) all zeros: what is left of clip 0 shows as the mean
    given["video"] = torch.stack([torch.ones(3, 2, 16, 16), *torch.randn(2, 3, 2, 16, 16), torch.zeros(3, 2, 16, 16)])
    given["label"] = torch.tensor([2, 1, 1, 0])
    model = Recorder()
    step = task(model, given)
    share = model.seen[0].mean()
    assert 0 < share < 1
    shares = torch.tensor([share, 1, 1, share])
    target = (
        F.one_hot(given["label"], 3) * shares[:, None] + F.one_hot(given["label"].flip(0), 3) * (1 - shares)[:, None]
    )
    torch.testing.assert_close(step.loss, F.cross_entropy(model.seen.mean((2, 3, 4)), target))
    assert not step.parts["accuracy"].requires_grad


def test_mixing_is_the_same_after_resuming_and_another_in_other_epochs_batches_and_seeds() -> None:
    task = Classification(classes=3)
    first = seen(task, batch(3, "a"))
    torch.manual_seed(99)
    assert torch.equal(first, seen(task, batch(3, "a")))
    for other in (batch(4, "a"), batch(3, "b")):
        assert not torch.equal(first, seen(task, other))
    assert not torch.equal(first, seen(Classification(classes=3, seed=1), batch(3, "a")))
