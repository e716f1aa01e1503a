"""Tasks: values that make a `Step` of a model and a labelled batch. The model sees tensors, the loop sees a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.datasets.draws import Draws
from hicmae.datasets.transforms import AugmentConfig, Mix, Mixup
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.losses import VALUE_LOSSES, binary_cross_entropy, kl_divergence, soft_cross_entropy
from hicmae.finetune.missing import MissingConfig
from hicmae.finetune.outputs import activate
from hicmae.finetune.views import seen_twice
from hicmae.runtime.loop import Batch, Step

__all__ = ["Classification", "Joint", "MultiLabel", "Regression", "SoftLabels", "Task", "task_of"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all tasks share: mixup and cutmix in batch mode, what clips lose, and one forward pass.

    The mixing of a micro-batch is a function of (seed, epoch, its first clip), the same after resuming; it is drawn on
    the CPU from the clip's key, since reading the number from the device would make the host wait.

    A model with an output per frame, (B, T, K), learns the clip's target in each.
    """

    augment: AugmentConfig = AugmentConfig()
    seed: int = 0
    inputs: Inputs = Inputs()
    """What the model is given."""
    mix_audio: bool = True
    """Sound is mixed with the same partner and weight as frames and labels."""
    missing: MissingConfig = MissingConfig()
    """What clips lose once they are mixed; drawn for each from (seed, epoch, its key)."""

    @property
    def mixup(self) -> Mixup:
        """Mixing as `augment` says; targets are the task's own business."""
        a = self.augment
        return Mixup(alpha=a.mixup, cutmix=a.cutmix, prob=a.mix, switch=a.switch, smoothing=0.0, classes=0)

    def generator(self, epoch: int, key: str) -> torch.Generator:
        """What the mixing of a micro-batch that begins with clip `key` is drawn from."""
        return Draws.keyed(f"{self.seed}/{epoch}/{key}").generator

    def __call__(self, model: nn.Module, batch: Batch) -> Step:
        """Mix, predict, compare."""
        video, audio, has_audio = batch.get("video"), batch.get("audio"), batch.get("has_audio")
        height, width = batch["video" if self.inputs.video else "audio"].shape[-2:]
        mix = self.mixup.draw(height, width, self.generator(batch["epoch"], batch["key"][0]))
        if self.inputs.video and video is not None:
            video = mix.video(video)
        if audio is not None and (self.mix_audio or not self.inputs.video):
            audio = _mixed(mix, audio, has_audio)
        gaps = self.missing.draw(f"{self.seed}/missing/{batch['epoch']}", batch["key"], [video, audio])
        if self.missing.views:
            return seen_twice(self, model, [video, audio], gaps, batch, mix)
        video, audio = gaps.of([video, audio])
        return self.compare(self.inputs.of_training(model, video, audio, has_audio, gaps.lost), batch, mix)

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """The loss of a model's outputs (B, K) or (B, T, K)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One label per clip: cross entropy with smoothed, mixed targets.

    `accuracy` is that of the heavier of two mixed labels.
    """

    classes: int
    adjust: tuple[float, ...] = ()
    """Added to the logits, class by class, in the loss alone: log shares of the classes make rare ones count more."""

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """Labels: `label` (B,)."""
        target = _everywhere(mix.labels(batch["label"], self.classes, self.augment.smoothing), raw)
        right = raw.detach().argmax(-1) == target.argmax(-1)
        if self.adjust:  # made on the device: sending it there would wait for the GPU
            raw = raw + torch.stack([torch.full((), a, device=raw.device) for a in self.adjust])
        return Step(soft_cross_entropy(raw, target), {"accuracy": right.float().mean()})


@dataclass(frozen=True, kw_only=True)
class SoftLabels(Task):
    """Shares of the classes, as of raters' votes: KL divergence; mixed, but not smoothed.

    `accuracy` is that of the class with the most votes.
    """

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """Shares: `target` (B, K)."""
        target = _everywhere(mix.labels(batch["target"], raw.shape[-1]), raw)
        right = raw.detach().argmax(-1) == target.argmax(-1)
        return Step(kl_divergence(raw, target), {"accuracy": right.float().mean()})


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Classes independent of each other: binary cross entropy with mixed targets.

    `accuracy` is the share of decisions at one half that are right.
    """

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """0 or 1 per class: `target` (B, K)."""
        target = _everywhere(mix.labels(batch["target"], raw.shape[-1]), raw)
        right = (raw.detach() > 0) == (target > 0.5)
        return Step(binary_cross_entropy(raw, target), {"accuracy": right.float().mean()})


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """Numbers, as valence and arousal. Nothing is mixed, whatever `augment` says."""

    loss: str = "mse"
    """One of `losses.VALUE_LOSSES`."""
    activation: str = "none"
    """What the outputs pass through."""

    @property
    def mixup(self) -> Mixup:
        """None: half a smile beside half a frown has no valence."""
        return Mixup(prob=0.0, classes=0)

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """Numbers: `target` (B, K). Parts: the mean absolute error `mae`."""
        target = _everywhere(batch["target"], raw)
        predicted = activate(raw, self.activation)
        error = (predicted.detach() - target).abs().mean()
        return Step(VALUE_LOSSES[self.loss](predicted, target), {"mae": error})


@dataclass(frozen=True, kw_only=True)
class Joint(Regression):
    """One label and numbers, by two heads on the same features: the first outputs are the classes."""

    labels: Classification
    """Compares the classes; its mixing is not used."""
    loss_weight: float = 1.0
    """Of the numbers' loss; that of the label is 1."""

    def compare(self, raw: Tensor, batch: Batch, mix: Mix) -> Step:
        """`label` (B,), numbers `target` (B, K - classes). Parts: both losses, `accuracy`, `mae`."""
        label = self.labels.compare(raw[..., : self.labels.classes], batch, mix)
        value = super().compare(raw[..., self.labels.classes :], batch, mix)
        parts = {"label_loss": label.loss.detach(), "value_loss": value.loss.detach()}
        return Step(label.loss + self.loss_weight * value.loss, {**parts, **label.parts, **value.parts})


def task_of(config: FinetuneConfig, inputs: Inputs, counts: Sequence[int]) -> Task:
    """The task of a recipe, for training clips of which there are `counts` in each class."""
    task = config.task
    common: dict[str, Any] = {"augment": config.augment, "seed": config.seed, "inputs": inputs}
    common |= {"mix_audio": bool(config.mix_audio), "missing": config.missing}
    numbers: dict[str, Any] = {"loss": task.loss, "activation": task.activation}
    if task.kind == "soft":
        return SoftLabels(**common)
    if task.kind == "multi":
        return MultiLabel(**common)
    if task.kind == "regression":
        return Regression(**numbers, **common)
    adjust = tuple(task.logit_adjustment * math.log(count / sum(counts)) for count in counts)
    labels = Classification(classes=len(counts), adjust=adjust if task.logit_adjustment else (), **common)
    return labels if task.kind == "single" else Joint(labels=labels, loss_weight=task.loss_weight, **numbers, **common)


def _everywhere(target: Tensor, raw: Tensor) -> Tensor:
    """A clip's target (B, K) for each of its outputs, (B, K) or (B, T, K)."""
    return target if raw.dim() == 2 else target[:, None].expand(-1, raw.shape[1], -1)


def _mixed(mix: Mix, audio: Tensor, has_audio: Tensor | None) -> Tensor:
    """Sound mixed with the partner's; a clip whose partner has none keeps its own. (B, 1, F, K) -> the same."""
    mixed = mix.audio(audio)
    if has_audio is None:
        return mixed
    return torch.where((has_audio & has_audio.flip(0))[:, None, None, None], mixed, audio)
