"""Running a model on a fixture's weights and inputs, and comparing everything the fixture recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hicmae.models.convert import from_published
from tests import fixtures_io

TENSORS = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest |difference| allowed, in recorded standard deviations."""
NUMBERS = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest relative difference of logits and losses."""


def load_filled(model: nn.Module, fixture: Mapping[str, Any]) -> None:
    """Put the fixture's weights in, through the published layout, every tensor of it."""
    aliases = dict(model.named_parameters(remove_duplicate=False))
    state = from_published(fixtures_io.weights(fixture["params"]))
    assert [name for name, _ in model.named_parameters()] == list(state)
    with torch.no_grad():
        for name, value in state.items():
            aliases[name].copy_(value)


def of(fixture: Mapping[str, Any], dtype: torch.dtype) -> Mapping[str, Any]:
    """The part of a fixture that was recorded in `dtype`."""
    return fixture if dtype == torch.float32 else fixture["float64"]


def our_module(published: str, model: nn.Module) -> str:
    """Our name of a published module (flat classifiers keep theirs under `encoder.`)."""
    first = published.split(".")[0]
    return published if hasattr(model, first) else f"encoder.{published}"


def run(model: nn.Module, recorded: Mapping[str, Any], call: Callable[[], Any]) -> tuple[Any, dict[str, list[Any]]]:
    """`call()` and what the modules named by the fixture put out, call by call."""
    seen: dict[str, list[Any]] = {}
    hooks = []
    for name in {key.split("#")[0].split("@")[0] for key in recorded["intermediates"]}:
        module = model.get_submodule(our_module(name, model))
        seen[name] = []
        if isinstance(module, nn.Conv1d):
            hooks.append(module.register_forward_pre_hook(lambda *_: None))  # so that it is called as a module
        hooks.append(module.register_forward_hook(lambda m, i, out, to=seen[name]: to.append(out)))
    try:
        return call(), seen
    finally:
        for hook in hooks:
            hook.remove()


def assert_tensors(recorded: Mapping[str, Mapping[str, Any]], got: Mapping[str, Tensor], limit: float) -> None:
    """Every recorded tensor within `limit` standard deviations."""
    far = {name: fixtures_io.difference(stats, got[name]) for name, stats in recorded.items()}
    assert {name: value for name, value in far.items() if not value <= limit} == {}


def assert_gradients(model: nn.Module, recorded: Mapping[str, float | None]) -> None:
    """Gradient norms within 1e-4 relative or 1e-10 absolute, for exactly the recorded parameters."""
    norms = {name: 0.0 if p.grad is None else float(p.grad.double().norm()) for name, p in model.named_parameters()}
    assert set(norms) == set(recorded)
    wrong = {}
    for name, expected in recorded.items():
        error = abs(norms[name] - (expected or 0.0))
        if not (error <= 1e-4 * abs(expected or 0.0) or error <= 1e-10):
            wrong[name] = (norms[name], expected)
    assert wrong == {}


def video_target(video: Tensor, mask: Tensor, motion: bool) -> Tensor:
    """Hidden patches of a normalised video, written down independently of the library, in its dtype."""
    dtype = video.numpy().dtype
    mean = np.array([0.485, 0.456, 0.406], dtype).reshape(1, 3, 1, 1, 1)
    std = np.array([0.229, 0.224, 0.225], dtype).reshape(1, 3, 1, 1, 1)
    x = video.numpy() * std + mean
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // 2, 2, h // 16, 16, w // 16, 16).transpose(0, 2, 4, 6, 3, 5, 7, 1)
    x = x.reshape(b, -1, 512, c)
    x = (x - x.mean(2, keepdims=True)) / (np.sqrt(x.var(2, ddof=1, keepdims=True)) + 1e-6)
    if motion:
        x = x.reshape(b, x.shape[1], 2, 256, c)
        x = np.stack([x[:, :, 0], x[:, :, 1] - x[:, :, 0]], axis=2)
    x = x.reshape(b, x.shape[1], -1).astype(dtype)
    return torch.from_numpy(np.stack([x[i][m] for i, m in enumerate(mask.numpy())]))


def audio_target(audio: Tensor, mask: Tensor) -> Tensor:
    """Hidden patches of a filter bank, each with zero mean and unit (unbiased) variance."""
    b, _, f, k = audio.shape
    x = audio.numpy().reshape(b, f // 16, 16, k // 16, 16).transpose(0, 1, 3, 2, 4).reshape(b, -1, 256)
    x = (x - x.mean(2, keepdims=True)) / (np.sqrt(x.var(2, ddof=1, keepdims=True)) + 1e-6)
    return torch.from_numpy(np.stack([x[i][m] for i, m in enumerate(mask.numpy())]))
