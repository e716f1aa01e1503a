"""What every registered model and form keeps."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch

from hicmae.models import create_model, list_models, load_checkpoint, save_weights
from hicmae.models.factory import STAGES
from tests.models import small

EVERY = pytest.mark.parametrize(("name", "stage"), [(name, stage) for name in list_models() for stage in STAGES])


@EVERY
def test_backward_reaches_every_trainable_parameter(name: str, stage: str) -> None:
    m = small.build(name, stage)
    outputs = small.run(m, stage, small.inputs(name), small.masks(name))
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    silent = {key for key, p in m.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-12}
    frozen = {key for key, p in m.named_parameters() if not p.requires_grad}
    # softmax over places does not change when one number is added to all of a token's logits: this bias learns nothing
    moot = {key for key, _ in m.named_parameters() if "spatial_downsamples" in key and key.endswith("mlp.fc2.bias")}
    assert silent - moot == frozen
    assert all(float(p.grad.abs().max()) < 1e-5 for key, p in m.named_parameters() if key in moot)
    assert bool(frozen) == (name == "mae_dfer_base" and stage == "finetune")


@EVERY
def test_a_sample_does_not_see_the_others_of_its_batch(name: str, stage: str) -> None:
    m = small.build(name, stage).eval()
    data, hiding = small.inputs(name), small.masks(name)
    with torch.no_grad():
        together = small.run(m, stage, data, hiding)
        alone = small.run(m, stage, [x[1:2] for x in data], [x[1:2] for x in hiding])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-5, atol=1e-6)


@EVERY
def test_a_seed_determines_weights_and_stochastic_depth(name: str, stage: str) -> None:
    results = []
    for seed in (0, 0, 1):
        m = small.build(name, stage, seed=seed, drop_path=0.5).train()
        torch.manual_seed(seed)
        results.append(small.run(m, stage, small.inputs(name), small.masks(name)))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


@EVERY
def test_saved_weights_load_into_a_fresh_model_without_rest(name: str, stage: str, tmp_path: Path) -> None:
    source, m = small.build(name, stage), small.build(name, stage, seed=5)
    save_weights(tmp_path / "w.safetensors", source)
    report = load_checkpoint(m, tmp_path / "w.safetensors")
    assert (report.new, report.left_over, report.differences) == ([], [], {})
    assert report.meta["name"] == name and report.meta["stage"] == stage and report.meta["args"] == source.args
    data, hiding = small.inputs(name), small.masks(name)
    for a, b in zip(small.run(source, stage, data, hiding), small.run(m, stage, data, hiding), strict=True):
        assert torch.equal(a, b)


@EVERY
def test_bf16_autocast_stays_near_float32(name: str, stage: str) -> None:
    m = small.build(name, stage).eval()
    data, hiding = small.inputs(name), small.masks(name)
    with torch.no_grad():
        exact = small.run(m, stage, data, hiding)
        with torch.autocast("cpu", torch.bfloat16):
            rough = small.run(m, stage, data, hiding)
    for a, b in zip(exact, rough, strict=True):
        assert 0 < float((a - b.float()).norm() / a.norm()) < 0.05


@EVERY
def test_a_deep_copy_gives_the_same_and_is_independent(name: str, stage: str) -> None:
    m = small.build(name, stage)
    twin = copy.deepcopy(m)
    data, hiding = small.inputs(name), small.masks(name)
    before = small.run(m, stage, data, hiding)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, small.run(m, stage, data, hiding), strict=True))
    assert twin.args == m.args


@EVERY
def test_moving_takes_every_tensor_along(name: str, stage: str) -> None:
    m = small.build(name, stage).to("meta")
    data, hiding = ([x.to("meta") for x in xs] for xs in (small.inputs(name), small.masks(name)))
    if stage == "finetune":
        assert small.run(m, stage, data, hiding)[0].device.type == "meta"
    assert {x.device.type for x in [*m.parameters(), *m.buffers()]} == {"meta"}
    if torch.cuda.is_available():
        m = small.build(name, stage)
        data, hiding = small.inputs(name), small.masks(name)
        here = small.run(m, stage, data, hiding)
        there = small.run(m.cuda(), stage, [x.cuda() for x in data], [x.cuda() for x in hiding])
        for a, b in zip(here, there, strict=True):
            torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", list_models())
def test_the_fine_tuning_form_exports_with_a_dynamic_batch(name: str) -> None:
    m = small.build(name).eval()
    data = tuple(small.inputs(name, batch=2))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(m, data, dynamic_shapes=tuple({0: batch} for _ in data))
    more = small.inputs(name, batch=5)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*more), m(*more), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list_models())
def test_without_classes_the_pooled_features_come_out(name: str) -> None:
    m, full = small.build(name, num_classes=0).eval(), small.build(name).eval()
    full.load_state_dict({**full.state_dict(), **m.state_dict()})
    data = small.inputs(name)
    torch.testing.assert_close(full.head(m(*data)), full(*data))


@pytest.mark.parametrize("name", list_models())
def test_one_output_per_frame_where_time_is_kept(name: str) -> None:
    m = small.build(name, num_classes=5, keep_temporal=True).eval()
    frames = 32 if small.modalities(name) == ["audio"] else 8
    assert m(*small.inputs(name)).shape == (3, frames, 5)


@pytest.mark.parametrize("name", [name for name in list_models() if "audio" not in small.modalities(name)])
def test_what_is_hidden_changes_nothing(name: str) -> None:
    p = small.build(name, "pretrain").eval()
    (video,), (mask,) = small.inputs(name), small.masks(name)
    patch = p.encoder.patch_embed
    hidden = mask.view(-1, 4, 1, 4, 1, 4, 1).expand(-1, -1, 2, -1, 4, -1, 4).reshape(-1, 1, 8, 16, 16)
    noisy = torch.where(hidden, torch.randn_like(video) * 100, video)
    assert patch.grid == small.GRIDS["video"] and not torch.equal(noisy, video)
    assert torch.equal(p(video, mask).video, p(noisy, mask).video)


def test_no_audio_visual_pretraining_leaks_what_is_hidden() -> None:
    name = "hicmae_base"
    p = small.build(name, "pretrain").eval()
    (video, audio), (video_mask, audio_mask) = small.inputs(name), small.masks(name)
    hidden = video_mask.view(-1, 4, 1, 4, 1, 4, 1).expand(-1, -1, 2, -1, 4, -1, 4).reshape(-1, 1, 8, 16, 16)
    unheard = audio_mask.view(-1, 4, 1, 2, 1).expand(-1, -1, 8, -1, 8).reshape(-1, 1, 32, 16)
    noisy = torch.where(hidden, 100.0, video), torch.where(unheard, -100.0, audio)
    for a, b in zip(
        small.run(p, "pretrain", [video, audio], [video_mask, audio_mask]),
        small.run(p, "pretrain", list(noisy), [video_mask, audio_mask]),
        strict=True,
    ):
        assert torch.equal(a, b)


@EVERY
def test_state_dict_keys_and_shapes_are_frozen(name: str, stage: str) -> None:
    with torch.device("meta"):
        state = create_model(name, stage).state_dict()
    listing = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256(listing.encode()).hexdigest()[:16] == KEYS[name, stage]


KEYS = {
    ("videomae_base", "finetune"): "c1267b0ff430e284",
    ("videomae_base", "pretrain"): "9649ac652dfd76f1",
    ("mae_dfer_base", "finetune"): "735e3d46859cf19f",
    ("mae_dfer_base", "pretrain"): "692cb07654d753c2",
    ("svfap_small", "finetune"): "c85613b13cbec881",
    ("svfap_small", "pretrain"): "c48e00d2fa57e06e",
    ("svfap_base", "finetune"): "632ed0a66458a036",
    ("svfap_base", "pretrain"): "b5f416b5c79dcb35",
    ("hicmae_tiny", "finetune"): "8e1752e677187766",
    ("hicmae_tiny", "pretrain"): "6dc14b312227882f",
    ("hicmae_small", "finetune"): "aad25fc618cb1f8d",
    ("hicmae_small", "pretrain"): "d53e6bd2b1ffc943",
    ("hicmae_base", "finetune"): "ccd57dae27f65ff2",
    ("hicmae_base", "pretrain"): "7a9d9c54f4aad302",
    ("hicmae_tiny_video", "finetune"): "862ff2c0024920f0",
    ("hicmae_tiny_video", "pretrain"): "28b5da192ebbe6eb",
    ("hicmae_small_video", "finetune"): "d6f9bfa210c2a961",
    ("hicmae_small_video", "pretrain"): "7beff99a0f523e89",
    ("hicmae_base_video", "finetune"): "98a2ad4866ccf03e",
    ("hicmae_base_video", "pretrain"): "3a5ee24db0d1a27e",
    ("hicmae_tiny_audio", "finetune"): "b9d7fa578a9f60d5",
    ("hicmae_tiny_audio", "pretrain"): "ccbb080b20eec4c8",
    ("hicmae_small_audio", "finetune"): "5406e3e36dc4b3f1",
    ("hicmae_small_audio", "pretrain"): "20434d1941fc7d8b",
    ("hicmae_base_audio", "finetune"): "7004aae7f22a5ba5",
    ("hicmae_base_audio", "pretrain"): "4ea3d1d3ea847060",
}
