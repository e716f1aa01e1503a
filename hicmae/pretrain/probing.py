"""How far frozen features tell labels apart while a run goes on: by nearest neighbours and by a linear map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["features_of", "linear", "nearest"]

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]

NEIGHBOURS, TEMPERATURE = 20, 0.07
PENALTIES = 10.0 ** np.arange(-2, 6)


@torch.no_grad()
def features_of(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the encoder of a masked autoencoder makes of whole clips: means over its last tokens, those of both
    modalities (after fusion) one after the other.

    Args:
        inputs: normalised `video` (B, 3, T, H, W), `audio` (B, 1, F, K), as the model takes them.

    Returns:
        (B, D), D being the sum of the encoders' widths.
    """
    tokens = [model.part("encoder", modality)(inputs[modality]).tokens for modality in model.modalities]
    if len(tokens) == 2:
        tokens = model.encoder_fusion(*tokens)
    return torch.cat([x.mean(1) for x in tokens], -1).float()


def nearest(train: Rows, labels: Labels, test: Rows, classes: int) -> Labels:
    """Classes (M,) of features (M, D) by the 20 nearest, by cosine, of the features (N, D) with labels (N,).

    Each votes with exp(cosine / 0.07) (Wu et al. 2018, section 3.4; 20 neighbours as in DINO, Caron et al. 2021).
    """
    one, other = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (test, train))
    cosine = one @ other.T  # (M, N)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.exp((np.take_along_axis(cosine, near, 1) - 1) / TEMPERATURE)
    counts = np.zeros((len(test), classes))
    np.add.at(counts, (np.arange(len(test))[:, None], labels[near]), votes)
    return counts.argmax(1)


def linear(train: Rows, labels: Labels, test: Rows, classes: int) -> Labels:
    """Classes (M,) of features (M, D) by ridge regression onto the labels (N,) of features (N, D).

    Features are standardised by the training ones, and classes weigh alike however many clips they have. The penalty is
    the one of 10^-2 … 10^5 with the least squared error where each training clip is left out in turn, which is known in
    closed form (Golub, Heath and Wahba 1979).
    """
    mean, scale = train.mean(0), train.std(0) + 1e-6
    ridge = _Ridge((train - mean) / scale, labels, classes)
    penalty = min(PENALTIES, key=ridge.error)
    return ridge.values((test - mean) / scale, penalty).argmax(1)


class _Ridge:
    """Weighted ridge regression with an intercept onto K indicator variables, for any penalty."""

    def __init__(self, x: Rows, labels: Labels, classes: int) -> None:
        self.weight = 1.0 / np.bincount(labels, minlength=classes)[labels]
        self.weight /= self.weight.sum()
        y = np.eye(classes)[labels]
        self.x0, self.y0 = self.weight @ x, self.weight @ y
        root = np.sqrt(self.weight * len(x))[:, None]
        self.left, self.size, self.right = np.linalg.svd(root * (x - self.x0), full_matrices=False)
        self.wanted = root * (y - self.y0)
        self.turned = self.left.T @ self.wanted

    def error(self, penalty: float) -> float:
        """Mean squared error of the clips, each told by the others."""
        shrunk = self.size**2 / (self.size**2 + penalty)
        free = np.maximum(1 - self.left**2 @ shrunk - self.weight, 1e-9)
        return float((((self.wanted - self.left @ (shrunk[:, None] * self.turned)) / free[:, None]) ** 2).mean())

    def values(self, x: Rows, penalty: float) -> Rows:
        """(M, D) -> (M, K)."""
        slope = self.right.T @ ((self.size / (self.size**2 + penalty))[:, None] * self.turned)
        return (x - self.x0) @ slope + self.y0
