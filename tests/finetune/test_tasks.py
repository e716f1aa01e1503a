"""Tasks as values: targets, losses, mixing, and when the mixing is the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.configs import as_dict
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import FinetuneConfig, TaskConfig
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.outputs import Outputs
from hicmae.finetune.tasks import Classification, Joint, MultiLabel, Regression, SoftLabels, task_of


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


# -- tasks other than one class per clip -----------------------------------------------------------------------------

PLAIN = AugmentConfig(mix=0, smoothing=0)


class PerFrame(Recorder):
    """The same for every frame: (B, T, 3)."""

    def forward(self, video: Tensor) -> Tensor:
        self.seen = video
        return video.mean((3, 4)).transpose(1, 2)


def test_logit_adjustment_adds_log_shares_in_the_loss_alone() -> None:
    given, model = batch(), Recorder()
    adjust = (0.0, -1.0, -2.0)
    step = Classification(classes=3, augment=PLAIN, adjust=adjust)(model, given)
    logits = model(given["video"])
    torch.testing.assert_close(step.loss, F.cross_entropy(logits + torch.tensor(adjust), given["label"]))
    assert step.parts["accuracy"] == (logits.argmax(-1) == given["label"]).float().mean()


def test_the_recipes_adjustment_is_that_of_the_training_clips() -> None:
    config = FinetuneConfig(model="m", task=TaskConfig(logit_adjustment=2.0))
    task = task_of(config, Inputs(), [1, 3])
    assert isinstance(task, Classification)
    assert task.adjust == pytest.approx((2 * math.log(0.25), 2 * math.log(0.75)))
    plain = task_of(FinetuneConfig(model="m"), Inputs(), [1, 3])
    assert isinstance(plain, Classification) and plain.adjust == ()


def test_votes_are_compared_by_kl_and_mixed_with_the_partners() -> None:
    given, model = {**batch(), "target": torch.rand(4, 3).softmax(-1)}, Recorder()
    plain = SoftLabels(augment=PLAIN)(model, given)
    wanted = F.kl_div(model(given["video"]).log_softmax(-1), given["target"], reduction="batchmean")
    torch.testing.assert_close(plain.loss, wanted)
    given["video"] = torch.stack([torch.ones(3, 2, 16, 16), *torch.zeros(3, 3, 2, 16, 16)])
    step = SoftLabels(augment=AugmentConfig(cutmix=0))(model, given)
    share = model.seen[0].mean()
    assert 0 < share < 1
    target = given["target"] * share + given["target"].flip(0) * (1 - share)
    torch.testing.assert_close(
        step.loss, F.kl_div(model.forward(model.seen).log_softmax(-1), target, reduction="batchmean")
    )


def test_independent_classes_are_compared_one_by_one() -> None:
    target = torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]])
    given, model = {**batch(), "target": target}, Recorder()
    step = MultiLabel(augment=PLAIN)(model, given)
    logits = model(given["video"])
    torch.testing.assert_close(step.loss, F.binary_cross_entropy_with_logits(logits, target))
    assert step.parts["accuracy"] == ((logits > 0) == target.bool()).float().mean()


def test_numbers_are_never_mixed_and_pass_through_the_activation() -> None:
    given, model = {**batch(), "target": torch.rand(4, 3)}, Recorder()
    step = Regression(loss="l1", activation="tanh")(model, given)  # augment's default would mix
    assert torch.equal(model.seen, given["video"])
    wanted = (model(given["video"]).tanh() - given["target"]).abs().mean()
    torch.testing.assert_close(step.loss, wanted)
    torch.testing.assert_close(step.parts["mae"], wanted)


def test_a_label_and_numbers_are_two_losses_on_two_parts_of_the_outputs() -> None:
    given, model = {**batch(), "label": torch.tensor([0, 1, 1, 0]), "target": torch.rand(4, 1)}, Recorder()
    labels = Classification(classes=2, augment=AugmentConfig(smoothing=0.1))
    step = Joint(labels=labels, loss_weight=0.5)(model, given)
    assert torch.equal(model.seen, given["video"])
    raw = model(given["video"])
    label = F.cross_entropy(raw[:, :2], given["label"], label_smoothing=0.1)
    value = F.mse_loss(raw[:, 2:], given["target"])
    torch.testing.assert_close(step.loss, label + 0.5 * value)
    assert set(step.parts) == {"label_loss", "value_loss", "accuracy", "mae"}


def test_an_output_per_frame_learns_the_clips_target_in_every_frame() -> None:
    shares, numbers = torch.rand(4, 3).softmax(-1), torch.rand(4, 3)
    given, model = batch(), PerFrame()
    raw = model(given["video"])  # (4, 2, 3)
    steps = {
        Classification(classes=3, augment=PLAIN): F.cross_entropy(
            raw.flatten(0, 1), given["label"].repeat_interleave(2)
        ),
        SoftLabels(augment=PLAIN): F.kl_div(
            raw.flatten(0, 1).log_softmax(-1), shares.repeat_interleave(2, 0), reduction="batchmean"
        ),
        Regression(): F.mse_loss(raw, numbers[:, None].expand(4, 2, 3)),
    }
    for task, wanted in steps.items():
        target = numbers if isinstance(task, Regression) else shares
        torch.testing.assert_close(task(model, {**given, "target": target}).loss, wanted)


def test_what_outputs_mean_comes_from_the_checkpoint_and_an_old_one_is_a_classifier() -> None:
    raw = torch.tensor([[0.0, 1.0, 2.0]])
    old = Outputs.of({"labels": ["a", "b", "c"]})
    torch.testing.assert_close(old(raw), raw.softmax(-1))
    assert old.classes == ("a", "b", "c") and old.values == ()
    task = as_dict(TaskConfig(kind="joint", columns=["v"], activation="tanh"))
    both = Outputs.of({"labels": ["a", "b", "v"], "task": task})
    torch.testing.assert_close(both(raw), torch.cat([raw[:, :2].softmax(-1), raw[:, 2:].tanh()], -1))
    assert both.classes == ("a", "b") and both.values == ("v",)
    frames = torch.stack([raw, raw + torch.tensor([3.0, 0, 0])], 1)  # (1, 2, 3)
    torch.testing.assert_close(old(frames), frames.softmax(-1).mean(1))
    several = Outputs.of({"labels": ["a", "b"], "task": {"kind": "multi", "columns": ["a", "b"]}})
    torch.testing.assert_close(several(raw[:, :2]), raw[:, :2].sigmoid())
