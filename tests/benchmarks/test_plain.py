"""The plain formulation is the published systems': their recorded numbers come out of it, and the library equals it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.plain import adamw, audio_targets, loss_of, plain, video_targets

from hicmae.models import create_model
from hicmae.models.base import Model
from hicmae.pretrain import targets
from hicmae.pretrain.config import ContrastConfig, MaskConfig, TargetConfig
from hicmae.pretrain.objectives import AudioVisual, objective_for
from tests import fixtures_io
from tests.models import recorded, small
from tests.models.test_published import AUTOENCODERS, CLASSIFIERS

LONG = ("videomae_finetune_base160", "videomae_pretrain_base160", "svfap_pretrain_dim512_paper")
SYSTEMS = ["videomae_base", "mae_dfer_base", "svfap_base", "hicmae_base"]


def sparing(names: Any) -> list[Any]:
    """Some of the recorded systems in every run, all of them in the long one."""
    return [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in names]


def filled(name: str, model: str, stage: str, **args: Any) -> tuple[dict[str, Any], torch.nn.Module, Model]:
    fixture = fixtures_io.load(name)
    m = create_model(model, stage, **args)
    recorded.load_filled(m, fixture)
    return fixture, plain(m), m


@pytest.mark.parametrize("name", sparing(CLASSIFIERS))
@torch.no_grad()
def test_a_plain_classifier_gives_the_recorded_numbers(name: str) -> None:
    model, args = CLASSIFIERS[name]
    fixture, twin, _ = filled(name, model, "finetune", num_classes=7, **args)
    assert fixtures_io.difference(fixture["output"], twin.eval()(fixtures_io.video())) <= 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_plain_hicmae_gives_the_recorded_numbers() -> None:
    fixture, twin, _ = filled("hicmae_finetune_dim512", "hicmae_base", "finetune", num_classes=6)
    assert fixtures_io.difference(fixture["output"], twin.eval()(fixtures_io.video(), fixtures_io.audio())) <= 1e-5


@pytest.mark.parametrize("name", sparing(AUTOENCODERS))
def test_a_plain_autoencoder_gives_the_recorded_numbers(name: str) -> None:
    model, args, motion = AUTOENCODERS[name]
    fixture, twin, ours = filled(name, model, "pretrain", **args)
    video, mask = fixtures_io.video(), fixtures_io.mask(fixture, "video")
    out, goal = twin(video, mask), video_targets(video, motion=motion)[mask].reshape(2, -1, 1536)
    assert fixtures_io.difference(fixture["outputs"]["video"], out.video) <= 1e-5
    assert fixtures_io.difference(fixture["target_video"], goal) <= 1e-5
    loss = loss_of(ours, twin, [video], [mask])
    assert fixtures_io.relative(loss, fixture["losses"]["total"]) <= 1e-5
    loss.backward()
    norms = fixture["grad_l2_norm_per_param"].items()
    recorded.assert_gradients(twin, {k if hasattr(twin, k.split(".")[0]) else f"encoder.{k}": v for k, v in norms})


def test_plain_hicmae_pretraining_gives_the_recorded_numbers() -> None:
    fixture, twin, ours = filled("hicmae_pretrain_dim512", "hicmae_base", "pretrain")
    inputs = [fixtures_io.video(), fixtures_io.audio()]
    masks = [fixtures_io.mask(fixture, modality) for modality in ("video", "audio")]
    out = twin(*inputs, *masks)
    for modality, predicted in (("video", out.video), ("audio", out.audio)):
        assert fixtures_io.difference(fixture["outputs"][modality], predicted) <= 1e-5
    goal = audio_targets(inputs[1])[masks[1]].reshape(2, -1, 256)
    assert fixtures_io.difference(fixture["target_audio"], goal) <= 1e-5
    loss = loss_of(ours, twin, inputs, masks)
    assert fixtures_io.relative(loss, fixture["losses"]["total"]) <= 1e-5
    loss.backward()
    recorded.assert_gradients(twin, fixture["grad_l2_norm_per_param"])


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_library_equals_the_plain_formulation_in_logits_and_gradients(name: str) -> None:
    ours = shaken(name, "finetune")
    twin, inputs = plain(ours), [x.double() for x in small.inputs(name)]
    logits, expected = ours(*inputs), twin(*inputs)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, twin)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_library_equals_the_plain_formulation_in_pretraining(name: str) -> None:
    ours = shaken(name, "pretrain")
    twin, inputs, number = plain(ours), [x.double() for x in small.inputs(name)], torch.arange(3)
    target = TargetConfig(difference=2 if name.startswith(("mae_dfer", "hicmae")) else None)
    objective = objective_for(ours, mask=MaskConfig(video=0.5, audio=0.5), target=target, contrast=ContrastConfig())
    parts = [getattr(objective, m, None) or objective.part for m in small.modalities(name)]  # type: ignore[union-attr]
    drawn = [part.hide(number, 0) for part in parts]
    out = ours(*inputs, *(hidden.mask for hidden in drawn))
    predicted = [out.video, out.audio]
    losses = [part.loss(y, x, hidden)[0] for part, y, x, hidden in zip(parts, predicted, inputs, drawn, strict=False)]
    loss = torch.stack(losses).sum()
    if isinstance(objective, AudioVisual):
        loss = loss + 0.0025 * objective.contrast_loss(out.levels, None, None)
    expected = loss_of(ours, twin, inputs, [hidden.mask for hidden in drawn])
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    loss.backward()
    expected.backward()
    assert_same_gradients(ours, twin)


def test_a_step_of_the_fused_optimiser_equals_the_loop() -> None:
    ours = shaken("mae_dfer_base", "finetune")
    twin, (video,) = plain(ours), [x.double() for x in small.inputs("mae_dfer_base")]
    for model, step in ((ours, None), (twin, adamw(twin.parameters(), lr=1e-2))):
        step = step or torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        model(video).square().sum().backward()
        step.step()
    for (name, p), (_, q) in zip(ours.named_parameters(), sorted_like(ours, twin), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9, msg=name)


def test_targets_of_hidden_patches_are_those_of_all_patches() -> None:
    video, (mask,) = small.inputs("mae_dfer_base")[0].double(), small.masks("mae_dfer_base")
    for motion, of_hidden in ((True, targets.appearance_motion), (False, targets.pixels)):
        goal = of_hidden(video, mask, patch=(2, 4, 4))
        expected = video_targets(video, (2, 4, 4), motion)[mask].reshape(goal.shape)
        torch.testing.assert_close(goal, expected, rtol=1e-9, atol=1e-9)


def shaken(name: str, stage: str) -> Model:
    """A small model in float64 with nothing at zero."""
    m = small.build(name, stage).double()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return m


def sorted_like(ours: torch.nn.Module, twin: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    theirs = dict(twin.named_parameters())
    return [(name, theirs[name]) for name, _ in ours.named_parameters()]


def assert_same_gradients(ours: torch.nn.Module, twin: torch.nn.Module) -> None:
    for (name, p), (_, q) in zip(ours.named_parameters(), sorted_like(ours, twin), strict=True):
        if p.grad is None:  # what nothing reads
            assert q.grad is None or float(q.grad.abs().max()) <= 1e-12, name
        else:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=name)
