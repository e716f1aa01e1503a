"""What a fine-tuning recipe may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig
from hicmae.datasets.transforms import AugmentConfig
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig

__all__ = ["FinetuneConfig", "FinetuneData"]

FIXED = {
    "num_classes": "comes from the labels of data.train",
    "keep_temporal": "asks for an output per frame, and labels are per clip",
    "frames": "is data.frames",
    "size": "is data.size",
}


@dataclass(frozen=True, kw_only=True)
class FinetuneData:
    """Where the labelled clips come from, and how many frames of each are seen."""

    train: list[str] = field(default_factory=list)
    """Folders written by `hicmae shard`, with labels."""
    test: list[str] = field(default_factory=list)
    """Folders the model is measured on after training; empty measures nothing."""
    val: list[str] = field(default_factory=list)
    """Folders the epoch is chosen on where `select` is val; empty keeps a part of the training clips for it."""
    frames: int = 16
    """Frames per clip."""
    stride: int = 4
    """Distance of successive frames, in frames of the video."""
    size: int = 160
    """Height and width of a clip, in pixels."""
    segments: int = 2
    """Clips per video whose predictions are averaged in evaluation."""
    drop_without_sound: bool = False
    """Leave out clips that have no sound track, in training and in tests (published for audio-visual models); models
    that only hear always do."""
    workers: int = 4
    """Loader processes per training process; 0 loads in the training process."""
    max_bad_share: float = 0.01
    """Share of unreadable samples above which a run stops."""

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "size", "segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"data.workers must not be negative, not {self.workers}")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share must lie in [0, 1], not {self.max_bad_share}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning run: model, first weights, data, augmentation, optimiser, loop."""

    model: str
    """Name of the model (`hicmae profile --list` lists them)."""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model that differ from its defaults and from those of `init`, e.g. drop_path, init_scale."""
    init: str | None = None
    """Weights to start from: a run folder, a checkpoint folder, a weights file, or a published .pth; null starts from
    scratch."""
    init_ema: bool = False
    """Start from the averaged weights of `init`."""
    fidelity: Literal["published", "corrected"] = "corrected"
    """Reproduce the published code's peculiarities, or not; decides what is not set by name."""
    layer_decay_groups: Literal["published", "corrected"] | None = None
    """Layers of region tokens and down-sampling modules in layer-wise decay: the head's (published) or those of their
    depth; null follows `fidelity`."""
    data: FinetuneData = FinetuneData()
    """Where the clips come from."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation, mixing and label smoothing."""
    mix_audio: bool | None = None
    """Mixup and cutmix mix the sound too; the published code mixes frames and labels only. null follows `fidelity`.
    Models that only hear always mix it."""
    sound: SoundConfig = SoundConfig()
    """What models that hear get to hear; length and bins are those of `init`, or of args.audio_frames and args.mels,
    where they are not set here."""
    sound_augment: SoundAugmentConfig = SoundAugmentConfig()
    """Augmentation of sound, in training only."""
    optim: OptimConfig = OptimConfig(
        lr=1e-3, min_lr=1e-6, weight_decay=0.05, betas=(0.9, 0.999), warmup_epochs=5, layer_decay=0.75
    )
    """AdamW, its schedule and its layer-wise decay."""
    loop: LoopConfig = LoopConfig()
    """How long and how to train."""
    select: Literal["last", "val", "test"] = "last"
    """Weights that count: those of the last epoch, of the epoch that was best on `data.val` or a part kept out of
    training, or of the one that was best on the test clips themselves, which is no result on unseen clips (2.7 to 3
    points too good in public logs) and is stamped so wherever it appears."""
    val_share: float = 0.1
    """Share of the training clips kept out for `select: val`, by group where groups are known."""
    val_every: int = 1
    """Epochs between two measurements from which the epoch is chosen; the last one is always measured."""
    seed: int = 0
    """Seed of weights, order, augmentation, mixing and of the validation part."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu` or `cuda`."""
    out: str = "runs/finetune"
    """Folder of the run; a run found there is continued."""

    def __post_init__(self) -> None:
        if self.layer_decay_groups is None:  # resolved here, so that the printed and the stored recipe say it
            object.__setattr__(self, "layer_decay_groups", self.fidelity)
        if self.mix_audio is None:
            object.__setattr__(self, "mix_audio", self.fidelity != "published")
        size = {"length": self.args.get("audio_frames"), "bins": self.args.get("mels")}
        object.__setattr__(self, "sound", self.sound.sized(**size))
        for name, reason in FIXED.items():
            if self.args.get(name):
                raise ValueError(f"args.{name} cannot be set for classification: it {reason}")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must lie in (0, 1), not {self.val_share}")
        if self.val_every < 1:
            raise ValueError(f"val_every must be at least 1, not {self.val_every}")
        if self.select != "last" and self.loop.ema:
            raise ValueError(f"select: {self.select} chooses among plain weights: leave out loop.ema, or select last")
        if self.init_ema and self.init is None:
            raise ValueError("init_ema needs init: the run whose averaged weights are meant")
