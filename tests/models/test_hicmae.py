from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import nn

from hicmae.models import Tower, create_model
from hicmae.models.base import Model
from hicmae.models.hicmae import skip_levels
from tests.models import small

NAME = "hicmae_base"
PRESENT = torch.tensor([[True, True], [True, False], [False, True]])


def with_missing(**args: object) -> Model:
    return small.build(NAME, missing=True, **args).eval()


def test_fusion_updates_both_modalities_at_the_same_time() -> None:
    fusion = small.build(NAME).encoder_fusion
    v, a = torch.randn(2, 5, 32), torch.randn(2, 3, 32)
    expected_v, expected_a = v, a
    for i in range(2):
        before_v, before_a = expected_v, expected_a
        expected_v = fusion.blocks[i](before_v, before_a)
        expected_a = fusion.blocks_audio[i](before_a, before_v)
    got = fusion(v, a)
    torch.testing.assert_close(got[0], fusion.norm(expected_v))
    torch.testing.assert_close(got[1], fusion.norm_audio(expected_a))


def test_an_absent_modality_is_zeros_and_skips_fusion_where_nothing_was_learnt_for_it() -> None:
    m = small.build(NAME).eval()
    video, audio = small.inputs(NAME)
    seen: list[torch.Tensor] = []
    m.fc_norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for block in (*m.encoder_fusion.blocks, *m.encoder_fusion.blocks_audio):
        block.register_forward_hook(lambda *_: pytest.fail("fusion ran with one modality"))
    m(video, None)
    m(None, audio)
    video_weighted, audio_weighted, fused_video, fused_audio = seen[0].chunk(4, dim=1)
    assert not audio_weighted.any() and not fused_audio.any()
    tokens = m.encoder(video, None).tokens
    torch.testing.assert_close(fused_video, m.encoder_fusion.norm(tokens).mean(1))
    assert video_weighted.any() and not seen[1].chunk(4, dim=1)[0].any()
    with pytest.raises(ValueError, match="both None"):
        m(None, None)
    with pytest.raises(ValueError, match="missing=True"):
        m(video, audio, PRESENT)


@pytest.mark.parametrize("column", [0, 1])
def test_none_equals_any_content_of_a_modality_marked_missing(column: int) -> None:
    m = with_missing()
    data = small.inputs(NAME)
    present = torch.ones(3, 2, dtype=torch.bool)
    present[:, column] = False
    without = [None if i == column else x for i, x in enumerate(data)]
    absent = m(*without)
    torch.testing.assert_close(m(*data, present), absent)
    m.train()  # towers run in training: the same numbers, whatever the content
    noisy = [x * 100 if i == column else x for i, x in enumerate(data)]
    torch.testing.assert_close(m(*noisy, present), absent)
    torch.testing.assert_close(m(*without), absent)


def test_a_mixed_batch_equals_its_samples_one_by_one() -> None:
    m = with_missing()
    video, audio = small.inputs(NAME)
    mixed = m(video, audio, PRESENT)
    alone = [
        m(video[i : i + 1] if v else None, audio[i : i + 1] if a else None) for i, (v, a) in enumerate(PRESENT.tolist())
    ]
    torch.testing.assert_close(mixed, torch.cat(alone))
    assert not torch.allclose(mixed, m(video, audio))


def test_a_tower_is_skipped_in_evaluation_and_trained_in_training() -> None:
    m = with_missing()
    video, _ = small.inputs(NAME)
    calls: list[int] = []
    m.encoder_audio.register_forward_hook(lambda *_: calls.append(1))
    m(video, None)
    assert not calls
    m.train()(video, None).sum().backward()
    assert calls and all(p.grad is not None for p in m.parameters())


def test_a_sample_without_any_modality_is_refused() -> None:
    video, audio = small.inputs(NAME)
    with pytest.raises(ValueError, match="without any modality"):
        with_missing()(video, audio, torch.tensor([[True, True], [False, False], [True, False]]))
    with pytest.raises(ValueError, match=r"shape \(3, 2\), not \(2, 2\)"):
        with_missing()(video, audio, PRESENT[:2])


@pytest.mark.parametrize(
    ("name", "encoder", "count"),
    [("hicmae_base_video", "encoder", 32_306_688), ("hicmae_base_audio", "encoder_audio", 31_651_328)],
)
def test_one_tower_models_have_the_published_encoder_and_a_head_over_two_means(
    name: str, encoder: str, count: int
) -> None:
    with torch.device("meta"):
        m = create_model(name, num_classes=6)
    assert sum(p.numel() for p in getattr(m, encoder).parameters()) == count
    assert m.head.weight.shape == (6, 1024)
    tiny = small.build(name).eval()
    (x,) = small.inputs(name)
    encoded = getattr(tiny, encoder)(x, None, range(4))
    weights = getattr(tiny, f"{small.modalities(name)[0]}_layer_weights").softmax(0)
    layered = sum(w * level.mean(1) for w, level in zip(weights, encoded.levels, strict=True))
    expected = tiny.head(tiny.fc_norm(torch.cat([layered, encoded.tokens.mean(1)], dim=1)))
    torch.testing.assert_close(tiny(x), expected)


def test_lgi_towers_give_hicmae_in_both_forms() -> None:
    m = small.build(NAME, encoder="lgi")
    assert m(*small.inputs(NAME)).shape == (3, 6)
    assert "encoder.lg_region_tokens" in m.state_dict() and "encoder_audio.lg_region_tokens" in m.state_dict()
    assert (m.mask_windows, m.audio_mask_windows) == ((2, 4), (1, 2))
    assert m.no_weight_decay() == {"encoder.lg_region_tokens", "encoder_audio.lg_region_tokens"}
    p = small.build(NAME, "pretrain", encoder="lgi")
    out = p(*small.inputs(NAME), *small.masks(NAME))
    sum(x.square().sum() for x in (out.video, out.audio, *(f for level in out.levels for f in level))).backward()
    assert all(q.grad is not None and float(q.grad.abs().max()) > 1e-12 for q in p.parameters())
    with pytest.raises(ValueError, match="switches of encoder='lgi'"):
        small.build(NAME, region=(2, 2, 4))


def test_projection_heads_and_a_learnt_temperature_are_options() -> None:
    p = small.build(NAME, "pretrain", projection=8, learn_temperature=True)
    out = p(*small.inputs(NAME), *small.masks(NAME))
    assert [tuple(x.shape) for level in out.levels for x in level] == [(3, 8)] * 6
    assert float(out.temperature.detach()) == pytest.approx(0.07)
    plain = small.build(NAME, "pretrain")
    out = plain(*small.inputs(NAME), *small.masks(NAME))
    assert out.temperature is None and out.levels[0][0].shape == (3, 32) and len(out.levels) == 3


def test_without_skips_the_decoders_are_plain_and_levels_serve_contrast_alone() -> None:
    p, full = small.build(NAME, "pretrain", skips=False), small.build(NAME, "pretrain")
    data, hiding = small.inputs(NAME), small.masks(NAME)
    assert p.args["skips"] is False and full.args["skips"] is True
    gone = {name for name in full.state_dict() if name not in p.state_dict()}
    assert gone and all("cross" in name and name.startswith("decoder") for name in gone)
    out = p(*data, *hiding)
    assert [len(level) for level in out.levels] == [2] * 3 and out.video.shape == full(*data, *hiding).video.shape
    sum((x * torch.randn_like(x)).sum() for x in (out.video, out.audio)).backward()
    assert all(float(q.grad.abs().max()) > 1e-12 for q in p.parameters())


def test_skip_levels_are_evenly_spaced_and_end_with_the_last_block() -> None:
    assert skip_levels(10, 3) == (3, 6, 9)
    assert skip_levels(4, 3) == (1, 2, 3)
    with pytest.raises(ValueError, match="more than 3 blocks, not 3"):
        skip_levels(3, 3)


def test_towers_of_different_width_and_depth_work_together() -> None:
    m = small.build(NAME, audio_dim=16, audio_depth=2, audio_heads=1)
    assert m(*small.inputs(NAME)).shape == (3, 6)
    assert m.fc_norm.weight.shape == (96,)
    with pytest.raises(ValueError, match="projection"):
        small.build(NAME, "pretrain", audio_dim=16)
    p = small.build(NAME, "pretrain", audio_dim=16, audio_heads=1, projection=8)
    assert p(*small.inputs(NAME), *small.masks(NAME)).audio.shape == (3, 4, 64)


def test_a_speech_model_on_waveforms_can_be_the_audio_tower() -> None:
    speech = torchaudio.models.wav2vec2_base()
    tower = Tower(speech, dim=768, depth=12, read=lambda module, x: module.extract_features(x)[0])
    m = small.build(NAME, audio_encoder=tower).eval()
    assert m(small.inputs(NAME)[0], torch.randn(3, 4000)).shape == (3, 6)
    assert m.fc_norm.weight.shape == (2 * (32 + 768),) and m.audio_layer_weights.shape == (12,)
    layers = {m.layer_of(name) for name, _ in m.named_parameters() if name.startswith("encoder_audio.")}
    assert layers == {*range(13), m.num_layers + 1}
    with pytest.raises(ValueError, match=r"wrap the module in hicmae\.models\.Tower"):
        small.build(NAME, audio_encoder=nn.Linear(4, 4))
    with pytest.raises(ValueError, match="fine-tuning form only"):
        small.build(NAME, "pretrain", audio_encoder=tower)
