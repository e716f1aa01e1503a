"""How far a classifier's confidence can be believed: expected calibration error, and two proper scores beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Bin", "Calibration", "calibration", "pooled_calibration"]

BINS = 15
TINY = 1e-12  # a probability of 0 given to the truth would make the log score infinite


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The clips whose confidence, the probability of the predicted class, lies in (low, high]."""

    low: float
    high: float
    clips: int
    confidence: float
    """Mean confidence; 0 without clips."""
    accuracy: float
    """Share of the clips that are right; 0 without clips."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Confidence against correctness of N clips."""

    ece: float
    """Expected calibration error (Guo et al. 2017): the distance of accuracy and mean confidence of each bin, averaged
    by clips."""
    nll: float
    """Mean of -log of the probability given to the truth, in nats."""
    brier: float
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 … 2."""
    bins: tuple[Bin, ...]
    """Of equal width, from 0 to 1."""

    @property
    def clips(self) -> int:
        """How many there are."""
        return sum(part.clips for part in self.bins)

    @property
    def confidence(self) -> float:
        """Mean confidence."""
        return sum(part.clips * part.confidence for part in self.bins) / self.clips

    @property
    def accuracy(self) -> float:
        """Share of the clips that are right."""
        return sum(part.clips * part.accuracy for part in self.bins) / self.clips

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        gap = self.confidence - self.accuracy
        way = "too sure" if gap > 0.02 else "not sure enough" if gap < -0.02 else "about as sure as it is right"
        return (
            f"calibration: ECE {100 * self.ece:.2f} % ({len(self.bins)} bins), mean confidence "
            f"{100 * self.confidence:.1f} %, right {100 * self.accuracy:.1f} % ({way}); NLL {self.nll:.4f}, "
            f"Brier {self.brier:.4f}"
        )


def calibration(probabilities: NDArray[np.floating], truth: NDArray[np.int64], bins: int = BINS) -> Calibration:
    """Calibration of probabilities (N, K) of classes (N,). Raises ValueError for other shapes and for no clips."""
    p, t = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    if p.ndim != 2 or t.shape != p.shape[:1] or not p.size:
        raise ValueError(f"probabilities (N, K) and classes (N,) are needed, not {p.shape} and {t.shape}")
    confidence, right = p.max(1), p.argmax(1) == t
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    clips, sure, hits = (np.bincount(place, weight, bins) for weight in (None, confidence, right.astype(np.float64)))
    given, target = p[np.arange(len(t)), t], np.eye(p.shape[1])[t]
    return _of_sums(
        clips,
        sure,
        hits,
        nll=float(-np.log(np.maximum(given, TINY)).mean()),
        brier=float(((p - target) ** 2).sum(1).mean()),
    )


def pooled_calibration(parts: Sequence[Mapping[str, Any]]) -> Calibration:
    """That of all clips together, from `to_dict` of several parts; exact. Raises ValueError for none or other bins."""
    if not parts or len({len(part["bins"]) for part in parts}) > 1:
        raise ValueError("calibration is pooled of parts with equally many bins")
    table = np.array(
        [[[b["clips"], b["confidence"], b["accuracy"]] for b in part["bins"]] for part in parts], np.float64
    )
    clips = table[:, :, 0]
    nll, brier = (np.average([part[name] for part in parts], weights=clips.sum(1)) for name in ("nll", "brier"))
    sure, hits = ((clips * table[:, :, n]).sum(0) for n in (1, 2))
    return _of_sums(clips.sum(0), sure, hits, nll=float(nll), brier=float(brier))


def _of_sums(clips: NDArray, sure: NDArray, hits: NDArray, *, nll: float, brier: float) -> Calibration:
    """From sums over the clips of each bin."""
    count = np.maximum(clips, 1)
    edges = np.linspace(0, 1, len(clips) + 1).tolist()
    means = zip(edges, edges[1:], clips, sure / count, hits / count, strict=False)
    parts = tuple(
        Bin(low=low, high=high, clips=int(n), confidence=float(mean), accuracy=float(share))
        for low, high, n, mean, share in means
    )
    return Calibration(ece=float(np.abs(hits - sure).sum() / clips.sum()), nll=nll, brier=brier, bins=parts)
