"""Tasks: values that make a `Step` of a model and a labelled batch. The model sees tensors, the loop sees a loss."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.datasets.transforms import AugmentConfig, Mix, Mixup
from hicmae.finetune.inputs import Inputs
from hicmae.runtime.loop import Batch, Step

__all__ = ["Classification", "soft_cross_entropy"]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy with soft targets, computed in float32 at least; (B, classes), (B, classes) -> ()."""
    return -(target * F.log_softmax(logits.to(target.dtype), dim=-1)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label per clip: cross entropy with smoothed, mixed targets (mixup and cutmix in batch mode).

    The mixing of a micro-batch is a function of (seed, epoch, its first clip), the same after resuming; it is drawn on
    the CPU from the clip's key, since reading the number from the device would make the host wait.
    """

    classes: int
    augment: AugmentConfig = AugmentConfig()
    seed: int = 0
    inputs: Inputs = Inputs()
    """What the model is given."""
    mix_audio: bool = True
    """Sound is mixed with the same partner and weight as frames and labels."""

    @property
    def mixup(self) -> Mixup:
        """Mixing and smoothing as `augment` says."""
        a = self.augment
        return Mixup(
            alpha=a.mixup, cutmix=a.cutmix, prob=a.mix, switch=a.switch, smoothing=a.smoothing, classes=self.classes
        )

    def generator(self, epoch: int, key: str) -> torch.Generator:
        """What the mixing of a micro-batch that begins with clip `key` is drawn from."""
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{key}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def __call__(self, model: nn.Module, batch: Batch) -> Step:
        """Mix, predict, compare; `accuracy` is that of the heavier of two mixed labels."""
        video, audio, has_audio = batch.get("video"), batch.get("audio"), batch.get("has_audio")
        height, width = batch["video" if self.inputs.video else "audio"].shape[-2:]
        mix = self.mixup.draw(height, width, self.generator(batch["epoch"], batch["key"][0]))
        target = mix.labels(batch["label"], self.classes, self.augment.smoothing)
        if self.inputs.video and video is not None:
            video = mix.video(video)
        if audio is not None and (self.mix_audio or not self.inputs.video):
            audio = _mixed(mix, audio, has_audio)
        logits = self.inputs.of_training(model, video, audio, has_audio)
        right = logits.detach().argmax(-1) == target.argmax(-1)
        return Step(soft_cross_entropy(logits, target), {"accuracy": right.float().mean()})


def _mixed(mix: Mix, audio: Tensor, has_audio: Tensor | None) -> Tensor:
    """Sound mixed with the partner's; a clip whose partner has none keeps its own. (B, 1, F, K) -> the same."""
    mixed = mix.audio(audio)
    if has_audio is None:
        return mixed
    return torch.where((has_audio & has_audio.flip(0))[:, None, None, None], mixed, audio)
