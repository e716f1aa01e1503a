"""Plain numbers from an explicit `torch.Generator`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

__all__ = ["Draws"]


@dataclass(frozen=True)
class Draws:
    """Numbers drawn from `generator` (CPU); no other source of chance is touched."""

    generator: torch.Generator

    @classmethod
    def keyed(cls, words: str) -> Draws:
        """Those that belong to `words`, as seed, epoch and a clip's key: the same in any process and order."""
        digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
        return cls(torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """From [low, high)."""
        return low + (high - low) * torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def integer(self, high: int) -> int:
        """From 0 to high - 1."""
        return int(torch.randint(high, (), generator=self.generator))

    def normal(self, mean: float, std: float) -> float:
        """From the normal distribution."""
        return mean + std * torch.randn((), generator=self.generator, dtype=torch.float64).item()

    def beta(self, a: float, b: float) -> float:
        """From the beta distribution."""
        if a == b == 1:
            return self.uniform()
        # numpy's, because torch's gamma and beta sampling take no generator
        import numpy as np

        return float(np.random.default_rng(self.integer(2**63 - 1)).beta(a, b))

    def chance(self, probability: float) -> bool:
        """True with the given probability; 0 never, 1 always."""
        return self.uniform() < probability
