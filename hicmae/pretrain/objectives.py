"""Objectives: values that make a `Step` of a model and a batch. The model sees tensors, the loop sees a loss.

Masks are drawn here, on the device, from (seed, epoch, sample number); a sample knows nothing of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from hicmae.datasets.transforms import normalise
from hicmae.pretrain import losses, masking, targets
from hicmae.pretrain.config import ContrastConfig, MaskConfig, TargetConfig
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import Batch, Step

__all__ = ["AudioPart", "AudioVisual", "Hidden", "Reconstruction", "VideoPart", "objective_for"]

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Hidden:
    """What one batch hides of a modality, and what of that is learnt from."""

    mask: Tensor
    """(B, N), True = hidden from the encoder."""
    hidden: int
    """Hidden tokens per row, known without asking the device."""
    decode: Tensor | None
    """(B, N), True = to be predicted; None where all hidden tokens are."""
    asked: int
    """Predicted tokens per row."""

    @property
    def learnt(self) -> Tensor:
        """(B, N), the tokens with a target."""
        return self.mask if self.decode is None else self.decode


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One modality: its tokens, how they are hidden, and what is asked for."""

    grid: Grid
    """Tokens along each axis."""
    patch: Grid
    """Values of a token along each axis."""
    windows: tuple[int, int] | None = None
    """Windows (of the last two axes, in tokens) in which equally many tokens are hidden."""
    mask: MaskConfig = MaskConfig()
    target: TargetConfig = TargetConfig()
    seed: int = 0
    share: ClassVar[str]

    def hide(self, numbers: Tensor, epoch: int) -> Hidden:
        """Draw the masks of the samples with these numbers: int64 (B,)."""
        ratio = getattr(self.mask, self.share)
        frame = self.grid[-2] * self.grid[-1]
        window = self.windows[0] * self.windows[1] if self.windows else frame
        hidden = masking.hidden_count(window, ratio) * (math.prod(self.grid) // window)
        mask = self.draw(numbers, epoch, ratio)
        if self.mask.decode is None:
            return Hidden(mask, hidden, None, hidden)
        grid: Any = self.grid if len(self.grid) == 3 else None
        decode = masking.decoded_mask(
            mask, numbers, self.mask.decode, seed=self.seed, epoch=epoch, grid=grid, hidden=hidden
        )
        return Hidden(mask, hidden, decode, masking.hidden_count(hidden, self.mask.decode))

    def draw(self, numbers: Tensor, epoch: int, ratio: float) -> Tensor:
        """The masks themselves: (B, N), True = hidden."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class VideoPart(_Part):
    """Video: tube masks; pixels, or appearance and motion where `target.difference` is set."""

    share = "video"
    patch: tuple[int, int, int]

    def draw(self, numbers: Tensor, epoch: int, ratio: float) -> Tensor:
        """Tube masks (VideoMAE §3.3), equal in every window (MAE-DFER §3.4)."""
        t, h, w = self.grid
        return masking.tube_mask(numbers, (t, h, w), ratio, seed=self.seed, epoch=epoch, windows=self.windows)

    def goal(self, video: Tensor, drawn: Hidden) -> Tensor:
        """What the tokens to be predicted are: (B, 3, T, H, W) -> (B, M, P)."""
        common: dict[str, Any] = {"patch": self.patch, "hidden": drawn.asked, "normalise": self.target.normalise}
        if self.target.difference is None:
            return targets.pixels(video, drawn.learnt, **common)
        return targets.appearance_motion(
            video, drawn.learnt, group=self.target.difference, motion=self.target.motion, **common
        )

    def moving(self, drawn: Hidden) -> Tensor:
        """Which values of the goal are motion: bool (P,), or (B, M, P) where groups span several tokens."""
        if self.target.difference is None:
            return torch.zeros(3 * math.prod(self.patch), dtype=torch.bool, device=drawn.mask.device)
        t, h, w = self.grid
        return targets.motion_part(drawn.learnt, (t, h, w), group=self.target.difference, patch=self.patch)

    def loss(self, pred: Tensor, video: Tensor, drawn: Hidden) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error and its parts; (B, M, P), (B, 3, T, H, W) -> ()."""
        goal, moving = self.goal(video, drawn), self.moving(drawn)
        if self.target.difference is None:
            loss = losses.masked_mse(pred, goal)
            return loss, {"video": loss.detach()}
        loss = losses.appearance_motion(pred, goal, moving, self.target.motion_weight)
        still, moved = losses.split_mse(pred.detach(), goal, moving)
        return loss, {"video": loss.detach(), "appearance": still, "motion": moved}


@dataclass(frozen=True, kw_only=True)
class AudioPart(_Part):
    """Sound: random masks over the patches of a log-mel picture (HiCMAE §3.2)."""

    share = "audio"

    def draw(self, numbers: Tensor, epoch: int, ratio: float) -> Tensor:
        """Random masks, equal in every window where the encoder asks for it."""
        if self.windows is None:
            return masking.random_mask(numbers, math.prod(self.grid), ratio, seed=self.seed, epoch=epoch)
        grid = (1, self.grid[0], self.grid[1])
        # another seed than the video's, or both modalities of a clip would share their draw
        return masking.tube_mask(numbers, grid, ratio, seed=self.seed + 1, epoch=epoch, windows=self.windows)

    def loss(self, pred: Tensor, audio: Tensor, drawn: Hidden) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error; (B, M, P), (B, 1, F, K) -> ()."""
        patch: Any = self.patch
        target = targets.spectrogram(
            audio, drawn.learnt, patch=patch, normalise=self.target.normalise, hidden=drawn.asked
        )
        loss = losses.masked_mse(pred, target)
        return loss, {"audio": loss.detach()}


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Hidden patches of one modality (VideoMAE; MAE-DFER with motion; SVFAP; the towers of HiCMAE alone)."""

    part: VideoPart | AudioPart

    def __call__(self, model: nn.Module, batch: Batch) -> Step:
        """Mask, predict, compare."""
        x = batch[self.part.share]
        drawn = self.part.hide(batch["number"], batch["epoch"])
        out = model(normalise(x) if self.part.share == "video" else x, drawn.mask, drawn.decode, drawn.hidden)
        return Step(*self.part.loss(getattr(out, self.part.share), x, drawn))


@dataclass(frozen=True, kw_only=True)
class AudioVisual:
    """HiCMAE (§3.3): hidden patches of both modalities, and contrast between them at every level.

    Loss: video + audio + contrast.weight * the sum over levels of the symmetric cross entropy.
    """

    video: VideoPart
    audio: AudioPart
    contrast: ContrastConfig = ContrastConfig()

    def __call__(self, model: nn.Module, batch: Batch) -> Step:
        """Mask both, predict both, compare and contrast."""
        video, audio = batch["video"], batch["audio"]
        seen = self.video.hide(batch["number"], batch["epoch"])
        heard = self.audio.hide(batch["number"], batch["epoch"])
        out = model(
            normalise(video),
            audio,
            seen.mask,
            heard.mask,
            video_decode=seen.decode,
            audio_decode=heard.decode,
            video_hidden=seen.hidden,
            audio_hidden=heard.hidden,
        )
        of_video, parts = self.video.loss(out.video, video, seen)
        of_audio, audio_parts = self.audio.loss(out.audio, audio, heard)
        loss, contrast = of_video + of_audio, of_video.new_zeros(())
        if out.levels:  # also at weight 0, to be watched
            contrast = self.contrast_loss(out.levels, batch.get("source"), out.temperature)
            loss = loss + self.contrast.weight * contrast
        return Step(loss, {**parts, **audio_parts, "contrastive": contrast.detach()})

    def contrast_loss(
        self, levels: list[tuple[Tensor, Tensor]], source: Tensor | None, temperature: Tensor | None
    ) -> Tensor:
        """The hierarchical contrastive term, unweighted; levels of (B, D) pairs -> ().

        Clips of one source video are never each other's negatives. With global negatives every process sees the
        features of all, gathered with their gradient, so that N processes equal one.
        """
        if self.contrast.negatives == "global":
            levels = [(_everywhere(video), _everywhere(audio)) for video, audio in levels]
            source = None if source is None else _everywhere(source)
        tau = self.contrast.temperature if temperature is None else temperature
        loss = losses.hierarchical_contrastive(levels, temperature=tau, source=source)
        if self.contrast.scale == "chance":
            loss = loss * losses.chance_scale(len(levels[0][0]))
        return loss


def _everywhere(x: Tensor) -> Tensor:
    """The rows of every process in the order of ranks: (b, ...) -> (world * b, ...)."""
    if not (td.is_available() and td.is_initialized()) or td.get_world_size() == 1:
        return x
    return torch.cat(all_gather(x.contiguous()))


def objective_for(
    model: Any,
    *,
    mask: MaskConfig,
    target: TargetConfig,
    contrast: ContrastConfig | None = None,
    seed: int = 0,
) -> Reconstruction | AudioVisual:
    """The objective that fits a pretraining model: one modality's reconstruction, or both with contrast."""
    common: dict[str, Any] = {"mask": mask, "target": target, "seed": seed}
    video = audio = None
    if model.grid is not None:
        video = VideoPart(grid=model.grid, patch=model.patch, windows=model.mask_windows, **common)
    if model.audio_grid is not None:
        audio = AudioPart(grid=model.audio_grid, patch=model.audio_patch, windows=model.audio_mask_windows, **common)
    if video is not None and audio is not None:
        contrast = contrast or ContrastConfig()
        if contrast.weight and not any(model.taps.values()):
            raise UserError(
                "contrast needs levels, and a decoder of one block reads none: set args.decoder_depth to 2 or more, or "
                "contrast.weight to 0"
            )
        return AudioVisual(video=video, audio=audio, contrast=contrast)
    part = video or audio
    if part is None:
        raise ValueError(f"{model.name} has neither a video nor an audio grid")
    return Reconstruction(part=part)
