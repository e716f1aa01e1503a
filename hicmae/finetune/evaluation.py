"""Measuring a fine-tuned model: labelled shards and a checkpoint in, a report out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hicmae.configs.errors import ConfigError, UserError
from hicmae.datasets.fingerprint import differences
from hicmae.datasets.index import Index
from hicmae.datasets.sheet import strips_of
from hicmae.finetune.building import DRAWS, report_of_classes, report_of_labels, report_of_numbers
from hicmae.finetune.config import FinetuneConfig, TaskConfig
from hicmae.finetune.cost import cost_of
from hicmae.finetune.embedding import Features
from hicmae.finetune.inputs import Inputs, Modality, sound_of
from hicmae.finetune.measured import SHOWN, selection_of, stamp_of
from hicmae.finetune.outputs import Outputs
from hicmae.finetune.predictions import clips_of, predict_index
from hicmae.finetune.regroup import merged, with_parts
from hicmae.finetune.report import Report
from hicmae.finetune.targets import read_targets
from hicmae.finetune.values import WORDS, ValueReport
from hicmae.models.adapters import plain_weights
from hicmae.models.factory import create_model
from hicmae.runtime.checkpoint import CHOSEN, CheckpointError, read_weights, weights_file
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.log import say

__all__ = [
    "check_labelled",
    "evaluate",
    "headline",
    "load_classifier",
    "measure",
    "open_own",
    "open_test",
    "report_on",
    "write_report",
]

CLASSIFIER = TaskConfig()
Predict = Callable[..., tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, str]]]]
"""What `predict_index` is."""


def evaluate(
    source: str | Path,
    data: Sequence[str | Path] | None = None,
    *,
    segments: int | None = None,
    modality: Modality | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    ema: bool = False,
    merge: str | None = None,
    by: str | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    show: bool = True,
) -> Report | ValueReport:
    """Measure a fine-tuned model, write evaluation.json, predictions.csv and evaluation.html, return the report.

    Softmax per view, mean over the views of a video, argmax; numbers are averaged over the views. Works in one process
    or under `torchrun`.

    Args:
        source: run folder, checkpoint folder or weights file of a fine-tuned model.
        data: folders of labelled shards; the `data.test` of the run's recipe when absent.
        segments: clips per sample; the recipe's when absent.
        modality: `video` or `audio` measures an audio-visual model with that one alone; all it takes when absent.
        out: where the files go; `evaluation` in the run folder when absent (`evaluation-ema`, `evaluation-video`, …).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        ema: measure the averaged weights.
        merge: a column of the shards; the predictions of clips with the same value are averaged (AVCAffe: `task`).
        by: a column of the shards, as `sex`; figures are also given for the clips of each of its values.
        batch_size: samples per batch and process.
        workers: loader processes per process; the recipe's when absent.

    Raises:
        UserError: no fine-tuned model there, no labels, or labels the model does not know; both lists are named.
    """
    with process_group(device) as place:
        file = weights_file(source, ema=ema)
        model, meta = load_classifier(file)
        config = meta.get("config", {})
        folders = [str(folder) for folder in data] if data else list(config.get("data", {}).get("test", ()))
        if not folders:
            raise UserError(f"{source}: its recipe names no data.test; name folders of labelled shards, --data DIR")
        task = TaskConfig(**meta.get("task", {}))
        index = open_test(folders, Outputs.of(meta).classes, str(file), task)
        report = report_on(
            model.to(place.device),
            meta,
            index,
            place,
            segments=segments,
            modality=modality,
            batch_size=batch_size,
            workers=workers,
            details=True,
            show=show,
        )
        for column, regrouped in ((merge, merged), (by, with_parts)):
            if column is not None:
                report = regrouped(report, index, column)
        run = _run_folder(file)
        name = "-".join(["evaluation", *(["ema"] if meta.get("ema") else []), *([modality] if modality else [])])
        folder = Path(out) if out else (run or file.parent) / name
        if place.first:
            write_report(report, folder, run / "log.jsonl" if run else None, show)
        return report


def open_test(folders: Sequence[str | Path], labels: Sequence[str], model: str, task: TaskConfig = CLASSIFIER) -> Index:
    """The clips of labelled shards as one index whose label numbers mean `labels`, matched by name.

    Where `task` is not about labels, as they are, with targets that can be read.

    Raises:
        UserError: a clip without a label, a label that is not among `labels`, or a target that is missing or wrong.
    """
    if not task.classed:
        index = Index.join([Index.load(folder) for folder in folders])
        read_targets(index, task)
        return index
    place = {name: number for number, name in enumerate(labels)}
    mapped = []
    for folder in folders:
        index = Index.load(folder)
        used = [index.classes[k] for k in np.unique(index.labels[index.labels >= 0])]
        unknown = [name for name in used if name not in place]
        if unknown:
            raise UserError(
                f"{folder} has labels that {model} does not know: {', '.join(unknown)}. The data's labels are "
                f"{', '.join(index.classes)}; the model's are {', '.join(labels)}. "
                "Shard the data with the model's names"
            )
        check_labelled(index)
        number = np.array([place.get(name, -1) for name in index.classes], np.int64)
        mapped.append(dataclasses.replace(index, classes=tuple(labels), labels=number[index.labels]))
    index = Index.join(mapped)
    if task.kind == "joint":
        read_targets(index, task)
    return index


def open_own(config: FinetuneConfig, folders: Sequence[str], labels: Sequence[str]) -> Index:
    """Clips that a run measures itself on; where labels are learnt, theirs must be its `labels`.

    Raises:
        UserError: other labels, or none.
    """
    if not config.task.classed:
        return open_test(folders, labels, "the training data", config.task)
    for folder in folders:
        index = Index.load(folder)
        check_labelled(index)
        names = index.classes
        if set(names) != set(labels):
            sides = {"only in training": set(labels) - set(names), "only in test": set(names) - set(labels)}
            told = "; ".join(f"{side}: {', '.join(sorted(extra))}" for side, extra in sides.items() if extra)
            raise UserError(
                f"{folder} and {', '.join(config.data.train)} have other labels ({told}). The test labels are "
                f"{', '.join(names) or 'none'}; the training labels are {', '.join(labels)}. Shard both with the same "
                "--classes, or leave data.test empty and use hicmae evaluate, which allows classes without clips"
            )
    return open_test(folders, labels, "the training data", config.task)


def check_labelled(index: Index) -> None:
    """Raise UserError, naming clips, where some of an index have no label."""
    missing = index.keys[index.labels < 0]
    if len(missing):
        raise UserError(
            f"{index.folder}: {len(missing):,} of {len(index):,} clips have no label ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}); shard them with --list LABELS.csv, or --labels folder where the "
            "folders' names are the labels"
        )


def report_on(
    model: nn.Module,
    meta: Mapping[str, Any],
    index: Index,
    place: Place,
    *,
    segments: int | None = None,
    modality: Modality | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    predict: Predict = predict_index,
    details: bool = False,
    show: bool = True,
) -> Report | ValueReport:
    """The report on a model (on its device) with what its checkpoint says of itself, over all clips of `index`.

    With `details`, what a page shows beside figures: cost, features, frames of the hardest clips.
    """
    data, outputs, task = meta["config"]["data"], Outputs.of(meta), TaskConfig(**meta.get("task", {}))
    inputs = Inputs.of(model, modality)
    index, unheard = _heard(index, inputs, drop=bool(data.get("drop_without_sound")))
    targets = read_targets(index, task).double().numpy() if task.kind in ("multi", "regression", "joint") else None
    views = {name: int(data[name]) for name in ("frames", "stride", "size")}
    views["segments"] = segments if segments is not None else int(data["segments"])
    if views["segments"] < 1:
        raise ConfigError(f"segments must be at least 1, not {views['segments']}")
    told = index.labels[:, None] if targets is None else np.column_stack([index.labels, targets])
    truths = list(map(tuple, told.tolist()))
    everything = np.arange(len(index))
    features = Features.of_clips(clips_of(index, everything, truths)) if details else None
    since = time.monotonic()
    number, by_sample, skipped = predict(
        model,
        index,
        place,
        **views,
        inputs=inputs,
        outputs=outputs,
        sound=sound_of(model, meta.get("preprocessing", {}).get("sound")),
        **({"features": features} if features is not None else {}),
        batch_size=batch_size,
        workers=int(data["workers"]) if workers is None else workers,
        max_bad_share=float(data["max_bad_share"]),
        show=show,
    )
    seconds = time.monotonic() - since
    clip = clips_of(index, number, [truths[n] for n in number])
    first = np.unique(clip, return_index=True)[1]  # a clip's first sample stands for it
    found = np.zeros((len(first), by_sample.shape[1]))
    np.add.at(found, clip, by_sample)
    found /= np.bincount(clip)[:, None]
    rows = number[first]
    groups = None if any(group is None for group in index.groups[rows]) else [str(g) for g in index.groups[rows]]
    folders = list(dict.fromkeys(str(shard.path.parent) for shard in index.shards))
    taken = f"@{index.selection}" if index.selection else ""
    selected = meta.get("selected") or {}
    chosen = {"selection": selection_of(selected)}
    where = ", ".join(folders) + taken
    unit = f"{len(set(groups))} groups" if groups is not None else "clip-level (groups unknown)"
    common: dict[str, Any] = {
        "title": f"{meta['name']}{f' ({modality} alone)' if modality else ''} on {where}{stamp_of(chosen)}",
        "keys": list(index.keys[rows]) if len(rows) == len(number) else list(index.sources[rows]),
        "sources": list(index.sources[rows]),
        "groups": groups,
        "seconds": np.bincount(clip, index.seconds[number]).tolist(),
        "columns": {name: [str(value) for value in column[rows]] for name, column in index.extra.items()},
        "protocol": {
            **({"protocol": f"{index.protocol}/{selected.get('by', 'last')}"} if index.protocol else {}),
            "data": folders,
            **({"samples with": index.selection} if index.selection else {}),
            "weights": f"{'averaged weights' if meta.get('ema') else 'weights'} of step {meta.get('step', 'unknown')}",
            **chosen,
            **(
                {"trained on": f"{100 * data['fraction']:.4g} % of the training clips"}
                if data.get("fraction", 1) < 1
                else {}
            ),
            "input": str(inputs),
            **views,
            "samples": len(number),
            "clips": len(rows),
            "left out": len(skipped) + len(unheard),
            "intervals": f"95 %, {DRAWS} bootstrap draws, {unit}",
            "fidelity": meta["config"].get("fidelity", "corrected"),
        },
        "skipped": skipped + unheard,
        "preprocessing": dict(meta.get("preprocessing", {})),
        "fingerprint": index.fingerprint,
        "config": dict(meta["config"]),
    }
    common["notes"] = [
        *_data_notes(groups, len(skipped), meta.get("preprocessing", {}), index),
        *_sound_notes(inputs, len(unheard), int((~index.sound[number]).sum())),
    ]
    classes = len(outputs.classes)
    report: Report | ValueReport
    if targets is not None and task.kind != "joint":
        report_of = report_of_numbers if task.kind == "regression" else report_of_labels
        report = report_of(outputs.names, targets[rows], found, common)
    else:
        values = None
        if targets is not None:
            values = report_of_numbers(outputs.values, targets[rows], found[:, classes:], {**common, "notes": []})
        report = report_of_classes(outputs.classes, index.labels[rows], found[:, :classes], common, values)
    if not details:
        return report
    shown = report.hardest[:SHOWN].tolist() if place.first else []
    return dataclasses.replace(
        report,
        cost=cost_of(model, views["segments"], len(rows), seconds, place.hardware),
        features=features.by_clip(clip, number) if features is not None else {},
        pictures=strips_of(index, {n: int(rows[n]) for n in shown}),
    )


def headline(report: Report | ValueReport) -> str:
    """The first two figures of a report with their intervals, on one line."""
    if isinstance(report, ValueReport):
        shown = list(report.intervals.items())[:2]
        return ", ".join(f"{WORDS[name]} {e.value:.4f} ({e.low:.3f} … {e.high:.3f})" for name, e in shown)
    names = {"UAR": report.intervals["uar"], "WAR": report.intervals["war"]}
    return ", ".join(
        f"{name} {100 * e.value:.2f} % ({100 * e.low:.1f} … {100 * e.high:.1f})" for name, e in names.items()
    )


def _data_notes(groups: Sequence[str] | None, skipped: int, trained: Mapping[str, Any], index: Index) -> list[str]:
    notes = []
    if groups is None:
        notes.append(
            "clip-level (groups unknown): the intervals are resampled over clips, and are too narrow if people recur; "
            "nor is it known whether the model was trained on other clips of the same people, which flatters it."
        )
    if skipped:
        notes.append(f"{skipped} clip{'s' * (skipped != 1)} could not be read and are in no number; they are listed.")
    tested = index.preprocessing
    unlike = [name for name in tested if name in trained and trained[name] != tested[name]]
    if unlike:
        told = "; ".join(f"{name} {trained[name]} in training, {tested[name]} here" for name in unlike)
        notes.append(f"The clips were made differently from those the model was trained on: {told}.")
    measured = differences(index.fingerprint, trained.get("fingerprint", {}))
    if measured:
        notes.append(f"The clips are unlike those the model was trained on: {'; '.join(measured)}.")
    return notes


def _heard(index: Index, inputs: Inputs, drop: bool) -> tuple[Index, list[tuple[str, str]]]:
    """The clips a model can be measured on, and (key, reason) of those it needs sound for that have none."""
    if not inputs.audio or not (drop or inputs.need_audio) or index.sound.all():
        return index, []
    if not index.sound.any():
        raise UserError(f"{index.folder}: none of its {len(index):,} clips has sound, and the model is to hear them")
    return index.select(index.sound), [(str(key), "it has no sound") for key in index.keys[~index.sound]]


def _sound_notes(inputs: Inputs, unheard: int, silent: int) -> list[str]:
    notes = []
    if inputs.both and not (inputs.video and inputs.audio):
        notes.append(f"The model was given {inputs}.")
    if unheard:
        notes.append(f"Left out of every number: {unheard:,} clip{'s' * (unheard != 1)} without sound, listed below.")
    elif inputs.audio and silent:
        notes.append(f"{silent:,} clip{'s' * (silent != 1)} without sound: recognised from frames alone.")
    return notes


def load_classifier(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A fine-tuned model and what its file says of itself."""
    state, meta = read_weights(file)
    if meta.get("stage") == "pretrain":
        raise UserError(f"{file} is a pretraining checkpoint, which predicts no classes; fine-tune it first")
    missing = [name for name in ("name", "args", "labels", "config") if not meta.get(name)]
    if missing:
        raise CheckpointError(f"{file} does not say its {', '.join(missing)}; name a run that `hicmae finetune` wrote")
    model = create_model(meta["name"], stage="finetune", **meta["args"])
    model.load_state_dict(plain_weights(state, meta))
    return model, meta


def _run_folder(file: Path) -> Path | None:
    """The run whose checkpoint a weights file is."""
    if file.parent.name == CHOSEN:
        return file.parents[1]
    return file.parents[2] if len(file.parents) > 2 and file.parents[1].name == "checkpoints" else None


def write_report(report: Report | ValueReport, folder: Path, log: Path | None, show: bool) -> None:
    """Write a report's files; `log` is the run's, for its curves. Raises UserError where that cannot be done."""
    try:
        page = report.write(folder, log)
    except OSError as error:
        raise UserError(f"{folder}: the report could not be written ({error.strerror}); choose another --out") from None
    if show:
        say(f"page: {page}")


def measure(file: Path, test: Index, out: Path, place: Place, show: bool) -> None:
    """Write the report on a checkpoint's weights into the run folder."""
    model, meta = load_classifier(file)
    report = report_on(model.to(place.device), meta, test, place, details=True, show=show)
    if place.first:
        ema = bool(meta.get("ema"))
        write_report(report, out / ("evaluation-ema" if ema else "evaluation"), out / "log.jsonl", show)
        if show:
            found = f"{headline(report)}, {len(report.truth):,} clips{stamp_of(report.protocol)}"
            say(f"{'averaged weights: ' if ema else ''}{found}")
