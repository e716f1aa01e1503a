"""Models and switches without a recorded fixture equal a second, plainly written implementation, in float64."""

from __future__ import annotations

import pytest
import torch

from hicmae.models.base import Model
from tests.models import reference, small
from tests.models.test_lgi import SWITCHES, id_of

HEADS, PATCH = 2, (2, 4, 4)


def shaken(
    name: str, stage: str = "finetune", **args: object
) -> tuple[Model, dict[str, torch.Tensor], list[torch.Tensor]]:
    """A small model with nothing at zero, its weights, and inputs."""
    m = small.build(name, stage, **args).double().eval()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return m, {key: value.detach() for key, value in m.state_dict().items()}, [x.double() for x in small.inputs(name)]


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float((a - b).abs().max()) <= 1e-12 * float(b.std() + b.abs().max())


@pytest.mark.parametrize("switches", SWITCHES, ids=id_of)
@torch.no_grad()
def test_every_lgi_switch_and_head(switches: dict[str, object]) -> None:
    region = (2, 2, 2)
    m, state, (video,) = shaken("mae_dfer_base", depth=2, region=region, **switches)
    y = reference.lgi(video, reference.part(state, "encoder."), 2, HEADS, PATCH, region, switches)
    chosen = {"region": y[:, :, :1], "local": y[:, :, 1:], "all": y}[str(switches["pool"])]
    feature = reference.norm(chosen.flatten(1, 2).mean(1), reference.part(state, "fc_norm."))
    assert_same(m(video), feature @ state["head.weight"].T + state["head.bias"])


@pytest.mark.parametrize("args", [{}, {"dim": 24, "heads": 3, "depth": 3}, {"size": (8, 24), "frames": 4}], ids=str)
@torch.no_grad()
def test_plain_attention_at_other_shapes(args: dict[str, object]) -> None:
    m, state, (video,) = shaken("videomae_base", **args)
    if "size" in args:
        video = video[:, :, :4, :8].repeat(1, 1, 1, 1, 2)[..., :24]
    heads = int(args.get("heads", HEADS))  # type: ignore[call-overload]
    p = reference.part(state, "encoder.")
    x = reference.embed(video, p, PATCH)
    for i in range(m.encoder.depth):
        x = reference.block(x, reference.part(p, f"blocks.{i}."), heads)
    feature = reference.norm(x.mean(1), reference.part(state, "fc_norm."))
    assert_same(m(video), feature @ state["head.weight"].T + state["head.bias"])


@pytest.mark.parametrize("name", ["svfap_small", "svfap_base"])
@pytest.mark.parametrize("stages", [(1, 2, 2), (2, 1, 1)])
@torch.no_grad()
def test_svfap_in_both_forms(name: str, stages: tuple[int, ...]) -> None:
    m, state, (video,) = shaken(name, stages=stages)
    tokens = reference.tpsbt(video, reference.part(state, "encoder."), stages, HEADS, PATCH, None)
    feature = reference.norm(tokens.mean(1), reference.part(state, "fc_norm."))
    assert_same(m(video), feature @ state["head.weight"].T + state["head.bias"])
    p, state, _ = shaken(name, "pretrain", stages=stages)
    (mask,) = small.masks(name)
    visible = p.parts("video", mask).visible
    inner = reference.part(state, "encoder.")
    total = reference.tpsbt(video, inner, stages, HEADS, PATCH, visible)
    assert_same(p.encoder(video, visible).tokens, reference.norm(total, reference.part(inner, "norm.")))


@pytest.mark.parametrize("name", ["hicmae_tiny", "hicmae_small", "hicmae_base"])
@pytest.mark.parametrize("audio_depth", [None, 3])
@torch.no_grad()
def test_hicmae_at_every_size(name: str, audio_depth: int | None) -> None:
    m, state, (video, audio) = shaken(name, audio_depth=audio_depth)
    logits = reference.hicmae(video, audio, state, (4, audio_depth or 4), HEADS, [PATCH, (8, 8)])
    assert_same(m(video, audio), logits)


@pytest.mark.parametrize(
    "name", ["videomae_base", "mae_dfer_base", "svfap_base", "hicmae_tiny_video", "hicmae_base_audio"]
)
@torch.no_grad()
def test_one_autoencoder_decodes_every_visible_token_at_its_own_place(name: str) -> None:
    p, state, (x,) = shaken(name, "pretrain")
    (mask,) = small.masks(name)
    (modality,) = small.modalities(name)
    end = "_audio" if modality == "audio" else ""
    tokens = p.part("encoder", modality)(x, p.parts(modality, mask).visible).tokens
    out = p(x, mask)
    assert_same(getattr(out, modality), reference.decode(tokens, mask, state, end, 2))


@pytest.mark.parametrize("name", ["hicmae_tiny", "hicmae_small", "hicmae_base"])
@torch.no_grad()
def test_hicmae_pretraining_with_skips_from_before_fusion(name: str) -> None:
    p, state, (video, audio) = shaken(name, "pretrain")
    masks = small.masks(name)
    out = p(video, audio, *masks)
    last, levels = [], []
    for x, mask, tower, patch in zip(
        (video, audio), masks, ("encoder.", "encoder_audio."), (PATCH, (8, 8)), strict=True
    ):
        q = reference.part(state, tower)
        y = torch.stack([tokens[~m] for tokens, m in zip(reference.embed(x, q, patch), mask, strict=True)])
        found = []
        for i in range(4):
            y = reference.block(y, reference.part(q, f"blocks.{i}."), HEADS)
            found.append(reference.norm(y, reference.part(q, "norm.")))
        last.append(found[-1])
        levels.append(found[1:])  # three levels of four blocks
    q = reference.part(state, "encoder_fusion.")
    v, a = last
    for i in range(2):
        blocks = [reference.part(q, f"{kind}.{i}.") for kind in ("blocks", "blocks_audio")]
        v, a = reference.block(v, blocks[0], HEADS, a), reference.block(a, blocks[1], HEADS, v)
    v, a = reference.norm(v, reference.part(q, "norm.")), reference.norm(a, reference.part(q, "norm_audio."))
    assert_same(out.video, reference.decode(v, masks[0], state, "", 2, levels[0]))
    assert_same(out.audio, reference.decode(a, masks[1], state, "_audio", 2, levels[1]))
    for (seen, heard), x, y in zip(out.levels, *levels, strict=True):
        assert_same(seen, x.mean(1))
        assert_same(heard, y.mean(1))
