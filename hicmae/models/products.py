"""The linear layer, by the library that multiplies fp32 matrices fastest on the processor at hand.

PyTorch gives fp32 products on a CPU to MKL. On the AMD EPYC with AVX-512 where it was measured, oneDNN, inside the same
PyTorch, takes half the time (docs/performance.md), so on such processors large products go there; everywhere else
PyTorch's own choice stands.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

__all__ = ["LINEAR", "Library", "Linear", "library", "linear", "products_by"]

Library = Literal["onednn", "torch"]

SMALLEST = 2**16
"""Entries of the smallest weight worth the detour (256 x 256): below, the call costs what the product saves."""


def _onednn_is_faster() -> bool:
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return "AuthenticAMD" in platform.processor()
    with file.open(encoding="utf-8", errors="replace") as lines:
        return "AuthenticAMD" in next((line for line in lines if line.startswith("vendor_id")), "")


_library: Library = "onednn" if _onednn_is_faster() and torch.backends.mkl.is_available() else "torch"


def library() -> Library:
    """Who computes large fp32 products on a CPU now: `"onednn"`, or whom PyTorch chooses."""
    return _library


@contextmanager
def products_by(library: Library) -> Iterator[None]:
    """Within, products are PyTorch's own, or oneDNN's whatever the processor.

    For comparing them, and for transforms of `torch.func`, which know only PyTorch's own operators.
    """
    global _library
    before, _library = _library, library
    try:
        yield
    finally:
        _library = before


class Linear(nn.Linear):
    """An `nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


LINEAR = (nn.Linear, Linear)
"""The layers whose weight may be used in place of a call."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., K), (N, K), (N,) -> (..., N). The kernel depends on the weight's size, not on the batch's."""
    if _library == "onednn" and _suits(x, weight):
        return _product(x, weight, bias)
    return F.linear(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Large, plain, fp32 on a CPU, and nothing that must see PyTorch's own operators: autocast, tracer, exporter."""
    exports = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()  # which says both of itself
    if exports or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and type(weight) in (Tensor, nn.Parameter) and weight.numel() >= SMALLEST


@torch.library.custom_op("hicmae::product", mutates_args=(), device_types="cpu")
def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


@_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@register_flop_formula(torch.ops.hicmae.product)
def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(x) * weight[0]


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    rows = grad.flatten(0, -2)  # (R, N)
    return (
        _product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None,
        _product(rows.t(), x.flatten(0, -2).t(), None) if ctx.needs_input_grad[1] else None,
        rows.sum(dim=0) if ctx.needs_input_grad[2] else None,
    )


_product.register_autograd(_backward, setup_context=_keep)
