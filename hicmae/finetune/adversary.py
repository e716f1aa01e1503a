"""Features that tell nothing of the speaker: a head learns to recognise them, the features learn the opposite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.datasets.transforms import Mix, Mixup
from hicmae.finetune.adapt import AdaptConfig
from hicmae.finetune.beside import Accompanied
from hicmae.finetune.losses import soft_cross_entropy
from hicmae.finetune.tasks import Task
from hicmae.models.base import Model
from hicmae.models.blocks import Mlp
from hicmae.runtime.loop import Batch, Step

__all__ = ["Adversarial", "SpeakerHead", "against", "speakers"]


class SpeakerHead(nn.Module):
    """An MLP that is to recognise speakers, twice: it learns of the first outputs alone, the features of the second.

    Shapes:
        features: (B, D) or (B, T, D) -> (B, 2, S) or (B, T, 2, S)
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.net = Mlp(width, width, count)

    def forward(self, features: Tensor) -> Tensor:
        """(.., D) -> (.., 2, S)."""
        still = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        return torch.stack([self.net(features.detach()), functional_call(self.net, still, (features,))], dim=-2)


@dataclass(frozen=True, kw_only=True)
class Adversarial(Task):
    """A task, and a second head that is to recognise who speaks, mixed as the clips are.

    Parts: those of the task, the head's `speaker_loss`, and its `speaker_accuracy` on the training clips.
    """

    task: Task
    adapt: AdaptConfig
    epochs: int
    """Of the run."""

    @property
    def mixup(self) -> Mixup:
        """The task's."""
        return self.task.mixup

    def strength(self, epoch: int) -> float:
        """Weight of what the features learn against the head, in an epoch (0-based)."""
        ramp = 2 / (1 + math.exp(-10 * epoch / self.epochs)) - 1 if self.adapt.adversary_ramp else 1.0
        return self.adapt.adversary_weight * ramp

    def compare(self, raw: Any, batch: Batch, mix: Mix) -> Step:
        """As the task; speakers: `speaker` (B,)."""
        outputs, beside = raw
        own, fooled = beside["speaker"].unbind(-2)  # (B, S) or (B, T, S)
        step = self.task.compare(outputs, batch, mix)
        target = mix.labels(batch["speaker"], own.shape[-1])
        target = target if own.dim() == 2 else target[:, None].expand_as(own)
        loss = soft_cross_entropy(own, target)
        if self.adapt.adversary_loss == "reversal":
            against = -soft_cross_entropy(fooled, target)
        else:
            against = soft_cross_entropy(fooled, torch.full_like(target, 1 / own.shape[-1]))
        right = (own.detach().argmax(-1) == target.argmax(-1)).float().mean()
        parts = {**step.parts, "speaker_loss": loss.detach(), "speaker_accuracy": right}
        return Step(step.loss + loss + self.strength(batch["epoch"]) * against, parts)


def against(model: Model, task: Task, config: AdaptConfig, count: int, epochs: int) -> tuple[nn.Module, Task]:
    """What is trained, and on what, where the model's features are to tell nothing of `count` speakers."""
    shared: dict[str, Any] = {name: getattr(task, name) for name in Task.__dataclass_fields__}
    norm: Any = model.fc_norm
    head = SpeakerHead(norm.normalized_shape[0], count)
    return Accompanied(model, {"speaker": head}), Adversarial(task=task, adapt=config, epochs=epochs, **shared)


def speakers(index: Index, column: str) -> Tensor:
    """The number of each clip's speaker, (N,) int64: the values of a column, or the groups, in alphabetical order.

    Raises:
        UserError: there is no such column, a clip has nothing in it, or all have the same.
    """
    if column != "group" and column not in index.extra:
        known = ", ".join(["group", *index.extra])
        raise UserError(f"{index.folder}: its samples have no column {column} (adapt.adversary); there are: {known}")
    values = index.groups if column == "group" else index.extra[column]
    empty = [key for key, value in zip(index.keys, values, strict=True) if value is None or not str(value).strip()]
    if empty:
        raise UserError(
            f"{index.folder}: {len(empty):,} clips have no {column} (adapt.adversary), among them {empty[0]}; add it "
            "to the list and shard again, --list LIST.csv"
        )
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"{index.folder}: all clips have the same {column}, {names[0]}: adapt.adversary has no use")
    return torch.from_numpy(numbers.astype(np.int64))
