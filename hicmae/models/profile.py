"""What a model costs: parameters, multiply-accumulates (fvcore) and FLOPs (torch), in all and by module.

Two counts are given. *Published* is what the published code computes: it embeds hidden patches before dropping them,
updates tokens that neither head nor decoder reads, and projects every token that attends to a few messengers.
*Executed* is what this library computes, which is less; the results are the same. Nothing is run: shapes are traced on
the meta device.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hicmae.models.base import Model
from hicmae.models.blocks import Attention
from hicmae.models.decoder import Decoder
from hicmae.models.factory import create_model
from hicmae.models.lgi import LGIBlock
from hicmae.models.mae import SUFFIX, MaskedAutoencoder
from hicmae.models.systems import Stage

__all__ = ["ModuleCost", "Profile", "multiplications", "profile", "table"]


@dataclass(frozen=True)
class ModuleCost:
    """Cost of one part of a model, for one clip, as executed."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True)
class Profile:
    """Cost of a model for one clip (batch 1, forward pass)."""

    name: str
    stage: str
    params: int
    """All parameters, frozen ones included, as papers count them."""
    trainable: int
    macs: int
    """Multiply-accumulates of the published computation, as fvcore counts them (5 per LayerNorm value included)."""
    flops: int
    """Of the published computation, 2 per multiply-accumulate, matrix products only, as torch counts them."""
    executed_macs: int
    executed_flops: int
    modules: tuple[ModuleCost, ...]
    """Top-level parts, and the parts of the encoders and decoders."""

    def __str__(self) -> str:
        return table([self], modules=True)


def profile(
    model: str | Model, stage: Stage = "finetune", *, mask: float = 0.9, audio_mask: float = 0.8, **args: Any
) -> Profile:
    """Count a model by name (with constructor `args`) or an existing one, which is left as it is.

    Args:
        model: registered name, or a model.
        stage: form to build where a name is given.
        mask: share of video tokens hidden, for the pretraining form.
        audio_mask: share of audio tokens hidden.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            built = create_model(model, stage, **args)
    else:
        built = copy.deepcopy(model).to("meta")
    call = _Call(built, {"video": mask, "audio": audio_mask})
    flops, macs, by_module = _flops(call), *_macs(call)
    parts = _parts(built, by_module)
    frugal = [
        m for m in built.modules() if isinstance(m, (LGIBlock, Decoder)) or (isinstance(m, Attention) and not m.fused)
    ]
    for part in frugal:  # compute what nothing reads, and every projection by itself
        part.keep, part.fold = "all", False
    more_flops, (more_macs, _) = (_flops(call), _macs(call)) if frugal else (flops, (macs, by_module))
    hidden = call.hidden_embedding()
    return Profile(
        name=built.name,
        stage=built.stage,
        params=sum(p.numel() for p in built.parameters()),
        trainable=sum(p.numel() for p in built.parameters() if p.requires_grad),
        macs=more_macs + hidden,
        flops=more_flops + 2 * hidden,
        executed_macs=macs,
        executed_flops=flops,
        modules=parts,
    )


def multiplications(model: Model) -> int | None:
    """Multiply-accumulates of the matrix products of one forward pass as executed, a fraction of a second's count.

    None of a model whose shapes do not tell them.
    """
    try:
        return _flops(_Call(copy.deepcopy(model).to("meta"), {"video": 0.0, "audio": 0.0})) // 2
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # a foreign tower, or operator
        return None


def table(profiles: Iterable[Profile], modules: bool = False, published: Mapping[str, str] | None = None) -> str:
    """Several profiles as aligned text, one per line.

    Args:
        profiles: what to list.
        modules: follow each by its parts.
        published: by model name, what its paper states, as a last column.
    """
    header = ("model", "form", "parameters", "MACs", "executed", "FLOPs", "executed")
    rows: list[tuple[str, ...]] = [header if published is None else (*header, "published")]
    for p in profiles:
        counts = (p.macs, p.executed_macs, p.flops, p.executed_flops)
        rows.append((p.name, p.stage, f"{p.params:,}", *(f"{count / 1e9:.2f} G" for count in counts)))
        if published is not None:
            rows[-1] += (published.get(p.name, "-"),)
        if modules:
            rows += [(f"  {m.name}", "", f"{m.params:,}", "", f"{m.macs / 1e9:.2f} G") for m in p.modules]
    rows = [row + ("",) * (len(rows[0]) - len(row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class _Call(nn.Module):
    """A model with fixed masks, from input tensors to a tuple of output tensors."""

    def __init__(self, model: Model, shares: dict[str, float]) -> None:
        super().__init__()
        self.model = model.eval()
        found: dict[str, Any] = {m: getattr(model, f"encoder{end}", None) for m, end in SUFFIX.items()}
        self.encoders = {m: e for m, e in found.items() if e is not None}
        if any(not hasattr(e, "patch_embed") for e in self.encoders.values()):
            raise ValueError("a model with a foreign tower cannot be profiled by shape alone")
        self.hidden = {m: _hidden(e, shares[m]) for m, e in self.encoders.items()}
        self.pretrains = isinstance(model, MaskedAutoencoder)

    def inputs(self) -> tuple[Tensor, ...]:
        """One clip per modality, without content."""
        embeds = [e.patch_embed for e in self.encoders.values()]
        return tuple(torch.empty(1, embed.channels, *embed.shape, device="meta") for embed in embeds)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self.pretrains:
            return (self.model(*inputs),)
        masks = [torch.empty(1, e.pos.shape[0], dtype=torch.bool, device="meta") for e in self.encoders.values()]
        if len(masks) == 2:
            counts = {f"{m}_hidden": count for m, count in self.hidden.items()}
        else:
            counts = {"hidden": next(iter(self.hidden.values()))}
        out = self.model(*inputs, *masks, **counts)
        return tuple(x for x in (out.video, out.audio) if x is not None)

    def hidden_embedding(self) -> int:
        """Multiply-accumulates for embedding hidden patches, which the published code does."""
        if not self.pretrains:
            return 0
        values = {m: prod(e.patch) * e.patch_embed.channels for m, e in self.encoders.items()}
        return sum(self.hidden[m] * values[m] * e.dim for m, e in self.encoders.items())


def _hidden(encoder: Any, share: float) -> int:
    """Tokens hidden by a mask of that share, as masks are drawn: equally many per window, tubes over time in video."""
    volume = prod(encoder.grid)
    if len(encoder.grid) == 3:
        window = prod(encoder.mask_windows or encoder.grid[1:])
    else:
        window = prod(encoder.mask_windows or encoder.grid)
    return int(share * window + 1e-6) * (volume // window)


def _flops(call: _Call) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*call.inputs())
    return int(counter.get_total_flops())


def _macs(call: _Call) -> tuple[int, dict[str, int]]:
    """fvcore's count in all and by module."""
    with _quiet():
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(call, call.inputs())
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        with torch.no_grad():
            return int(analysis.total()), {name: int(n) for name, n in analysis.by_module().items()}


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """B * H * Nq * Nk * (Dk + Dv): the two products of attention, which fvcore does not know."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return prod(q[:-1]) * k[-2] * (k[-1] + v[-1])


def _parts(model: Model, by_module: dict[str, int]) -> tuple[ModuleCost, ...]:
    costs = []
    for name, module in model.named_children():
        costs.append(_cost(name, module, by_module))
        if name.startswith(("encoder", "decoder")):
            costs += [_cost(f"{name}.{inner}", child, by_module) for inner, child in module.named_children()]
    return tuple(cost for cost in costs if cost.params)


def _cost(name: str, module: nn.Module, by_module: dict[str, int]) -> ModuleCost:
    inside = [key for key in by_module if key.startswith(f"model.{name}.")]
    macs = by_module.get(f"model.{name}", 0)
    if isinstance(module, nn.ModuleList):  # never called itself
        macs = sum(by_module[key] for key in inside if key.count(".") == name.count(".") + 2)
    return ModuleCost(name, sum(p.numel() for p in module.parameters()), macs)


@contextmanager
def _quiet() -> Iterator[None]:
    """fvcore uses deprecated parts of torch and logs every operator it does not count."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
