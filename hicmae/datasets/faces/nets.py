"""The three networks of MTCNN (Zhang et al. 2016, arXiv:1604.02878), from the arrays in the `mtcnn` wheel."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io

import numpy as np
import torch
from torch import Tensor, nn

from hicmae.configs.errors import UserError

__all__ = ["Stage", "load_stages"]

_WHEEL = "1.0.0"
_ARRAYS = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
_POOLS = {"pnet": (2,), "rnet": (3, 3), "onet": (3, 3, 2)}  # kernels; each follows a convolution, and halves
_HEADS = {"pnet": 2, "rnet": 2, "onet": 3}
_INSTALL = f'pip install "hicmae[face]" (or: pip install mtcnn=={_WHEEL})'


class Stage(nn.Module):
    """One network: convolutions with PReLU, pools, in two of the three a dense layer, and linear heads.

    Shapes:
        x: (B, 3, H, W) in [-1, 1] -> per head (B, values), of P-net (B, values, H', W'); the last head are the logits
        of no face and face, the first the box's shift, the middle one of O-net five points as x1 … x5, y1 … y5.
    """

    def __init__(self, name: str, arrays: list[np.ndarray]) -> None:
        super().__init__()
        heads = 2 * _HEADS[name]
        pools, left = iter(_POOLS[name]), arrays[:-heads]
        trunk: list[nn.Module] = []
        for weight, bias, slope in zip(left[::3], left[1::3], left[2::3], strict=True):
            if weight.ndim == 2:
                trunk.append(_AcrossThenDown())
            trunk += [_layer(weight, bias), _prelu(slope)]
            pool = next(pools, None) if weight.ndim == 4 else None
            if pool:
                trunk.append(nn.MaxPool2d(pool, 2, ceil_mode=True))  # = TensorFlow's `same` at these sizes
        self.trunk = nn.Sequential(*trunk)
        self.heads = nn.ModuleList(
            _layer(*pair) for pair in zip(arrays[-heads::2], arrays[1 - heads :: 2], strict=True)
        )
        self.requires_grad_(False).eval()
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the heads' values."""
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))  # 2.5 times as fast on a CPU
        return [head(x) for head in self.heads]


def load_stages() -> dict[str, Stage]:
    """P-, R- and O-net by name, in evaluation mode on the CPU.

    Raises:
        UserError: the wheel is not installed, or its arrays are not the ones this was written for.
    """
    try:
        import joblib
        import lz4  # noqa: F401  joblib needs it to unpack

        wheel = importlib.metadata.distribution("mtcnn")
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise UserError(f"finding faces needs the arrays of the mtcnn wheel: {_INSTALL}") from error
    stages = {}
    for name, digest in _ARRAYS.items():
        # located, not imported: the package itself wants TensorFlow
        path = wheel.locate_file(f"mtcnn/assets/weights/{name}.lz4")
        try:
            raw = bytes(path.read_bytes())  # type: ignore[attr-defined]
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {_INSTALL}") from error
        if hashlib.sha256(raw).hexdigest() != digest:  # before unpickling
            raise UserError(f"{path} is not the file of mtcnn {_WHEEL} (sha256 differs); {_INSTALL}")
        stages[name] = Stage(name, joblib.load(io.BytesIO(raw)))
    return stages


class _AcrossThenDown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)  # (B, C, H, W) -> (B, W * H * C), as the dense arrays count


def _layer(weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    if weight.ndim == 2:
        layer: nn.Module = nn.Linear(*weight.shape)
        values = weight.T
    else:
        height, width, inputs, outputs = weight.shape
        layer = nn.Conv2d(inputs, outputs, (height, width))
        values = weight.transpose(3, 2, 0, 1)
    layer.load_state_dict({"weight": torch.from_numpy(values.copy()), "bias": torch.from_numpy(bias.copy())})
    return layer


def _prelu(slope: np.ndarray) -> nn.Module:
    layer = nn.PReLU(slope.size)
    layer.load_state_dict({"weight": torch.from_numpy(slope.reshape(-1).copy())})
    return layer
