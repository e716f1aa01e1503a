"""What a pretraining run shows of itself on a schedule: reconstructions, a map of its features, how well they tell.

Nothing of it changes training: no generator moves, no mode stays changed, and what cannot be drawn is said, not raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hicmae.configs.errors import ConfigError
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Batch, evaluate_batches
from hicmae.datasets.sampling import View, eval_views
from hicmae.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from hicmae.pretrain import picture, probing, rebuilt
from hicmae.pretrain.config import PretrainConfig
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError, say
from hicmae.runtime.loop import Stream, to_device
from hicmae.runtime.metrics import confusion_matrix, scores

__all__ = ["Watcher", "watcher_for"]

BATCH, SPRITE = 16, 48  # clips of a forward pass; pixels


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was made of N clips."""

    features: NDArray[np.float64]
    """(N, D)."""
    labels: NDArray[np.int64]
    """(N,), -1 without."""
    words: list[list[str]]
    """N times label, group, key."""
    sprites: NDArray[np.float32]
    """(N, 3, 48, 48) small pictures in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Called after every epoch; looks after each `watch.every`-th, and after the last."""

    config: PretrainConfig
    place: Place
    parts: Any
    """What is reconstructed, as objectives say it; none where no picture is wanted."""
    view: View
    clips: Index
    """Those drawn."""
    points: Index | None
    """Those on the map."""
    probe: tuple[Index, Index] | None
    """Labelled clips whose features are known, and those whose labels are told from them."""
    steps_per_epoch: int

    def __call__(self, epoch: int, model: Any) -> dict[str, float]:
        """Look at the model after epoch number `epoch`; the probes' figures, from the first process."""
        watch = self.config.watch
        if (epoch + 1) % watch.every and epoch + 1 < self.config.loop.epochs:
            return {}
        step, training, found = (epoch + 1) * self.steps_per_epoch, model.training, {}
        model.eval()
        if self.probe is not None:
            train, test = (self._seen(model, index) for index in self.probe)
            if train is not None and test is not None and self.place.first:
                found = _figures(train, test, len(self.probe[0].classes))
        points = None if self.points is None else self._seen(model, self.points)
        if self.place.first:
            try:
                self._show(model, points, step)
            except (UserError, OSError) as error:
                say(f"watching at step {step}: {error}; training goes on")
        model.train(training)
        return found

    def _seen(self, model: Any, index: Index) -> Seen | None:
        """Features of clips, each process those of its part; the same in all of them, None where one failed."""
        mine: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]] | str
        try:
            mine = [
                (
                    probing.features_of(model, batch).double().cpu().numpy(),
                    batch["number"].cpu().numpy(),
                    _sprites(batch).numpy(),
                )
                for batch in self._batches(index, BATCH, self.place.rank, self.place.world)
            ]
        except (UserError, OSError) as error:
            mine = str(error)
        parts = self.place.gather(mine)
        problem = next((part for part in parts if isinstance(part, str)), None)
        columns = list(zip(*(batch for part in parts if isinstance(part, list) for batch in part), strict=True))
        if problem is not None or not columns:
            if self.place.first:
                say(f"watching {index.folder}: {problem or 'no clip'}; training goes on")
            return None
        features, numbers, sprites = (np.concatenate(column) for column in columns)
        if self.place.first and len(numbers) < len(index):
            say(f"watching {index.folder}: {len(index) - len(numbers)} of {len(index)} clips cannot be used")
        labels = index.labels[numbers]
        names = [index.classes[label] if label >= 0 else "" for label in labels]
        words = [[name, str(index.groups[n] or ""), str(index.keys[n])] for name, n in zip(names, numbers, strict=True)]
        return Seen(features=features, labels=labels, words=words, sprites=sprites)

    def _batches(self, index: Index, size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        workers = self.config.data.workers if len(index) > 4 * BATCH else 0
        where: dict[str, int] = {"rank": rank, "world": world, "workers": workers}
        for batch in evaluate_batches(index, [self.view], batch_size=size, max_bad_share=1.0, **where):
            yield to_device(batch, self.place.device)

    def _show(self, model: Any, points: Seen | None, step: int) -> None:
        # imported here because it takes a second; a folder of its own, since TensorBoard follows one file per folder
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(self.config.out) / "tensorboard" / "watch"
        with contextlib.closing(SummaryWriter(str(folder), purge_step=step)) as board:
            if self.parts:
                sheet = self._sheet(model, step)
                picture.write(sheet, Path(self.config.out) / "watch" / f"step-{step:08d}.png")
                board.add_image("reconstructions", np.asarray(sheet), step, dataformats="HWC")
            if points is not None:
                _project(board, folder, points, step)

    def _sheet(self, model: Any, step: int) -> Any:
        """The clips' rows under each other; what is hidden of a clip is the same at every look."""
        rows: list[picture.Row] = []
        frames = [0] * picture.COLUMNS
        for batch in self._batches(self.clips, 1):
            inputs = dict(batch)
            if "video" in batch:
                inputs["video"] = (_colours(batch["video"]) * 255).round().byte()
                frames = picture.frames_shown(batch["video"].shape[2])
            found = rebuilt.rebuild(model, self.parts, inputs, int(batch["number"]))
            for row in found:
                if "motion" not in row.title:
                    shown = row.frames if len(row.frames) == 1 else row.frames[frames]
                    note = batch["key"][0][-60:] if row is found[0] else row.note
                    rows.append(dataclasses.replace(row, frames=shown, note=note))
        hidden = ", ".join(f"{getattr(part.mask, part.share):.0%} of the {part.share}" for part in self.parts)
        return picture.sheet(
            rows=rows,
            columns=[f"frame {frame + 1}" for frame in frames] if "video" in batch else [""] * len(frames),
            title=f"step {step:,}",
            caption=f"{self.config.model}; {hidden} hidden",
            footnote=picture.footnote(self.config.target.normalise),
        )


def watcher_for(config: PretrainConfig, model: Any, stream: Stream, place: Place) -> Watcher:
    """What `config.watch` asks for, with everything read that can be wrong.

    Raises:
        ConfigError: no labelled clips to probe, other classes to be told than learnt, a reconstruction that cannot be
            drawn; UserError: no such shards.
    """
    watch, hears = config.watch, model.audio_grid is not None
    own: Index = stream.index  # type: ignore[attr-defined]
    clips = _open(watch.clips, hears, "watch.clips") if watch.clips else own
    probe = _probe(config, hears) if watch.probe else None
    parts: Any = ()
    if watch.pictures:
        mask = dataclasses.replace(config.mask, decode=None)
        try:
            parts = rebuilt.parts_of(model, mask=mask, target=config.target, seed=config.seed)
        except UserError as error:
            raise ConfigError(f"watch.pictures: {error}; set it to 0") from None
    sound = config.sound.shaped(model.audio_grid, model.audio_patch) if hears else None
    shape = (config.data.frames, config.data.stride, config.data.size)
    (view,) = eval_views(*shape, 1, sound, need_sound=hears, see=model.grid is not None)
    return Watcher(
        config=config,
        place=place,
        parts=parts,
        view=view,
        clips=_evenly(clips, watch.pictures),
        points=_evenly(clips if probe is None else probe[1], watch.points) if watch.points else None,
        probe=probe,
        steps_per_epoch=stream.steps_per_epoch,
    )


def _probe(config: PretrainConfig, hears: bool) -> tuple[Index, Index]:
    """Labelled clips to learn from, and to tell: another list, or a quarter of the groups (of the videos)."""
    watch = config.watch
    known = _labelled(_open(watch.probe, hears, "watch.probe"), "watch.probe")
    if not watch.probe_test:
        return known.where("quarter!=1"), known.where("quarter=1")
    asked = _labelled(_open(watch.probe_test, hears, "watch.probe_test"), "watch.probe_test")
    if asked.classes != known.classes:
        raise ConfigError(
            f"watch.probe_test: its classes are {', '.join(asked.classes)}, those of watch.probe "
            f"{', '.join(known.classes)}; label both alike"
        )
    return known, asked


def _open(folders: list[str], hears: bool, key: str) -> Index:
    index = Index.join([Index.load(folder) for folder in folders])
    if hears and not index.audible.any():
        raise ConfigError(
            f"{key}: none of the {len(index):,} clips of {index.folder} can be heard, and the model hears"
        )
    return index.select(index.audible) if hears else index


def _labelled(index: Index, key: str) -> Index:
    named = index.labels >= 0
    if len(np.unique(index.labels[named])) < 2:
        raise ConfigError(
            f"{key}: the clips of {index.folder} have no labels of two classes to be told apart; shard them with "
            "--labels, or leave the key out"
        )
    return index.select(named)


def _evenly(index: Index, count: int) -> Index:
    """At most so many clips, spread over the index."""
    mask = np.zeros(len(index), bool)
    mask[np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)] = True
    return index.select(mask)


def _figures(train: Seen, test: Seen, classes: int) -> dict[str, float]:
    if not (np.isfinite(train.features).all() and np.isfinite(test.features).all()):
        say("watching: features are not finite, and nothing can be told from them; training goes on")
        return {}
    found: dict[str, float] = {}
    for name, tell in (("knn", probing.nearest), ("linear", probing.linear)):
        told = tell(train.features, train.labels, test.features, classes)
        score = scores(confusion_matrix(test.labels, told, classes))
        found |= {f"probe_{name}_uar": score.uar, f"probe_{name}_war": score.war}
    return found


def _colours(video: Tensor) -> Tensor:
    """Normalised video (B, 3, …) in [0, 1] again."""
    mean, std = (
        video.new_tensor(values).view(1, 3, *([1] * (video.dim() - 2))) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (video * std + mean).clamp(0, 1)


def _sprites(batch: Batch) -> Tensor:
    """A small picture of each clip, (B, 3, 48, 48) in [0, 1]: its middle frame, or its sound where it has none."""
    if "video" in batch:
        video = batch["video"]
        pictures = _colours(video[:, :, video.shape[2] // 2])
    else:
        sound = batch["audio"].cpu()
        pictures = torch.cat([rebuilt.coloured(x[0], x.min(), x.max()) for x in sound]).permute(0, 3, 1, 2)
    return F.interpolate(pictures.float(), (SPRITE, SPRITE), mode="area").cpu()


def _project(board: Any, folder: Path, points: Seen, step: int) -> None:
    """Features, words and sprites for TensorBoard's projector, beside those of earlier looks."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    shutil.rmtree(folder / f"{step:05d}", ignore_errors=True)  # of a run that was killed and does this again
    before, listed = ProjectorConfig(), folder / "projector_config.pbtxt"
    if listed.is_file():
        text_format.Parse(listed.read_text(encoding="utf-8"), before)
        kept = [info for info in before.embeddings if int(info.tensor_name.rpartition(":")[2]) < step]
        before = ProjectorConfig(embeddings=kept)
    board._projector_config = before  # a writer lists only what it wrote itself
    board.add_embedding(
        torch.from_numpy(points.features).float(),
        metadata=points.words,
        label_img=torch.from_numpy(points.sprites),
        global_step=step,
        tag="features",
        metadata_header=["label", "group", "key"],
    )
