"""What a fine-tuning recipe may say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig
from hicmae.datasets.sampling import ClipData
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune.adapt import AdaptConfig
from hicmae.finetune.missing import MissingConfig
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig

__all__ = ["ClipsConfig", "FinetuneConfig", "FinetuneData", "TaskConfig"]

FIXED = {
    "num_classes": "comes from the labels of data.train and from task.columns",
    "keep_temporal": "is task.per_frame",
    "frames": "is data.frames",
    "size": "is data.size",
    "readout": "is adapt.kind",
}
_LABELLED = ("single", "joint")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learnt of a clip, and what its loss is."""

    kind: Literal["single", "soft", "multi", "regression", "joint"] = "single"
    """`single`: one class, the clip's label; `soft`: shares of the classes, from raters' votes; `multi`: classes
    independent of each other; `regression`: numbers, as valence; `joint`: one class and numbers."""
    columns: list[str] = field(default_factory=list)
    """Columns of the shards' list that hold the targets. `soft`: one, with as many votes for each class in their order
    as `3 0 1` (null: `votes`); `multi`: one per class, with 0 or 1; `regression`, `joint`: one per number."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest number that a column may hold; one outside is an error before training."""
    loss: Literal["mse", "l1", "smooth_l1", "ccc", "pcc"] = "mse"
    """Of numbers: squared, absolute, smooth absolute error, 1 - concordance, 1 - Pearson correlation (of a batch)."""
    loss_weight: float = 1.0
    """`joint`: weight of the loss of the numbers beside that of the class."""
    activation: Literal["none", "sigmoid", "relu", "tanh"] = "none"
    """What outputs that are numbers pass through."""
    per_frame: bool = False
    """An output for every frame (of the filter bank where there is no video), all learnt from the clip's target and
    averaged in evaluation."""
    balanced: bool = False
    """Take clips of each class equally often; raises UAR at the cost of WAR: on generated clips of three overlapping
    classes (70, 20, 10 %), UAR 56.9 to 68.1 and WAR 76.05 to 71.75, 5 seeds (tests/finetune/test_imbalance)."""
    logit_adjustment: float = 0.0
    """Times log of a class's share of the training clips is added to its logit in training (Menon et al. 2021; 1 is
    their choice); raises UAR at the cost of WAR: on the same clips, UAR 56.9 to 67.4 and WAR 76.05 to 67.65 (of one
    seed in five, UAR fell)."""

    def __post_init__(self) -> None:
        kind = self.kind
        if kind == "soft" and not self.columns:  # as the corpora's shards have it
            object.__setattr__(self, "columns", ["votes"])
        count, distinct = len(self.columns), len(set(self.columns))
        if distinct < count or not {"single": count == 0, "soft": count == 1}.get(kind, count > 0):
            wanted = {"single": "none", "soft": "one"}.get(kind, "one or more")
            raise ValueError(f"task.columns: {kind!r} takes {wanted}, each once, not {self.columns}")
        for name, bounds in self.ranges.items():
            if name not in self.values:
                raise ValueError(
                    f"task.ranges: {name} is no number that is learnt; there are {', '.join(self.values) or 'none'}"
                )
            if not bounds[0] < bounds[1]:
                raise ValueError(f"task.ranges.{name} must hold the least number first, not {list(bounds)}")
        numbers = ("regression", "joint")
        for key, kinds in {
            **dict.fromkeys(("balanced", "logit_adjustment"), _LABELLED),
            **dict.fromkeys(("loss", "activation"), numbers),
            "loss_weight": ("joint",),
        }.items():
            if getattr(self, key) != getattr(TaskConfig, key) and kind not in kinds:
                raise ValueError(f"task.{key} does nothing where task.kind is {kind}: leave it out")
        for key in ("loss_weight", "logit_adjustment"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"task.{key} must be at least 0, not {getattr(self, key)}")
        if self.balanced and self.logit_adjustment:
            raise ValueError("task.balanced and task.logit_adjustment both make up for rare classes: choose one")

    @property
    def labelled(self) -> bool:
        """The clips' labels are learnt."""
        return self.kind in _LABELLED

    @property
    def classed(self) -> bool:
        """Outputs are those of the label names of the data."""
        return self.kind in ("single", "soft", "joint")

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Names of a model's outputs, for data with these label names."""
        return (*(classes if self.classed else ()), *(() if self.kind == "soft" else self.columns))

    @property
    def values(self) -> list[str]:
        """Names of outputs that are numbers."""
        return self.columns if self.kind in ("regression", "joint") else []


@dataclass(frozen=True, kw_only=True)
class FinetuneData(ClipData):
    """Where the labelled clips come from, and how many frames of each are seen."""

    train: list[str] = field(default_factory=list)
    """Folders written by `hicmae shard`, with labels; or one of clips, a folder per class, or a list of clips with
    labels (`clips` says what becomes of them)."""
    test: list[str] = field(default_factory=list)
    """Folders the model is measured on after training; empty measures nothing."""
    val: list[str] = field(default_factory=list)
    """Folders the epoch is chosen on where `select` is val; empty keeps a part of the training clips for it."""
    fraction: float = 1.0
    """Share of the training clips to train on, drawn class by class with `seed` (at least one clip of each, 10 % a part
    of 30 %): few labels, as in SVFAP's few-shot protocol. What `select: val` keeps out is taken from this share."""
    segments: int = 2
    """Clips per video whose predictions are averaged in evaluation."""
    drop_without_sound: bool = False
    """Leave out clips that have no sound track, in training and in tests (published for audio-visual models); models
    that only hear always do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.fraction must lie in (0, 1], not {self.fraction}")


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """How clips that are no shards yet are made into some, in the run folder."""

    test_share: float = 0.25
    """Share that is kept out of training and tested on, where `data.test` is empty."""
    size: int | None = None
    """Pixels of the square frames; null takes half as much again as `data.size`, at most 224."""
    faces: Literal["centre", "mtcnn", "none"] = "centre"
    """What is cut out: the centre square, the face (pip install "hicmae[face]"), or all of a cropped picture."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"clips.test_share must lie in (0, 1), not {self.test_share}")


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
    clips: ClipsConfig = ClipsConfig()
    """What becomes of clips that `data.train` names in place of shards."""
    task: TaskConfig = TaskConfig()
    """What is learnt of them."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation, mixing and label smoothing; where numbers are learnt there is no mixing, and only labels are
    smoothed."""
    mix_audio: bool | None = None
    """Mixup and cutmix mix the sound too; the published code mixes frames and labels only. null follows `fidelity`.
    Models that only hear always mix it."""
    sound: SoundConfig = SoundConfig()
    """What models that hear get to hear; length and bins are those of `init`, or of args.audio_frames and args.mels,
    where they are not set here."""
    sound_augment: SoundAugmentConfig = SoundAugmentConfig()
    """Augmentation of sound, in training only."""
    adapt: AdaptConfig = AdaptConfig()
    """What of the model learns."""
    missing: MissingConfig = MissingConfig()
    """What training clips lose; after mixing, where both are used."""
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
        mix = 0.0 if self.task.values else self.augment.mix
        smoothing = self.augment.smoothing if self.task.labelled else 0.0
        object.__setattr__(self, "augment", dataclasses.replace(self.augment, mix=mix, smoothing=smoothing))
        size = {"length": self.args.get("audio_frames"), "bins": self.args.get("mels")}
        object.__setattr__(self, "sound", self.sound.sized(**size))
        for name, reason in FIXED.items():
            if self.args.get(name):
                raise ValueError(f"args.{name} cannot be set for fine-tuning: it {reason}")
        if self.adapt.adversary and self.missing.views:
            raise ValueError("adapt.adversary and missing.attract, missing.restore do not go together: choose one")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must lie in (0, 1), not {self.val_share}")
        if self.val_every < 1:
            raise ValueError(f"val_every must be at least 1, not {self.val_every}")
        if self.select != "last" and self.loop.ema:
            raise ValueError(f"select: {self.select} chooses among plain weights: leave out loop.ema, or select last")
        if self.init_ema and self.init is None:
            raise ValueError("init_ema needs init: the run whose averaged weights are meant")
