"""Objectives: values that make a `Step` of a model and a batch. The model sees tensors, the loop sees a loss.

Masks are drawn here, on the device, from (seed, epoch, sample number); a sample knows nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hicmae.datasets.transforms import normalise
from hicmae.pretrain import losses, masking, targets
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.runtime.loop import Batch, Step

__all__ = ["Reconstruction", "objective_for"]

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Hidden video patches: their pixels, or appearance and motion where `target.difference` is set.

    Loss: mean squared error over all values of all hidden tokens (VideoMAE; MAE-DFER §3.3 with equal weights).
    """

    grid: Grid
    """Tokens in time, height and width."""
    patch: Grid
    """Frames, rows and columns of a token."""
    windows: tuple[int, int] | None = None
    """Windows (rows, columns of tokens) in which equally many tokens are hidden."""
    mask: MaskConfig = MaskConfig()
    target: TargetConfig = TargetConfig()
    seed: int = 0

    def video_mask(self, numbers: Tensor, epoch: int) -> Tensor:
        """The tube mask of each sample: int64 (B,) -> bool (B, N), True = hidden."""
        return masking.tube_mask(numbers, self.grid, self.mask.video, seed=self.seed, epoch=epoch, windows=self.windows)

    @property
    def hidden(self) -> int:
        """Hidden tokens per clip, known without asking the device."""
        frame = self.grid[1] * self.grid[2]
        window = self.windows[0] * self.windows[1] if self.windows else frame
        return masking.hidden_count(window, self.mask.video) * (frame // window) * self.grid[0]

    def video_target(self, video: Tensor, mask: Tensor) -> Tensor:
        """What the hidden tokens are asked for: (B, 3, T, H, W), (B, N) -> (B, M, P)."""
        common: dict[str, Any] = {"patch": self.patch, "normalise": self.target.normalise, "hidden": self.hidden}
        if self.target.difference is None:
            return targets.pixels(video, mask, **common)
        return targets.appearance_motion(video, mask, group=self.target.difference, motion=self.target.motion, **common)

    def video_loss(self, pred: Tensor, video: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction loss and its parts; (B, M, P), (B, 3, T, H, W), (B, N) -> ()."""
        with torch.no_grad():
            target = self.video_target(video, mask)
        if self.target.difference is None:
            loss = losses.masked_mse(pred, target)
            return loss, {"video": loss.detach()}
        motion = targets.motion_part(mask, self.grid, group=self.target.difference, patch=self.patch)
        loss = losses.appearance_motion(pred, target, motion, self.target.motion_weight)
        still, moved = losses.split_mse(pred.detach(), target, motion)
        return loss, {"video": loss.detach(), "appearance": still, "motion": moved}

    def __call__(self, model: nn.Module, batch: Batch) -> Step:
        """Mask, predict, compare."""
        video = batch["video"]
        mask = self.video_mask(batch["number"], batch["epoch"])
        out = model(normalise(video), mask, hidden=self.hidden)
        loss, parts = self.video_loss(out.video, video, mask)
        return Step(loss, parts)


def objective_for(model: Any, *, mask: MaskConfig, target: TargetConfig, seed: int) -> Reconstruction:
    """The objective that fits a pretraining model: reconstruction, of motion too where `target` asks for it."""
    return Reconstruction(
        grid=model.grid, patch=model.patch, windows=model.mask_windows, mask=mask, target=target, seed=seed
    )
