"""The systems written down a second time, in plain functions of a state dict, as the published code goes about it.

Nothing here is shared with the library: regions are batch rows that are written back in place, attention is spelt
out, nothing is skipped. Names are ours without the leading `encoder.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def part(state: State, prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def norm(x: Tensor, p: State) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-6) * p["weight"] + p["bias"]


def attend(x: Tensor, p: State, heads: int, memory: Tensor | None = None) -> Tensor:
    dim, width = p["q_bias"].numel(), p["q_bias"].numel() // heads
    if "qkv.weight" in p:
        q, k, v = (x @ w.T for w in p["qkv.weight"].split(dim))
    else:
        k, v = ((x if memory is None else memory) @ w.T for w in p["kv.weight"].split(dim))
        q = x @ p["q.weight"].T
    q, v = (q + p["q_bias"]) * width**-0.5, v + p["v_bias"]
    out = torch.cat(
        [
            (q[..., s] @ k[..., s].transpose(-2, -1)).softmax(-1) @ v[..., s]
            for s in (slice(h * width, (h + 1) * width) for h in range(heads))
        ],
        dim=-1,
    )
    return out @ p["proj.weight"].T + p["proj.bias"]


def mlp(x: Tensor, p: State) -> Tensor:
    h = x @ p["fc1.weight"].T + p["fc1.bias"]
    return (h * 0.5 * (1 + torch.erf(h / 2**0.5))) @ p["fc2.weight"].T + p["fc2.bias"]


def block(x: Tensor, p: State, heads: int, memory: Tensor | None = None) -> Tensor:
    if memory is not None:
        x = x + attend(
            norm(x, part(p, "cross_norm1.")), part(p, "cross_attn."), heads, norm(memory, part(p, "cross_norm2."))
        )
    x = x + attend(norm(x, part(p, "norm1.")), part(p, "attn."), heads)
    return x + mlp(norm(x, part(p, "norm2.")), part(p, "mlp."))


def embed(x: Tensor, p: State, patch: tuple[int, ...]) -> Tensor:
    conv = F.conv3d if len(patch) == 3 else F.conv2d
    tokens = conv(x, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=patch).flatten(2).transpose(1, 2)
    _, n, dim = tokens.shape
    angle = torch.tensor(
        [[i / 10000 ** (2 * (j // 2) / dim) for j in range(dim)] for i in range(n)], dtype=torch.float64
    )
    even = torch.arange(dim) % 2 == 0
    return tokens + torch.where(even, angle.sin(), angle.cos()).float().to(tokens.dtype)


def lgi_block(x: Tensor, p: State, heads: int, regions: int, switches: Mapping[str, Any]) -> Tensor:
    """One block on (B*R, 1+S, C), each step written back into x."""
    x = x.clone()
    h = norm(x, part(p, "first_attn_norm0."))
    if switches["first"] == "self":
        x = x + attend(h, part(p, "first_attn."), heads)
    else:
        memory = norm(x[:, 1:], part(p, "first_attn_norm1."))
        x[:, :1] = x[:, :1] + attend(h[:, :1], part(p, "first_attn."), heads, memory)
    m = x[:, 0].reshape(-1, regions, x.shape[-1])
    if switches["second"]:
        m = m + attend(norm(m, part(p, "second_attn_norm0.")), part(p, "second_attn."), heads)
        x[:, 0] = m.flatten(0, 1)
    if switches["third"] == "cross":
        local = x[:, 1:].reshape(len(m), -1, x.shape[-1])
        memory = norm(m, part(p, "third_attn_norm1."))
        local = local + attend(norm(local, part(p, "third_attn_norm0.")), part(p, "third_attn."), heads, memory)
        x[:, 1:] = local.reshape(x[:, 1:].shape)
    elif switches["third"] == "self":
        x = x + attend(norm(x, part(p, "third_attn_norm0.")), part(p, "third_attn."), heads)
    return x + mlp(norm(x, part(p, "norm2.")), part(p, "mlp."))


def lgi(
    x: Tensor,
    p: State,
    depth: int,
    heads: int,
    patch: tuple[int, ...],
    region: tuple[int, ...],
    switches: Mapping[str, Any],
) -> Tensor:
    """Tokens (B, R, 1+S, C) of a full video after all blocks."""
    b, _, *shape = x.shape
    (t, h, w), (rt, rh, rw) = (n // s for n, s in zip(shape, patch, strict=True)), region
    tokens = embed(x, p, patch)
    rows = []
    for sample in tokens.reshape(b, t, h, w, -1):
        for i in range(0, t, rt):
            for j in range(0, h, rh):
                for k in range(0, w, rw):
                    rows.append(sample[i : i + rt, j : j + rh, k : k + rw].reshape(rt * rh * rw, -1))
    regions = len(rows) // b
    y = torch.cat([p["lg_region_tokens"].repeat(b, 1)[:, None], torch.stack(rows)], dim=1)
    for i in range(depth):
        y = lgi_block(y, part(p, f"blocks.{i}."), heads, regions, switches)
    return y.reshape(b, regions, *y.shape[1:])


def tpsbt(
    x: Tensor, p: State, stages: tuple[int, ...], heads: int, patch: tuple[int, ...], visible: Tensor | None
) -> Tensor:
    """SVFAP's encoder: tokens of the last stage, or for `visible` (B, V) the sum of all stages (before the norm)."""
    steps = x.shape[2] // patch[0]
    x = embed(x, p, patch)
    if visible is not None:
        x = torch.stack([sample[index] for sample, index in zip(x, visible, strict=True)])
    number, total = 0, torch.zeros_like(x)
    for stage, depth in enumerate(stages):
        if stage == 0:
            for _ in range(depth):
                x = block(x, part(p, f"blocks.{number}."), heads)
                number += 1
        else:
            conv = part(p, f"temporal_downsamples.{stage - 1}.")
            b, _, c = x.shape
            series = x.reshape(b, steps, -1, c).permute(0, 2, 3, 1).flatten(0, 1)
            steps //= 2
            u = F.conv1d(series, conv["weight"], conv["bias"], stride=2).reshape(b, -1, c, steps).permute(0, 3, 1, 2)
            down = part(p, f"spatial_downsamples.{stage - 1}.")
            weights = mlp(norm(u, part(down, "norm.")), part(down, "mlp.")).softmax(2)
            few = torch.einsum("btsk,btsc->btkc", weights, u).flatten(1, 2)
            u = u.flatten(1, 2)
            for _ in range(depth - 1):
                few = block(few, part(p, f"blocks.{number}."), heads, u)
                number += 1
            x = block(u, part(p, f"blocks.{number}."), heads, few)
            number += 1
        if visible is not None:
            scale = x.reshape(x.shape[0], steps, -1, x.shape[-1])
            total = total + scale.repeat_interleave(2**stage, dim=1).flatten(1, 2)
    return x if visible is None else total


def hicmae(
    video: Tensor, audio: Tensor, p: State, depths: tuple[int, int], heads: int, patches: list[tuple[int, ...]]
) -> Tensor:
    """Logits of HiCMAE's fine-tuning form."""
    last, weighted = [], []
    for x, prefix, name, depth, patch in zip(
        (video, audio), ("encoder.", "encoder_audio."), ("video", "audio"), depths, patches, strict=True
    ):
        q = part(p, prefix)
        y, means = embed(x, q, patch), []
        for i in range(depth):
            y = block(y, part(q, f"blocks.{i}."), heads)
            means.append(norm(y, part(q, "norm.")).mean(1))
        weights = p[f"{name}_layer_weights"].exp() / p[f"{name}_layer_weights"].exp().sum()
        weighted.append(sum(weight * mean for weight, mean in zip(weights, means, strict=True)))
        last.append(norm(y, part(q, "norm.")))
    q = part(p, "encoder_fusion.")
    v, a = last
    for i in range(len({key.split(".")[1] for key in q if key.startswith("blocks.")})):
        v, a = block(v, part(q, f"blocks.{i}."), heads, a), block(a, part(q, f"blocks_audio.{i}."), heads, v)
    fused = [norm(v, part(q, "norm.")).mean(1), norm(a, part(q, "norm_audio.")).mean(1)]
    return norm(torch.cat([*weighted, *fused], 1), part(p, "fc_norm.")) @ p["head.weight"].T + p["head.bias"]


def positions(n: int, dim: int) -> Tensor:
    return embed(
        torch.zeros(1, 1, n, 1),
        {"patch_embed.proj.weight": torch.zeros(dim, 1, 1, 1), "patch_embed.proj.bias": torch.zeros(dim)},
        (1, 1),
    )[0]


def decode(tokens: Tensor, mask: Tensor, p: State, end: str, heads: int, skips: list[Tensor] | None = None) -> Tensor:
    """Predictions for the hidden tokens of each sample, from visible tokens in raster order (`end`: name suffix)."""
    q = part(p, f"decoder{end}.")
    width = q["norm.weight"].numel()
    pos = positions(mask.shape[1], width).to(tokens.dtype)
    down = p[f"encoder_to_decoder{end}.weight"]
    out = []
    for i, hidden in enumerate(mask):
        seen, unseen = pos[~hidden], pos[hidden]
        x = torch.cat([tokens[i] @ down.T + seen, p[f"mask_token{end}"][0] + unseen])[None]
        depth = len({key.split(".")[1] for key in q if key.startswith("blocks.")})
        for k in range(depth):
            memory = None if skips is None or k == 0 else (skips[-k][i] @ down.T + seen)[None]
            x = block(x, part(q, f"blocks.{k}."), heads, memory)
        x = norm(x[0, len(seen) :], part(q, "norm."))
        out.append(x @ q["head.weight"].T + q["head.bias"])
    return torch.stack(out)
