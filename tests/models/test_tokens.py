from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hicmae.models import create_model
from hicmae.models.blocks import Attention, affine
from hicmae.models.tokens import PatchEmbed, sinusoid, split


def test_patch_embedding_is_the_strided_convolution_it_stands_for() -> None:
    torch.manual_seed(0)
    for embed, x in (
        (PatchEmbed((4, 8, 12), (2, 4, 4), 3, 16), torch.randn(2, 3, 4, 8, 12)),
        (PatchEmbed((8, 12), (4, 4), 1, 16), torch.randn(2, 1, 8, 12)),
    ):
        tokens = embed.proj(x).flatten(2).transpose(1, 2)
        torch.testing.assert_close(embed(x), tokens)
        index = torch.tensor([[0, 3, 5], [1, 2, 4]])
        torch.testing.assert_close(embed(x, index), tokens[torch.arange(2)[:, None], index])


def test_an_adapter_in_place_of_a_layer_is_called() -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)

    embed = PatchEmbed((4, 8, 8), (2, 4, 4), 3, 16)
    x = torch.randn(2, 3, 4, 8, 8)
    plain = embed(x)
    embed.proj = Doubled(embed.proj)
    torch.testing.assert_close(embed(x), 2 * plain)
    linear = nn.Linear(4, 4, bias=False)
    y, bias = torch.randn(3, 4), torch.randn(4)
    torch.testing.assert_close(affine(Doubled(linear), y, bias), 2 * linear(y) + bias)
    hooked = nn.Linear(4, 4, bias=False)
    hooked.register_forward_pre_hook(lambda m, args: (args[0] * 3,))
    torch.testing.assert_close(affine(hooked, y, bias), F.linear(3 * y, hooked.weight, bias))


def test_attention_is_softmax_of_scaled_products_with_biased_queries_and_values_only() -> None:
    torch.manual_seed(0)
    for fused in (True, False):
        attn = Attention(8, 2, fused=fused)
        nn.init.normal_(attn.q_bias)
        nn.init.normal_(attn.v_bias)
        x = torch.randn(1, 5, 8)
        w = attn.qkv.weight if fused else torch.cat([attn.q.weight, attn.kv.weight])
        q, k, v = (x @ w.T).chunk(3, dim=-1)
        q, k, v = ((t).view(1, 5, 2, 4).transpose(1, 2) for t in (q + attn.q_bias, k, v + attn.v_bias))
        y = ((q * 4**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        torch.testing.assert_close(attn(x), attn.proj(y.transpose(1, 2).reshape(1, 5, 8)))


def test_positions_follow_the_flattened_index() -> None:
    table = sinusoid(7, 6)
    assert table.dtype == torch.float32 and table.shape == (7, 6)
    p, j = 5, 3
    assert float(table[p, j]) == pytest.approx(torch.tensor(p / 10000 ** (2 * (j // 2) / 6)).cos().item(), rel=1e-6)


def test_a_mask_becomes_ascending_indices_and_unequal_rows_are_refused() -> None:
    mask = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 1, 1, 1]], dtype=torch.bool)
    parts = split(mask)
    assert parts.visible.tolist() == [[1, 3], [0, 1]] and parts.hidden.tolist() == [[0, 2, 4], [2, 3, 4]]
    assert all(torch.equal(a, b) for a, b in zip(split(mask, 3), parts, strict=True))
    mask[0, 1] = True
    with pytest.raises(ValueError, match="equally many tokens, not 3-4"):
        split(mask)
    with pytest.raises(ValueError, match="some but not all"):
        split(torch.ones(2, 4, dtype=torch.bool))


def test_an_input_of_other_size_is_refused_with_both_shapes() -> None:
    m = create_model("videomae_base", dim=32, depth=1, heads=2, frames=4, size=16, patch=(2, 4, 4))
    with pytest.raises(ValueError, match=r"\(batch, 3, 4, 16, 16\), not \(1, 3, 8, 16, 16\)"):
        m(torch.zeros(1, 3, 8, 16, 16))


def test_decoder_masking_predicts_the_chosen_hidden_tokens_only() -> None:
    torch.manual_seed(0)
    small = {"dim": 32, "depth": 1, "heads": 2, "frames": 4, "size": 16, "patch": (2, 4, 4)}
    p = create_model("videomae_base", "pretrain", **small, decoder_dim=16, decoder_heads=1, decoder_depth=1)
    video = torch.randn(1, 3, 4, 16, 16)
    mask = torch.arange(32)[None] % 4 != 0
    every_other = torch.arange(32)[None] % 2 == 0  # visible tokens in it stay visible
    out = p(video, mask, decode=every_other).video
    assert out.shape == (1, 8, 96)
    assert torch.equal(p(video, mask, every_other, hidden=24, asked=8).video, out)
