"""The way of a batch to the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["to_device"]

_SIDE: dict[torch.device, Any] = {}


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """`batch` with its tensors on `device`.

    To a GPU they go by a stream of their own, so that pinned ones are copied while the step before still computes.
    """
    if device.type != "cuda":
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    if device not in _SIDE:
        _SIDE[device] = torch.cuda.Stream(device)
    with torch.cuda.stream(_SIDE[device]):
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    main = torch.cuda.current_stream(device)
    main.wait_stream(_SIDE[device])
    for value in moved.values():
        if isinstance(value, Tensor):
            value.record_stream(main)  # its memory is not used again before the step is done with it
    return moved
