"""A published system's fixture on compiled blocks, in a process of its own: the compiler warns of what it uses."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F

from hicmae.models import create_model
from hicmae.runtime.engines import blocks_of
from tests import fixtures_io
from tests.models import recorded

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mae_dfer_finetune_depth2_region2210": ("mae_dfer_base", {"depth": 2, "pool": "region", "region": (2, 2, 10)}),
    "svfap_finetune_base": ("svfap_base", {}),
    "videomae_finetune_base160": ("videomae_base", {}),
    "hicmae_finetune_dim512": ("hicmae_base", {}),
    "mae_dfer_pretrain_base": ("mae_dfer_base", {"decoder_order": "published"}),
    "svfap_pretrain_dim512_paper": ("svfap_base", {}),
    "videomae_pretrain_base160": ("videomae_base", {}),
    "hicmae_pretrain_dim512": ("hicmae_base", {}),
}

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.05}
"""Largest |difference| of an output, in recorded standard deviations; bf16 keeps 8 bits of a number."""


def check(name: str) -> None:
    """Outputs of fixture `name` in fp32 and bf16; of pretraining also losses and the gradient of every parameter."""
    torch.set_num_threads(1)
    fixture = fixtures_io.load(name)
    model, args = SYSTEMS[name]
    pretrains = "outputs" in fixture
    if not pretrains:
        args = {**args, "num_classes": fixture["output"]["shape"][-1]}
    m = create_model(model, "pretrain" if pretrains else "finetune", **args).train(pretrains)
    recorded.load_filled(m, fixture)
    for block in blocks_of(m):
        block.compile()
    inputs = [fixtures_io.video(), *([fixtures_io.audio()] if model.startswith("hicmae") else [])]
    kinds = ["video", "audio"][: len(inputs)]
    masks = [fixtures_io.mask(fixture, kind) for kind in kinds] if pretrains else []
    for dtype, limit in LIMITS.items():
        torch.compiler.reset()  # a run has one precision
        half = dtype == torch.bfloat16
        with torch.set_grad_enabled(pretrains and not half), torch.autocast("cpu", dtype, enabled=half):
            out = m(*inputs, *masks)
        found = {kind: getattr(out, kind) for kind in kinds} if pretrains else {"": out}
        expected = fixture["outputs"] if pretrains else {"": fixture["output"]}
        far = {kind: fixtures_io.difference(expected[kind], tensor.float()) for kind, tensor in found.items()}
        sys.stdout.write(f"{name} {dtype} {far}\n")
        assert all(value <= limit for value in far.values()), far
        if pretrains and not half:
            _check_learning(m, fixture, out, inputs, masks)
    # nothing fell back: no graph was broken, and none was compiled anew for every block
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["frames"]["ok"] == counters["frames"]["total"] <= 24, dict(counters["frames"])


def _check_learning(m: Any, fixture: dict[str, Any], out: Any, inputs: list[Tensor], masks: list[Tensor]) -> None:
    motion = m.name.startswith(("mae_dfer", "hicmae"))
    total = (out.video - recorded.video_target(inputs[0], masks[0], motion)).square().mean()
    if len(inputs) == 2:
        total = total + (out.audio - recorded.audio_target(inputs[1], masks[1])).square().mean()
        for v, a in out.levels:
            logits, pair = F.normalize(v, dim=1) @ F.normalize(a, dim=1).T / 0.07, torch.arange(2)
            total = total + 0.0025 * 0.5 * (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair))
    assert fixtures_io.relative(total, fixture["losses"]["total"]) <= recorded.NUMBERS[torch.float32]
    total.backward()
    norms = fixture["grad_l2_norm_per_param"]
    recorded.assert_gradients(
        m, {name if hasattr(m, name.split(".")[0]) else f"encoder.{name}": norm for name, norm in norms.items()}
    )
