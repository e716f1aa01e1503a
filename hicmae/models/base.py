"""What every model of the library tells about itself, whatever its system and stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["Model"]


class Model(nn.Module):
    """Base of all registered models; `create_model` fills in `name`, `stage` and `args`.

    `create_model(m.name, stage=m.stage, **m.args)` builds the same model again.
    """

    name: str = ""
    stage: str = ""
    args: dict[str, Any]
    grid: tuple[int, ...] | None = None
    """Token grid (nt, nh, nw) of the video; None without one."""
    patch: tuple[int, ...] | None = None
    """Patch (t, h, w) of the video."""
    audio_grid: tuple[int, ...] | None = None
    """Token grid (nf, nk) of the filter bank; None without one."""
    audio_patch: tuple[int, ...] | None = None
    """Patch (f, k) of the filter bank."""
    mask_windows: tuple[int, int] | None = None
    """Window in patches in which a video mask must hide equally many; None: the whole frame."""
    audio_mask_windows: tuple[int, int] | None = None
    """The same for the filter bank."""
    frozen: tuple[str, ...] = ()
    """Parts that stay in evaluation mode: without gradient, they are to do in training what they do afterwards."""
    num_layers: int = 0
    """Layers L of layer-wise learning-rate decay: the rate of layer i is scaled by decay ** (L + 1 - i)."""

    def train(self, mode: bool = True) -> Model:
        """As every module, but for the `frozen` parts."""
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def describe(self, modality: str, encoder: nn.Module) -> None:
        """Publish the grid of `encoder` as that of `modality`."""
        prefix = "" if modality == "video" else "audio_"
        for field in ("grid", "patch", "mask_windows"):
            setattr(self, prefix + field, getattr(encoder, field, None))

    def no_weight_decay(self, published: bool = False) -> set[str]:
        """Full names of parameters without weight decay, beyond one-dimensional ones and biases."""
        raise NotImplementedError

    def layer_of(self, name: str, published: bool = False) -> int:
        """Layer id (0 to `num_layers` + 1) of the parameter called `name`."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """timm's hook for layer-wise decay: from parameter name to layer id."""
        return self.layer_of
