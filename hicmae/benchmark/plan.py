"""What a benchmark compares: checkpoints, corpora, how each is divided, and the cells of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicmae import configs
from hicmae.configs.errors import ConfigError, UserError
from hicmae.configs.options import join_options
from hicmae.datasets.index import Index
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.folds import jobs_of
from hicmae.models import list_models
from hicmae.models.factory import arguments_for, model_arguments
from hicmae.runtime.checkpoint import read_weights, weights_file

__all__ = ["CROSS", "WAYS", "Cell", "Checkpoint", "Corpus", "Part", "cells_of", "open_checkpoints", "open_corpora"]

WAYS = {"finetune": "full", "linear": "linear", "attentive": "attentive", "lora": "lora"}
"""Ways to adapt a checkpoint to a corpus -> `adapt.kind` of its recipe."""
CROSS = "cross"
"""The fine-tuned model of one corpus, tested on another with the same labels."""
DECIDED = ("model", "init", "seed", "data.train", "data.test", "adapt.kind", "out")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights to start from, or a model without any."""

    name: str
    """In the table and in folders."""
    source: str
    """As the user named it."""
    model: str
    """Its fine-tuning form."""
    file: Path | None
    """The weights; None: fresh ones."""
    meta: Mapping[str, Any]
    """What the file says of itself."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it takes."""
        known = model_arguments(self.model, "finetune")
        return tuple(name for name, key in (("video", "frames"), ("audio", "audio_frames")) if key in known)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A division of a corpus: what is trained on and what is tested, as folders with conditions."""

    name: str
    train: str
    test: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Labelled shards."""

    name: str
    folder: str
    index: Index
    parts: tuple[Part, ...]
    division: str
    """How it is divided, in words."""

    def gap(self, checkpoint: Checkpoint) -> str:
        """Why a checkpoint cannot do this corpus; empty where it can."""
        if "audio" not in checkpoint.modalities:
            return ""
        alone = "video" not in checkpoint.modalities
        if (self.index.audible if alone else self.index.sound).any():
            return ""
        tower = "" if alone else "; its video tower alone can be named, as hicmae_base_video=PATH"
        return f"none of its {len(self.index):,} clips has sound, and {checkpoint.model} hears{tower}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a checkpoint, a way, a corpus, a seed, and one part of that corpus."""

    checkpoint: Checkpoint
    corpus: Corpus
    """That it is tested on."""
    way: str
    seed: int
    part: Part
    out: Path
    config: FinetuneConfig | None
    """Of the run that is trained; None: nothing is, the cell `trained` is measured on another corpus."""
    trained: Cell | None = None

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Checkpoint, way, corpus that is trained on, corpus that is tested: what its seeds share."""
        source = self.trained.corpus if self.trained else self.corpus
        return self.checkpoint.name, self.way, source.name, self.corpus.name

    def __str__(self) -> str:
        checkpoint, way, source, corpus = self.row
        over = f"{source} -> {corpus}" if self.trained else corpus
        part = f", {self.part.name}" if len(self.corpus.parts) > 1 and not self.trained else ""
        return f"{checkpoint}, {way}, {over}, seed {self.seed}{part}"


def open_checkpoints(sources: Sequence[str | Path]) -> list[Checkpoint]:
    """Checkpoints by run folder or weights file, by `MODEL=PATH` where a file does not say what it is or another form
    of the model is meant, or by the name of a model, with fresh weights.

    Raises:
        UserError: nothing there, or it does not say what it is.
    """
    found: list[tuple[str, str, str, Path | None, dict[str, Any]]] = []
    for source in map(str, sources):
        model, equals, path = source.partition("=")
        if not equals or model not in list_models():
            model, path = "", source
        if not model and path in list_models() and not Path(path).exists():
            found.append((f"{path}-fresh", source, path, None, {}))
            continue
        file = weights_file(path)
        meta = read_weights(file)[1] if file.suffix == ".safetensors" else {}
        model = model or str(meta.get("name", ""))
        if model not in list_models():
            raise UserError(
                f"{source}: does not say which model it holds; name it as MODEL={path} (hicmae profile --list has the "
                "names), or convert it with hicmae zoo convert"
            )
        place = Path(path)
        name = place.stem if place.is_file() else place.resolve().name
        found.append((f"{name}-{model}" if equals and model != meta.get("name") else name, source, model, file, meta))
    names = _distinct([entry[0] for entry in found])
    return [
        Checkpoint(name=name, source=source, model=model, file=file, meta=meta)
        for name, (_, source, model, file, meta) in zip(names, found, strict=True)
    ]


def open_corpora(folders: Sequence[str | Path], folds: Sequence[str] | None = None) -> list[Corpus]:
    """Labelled shards with their divisions: the folds or the split that they bring, else a quarter is tested.

    Args:
        folders: of shards, with conditions (`DIR@sex=female`) where only some clips are meant.
        folds: names of the folds to be tested, where a corpus has such; all when absent.

    Raises:
        UserError: no shards, or too few groups to be divided.
    """
    corpora = []
    words = [str(folder) for folder in folders]
    for name, folder in zip(_distinct([Path(word).name.replace("@", "-") for word in words]), words, strict=True):
        index = Index.load(folder)
        parts, division = _divided(folder, index, folds)
        corpora.append(Corpus(name=name, folder=folder, index=index, parts=parts, division=division))
    return corpora


def cells_of(
    checkpoints: Sequence[Checkpoint],
    corpora: Sequence[Corpus],
    ways: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    recipes: Mapping[str, Mapping[str, Any]],
    options: Sequence[str],
) -> list[Cell]:
    """The runs of the table, a seed after the other; cross-corpus tests after the runs they need.

    Args:
        checkpoints, corpora: gaps are left out.
        ways: of `WAYS` and `CROSS`, which needs `finetune`.
        seeds: of weights, order and augmentation; the division is the same for all.
        out: folder of the runs.
        recipes: way -> a recipe's mapping.
        options: `--dotted.key=value` for every run.

    Raises:
        ConfigError: an option that is decided here, or one that the recipe does not have.
    """
    for option in join_options(FinetuneConfig, options):
        key = option.removeprefix("--").split("=")[0].rstrip("+").replace("-", "_")
        if key in DECIDED:
            raise ConfigError(f"--{key} is decided by the benchmark, which takes checkpoints, --data, --seeds, --ways")
    cells: list[Cell] = []
    for seed in seeds:
        first: dict[tuple[str, str], Cell] = {}
        for checkpoint in checkpoints:
            for corpus in corpora:
                if corpus.gap(checkpoint):
                    continue
                for way in (way for way in ways if way != CROSS):
                    for part in corpus.parts:
                        place = out / checkpoint.name / corpus.name / way / f"seed{seed}" / part.name
                        config = _recipe(checkpoint, part, way, seed, place, recipes.get(way, {}), options)
                        about: dict[str, Any] = {"checkpoint": checkpoint, "corpus": corpus, "way": way, "part": part}
                        cells.append(Cell(**about, seed=seed, out=place, config=config))
                        if way == "finetune":
                            first.setdefault((checkpoint.name, corpus.name), cells[-1])
        if CROSS in ways:
            cells += [
                Cell(
                    checkpoint=trained.checkpoint,
                    corpus=corpus,
                    way=CROSS,
                    seed=seed,
                    part=Part(name="all", train=trained.part.train, test=corpus.folder),
                    out=out / trained.checkpoint.name / corpus.name / f"from-{trained.corpus.name}" / f"seed{seed}",
                    config=None,
                    trained=trained,
                )
                for trained in first.values()
                for corpus in corpora
                if corpus is not trained.corpus
                and set(corpus.index.classes) == set(trained.corpus.index.classes)
                and not corpus.gap(trained.checkpoint)
            ]
    return cells


def _divided(folder: str, index: Index, folds: Sequence[str] | None) -> tuple[tuple[Part, ...], str]:
    column = next((name for name in ("fold", "split") if name in index.extra), None)
    if column is None:
        known = all(group is not None for group in index.groups)
        units = sorted(set(index.groups if known else index.sources))
        if len(units) < 4:
            raise UserError(
                f"{folder}: its {len(index):,} clips of {len(units)} {'groups' if known else 'videos'} cannot be "
                "divided; shard them with a column fold or split"
            )
        part = Part(name="quarter1", train=f"{folder}@quarter!=1", test=f"{folder}@quarter=1")
        tested = Index.load(part.test)
        count = len(set(tested.groups if known else tested.sources))
        unit = "groups" if known else "videos (groups unknown)"
        return (part,), f"none of its own: {count} of {len(units)} {unit}, {len(tested):,} clips, tested"
    values = set(index.extra[column].astype(str))
    wanted = [name for name in folds or () if name in values] if column == "fold" else []
    if column == "fold" and folds and not wanted:
        raise ConfigError(f"--folds {','.join(folds)}: the folds of {folder} are {', '.join(sorted(values))}")
    placeholder = configs.load(FinetuneConfig, {"model": list_models()[0], "data": {"train": [folder]}})
    jobs = jobs_of(placeholder, wanted or None)
    parts = tuple(Part(name=job.out.name, train=job.config.data.train[0], test=job.config.data.test[0]) for job in jobs)
    if column == "split":
        return parts, f"its split: {(index.extra[column] == 'test').sum():,} clips tested"
    told = f"{len(parts)} of its {len(values)} folds" if len(parts) < len(values) else f"its {len(values)} folds"
    return parts, f"{told}, pooled" if len(parts) > 1 else f"{told}: {parts[0].name}"


def _recipe(
    checkpoint: Checkpoint,
    part: Part,
    way: str,
    seed: int,
    out: Path,
    recipe: Mapping[str, Any],
    options: Sequence[str],
) -> FinetuneConfig:
    """The recipe of one run: what the checkpoint was trained on, under what the recipe states, under the options."""
    stored: Mapping[str, Any] = checkpoint.meta.get("config", {}).get("data", {})
    seen = {key: stored.get(key, checkpoint.meta.get("args", {}).get(key)) for key in ("frames", "stride", "size")}
    data = {**{key: value for key, value in seen.items() if value is not None}, **recipe.get("data", {})}
    values = {
        **recipe,
        "args": arguments_for(checkpoint.model, "finetune", recipe.get("args", {})),
        "model": checkpoint.model,
        "init": str(checkpoint.file) if checkpoint.file else None,
        "data": {**data, "train": [part.train], "test": [part.test]},
        "seed": seed,
        "out": str(out),
    }
    if WAYS[way] != "full":
        values["adapt"] = {**recipe.get("adapt", {}), "kind": WAYS[way]}
    return configs.load(FinetuneConfig, values, options)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names for folders, numbered where one is there twice."""
    counts, seen = Counter(names), Counter[str]()
    told = []
    for name in names:
        seen[name] += 1
        told.append(name if counts[name] == 1 else f"{name}-{seen[name]}")
    return told


def shown_counts(corpus: Corpus) -> str:
    """How many clips of how many classes, and of whom."""
    index = corpus.index
    known = all(group is not None for group in index.groups)
    text = f"{len(index):,} clips"
    if index.classes:
        text += f", {len(np.unique(index.labels[index.labels >= 0]))} classes"
    return text + (f", {len(set(index.groups)):,} groups" if known else "")
