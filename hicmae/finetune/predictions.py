"""Multi-view prediction of every sample exactly once, however many processes share the work."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import evaluate_batches
from hicmae.datasets.sampling import View, eval_views
from hicmae.finetune.embedding import Features, Tapped
from hicmae.finetune.inputs import Inputs, sound_of
from hicmae.finetune.outputs import Outputs
from hicmae.runtime.dist import Place
from hicmae.runtime.log import progress

__all__ = ["clips_of", "predict_index"]


@torch.no_grad()
def predict_index(
    model: nn.Module,
    index: Index,
    place: Place,
    *,
    frames: int,
    stride: int,
    size: int,
    segments: int,
    inputs: Inputs | None = None,
    outputs: Outputs | None = None,
    sound: SoundConfig | None = None,
    features: Features | None = None,
    batch_size: int = 16,
    workers: int = 0,
    max_bad_share: float = 0.01,
    around: Callable[[View], View] | None = None,
    bar: Any = None,
    show: bool = True,
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, str]]]:
    """Probabilities and numbers of every sample, in every process the same: made per view, mean over views.

    Returns numbers (M,) of the samples that could be read, ascending, their outputs (M, K), and (key, reason) of the
    others. Each sample is read by one process, once.

    Args:
        inputs: what the model is given; all it takes when absent.
        outputs: what its outputs mean; logits of one class when absent.
        sound: what it hears; the published statistics when absent.
        around: makes of each view the one that is used.
        bar: a progress bar of clips to be moved on instead of one of its own.
        features: filled with what the head was given, mean over views (and frames), in the same pass.
    """
    inputs, outputs = inputs or Inputs.of(model), outputs or Outputs()
    sound = (sound or sound_of(model, None)) if inputs.audio else None
    views = eval_views(frames, stride, size, segments, sound, need_sound=inputs.need_audio, see=inputs.video)
    views = tuple(map(around, views)) if around is not None else views
    numbers: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    skipped: list[tuple[str, str]] = []
    problem: str | None = None
    model.eval()
    share = len(index) * (place.rank + 1) // place.world - len(index) * place.rank // place.world
    tapped = Tapped(model, features is not None)
    own = (
        progress(total=share, desc="evaluate", unit="clip", show=show and place.first)
        if bar is None
        else nullcontext(bar)
    )
    with own as bar, tapped:
        batches = evaluate_batches(
            index,
            views,
            batch_size=batch_size,
            rank=place.rank,
            world=place.world,
            workers=workers,
            max_bad_share=max_bad_share,
        )
        try:
            for batch in batches:
                given = (batch.get(name) for name in ("video", "audio", "has_audio"))
                moved = (None if x is None else x.to(place.device, non_blocking=True) for x in given)
                raw, seen = tapped.split(inputs.of_evaluation(tapped, *moved))  # (B * V, K) or (B * V, T, K)
                if features is not None and seen is not None:
                    features.add(batch["number"][::segments], seen.unflatten(0, (-1, segments)).mean(1))
                merged = outputs(raw.double()).unflatten(0, (-1, segments)).mean(1)  # (B, K)
                numbers.append(batch["number"][::segments].numpy())
                values.append(merged.cpu().numpy())
                skipped += batch["skipped"]
                bar.update(len(merged) + len(batch["skipped"]))
        except UserError as error:  # told to all, or the others would wait for ever
            problem = str(error)
    gathered = place.gather((problem, numbers, values, skipped, features.found if features is not None else {}))
    for told, *_ in gathered:
        if told is not None:
            raise UserError(told)
    if features is not None:
        features.found = {n: row for part in gathered for n, row in part[4].items()}
    number = np.concatenate([n for part in gathered for n in part[1]])
    found = np.concatenate([v for part in gathered for v in part[2]])
    skipped = [pair for part in gathered for pair in part[3]]
    order = np.argsort(number, kind="stable")
    number = number[order]
    if len(np.unique(number)) != len(number) or len(number) + len(skipped) != len(index):
        raise RuntimeError(f"{len(number)} predictions and {len(skipped)} skips for {len(index)} samples")
    return number, found[order], skipped


def clips_of(index: Index, number: NDArray[np.int64], truth: Sequence[Hashable] | None = None) -> NDArray[np.int64]:
    """Which samples are views of one video: (M,) sample numbers -> (M,) clip numbers in order of appearance.

    A long video lies in the shards as several samples. Where its samples differ in `truth` (M,), their label when it
    is absent, it is a recording of several clips, and they stay apart.
    """
    truth = index.labels[number].tolist() if truth is None else truth
    folder = [index.shards[s].path.parent for s in index.shard[number]]
    videos = list(zip(folder, index.sources[number], strict=True))
    told: dict[Any, set[Hashable]] = {}
    for video, label in zip(videos, truth, strict=True):
        told.setdefault(video, set()).add(label)
    seen: dict[Any, int] = {}
    return np.array(
        [
            seen.setdefault(video if len(told[video]) == 1 else (video, n), len(seen))
            for video, n in zip(videos, number.tolist(), strict=True)
        ],
        np.int64,
    )
