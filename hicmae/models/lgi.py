"""LGI-Former, the encoder of MAE-DFER (Sun et al., ACM MM 2023, section 3.2): local-global interaction.

Tokens are partitioned into regions; each region owns a learnt messenger token. A block is three calls of one
attention: inside every region, between the messengers of all regions, and from local tokens to all messengers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from hicmae.models.blocks import Attention, LayerNorm, Mlp, Stage, init_tokens, path, rates
from hicmae.models.encoder import Encoded, Encoder
from hicmae.models.tokens import gather

__all__ = ["LGI", "LGIBlock", "region_grid"]

Pool = Literal["region", "local", "all"]
First = Literal["self", "cross"]
Third = Literal["cross", "self"]
Share = Literal["none", "first_third", "all"]


class LGIBlock(nn.Module):
    """One block of local-global interaction on R regions of 1 + S tokens; slot 0 of a region is its messenger.

    What a last block need not compute because nothing reads it (`keep`) is skipped, and its parameters are frozen.

    Shapes:
        x: (B*R, 1+S, D) -> (B*R, 1+S, D), or (B*R, 1, D) where only messengers are read
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        *,
        regions: int,
        first: First = "self",
        second: bool = True,
        third: Third | None = "cross",
        share: Share = "none",
        keep: Pool = "all",
    ) -> None:
        super().__init__()
        self.regions, self.first, self.second, self.third, self.keep = regions, first, second, third, keep
        self.first_attn_norm0 = LayerNorm(dim)
        if first == "cross":
            self.first_attn_norm1 = LayerNorm(dim)
        self.first_attn = Attention(dim, heads)
        if second:
            self.second_attn_norm0 = LayerNorm(dim)
            self.second_attn = self.first_attn if share == "all" else Attention(dim, heads)
        if third is not None:
            self.third_attn_norm0 = LayerNorm(dim)
            if third == "cross":
                self.third_attn_norm1 = LayerNorm(dim)
            self.third_attn = self.first_attn if share != "none" else Attention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = path(drop_path)
        self._freeze_unread()

    def forward(self, x: Tensor) -> Tensor:
        """(B*R, 1+S, D) -> (B*R, 1+S, D) or (B*R, 1, D)."""
        x = self._inside_regions(x)
        m = x[:, 0].unflatten(0, (-1, self.regions))  # (B, R, D)
        if self.second and not self.skips_second:
            m = m + self.drop_path(self.second_attn(self.second_attn_norm0(m)))
        if x.shape[1] == 1:
            x = m.flatten(0, 1)[:, None]  # (B*R, 1, D)
        else:
            local = x[:, 1:].unflatten(0, (-1, self.regions)).flatten(1, 2)  # (B, R*S, D)
            if self.third == "cross":
                told = self.third_attn(self.third_attn_norm0(local), self.third_attn_norm1(m))
                local = local + self.drop_path(told)
            local = local.unflatten(1, (self.regions, -1)).flatten(0, 1)  # (B*R, S, D)
            x = torch.cat([m.flatten(0, 1)[:, None], local], dim=1)  # (B*R, 1+S, D)
        if self.third == "self":
            x = x + self.drop_path(self.third_attn(self.third_attn_norm0(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _inside_regions(self, x: Tensor) -> Tensor:
        """First attention: every token, or only the messenger, attends to the tokens of its region."""
        m = x[:, :1]  # (B*R, 1, D)
        if self.first == "cross":
            m = m + self.drop_path(self.first_attn(self.first_attn_norm0(m), self.first_attn_norm1(x[:, 1:])))
            return m if self.skips_third else torch.cat([m, x[:, 1:]], dim=1)
        h = self.first_attn_norm0(x)
        if self.skips_third:
            return m + self.drop_path(self.first_attn(h[:, :1], h))
        return x + self.drop_path(self.first_attn(h))

    @property
    def skips_third(self) -> bool:
        """Only messengers are read, and they do not depend on what the third attention would write."""
        return self.keep == "region" and self.third != "self"

    @property
    def skips_second(self) -> bool:
        """Only local tokens are read, and no third attention carries the messengers to them."""
        return self.keep == "local" and self.third is None

    def _freeze_unread(self) -> None:
        unread: list[nn.Module] = []
        if self.skips_third and self.third == "cross":
            unread += [self.third_attn_norm0, self.third_attn_norm1]
            unread += [self.third_attn] if self.third_attn is not self.first_attn else []
        if self.skips_second and self.second:
            unread += [self.second_attn_norm0]
            unread += [self.second_attn] if self.second_attn is not self.first_attn else []
        for module in unread:
            module.requires_grad_(False)


class LGI(Encoder):
    """LGI-Former; see `Encoder` for the arguments shared by all encoders.

    Args:
        region: tokens per region along each axis of the grid; None gives (2, H/2, W), for a filter bank (F/4, K).
        pool: what a full input returns: messengers `"region"`, patches `"local"` in raster order, or `"all"`.
        first: whether inside a region all tokens attend (`"self"`) or the messenger only (`"cross"`).
        second: attention between the messengers of all regions.
        third: how messages come back: local tokens attend to all messengers (`"cross"`), to their region
            (`"self"`), or not at all (None).
        share: which of a block's attentions are one: `"none"`, `"first_third"`, `"all"`.
        order: of visible tokens in the output, `"raster"` or as published `"region"`.

    Shapes:
        x: (B, C, *shape), visible: (B, V) or None -> tokens (B, V, D), or by `pool` (B, R, D), (B, N, D), (B, R+N, D)
    """

    def __init__(
        self,
        dim: int = 512,
        depth: int = 16,
        heads: int = 8,
        *,
        mlp_ratio: float = 4.0,
        frames: int = 16,
        size: int | Sequence[int] = 160,
        patch: Sequence[int] = (2, 16, 16),
        drop_path: float = 0.0,
        region: Sequence[int] | None = None,
        pool: Pool = "region",
        first: First = "self",
        second: bool = True,
        third: Third | None = "cross",
        share: Share = "none",
        norm: bool = False,
        order: Literal["raster", "region"] = "raster",
    ) -> None:
        super().__init__(dim, depth, heads, frames, size, patch)
        _one_of("pool", pool, ("region", "local", "all"))
        _one_of("first", first, ("self", "cross"))
        _one_of("third", third, ("cross", "self", None))
        _one_of("share", share, ("none", "first_third", "all"))
        if first == "cross" and third is None and pool == "local":
            raise ValueError("first='cross' with third=None never lets patches see each other: pool 'region' or 'all'")
        self.pool, self.order = pool, order
        self.region = _region(self.grid, region)
        self.region_grid = region_grid(self.grid, region)
        self._axes = dict(zip(("t", "h", "w"), self.region, strict=True))
        self._axes |= dict(zip(("nt", "nh", "nw"), self.region_grid, strict=True))
        self.regions = prod(self.region_grid)
        self.slots = self.grid[0] if pool == "local" else self.region_grid[0]
        self.lg_region_tokens = nn.Parameter(torch.zeros(self.regions, dim))
        self.blocks = nn.ModuleList(
            LGIBlock(
                *(dim, heads, mlp_ratio, rate),
                regions=self.regions,
                first=first,
                second=second,
                third=third,
                share=share,
                keep=pool if i == depth - 1 else "all",
            )
            for i, rate in enumerate(rates(drop_path, depth))
        )
        self.final_norm(norm)
        region_of = self._to_regions(torch.arange(self.pos.shape[0])[None, :, None])  # (R, S, 1) token numbers
        number = torch.arange(self.regions)[:, None].expand_as(region_of[..., 0])
        self.register_buffer("region_of", number.flatten()[region_of.flatten().argsort()], persistent=False)

    region_of: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None, levels: Sequence[int] = ()) -> Encoded:
        """(B, C, *shape), visible (B, V) or None -> see the class."""
        if visible is None:
            x = self._to_regions(self.embed(x, None))  # (B*R, S, D)
        else:
            if self.pool != "local":
                raise ValueError(
                    f"a masked input gives local tokens: create the encoder with pool='local', not {self.pool!r}"
                )
            visible = visible.gather(1, self.region_of[visible].argsort(dim=1, stable=True))  # region by region
            x = self.embed(x, visible).unflatten(1, (self.regions, -1)).flatten(0, 1)  # (B*R, S, D)
        messengers = self.lg_region_tokens.to(x.dtype).repeat(x.shape[0] // self.regions, 1)[:, None]  # (B*R, 1, D)
        x = torch.cat([messengers, x], dim=1)  # (B*R, 1+S, D)
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in levels:
                kept[i] = self.norm(self._pooled(x, visible))
        return Encoded(self.norm(self._pooled(x, visible)), tuple(kept[i] for i in levels))

    def _pooled(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """(B*R, 1+S, D) -> by `pool` (B, R, D), (B, R*S, D) or (B, R*(1+S), D)."""
        if self.pool == "region":
            return x[:, 0].unflatten(0, (-1, self.regions))
        if self.pool == "all":
            return x.unflatten(0, (-1, self.regions)).flatten(1, 2)
        return self._local(x, visible)

    def _local(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """(B*R, 1+S, D) -> (B, R*S, D) without messengers, in raster order (or as `order` says)."""
        x = x[:, 1:]
        if visible is None:
            return rearrange(x, "(b nt nh nw) (t h w) d -> b (nt t nh h nw w) d", **self._axes)
        x = x.unflatten(0, (-1, self.regions)).flatten(1, 2)  # (B, R*S, D)
        return gather(x, visible.argsort(dim=1)) if self.order == "raster" else x

    def _to_regions(self, x: Tensor) -> Tensor:
        """(B, N, D) in raster order -> (B*R, S, D)."""
        return rearrange(x, "b (nt t nh h nw w) d -> (b nt nh nw) (t h w) d", **self._axes)

    @property
    def mask_windows(self) -> tuple[int, int]:
        """(region height, region width) in patches; of a filter bank (region frames, region mels)."""
        return self.region[1:] if len(self.grid) == 3 else (self.region[0], self.region[2])

    def check_mask(self, mask: Tensor) -> None:
        """Raise ValueError unless every region of `mask` (B, N) hides equally many tokens."""
        counts = self._to_regions(mask[..., None].long()).sum(dim=(1, 2))  # (B*R,)
        if int(counts.min()) != int(counts.max()):
            raise ValueError(
                f"this LGI encoder needs a mask that hides equally many tokens in each of its {self.regions} regions "
                f"of {'x'.join(map(str, self.region))} patches; this one hides {int(counts.min())} to "
                f"{int(counts.max())}. Draw equal counts in windows of {self.mask_windows} patches "
                "(`model.mask_windows`)"
            )

    @torch.no_grad()
    def init_weights(self, stage: Stage) -> None:
        """Initialise as published, messengers included."""
        super().init_weights(stage)
        init_tokens(self.lg_region_tokens, stage)

    def no_weight_decay(self) -> set[str]:
        """The messengers."""
        return {"lg_region_tokens"}

    def layer_of(self, name: str, published: bool = False) -> int | None:
        """As for every encoder; messengers belong to the embedding (as published: to the end)."""
        if name == "lg_region_tokens" and not published:
            return 0
        return super().layer_of(name, published)


def region_grid(grid: tuple[int, ...], region: Sequence[int] | None) -> tuple[int, int, int]:
    """How many regions lie along time, height and width of a token grid."""
    volume, sizes = _as_volume(grid), _region(grid, region)
    return (volume[0] // sizes[0], volume[1] // sizes[1], volume[2] // sizes[2])


def _one_of(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def _as_volume(grid: Sequence[int]) -> tuple[int, int, int]:
    """A grid as (t, h, w); a filter bank has time and mel only."""
    return (grid[0], grid[1], grid[2]) if len(grid) == 3 else (grid[0], 1, grid[1])


def _region(grid: tuple[int, ...], region: Sequence[int] | None) -> tuple[int, int, int]:
    """The region as (t, h, w) tokens, checked against the grid."""
    volume = _as_volume(grid)
    if region is None:
        region = (2, volume[1] // 2, volume[2]) if len(grid) == 3 else (max(volume[0] // 4, 1), volume[2])
    if len(region) != len(grid):
        raise ValueError(f"region {tuple(region)} must have one size per axis of the token grid {grid}")
    sizes = _as_volume(region)
    for axis, n, size in zip(("time", "height", "width"), volume, sizes, strict=True):
        if size < 1 or n % size:
            valid = [d for d in range(1, n + 1) if n % d == 0]
            near = sorted(sorted(valid, key=lambda d: abs(d - size))[:3])
            raise ValueError(
                f"a region of {size} tokens does not divide the {n} tokens along {axis}; nearest are {near}"
            )
    return sizes
