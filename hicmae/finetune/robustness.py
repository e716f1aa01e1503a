"""How a classifier bears missing modalities and noise: its figures at every level, and the area under them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hicmae.configs.errors import ConfigError, UserError
from hicmae.datasets.index import Index
from hicmae.finetune.config import TaskConfig
from hicmae.finetune.disturbances import KINDS, Disturbed, Kind, Voices, level_word, losing
from hicmae.finetune.evaluation import DRAWS, _run_folder, load_classifier, open_test, report_on
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.outputs import Outputs
from hicmae.finetune.predictions import predict_index
from hicmae.finetune.report import Report
from hicmae.runtime.areas import FIGURES, areas
from hicmae.runtime.checkpoint import sha256, weights_file
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.log import progress, say
from hicmae.runtime.metrics import Estimate

__all__ = ["Curve", "Robustness", "curves"]

Predicted = tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model along the levels of one kind."""

    kind: Kind
    figures: dict[str, tuple[Estimate, ...]]
    """uar, war: at each level, with 95 % intervals; at the first they are those of plain evaluation."""
    area: dict[str, Estimate]
    """uar, war: mean height of the curve over the levels (of noise with an SNR, over those that have one)."""
    guess: NDArray[np.int64]
    """(L, N) predictions."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Curves of one model, and of others on the same clips."""

    title: str
    models: dict[str, dict[str, Curve]]
    """model -> kind -> curve; the first model is the one that was asked about."""
    differences: dict[str, dict[str, dict[str, Estimate]]]
    """other model -> kind -> uar, war: area of the first model less the other's, paired draws."""
    plain: dict[str, Report]
    """model -> evaluation on clips as they are."""
    notes: list[str]
    """What was left out, and why."""

    @property
    def curves(self) -> dict[str, Curve]:
        """kind -> curve of the first model."""
        return next(iter(self.models.values()))

    @property
    def area(self) -> dict[str, dict[str, Estimate]]:
        """kind -> uar, war -> area under the first model's curve."""
        return {kind: curve.area for kind, curve in self.curves.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, JSON-able; a clean level of an SNR is null."""
        first = next(iter(self.plain.values()))
        return {
            "title": self.title,
            "models": {
                name: {
                    kind: {
                        "levels": [level if np.isfinite(level) else None for level in curve.kind.levels],
                        "axis": curve.kind.axis,
                        **{f: [e._asdict() for e in curve.figures[f]] for f in FIGURES},
                        "area": {f: curve.area[f]._asdict() for f in FIGURES},
                    }
                    for kind, curve in found.items()
                }
                for name, found in self.models.items()
            },
            "differences": {
                name: {kind: {f: e._asdict() for f, e in pair.items()} for kind, pair in found.items()}
                for name, found in self.differences.items()
            },
            "protocol": first.protocol,
            "notes": self.notes,
        }

    def __str__(self) -> str:
        from hicmae.finetune.robustness_page import told

        return told(self)


def curves(
    source: str | Path,
    data: Sequence[str | Path] | None = None,
    *,
    kinds: str | Sequence[str] = "all",
    against: Sequence[str | Path] = (),
    levels: Mapping[str, Sequence[float]] | None = None,
    out: str | Path | None = None,
    segments: int | None = None,
    device: str = "auto",
    ema: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    workers: int | None = None,
    show: bool = True,
) -> Robustness:
    """Measure a classifier where clips lack a modality or are spoilt, write robustness.json, .csv and .html.

    A share of clips is taken to lack a modality: those that a draw of (seed, clip) puts first, so that a clip lacking
    at one rate lacks at every higher one. A clip that has no sound keeps its frames. All else hits every clip. At the
    first level figures are those of `evaluate`, digit by digit. Predictions are kept in `out`/points, and taken from
    there when the same is measured again, as after an interruption.

    Args:
        source: run folder, checkpoint folder or weights file of a fine-tuned model.
        data: folders of labelled shards; the `data.test` of the run's recipe when absent.
        kinds: `missing`, `noise` or `all`, or names of `disturbances.KINDS`, as `["missing-audio", "babble"]`.
        against: other models to be measured on the same clips and drawn beside it.
        levels: kind -> levels instead of the usual ones.
        out: where files go; `robustness` in the run folder when absent.
        seed: of what is drawn.
        segments, device, ema, batch_size, workers: as for `evaluate`.

    Raises:
        UserError: no fine-tuned classifier there, another model was trained on other classes, or no data.
        ConfigError: no such kind, or one that the model cannot be measured with.
    """
    with process_group(device) as place:
        named = _named([source, *against])
        files = {name: weights_file(path, ema=ema) for name, path in named.items()}
        loaded = {name: load_classifier(file) for name, file in files.items()}
        config = next(iter(loaded.values()))[1].get("config", {})
        folders = [str(folder) for folder in data or config.get("data", {}).get("test", ())]
        if not folders:
            raise UserError(f"{source}: its recipe names no data.test; name folders of labelled shards, --data DIR")
        run = _run_folder(files[next(iter(files))])
        folder = Path(out) if out else (run or files[next(iter(files))].parent) / f"robustness{'-ema' * ema}"
        jobs, notes = [], []
        for name, (model, meta) in loaded.items():
            task = TaskConfig(**meta.get("task", {}))
            if not task.classed:
                raise UserError(f"{named[name]}: curves are of UAR and WAR, and it has learnt no classes")
            index = open_test(folders, Outputs.of(meta).classes, str(files[name]), task)
            drop = bool(meta["config"]["data"].get("drop_without_sound"))
            wanted, told = _applicable(kinds, levels or {}, Inputs.of(model), index, drop)
            notes += [f"{name}: {note}" if len(named) > 1 else note for note in told]
            jobs.append((name, wanted, model.to(place.device), meta, index))
        how: dict[str, Any] = {"segments": segments, "batch_size": batch_size, "workers": workers, "show": False}
        passes = sum(len(_passes(wanted)) for _, wanted, *_ in jobs)
        reports: dict[str, dict[str, list[Report]]] = {}
        clips = sum(_share(len(index), place) * len(_passes(wanted)) for _, wanted, _, _, index in jobs)
        with progress(total=clips, desc=f"{passes} passes", unit="clip", show=show and place.first) as bar:
            for name, wanted, model, meta, index in jobs:
                points = _Points(folder / "points", sha256(files[name]), index, place, seed, bar)
                reports[name] = {}
                for kind in wanted:
                    at = [partial(points, kind, level) for level in kind.levels]
                    made = [report_on(model, meta, index, place, predict=predict, **how) for predict in at]
                    reports[name][kind.name] = [report for report in made if isinstance(report, Report)]
        result = _result(reports, {kind.name: kind for _, wanted, *_ in jobs for kind in wanted}, notes)
        if place.first:
            from hicmae.finetune.robustness_page import write

            page = write(result, folder)
            if show:
                say(f"page: {page}")
        return result


def _named(sources: Sequence[str | Path]) -> dict[str, str | Path]:
    """Models by the name of their folder, or by their whole path where names are not different."""
    short = [Path(source).resolve().name for source in sources]
    names = short if len(set(short)) == len(short) else [str(source) for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"{', '.join(names)}: the same model twice")
    return dict(zip(names, sources, strict=True))


def _applicable(
    kinds: str | Sequence[str], levels: Mapping[str, Sequence[float]], inputs: Inputs, index: Index, drop: bool
) -> tuple[list[Kind], list[str]]:
    """The kinds that a model can be measured with on these clips, and why not with others."""
    asked = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [name for name in [*asked, *levels] if name not in {"all", "missing", "noise", *KINDS}]
    if unknown or not asked:
        raise ConfigError(f"no kind of curve {', '.join(unknown)}; there are all, missing, noise, {', '.join(KINDS)}")
    heard, notes, kept = index.audible, [], []
    chosen = [kind for kind in KINDS.values() if {"all", kind.family, kind.name} & set(asked)]
    for kind in chosen:
        why = ""
        if not getattr(inputs, kind.modality):
            why = f"the model takes no {kind.modality}"
        elif kind.name.startswith("missing") and not inputs.both:
            why = "the model takes one modality only"
        elif kind.modality == "audio" and not heard.any():
            why = "no clip has sound"
        elif kind.name == "babble" and len(set(index.sources[heard])) < 2:
            why = "there is no other clip with sound"
        if why and kind.name in asked:
            raise ConfigError(f"{kind.name} cannot be measured: {why}")
        if why:
            notes.append(f"{kind.title}: left out, {why}.")
            continue
        if kind.name in levels:
            clean, given = kind.levels[0], [float(level) for level in levels[kind.name]]
            kind = dataclasses.replace(kind, levels=(clean, *(level for level in given if level != clean)))
        if len(kind.x) < 2:
            raise ConfigError(f"levels of {kind.name}: a curve needs two or more, not {', '.join(map(str, kind.x))}")
        kept.append(kind)
    if not kept:
        raise ConfigError(f"nothing to measure: {' '.join(notes)}")
    silent = int((~index.sound).sum())
    if any(kind.name == "missing-video" for kind in kept) and silent and not drop:
        notes.append(f"{silent:,} of {len(index):,} clips have no sound: they keep their frames at every rate.")
    return kept, notes


def _passes(kinds: Sequence[Kind]) -> set[str]:
    """The passes over the data that curves need: rates of clips are mixed from two."""
    return {_pass(kind, level) for kind in kinds for level in kind.levels} | {"clean"}


def _pass(kind: Kind, level: float) -> str:
    if level == kind.levels[0]:
        return "clean"
    return kind.name if kind.name.startswith("missing") else f"{kind.name}@{level_word(level)}"


def _share(count: int, place: Place) -> int:
    return count * (place.rank + 1) // place.world - count * place.rank // place.world


class _Points:
    """Predictions by pass: made once, kept in files that are named by what determines them."""

    def __init__(self, folder: Path, weights: str, index: Index, place: Place, seed: int, bar: Any) -> None:
        self.folder, self.weights, self.place, self.seed, self.bar = folder, weights, place, seed, bar
        self.share = _share(len(index), place)
        self.held: dict[str, Predicted] = {}

    def __call__(self, kind: Kind, level: float, model: nn.Module, index: Index, place: Place, **how: Any) -> Predicted:
        """What `predict_index` gives of clips that are spoilt by `kind` at `level`."""
        clean = self._made("clean", model, index, how)
        name = _pass(kind, level)
        if name == "clean":
            return clean
        if kind.name.startswith("missing"):
            return self._mixed(clean, kind, level, model, index, how)
        voices = Voices(index) if kind.name == "babble" else None
        around = partial(Disturbed, kind=kind.name, level=level, seed=self.seed, voices=voices)
        return self._made(name, model, index, how, around=around)

    def _mixed(
        self, clean: Predicted, kind: Kind, rate: float, model: nn.Module, index: Index, how: Mapping[str, Any]
    ) -> Predicted:
        """Predictions of whole clips, and in place of them those of the clips that lack the modality."""
        there = np.ones(len(index), bool) if kind.modality == "audio" else index.audible  # who can do without
        inputs = Inputs.of(model, "video" if kind.modality == "audio" else "audio")
        part = index if there.all() else index.select(there)
        among, found, _ = self._made(kind.name, model, part, {**how, "inputs": inputs})
        rows = dict(zip(np.flatnonzero(there)[among].tolist(), found, strict=True))
        lost, values = losing(index.keys, kind.name, rate, self.seed), clean[1].copy()
        for at, number in enumerate(clean[0].tolist()):
            if lost[number] and number in rows:
                values[at] = rows[number]
        return clean[0], values, clean[2]

    def _made(self, name: str, model: nn.Module, index: Index, how: Mapping[str, Any], **more: Any) -> Predicted:
        if name in self.held:
            return self.held[name]
        before, file = self.bar.n, self.folder / f"{name}-{self._digest(name, index, how)}.npz"
        found = self.place.gather(_read(file) if self.place.first else None)[0]
        if found is None:
            found = predict_index(model, index, self.place, **{**how, **more, "bar": self.bar})
            if self.place.first:
                _keep(file, found)
        self.bar.update(before + self.share - self.bar.n)
        self.held[name] = found
        return found

    def _digest(self, name: str, index: Index, how: Mapping[str, Any]) -> str:
        """Of all that predictions follow from."""
        clips = hashlib.sha256(index.sha256.tobytes() + "\n".join(index.keys).encode()).hexdigest()
        given = {k: repr(v) for k, v in sorted(how.items()) if k not in ("workers", "show", "max_bad_share")}
        where = [self.place.device.type, self.place.world, self.seed, name]
        text = json.dumps([self.weights, clips, given, *where])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: Path) -> Predicted | None:
    """What `_keep` kept; None where it is not there, or is damaged."""
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as kept:  # numpy leaves a damaged one open
            skipped = [(str(key), str(reason)) for key, reason in json.loads(str(kept["skipped"]))]
            return kept["number"], kept["found"], skipped
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(file: Path, predicted: Predicted) -> None:
    """Write predictions whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            np.savez(out, number=predicted[0], found=predicted[1], skipped=json.dumps(predicted[2]))
        part.replace(file)
    except OSError as error:
        raise UserError(f"{file.parent}: could not be written ({error.strerror}); choose another --out") from None


def _result(reports: dict[str, dict[str, list[Report]]], kinds: Mapping[str, Kind], notes: list[str]) -> Robustness:
    """Curves and areas of reports by model, kind and level."""
    first = next(iter(reports.values()))
    shared = next(iter(first.values()))[0]
    for name, found in reports.items():
        other = next(iter(found.values()))[0]
        if other.keys != shared.keys or other.labels != shared.labels or (other.truth != shared.truth).any():
            raise UserError(
                f"{name} was not measured on the same clips and classes as {next(iter(reports))}: "
                f"{len(other.keys):,} and {len(shared.keys):,} clips, classes {', '.join(other.labels)} and "
                f"{', '.join(shared.labels)}"
            )
    models: dict[str, dict[str, Curve]] = {name: {} for name in reports}
    differences: dict[str, dict[str, dict[str, Estimate]]] = {name: {} for name in list(reports)[1:]}
    for kind in kinds.values():
        guesses = {
            n: np.stack([r.guess for r in found[kind.name]]) for n, found in reports.items() if kind.name in found
        }
        at = [number for number, level in enumerate(kind.levels) if level in kind.x]
        measured = {name: guess[at] for name, guess in guesses.items()}
        found_areas, gaps = areas(shared.truth, measured, kind.x, shared.groups, len(shared.labels), samples=DRAWS)
        for name, guess in guesses.items():
            figures = {f: tuple(report.intervals[f] for report in reports[name][kind.name]) for f in FIGURES}
            models[name][kind.name] = Curve(kind=kind, figures=figures, area=found_areas[name], guess=guess)
        if kind.name in first:
            for name, gap in gaps.items():
                differences[name][kind.name] = gap
    plain = {name: next(iter(found.values()))[0] for name, found in reports.items()}
    told = f"{len(shared.truth):,} clips"
    title = f"{', '.join(reports)} with clips incomplete or spoilt: {told}"
    return Robustness(title=title, models=models, differences=differences, plain=plain, notes=notes)
