"""A run -> a folder ready for the Hugging Face Hub: weights, how input is made, what outputs mean, results, a card."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from timm.models import get_pretrained_cfg

from hicmae import __version__
from hicmae.configs.cards import read_card
from hicmae.configs.errors import UserError
from hicmae.inference.loading import load_model
from hicmae.inference.processor import Processor
from hicmae.models.base import Model
from hicmae.models.factory import save_weights
from hicmae.runtime.checkpoint import CHOSEN
from hicmae.runtime.digest import sha256
from hicmae.zoo.catalogue import Card, ModelFile, Preprocessing, Result, Weights, card_text, checked
from hicmae.zoo.conversion import EXPRESSED, about_model
from hicmae.zoo.hubpage import hub_page
from hicmae.zoo.sources import WEIGHTS

__all__ = ["About", "Published", "publish"]

MADE = "Made by `hicmae zoo publish`."
_KEPT = ("numbers", "per_class", "absent", "labels", "confusion", "calibration", "values", "protocol", "notes")
"""What of an evaluation is published: figures, and nothing about single clips, whose names may be people's."""
_OUT_OF_SCOPE = (
    "Telling what a person feels: the labels say what was acted, seen or reported. Decisions about people (hiring, "
    "schooling, policing, health, insurance), people who did not agree to it, and any use the law forbids, such as "
    "inferring emotions at work or in education in the EU. People and situations unlike those it learnt from."
)
_UNSAID = "not stated by whoever published this"


@dataclass(frozen=True, kw_only=True)
class About:
    """What no run knows of itself: a YAML file that `publish` is given. What is missing is said to be missing."""

    licence: str = ""
    """Of the weights: a name that the Hub knows (`cc-by-nc-4.0`, `apache-2.0`, ...), or words."""
    summary: str = ""
    authors: str = ""
    dataset: str = ""
    """What the test clips are called; by default their folder's name."""
    target: Literal["acted", "perceived", "felt", "unknown"] = "unknown"
    """What the labels say."""
    intended_use: str = ""
    out_of_scope: str = ""
    labels_mean: str = ""
    groups: str = ""
    """On which groups of people it was measured, and on which not."""
    consent: str = ""
    """Whose recordings it learnt from, and whether they agreed."""

    @property
    def unsaid(self) -> list[str]:
        """Names of what somebody who uses the model needs to know, and is not said."""
        return [name for name in ("licence", "labels_mean", "groups", "consent") if not getattr(self, name)]


@dataclass(frozen=True)
class Published:
    """What `publish` wrote."""

    folder: Path
    name: str
    stage: str
    files: tuple[str, ...]
    unsaid: tuple[str, ...]
    measured: bool

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.name} ({self.stage}): {', '.join(self.files)}"]
        if self.unsaid:
            lines.append(
                f"not stated: {', '.join(self.unsaid)}; say them in a file, --about about.yaml, before you pass it on "
                f"(keys: {', '.join(field.name for field in dataclasses.fields(About))})"
            )
        if not self.measured and self.stage == "finetune":
            lines.append("no results: hicmae evaluate RUN measures it; publish again afterwards")
        lines.append(f"try it: hicmae.from_pretrained({str(self.folder)!r})")
        lines.append(f"put it on the Hub: hf upload OWNER/NAME {self.folder}")
        return "\n".join(lines)


def publish(
    source: str | Path, out: str | Path, *, about: About | str | Path | None = None, ema: bool = False
) -> Published:
    """Write everything that somebody else needs to use a model.

    `model.safetensors` (LoRA added to its layers), `config.json` (for timm, with the names of the outputs),
    `processor.json`, `results.json`, `LICENSE`, `README.md` (the Hub's model card) and `card.yaml` (ours). Paths of
    this machine and names of single clips are left out. A pretraining run keeps its decoder.

    Args:
        source: a run (its chosen or newest checkpoint), a checkpoint, a weights file.
        out: a new or empty folder, or one that this function wrote before.
        about: what no run knows of itself, or the YAML file that says it.
        ema: the averaged weights, where the run kept them.

    Raises:
        UserError: nothing to publish there, a folder with other things in it, or a model that cannot be built from
            its description alone.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "card.yaml").is_file())):
        raise UserError(f"{out}: holds other things already; name a new or empty folder by --out")
    told = about if isinstance(about, About) else About() if about is None else read_card(About, Path(about))
    model, meta = load_model(source, device="cpu", ema=ema)
    _check_alone(model, source)
    results = _results(Path(meta["file"]), told, ema)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        key: _passed_on(value) for key, value in meta.items() if key not in ("file", "name", "stage", "args", "lora")
    }
    save_weights(folder / f"{WEIGHTS}.part", model, header)
    (folder / f"{WEIGHTS}.part").replace(folder / WEIGHTS)
    Processor.of(model, meta).save(folder / "processor.json")
    licence = told.licence or _UNSAID
    _write_json(folder / "config.json", _config(model, header, licence))
    _write_json(folder / "results.json", results)
    ours = _card(folder, model, meta, told, results, licence)
    (folder / "card.yaml").write_text(card_text(checked(ours, folder / "card.yaml"), MADE), encoding="utf-8")
    (folder / "LICENSE").write_text(_licence(licence, ours), encoding="utf-8")
    (folder / "README.md").write_text(hub_page(ours, model, meta, told.authors, told.licence), encoding="utf-8")
    files = tuple(sorted(path.name for path in folder.iterdir()))
    return Published(folder, model.name, model.stage, files, tuple(told.unsaid), bool(results))


def _check_alone(model: Model, source: str | Path) -> None:
    """A tower that was brought along is only named among the arguments: nobody else could build it."""
    for key in ("encoder", "audio_encoder"):
        if model.args.get(key) not in (None, "vit", "lgi", "tpsbt"):
            raise UserError(
                f"{source}: its {key} is {model.args[key]}, a module of yours, which its arguments only name; a model "
                "is published that can be built from its arguments alone"
            )


def _config(model: Model, header: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """What timm reads, and what remains to be known beside the weights."""
    args = {key: value for key, value in model.args.items() if value is not None}
    labels = [str(label) for label in header.get("labels") or ()]
    return {
        "architecture": model.name,
        "num_classes": int(model.args.get("num_classes") or 0),
        **({"label_names": labels} if labels else {}),
        "model_args": args | ({"stage": model.stage} if model.stage != "finetune" else {}),
        "pretrained_cfg": _timm_config(model, labels, licence),
        "hicmae": {"version": __version__, "stage": model.stage, **{k: v for k, v in header.items() if k != "config"}},
    }


def _timm_config(model: Model, labels: list[str], licence: str) -> dict[str, Any]:
    """What timm knows of the system, with what is this model's own."""
    args = model.args
    size = args.get("size", 160)
    if model.name.endswith("_audio"):
        shape = [1, args["audio_frames"], args["mels"]]
    else:
        shape = [3, *(size if isinstance(size, list) else [size, size])]
    classes = int(args.get("num_classes") or 0)
    own = {"input_size": shape, "num_classes": classes, "license": licence}
    system = get_pretrained_cfg(model.name).to_dict(remove_source=True)
    system.pop("label_names", None)
    return {**system, **own, "classifier": "head" if classes else None, **({"label_names": labels} if labels else {})}


def _card(
    folder: Path, model: Model, meta: Mapping[str, Any], told: About, results: Mapping[str, Any], licence: str
) -> Card:
    base = about_model(model.name, own=True)
    weights = folder / WEIGHTS
    form: Any = model.stage
    labels = tuple(meta["labels"]) if meta.get("labels") else None
    size, digest = weights.stat().st_size, sha256(weights)
    file = ModelFile(name=WEIGHTS, form=form, size=size, sha256=digest, mirrors=(WEIGHTS,), labels=labels)
    fingerprint = (meta.get("preprocessing") or {}).get("fingerprint") or {}
    return dataclasses.replace(
        base,
        name=folder.absolute().name,
        summary=told.summary or f"{base.system}, {_of_stage(model, labels)}",
        weights_licence=licence,
        costs=(),
        results=_figures(results, told, labels),
        weights=Weights(what=f"{model.stage} form of {model.name}", obtained=True, files=(file,)),
        preprocessing=Preprocessing(
            known=("as processor.json says",),
            fingerprint={name: tuple(values) for name, values in fingerprint.items() if values},
        ),
        intended_use=told.intended_use
        or "Research on expressed emotion in clips of one face, with their people's consent.",
        out_of_scope=told.out_of_scope or _OUT_OF_SCOPE,
        labels_mean=told.labels_mean or f"{_UNSAID}; {EXPRESSED}",
        groups=told.groups or f"{_UNSAID}; accuracy by age, gender, skin tone and language is to be taken as unknown",
        consent=told.consent or f"{_UNSAID}: whose recordings it learnt from, and whether they agreed",
        note=None,
    )


def _of_stage(model: Model, labels: tuple[str, ...] | None) -> str:
    if model.stage == "pretrain":
        return "pretrained without labels, with its decoder"
    return f"fine-tuned to tell {', '.join(labels)}" if labels else "fine-tuned"


def _results(file: Path, told: About, ema: bool) -> dict[str, Any]:
    """The run's evaluation, without what names clips or folders; empty where there is none."""
    run = file.parents[1] if file.parent.name == CHOSEN else file.parents[min(2, len(file.parents) - 1)]
    found = run / ("evaluation-ema" if ema else "evaluation") / "evaluation.json"
    if file.parent.name != CHOSEN and file.parent.parent.name != "checkpoints":
        found = file.with_name("results.json")  # a folder that was published before
    if not found.is_file():
        return {}
    try:
        values = json.loads(found.read_text(encoding="utf-8"))
        kept = {key: values[key] for key in _KEPT if key in values}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{found}: is not a readable evaluation ({error}); hicmae evaluate makes it again") from None
    data = [PurePath(str(place)) for place in kept.get("protocol", {}).get("data", [])]
    # RUN/test/shards says more by its last two names
    names = ["/".join(place.parts[-2:]) if place.name == "shards" else place.name for place in data]
    return {"dataset": told.dataset or ", ".join(names), **_passed_on(kept)}


def _figures(results: Mapping[str, Any], told: About, labels: tuple[str, ...] | None) -> tuple[Result, ...]:
    """The evaluation as a row of the card; percent."""
    numbers = {
        name: round(100 * float(number["value"]), 2)
        for name, number in results.get("numbers", {}).items()
        if number.get("value") is not None and math.isfinite(number["value"])
    }
    if not numbers:
        return ()
    stated = ("input", "clips", "weights", "selection", "intervals")
    protocol = "; ".join(f"{key}: {results['protocol'][key]}" for key in stated if key in results.get("protocol", {}))
    heard = str(results.get("protocol", {}).get("input", "video"))
    input_: Any = "audio-visual" if " and " in heard else "audio" if heard.startswith("audio") else "video"
    return (
        Result(
            dataset=results["dataset"] or "unnamed test clips",
            protocol=f"{protocol}; x 100",
            target=told.target,
            metrics={name.upper() if len(name) < 4 else name: value for name, value in numbers.items()},
            source="hicmae evaluate, by whoever published this",
            input=input_,
            labels=labels,
        ),
    )


def _licence(licence: str, ours: Card) -> str:
    return (
        f"Weights: {licence}.\n\nThe weights were made with the library hicmae (Apache-2.0), which is not part of this "
        f"folder. The system is that of {ours.paper.title} ({ours.paper.venue}), whose code is under "
        f"{ours.code_licence}.\nTerms of the recordings that the weights learnt from may bind you, too.\n"
    )


def _passed_on(value: Any) -> Any:
    """Paths of this machine become their last name, as they tell but who made this; what is no number becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _passed_on(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_passed_on(item) for item in value]
    if isinstance(value, str) and (PurePath(value).is_absolute() or value.startswith("~")) and " " not in value:
        return PurePath(value).name
    return value


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
