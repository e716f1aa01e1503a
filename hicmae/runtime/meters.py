"""What is measured of a run between two lines of its log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Recent", "peak_flops"]

# dense peak of matrix products in bf16 (fp16 before Ampere), from the makers' data sheets, in TFLOP/s
PEAKS = {
    **{"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "A800": 312, "L40S": 362, "L4": 121, "A40": 150},
    **{"A10": 125, "RTX 4090": 165, "RTX 3090": 71, "V100": 125, "T4": 65},
}


def peak_flops(device: torch.device, precision: str) -> float:
    """The device's peak in FLOP/s at this precision; 0 where it is not known."""
    if device.type != "cuda" or precision == "fp32":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for known, peak in PEAKS.items() if known in name), 0.0)


class Recent:
    """What happened since the last line; tensors stay on their device until it is written."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self.waited = device, 0, 0.0
        self.values: list[dict[str, Tensor]] = []
        self.keys: list[list[str]] = []
        self.skipped: list[str] = []
        self._since = self._wanted = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the last line."""
        return max(1e-9, time.monotonic() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training, and its time is not counted."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun

    def wants_data(self) -> None:
        """A step is over."""
        self._wanted = time.monotonic()

    def data_came(self) -> None:
        """The next one begins."""
        self.waited += time.monotonic() - self._wanted

    def add(self, values: dict[str, Tensor], micro_batches: list[dict[str, Any]]) -> None:
        """What a step gave, and its clips."""
        self.steps += 1
        self.values.append(values)
        self.keys.append([key for batch in micro_batches for key in batch.get("key", ())])
        self.skipped += [f"{key}: {reason}" for batch in micro_batches for key, reason in batch.get("skipped", ())]

    def means(self) -> dict[str, float]:
        """Means over steps, bad ones left out where there are others; waits for the device."""
        names = list(self.values[0])
        table = torch.stack([torch.stack([step[n].detach().double() for n in names]) for step in self.values]).cpu()
        good = table[table[:, names.index("bad_steps")] == 0]
        result = dict(zip(names, (good if len(good) else table).mean(0).tolist(), strict=True))
        result["bad_steps"] = table[:, names.index("bad_steps")].sum().item()
        result["bad_streak_last"] = table[-1, names.index("bad_streak")].item()
        del result["bad_streak"]
        result["data_wait"] = self.waited / self.seconds
        if self.device.type == "cuda":
            result["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return result

    def bad_keys(self) -> list[str]:
        """Clips of the steps that were skipped."""
        return [key for keys, step in zip(self.keys, self.values, strict=True) if step["bad_steps"] for key in keys]
