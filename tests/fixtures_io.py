"""Reading the recorded numbers of the published systems, and regenerating their weights, inputs and masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "fixtures"


@cache
def load(name: str) -> dict[str, Any]:
    """The fixture called `name` (without `.json`)."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def fill(name: str, shape: Sequence[int], scale: float = 0.02) -> Tensor:
    """The values that the fixtures' rule gives to a parameter or an input of that name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32) * np.float32(scale)
    if scale != 1.0 and len(shape) == 1 and "norm" in name and name.endswith("weight"):
        values += np.float32(1.0)
    return torch.from_numpy(values)


def weights(params: Iterable[tuple[str, Sequence[int]]]) -> dict[str, Tensor]:
    """Filled weights for a fixture's `params`, under the published names."""
    return {name: fill(name, shape) for name, shape in params}


def video() -> Tensor:
    """The fixtures' video input (2, 3, 16, 160, 160)."""
    return fill("input.video", (2, 3, 16, 160, 160), 1.0)


def audio() -> Tensor:
    """The fixtures' filter-bank input (2, 1, 256, 128)."""
    return fill("input.audio", (2, 1, 256, 128), 1.0)


def mask(fixture: Mapping[str, Any], modality: str) -> Tensor:
    """A fixture's mask (B, N), True = hidden."""
    recorded = fixture["masks"][modality]
    bits = [np.unpackbits(np.array(row, dtype=np.uint8)) for row in recorded["packbits_big_endian"]]
    return torch.from_numpy(np.stack(bits)[:, : recorded["shape"][1]].astype(bool))


def difference(recorded: Mapping[str, Any], tensor: Tensor) -> float:
    """Largest |difference| at the recorded indices, in units of the recorded standard deviation."""
    assert list(tensor.shape) == recorded["shape"], (tuple(tensor.shape), recorded["shape"])
    values = tensor.detach().double().flatten()[torch.tensor(recorded["indices"])]
    return (
        float((values - torch.tensor(recorded["values"], dtype=torch.float64)).abs().max()) / recorded["std_population"]
    )


def relative(got: Tensor | float, recorded: Any) -> float:
    """Largest relative difference to recorded numbers."""
    expected = torch.as_tensor(recorded, dtype=torch.float64)
    return float(((torch.as_tensor(got).detach().double() - expected).abs() / expected.abs()).max())
