"""Training on two views of every clip, complete and incomplete: features that attract, and restore, each other.

Dual-level feature restoration of EMT-DLFR (Sun et al., IEEE Trans. Affective Computing, 2023), with a layer norm
in place of batch norms, so that a clip's loss does not depend on its batch, and no projector before the predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.datasets.transforms import Mix
from hicmae.finetune.beside import Accompanied
from hicmae.finetune.missing import Gaps, MissingConfig
from hicmae.models.base import Model
from hicmae.models.mae import SUFFIX
from hicmae.runtime.loop import Batch, Step

__all__ = ["TwoViews", "attraction", "restoration", "seen_twice"]

MODALITIES = ("video", "audio")


class TwoViews(Accompanied):
    """A model with what its losses between views need; a batch holds complete clips, then the same ones incomplete.

    Beside the model's outputs it returns `features` and `predicted` (2B, D), where there is attraction; and where
    there is restoration, by modality, `video` and `audio`: the tokens of complete clips before fusion, detached, and
    what is made of the incomplete ones' after fusion, (B, slots, tokens, D) each.
    """

    def __init__(self, core: Model, config: MissingConfig) -> None:
        norm: Any = core.fc_norm
        (width,) = norm.normalized_shape
        heads: dict[str, nn.Module] = {}
        if config.attract:
            inner = max(8, width // 4)
            first = nn.Linear(width, inner, bias=False)
            heads["predicted"] = nn.Sequential(first, nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, width))
        super().__init__(core, heads)
        self.restored: nn.ModuleDict = nn.ModuleDict()
        for modality in MODALITIES if config.restore else ():
            dim = getattr(core, f"encoder{SUFFIX[modality]}").dim
            self.restored[modality] = nn.Linear(dim, dim)

    def forward(self, *inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        """As the model."""
        core: Any = self.core
        met: list[Any] = []
        if len(self.restored):
            hook = core.encoder_fusion.register_forward_hook(lambda _, before, after: met.extend([before, after]))
        features = core.forward_features(*inputs)
        beside: dict[str, Any] = {name: head(features) for name, head in self.heads.items()}
        if beside:
            beside["features"] = features
        if len(self.restored):
            hook.remove()
            half = len(features) // 2
            for modality, before, after in zip(MODALITIES, *met, strict=True):
                slots = core.tower(modality).slots or 1
                made = self.restored[modality](after[half:])
                beside[modality] = [x.unflatten(1, (slots, -1)) for x in (before[:half].detach(), made)]
        return core.head(features), beside


def seen_twice(task: Any, model: nn.Module, shown: Sequence[Tensor | None], gaps: Gaps, batch: Batch, mix: Mix) -> Step:
    """The mean of a task's losses of complete and incomplete clips, and the weighted losses between them.

    Parts: those of the task on complete clips, `incomplete_loss`, and `attract` and `restore` without their weights.
    """
    config, inputs, has_audio = task.missing, task.inputs, batch.get("has_audio")
    pairs = zip(shown, gaps.of(shown), strict=True)
    video, audio = (None if x is None or y is None else torch.cat([x, y]) for x, y in pairs)
    lost = None if gaps.lost is None else torch.cat([torch.zeros_like(gaps.lost), gaps.lost])
    heard = None if has_audio is None else torch.cat([has_audio, has_audio])
    raw, beside = inputs.of_training(model, video, audio, heard, lost)
    complete, incomplete = (task.compare(half, batch, mix) for half in raw.chunk(2))
    parts = {**complete.parts, "incomplete_loss": incomplete.loss.detach()}
    loss = (complete.loss + incomplete.loss) / 2
    if config.attract:
        parts["attract"] = attraction(*beside["features"].chunk(2), *beside["predicted"].chunk(2))
    if config.restore:
        whole = torch.ones(len(raw), 2, dtype=torch.bool, device=raw.device)
        present = inputs.present(video, audio, heard, lost)
        there, left = (whole if present is None else present).chunk(2)
        terms = []
        for i, modality in enumerate(MODALITIES):
            before, made = beside[modality]  # (B, slots, tokens, D)
            gone = (there & ~left)[:, i, None].expand(-1, before.shape[1])  # (B, slots)
            blank = gaps.hidden[i]
            if blank is not None:
                gone = gone | (blank.unflatten(1, (before.shape[1], -1)).all(2) & there[:, i, None])
            terms.append(restoration(before, made, gone))
        parts["restore"] = torch.stack(terms).sum()
    for name in ("attract", "restore"):
        if name in parts:
            loss = loss + getattr(config, name) * parts[name]
            parts[name] = parts[name].detach()
    return Step(loss, parts)


def attraction(complete: Tensor, incomplete: Tensor, predicted: Tensor, predicted_incomplete: Tensor) -> Tensor:
    """SimSiam's loss between features of two views, (..., D), from -1 (alike) to 1: each is predicted from the other,
    which is not moved."""
    one = F.cosine_similarity(predicted_incomplete, complete.detach(), dim=-1).mean()
    other = F.cosine_similarity(predicted, incomplete.detach(), dim=-1).mean()
    return -(one + other) / 2


def restoration(wanted: Tensor, made: Tensor, gone: Tensor) -> Tensor:
    """Smooth L1 between tokens (B, slots, N, D), over each clip's slots that are `gone`, bool (B, slots), 0 for a clip
    without; the mean over clips, which is the same however they are shared among processes."""
    error = F.smooth_l1_loss(made, wanted.to(made.dtype), reduction="none").mean((2, 3))  # (B, slots)
    return ((error * gone).sum(1) / gone.sum(1).clamp_min(1)).mean()
