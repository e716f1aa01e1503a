"""What a model makes of clips before its head: gathered in the pass that predicts, and drawn as a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Features", "Map", "Tapped", "map_of"]

POINTS = 1000
"""Clips on a map at most: t-SNE of so many takes seconds, and more points hide each other."""
FEWEST = 30
"""Clips below which neighbourhoods, which t-SNE shows, mean nothing."""
NO_SKLEARN = 'principal components, because scikit-learn is not installed: pip install "hicmae[report]" gives t-SNE'


@dataclass
class Features:
    """Features (D,) of samples by number: those `wanted` (N,) bool, where the model has a head to look before."""

    wanted: NDArray[np.bool_]
    found: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of_clips(cls, clip: NDArray[np.int64], seed: int = 0) -> Features:
        """Those of all samples (N,) of at most `POINTS` clips, drawn from all with `seed`; `clip` numbers them."""
        count = int(clip.max()) + 1 if len(clip) else 0
        drawn = np.zeros(count, bool)
        drawn[np.random.default_rng(seed).permutation(count)[:POINTS]] = True
        return cls(drawn[clip])

    def add(self, numbers: Tensor, rows: Tensor) -> None:
        """Keep what is wanted of features (B, D), or (B, T, D) per frame, of samples (B,)."""
        means = (rows if rows.dim() == 2 else rows.mean(1)).float().cpu().numpy()
        self.found |= {n: row for n, row in zip(numbers.tolist(), means, strict=True) if self.wanted[n]}

    def by_clip(self, clip: NDArray[np.int64], number: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
        """Mean over the samples (M,) of each clip (M,): clip number -> (D,)."""
        parts: dict[int, list[NDArray[np.float32]]] = {}
        for c, n in zip(clip.tolist(), number.tolist(), strict=True):
            if n in self.found:
                parts.setdefault(c, []).append(self.found[n])
        return {c: np.mean(rows, 0) for c, rows in parts.items()}


class Tapped(nn.Module):
    """A model whose outputs (…, K) are followed by what its `head` was given, (…, K + D): one pass gives both.

    Rows that a caller reorders stay together; `split` takes them apart. A model without a head, or with one that is
    given something else than a vector per output, is left as it is, and so is any model with `on` False.
    """

    def __init__(self, model: nn.Module, on: bool = True) -> None:
        super().__init__()
        self.model, self.on, self.width = model, on, 0
        self._seen: Tensor | None = None
        self._hook: Any = None

    def __enter__(self) -> Tapped:
        head = getattr(self.model, "head", None)
        if self.on and isinstance(head, nn.Module):
            self._hook = head.register_forward_pre_hook(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _look(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._seen = given[0] if given and isinstance(given[0], Tensor) else None

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """As the model."""
        out, seen = self.model(*inputs), self._seen
        self._seen = None
        self.width = 0
        if seen is None or seen.shape[:-1] != out.shape[:-1]:
            return out
        self.width = seen.shape[-1]
        return torch.cat([out, seen.to(out.dtype)], -1)

    def split(self, both: Tensor) -> tuple[Tensor, Tensor | None]:
        """(…, K + D) -> (…, K) and (…, D), None where there are no features."""
        if not self.width:
            return both, None
        out, seen = both.split([both.shape[-1] - self.width, self.width], -1)
        return out, seen


@dataclass(frozen=True, kw_only=True)
class Map:
    """Clips as points of a plane, near where their features are near."""

    points: NDArray[np.float64]
    """(P, 2)."""
    how: str
    """What made it, in words."""


def map_of(rows: Sequence[NDArray[np.float32]] | NDArray[np.float32], seed: int = 0) -> Map | None:
    """A map of features (P, D), always the same for the same: t-SNE, of few clips principal components; None below 3.

    Perplexity is 30, or a third of the clips where they are fewer than 90. Features are first turned to their 50 main
    directions, which t-SNE needs none beyond.
    """
    x = np.asarray(rows, np.float64)
    if len(x) < 3 or not np.isfinite(x).all() or not np.ptp(x, 0).any():
        return None
    x = x - x.mean(0)
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    turned = (left * size)[:, :50]
    signs = np.sign(turned[np.abs(turned).argmax(0), np.arange(turned.shape[1])])  # svd leaves them open
    turned = turned * np.where(signs == 0, 1, signs)
    flat = np.zeros((len(x), 2))
    flat[:, : turned.shape[1]] = turned[:, :2]
    if len(x) < FEWEST:
        return Map(points=flat, how=f"principal components, because {len(x)} clips are too few for t-SNE")
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return Map(points=flat, how=NO_SKLEARN)
    perplexity = min(30.0, (len(x) - 1) / 3)
    # scaled as "pca" of scikit-learn scales it, without its random start
    start = flat / max(flat[:, 0].std(), 1e-12) * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=seed)
    points = tsne.fit_transform(turned.astype(np.float32))
    return Map(points=points.astype(np.float64), how=f"t-SNE, perplexity {perplexity:.3g}, seed {seed}")
