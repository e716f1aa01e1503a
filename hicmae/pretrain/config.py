"""What a pretraining recipe may say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hicmae.datasets.fbank import SoundAugmentConfig, SoundConfig
from hicmae.datasets.sampling import ClipData
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig

__all__ = ["ContrastConfig", "MaskConfig", "PretrainConfig", "PretrainData", "TargetConfig", "WatchConfig"]


@dataclass(frozen=True, kw_only=True)
class PretrainData(ClipData):
    """Where the clips come from."""

    shards: list[str] = field(default_factory=list)
    """Folders written by `hicmae shard`, or addresses of such (`https://…`, `s3://…`)."""
    weights: list[float] | None = None
    """How much of an epoch each of them gives, in any unit; null takes every sample once. The epoch stays as long."""
    clips: int = 1
    """Clips that a sample gives per epoch, each from a part of its own of the video and with the sound of it."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """Who decodes jpeg shards: workers, or the GPU (nvJPEG; not yet tried on one), so that workers only read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and len(self.weights) != len(self.shards):
            raise ValueError(f"data.weights has {len(self.weights)} entries for {len(self.shards)} in data.shards")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How much is hidden."""

    video: float = 0.9
    """Share of video tokens hidden, one spatial mask for all frames (tube)."""
    audio: float = 0.8
    """Share of audio tokens hidden, at random."""
    decode: float | None = None
    """Share of the hidden tokens that is decoded and learnt from (VideoMAE v2's decoder masking); null decodes all."""

    def __post_init__(self) -> None:
        for name in ("video", "audio", "decode"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"mask.{name} must lie in (0, 1), not {value}")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """What the hidden tokens are asked for."""

    normalise: bool = True
    """Pixels per token and colour with mean 0 and standard deviation 1."""
    difference: int | None = 2
    """Frames per group of which all but the first are replaced by their difference from it (MAE-DFER's motion
    target); null asks for plain pixels."""
    motion: Literal["normalised", "raw"] = "normalised"
    """Differences of normalised patches (the published code) or of raw frames (the paper)."""
    motion_weight: float | None = None
    """Weight w of the motion part, (1-w) of the appearance; null weighs all values alike."""

    def __post_init__(self) -> None:
        if self.motion_weight is not None and not 0 <= self.motion_weight <= 1:
            raise ValueError(f"target.motion_weight must lie in [0, 1] or be null, not {self.motion_weight}")


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Hierarchical cross-modal contrast (HiCMAE, section 3.3); used by audio-visual models only."""

    weight: float = 0.0025
    """Weight of the term, summed over levels (published; tuned with 40 clips)."""
    temperature: float = 0.07
    """Fixed temperature; a model with a learnt one uses that."""
    negatives: Literal["global", "local"] | None = None
    """Clips of all processes are negatives, or only those of the same one (published); null follows `fidelity`."""
    scale: Literal["chance"] | None = None
    """`chance` divides the term by ln B / ln 40, so that the weight keeps its meaning at other batch sizes."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"contrast.weight must not be negative, not {self.weight}")
        if self.temperature <= 0:
            raise ValueError(f"contrast.temperature must be positive, not {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What a run shows of itself on a schedule; nothing of it changes training, and all may change between starts."""

    every: int = 0
    """Epochs between two looks; the last epoch is always looked at. 0: no look."""
    pictures: int = 3
    """Clips whose reconstruction is drawn at each look."""
    points: int = 200
    """Clips whose features go to TensorBoard's projector at each look, at most; 0: none."""
    clips: list[str] = field(default_factory=list)
    """Shards of the clips that are shown; empty: those of `data.shards`."""
    probe: list[str] = field(default_factory=list)
    """Labelled shards whose labels are told from frozen features at each look; empty: no probe."""
    probe_test: list[str] = field(default_factory=list)
    """Labelled shards on which the probes are measured, e.g. FOLDER@fold=1 beside FOLDER@fold!=1; empty: a quarter of
    the groups of `probe` (of its videos where groups are not known), which is kept out of it."""
    wandb: str = ""
    """Project of Weights & Biases that gets the figures of the log too, at every line; empty: none."""

    def __post_init__(self) -> None:
        for name in ("every", "pictures", "points"):
            if getattr(self, name) < 0:
                raise ValueError(f"watch.{name} must not be negative, not {getattr(self, name)}")
        if self.probe_test and not self.probe:
            raise ValueError("watch.probe_test needs watch.probe, the labelled shards that are learnt from")
        for name in ("clips", "probe"):
            if getattr(self, name) and not self.every:
                raise ValueError(f"watch.{name} is stated, and nothing is looked at: set watch.every, in epochs")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining run: model, objective, data, optimiser, loop."""

    model: str
    """Name of the model (`hicmae profile --list` lists them)."""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model that differ from its defaults, e.g. depth, dim, region."""
    fidelity: Literal["published", "corrected"] = "corrected"
    """Reproduce the published code's peculiarities, or not."""
    data: PretrainData = PretrainData()
    """Where the clips come from."""
    sound: SoundConfig = SoundConfig()
    """What models that hear get to hear; length and bins may be given as args.audio_frames and args.mels instead."""
    sound_augment: SoundAugmentConfig = SoundAugmentConfig()
    """Augmentation of sound."""
    mask: MaskConfig = MaskConfig()
    """How much is hidden."""
    target: TargetConfig = TargetConfig()
    """What the hidden tokens are asked for."""
    contrast: ContrastConfig = ContrastConfig()
    """Contrast between the modalities of audio-visual models."""
    optim: OptimConfig = OptimConfig(lr=3e-4)
    """AdamW and its schedule."""
    loop: LoopConfig = LoopConfig()
    """How long and how to train."""
    watch: WatchConfig = WatchConfig()
    """What the run shows of itself on a schedule."""
    seed: int = 0
    """Seed of weights, order, masks and augmentation."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu` or `cuda`."""
    out: str = "runs/pretrain"
    """Folder of the run; a run found there is continued."""

    def __post_init__(self) -> None:
        if self.contrast.negatives is None:  # resolved here, so that the printed and the stored recipe say it
            negatives: Literal["global", "local"] = "local" if self.fidelity == "published" else "global"
            object.__setattr__(self, "contrast", replace(self.contrast, negatives=negatives))
        if self.watch.every and self.loop.engine in ("fsdp", "deepspeed"):
            raise ValueError(
                f"watch.every: {self.loop.engine} divides the model among processes, and watching needs it whole: set "
                "it to 0 and draw checkpoints with `hicmae reconstruct`, or take the engine ddp"
            )
        size = {"length": self.args.get("audio_frames"), "bins": self.args.get("mels")}
        object.__setattr__(self, "sound", self.sound.sized(**size))
