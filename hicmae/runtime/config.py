"""What a recipe may say of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["LoopConfig"]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how to train."""

    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 64
    """Clips per optimiser step, over all processes and accumulation."""
    accumulate: int = 1
    """Micro-batches per optimiser step."""
    clip_grad: float | None = None
    """Largest gradient norm; null leaves gradients alone."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type; auto is bf16 on GPUs that have it, fp32 elsewhere. fp16 scales the loss."""
    tf32: bool = True
    """Let GPUs multiply float32 matrices in TF32 (10 bits of mantissa)."""
    engine: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    """Who trains: one process; each with the whole model (ddp); parameters divided among them (fsdp, ZeRO). auto is
    ddp where there are several processes."""
    deepspeed: str | dict[str, Any] = field(default_factory=lambda: {"zero_optimization": {"stage": 1}})
    """DeepSpeed's own settings, or the JSON file that holds them; what the recipe says elsewhere is filled in."""
    recompute: bool = False
    """Keep only the inputs of blocks and compute them again in the backward pass (activation checkpointing): less
    memory, more time."""
    offload: bool = False
    """Keep activations in the CPU's memory until the backward pass: less memory on the GPU, more time."""
    graphs: bool = False
    """Replay each block as one CUDA graph, which saves the launches of small kernels (pretraining on a fast GPU); one
    process, one micro-batch per step. Not tried on a GPU yet."""
    compile: bool = False
    """Compile the blocks (torch.compile), which takes a minute at the start."""
    ema: float | None = None
    """Decay of the averaged weights per step; null keeps none."""
    log_every: int = 10
    """Steps between log lines."""
    save_every: int | None = None
    """Steps between checkpoints; null saves at the end of every epoch."""
    keep: int = 2
    """Newest checkpoints kept."""
    keep_every: int | None = None
    """Checkpoints at multiples of so many steps are kept, too."""
    timeout: float = 600
    """Seconds that a process waits for another one, or for data, before the run ends with an error."""
    max_bad_steps: int = 10
    """Steps in a row with a non-finite gradient after which the run stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every", "keep", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, not {getattr(self, name)}")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(f"loop.save_every must be at least 1 or null, not {self.save_every}")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"loop.keep_every must be at least 1 or null, not {self.keep_every}")
        if not self.timeout > 0:
            raise ValueError(f"loop.timeout must be positive, not {self.timeout}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"loop.ema must lie in (0, 1) or be null, not {self.ema}")
        if self.graphs and (self.accumulate > 1 or self.recompute or self.offload or self.compile):
            raise ValueError("loop.graphs: goes with loop.accumulate=1, and without recompute, offload and compile")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"loop.batch_size ({self.batch_size}) must be a multiple of loop.accumulate ({self.accumulate})"
            )
