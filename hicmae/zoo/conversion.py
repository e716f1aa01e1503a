"""Published `.pth` files and our own checkpoints -> one safetensors file that says what it is, and a card beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hicmae.configs import names
from hicmae.models.adapters import plain_weights
from hicmae.models.base import Model
from hicmae.models.convert import from_published, load_checkpoint, read_published
from hicmae.models.factory import STAGES, create_model, list_models, model_arguments, read_weights, save_weights
from hicmae.models.switches import determined
from hicmae.models.systems import Stage
from hicmae.runtime.checkpoint import sha256, weights_file
from hicmae.runtime.log import UserError
from hicmae.zoo.catalogue import Card, Converted, ModelFile, Preprocessing, Result, card, card_text

__all__ = ["Conversion", "about_model", "convert_checkpoint", "identify"]

EXPRESSED = "expressed emotion, never what a person feels"
MADE = "Made by `hicmae zoo convert`. Published results of the system: hicmae zoo info NAME."


@dataclass(frozen=True)
class Conversion:
    """What `convert_checkpoint` wrote."""

    weights: Path
    card: Path
    name: str
    stage: str
    labels: tuple[str, ...] | None
    assumed: tuple[str, ...]
    tensors: int

    def __str__(self) -> str:
        lines = [f"{self.weights}: {self.name} ({self.stage}), {self.tensors} tensors", f"{self.card}: its card"]
        if self.stage == "finetune":
            lines.append(f"labels: {', '.join(self.labels) if self.labels else 'unknown; say them with --labels'}")
        if self.assumed:
            lines.append(f"assumed, as the file does not tell: {'; '.join(self.assumed)}")
        return "\n".join(lines)


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    name: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    args: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write weights as safetensors from which the model can be rebuilt, and `out` with `.yaml` as its card.

    Every tensor of the file must find its place with its shape, and every parameter its tensor.

    Args:
        source: a published `.pth` file (tensors and plain containers only, anything else is refused), a weights file,
            or a run folder of ours.
        out: a `.safetensors` file.
        name: registered name; by default what the file says or its keys show.
        labels: class names in the order of the outputs; by default what the file says, or the published order of the
            data set that a published file names.
        args: constructor arguments that neither keys nor the file tell, such as `size` or `region`.

    Raises:
        UserError: no such file, an unsafe one, or one that cannot be identified or placed whole; the message says why.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise UserError(f"{out}: the weights go into a file that ends in .safetensors; the card gets the same name")
    file = weights_file(source)
    state, meta, told = _read(file)
    ours = {"name", "stage", "args"} <= meta.keys()
    if ours and name not in (None, meta["name"]):
        raise UserError(f"{file}: says that it is {meta['name']}, not {name}")
    name = meta["name"] if ours else name or identify(state, file)
    stage, known, assumed = (meta["stage"], meta["args"], ()) if ours else _arguments(file, name, state, told, args)
    model = _whole(file, name, stage, {**known, **(args or {})}, state)
    about = about_model(name, own=ours and "converted" not in meta)
    classes = _labels(file, model, labels or meta.get("labels"))
    if classes is None and (published := _order(about, told, model)):
        classes = published.labels
        assumed += (f"labels in the published order of {published.dataset}, which the file names",)
    origin = Converted(
        model=name,
        stage=model.stage,  # type: ignore[arg-type]
        source=file.name,
        source_sha256=sha256(file),
        labels=classes,
        assumed=assumed,
    )
    header = {**meta, "name": name, "stage": stage, "args": model.args, "converted": dataclasses.asdict(origin)}
    if classes:
        header["labels"] = list(classes)
    files = dataclasses.replace(about.weights, what=f"{stage} form of {name}, converted from {file.name}", files=())
    measured = meta.get("preprocessing", {}).get("fingerprint") or {}
    measured = {name: tuple(values) for name, values in measured.items() if values}
    made = dataclasses.replace(about.preprocessing, fingerprint=measured)
    about = dataclasses.replace(about, name=target.stem, weights=files, preprocessing=made, converted=origin)
    _write(target, model, header, about)
    return Conversion(target, target.with_suffix(".yaml"), name, stage, classes, assumed, len(state))


def identify(state: Mapping[str, Tensor], file: str | Path = "these tensors") -> str:
    """The registered name of a published state dict in our layout, from its keys and its width.

    Raises:
        UserError: none of the published systems, or an unpublished size; the message says which and what to do.
    """
    video, audio = (any(key.startswith(f"{tower}.blocks.") for key in state) for tower in ("encoder", "encoder_audio"))
    found = determined(state)
    width = found.get("dim" if video else "audio_dim")
    if width is None:
        first = ", ".join(sorted({key.split(".")[0] for key in state})[:5]) or "none"
        hint = ""
        if any(".encoder.layer." in key for key in state):
            hint = "; it has the layout of Hugging Face's transformers: take the file of the repository instead"
        raise UserError(
            f"{file}: holds no encoder of the systems known here (its tensors are {first}, ...){hint}. "
            "VideoMAE, MAE-DFER, SVFAP, HiCMAE and files of this library are read"
        )
    if video and audio:
        system = "hicmae_*"
    elif audio:
        system = "hicmae_*_audio"
    elif "video_layer_weights" in state:
        system = "hicmae_*_video"
    elif "encoder.lg_region_tokens" in state:
        system = "mae_dfer_*"
    elif any(key.startswith(("encoder.temporal_downsamples.", "encoder.spatial_downsamples.")) for key in state):
        system = "svfap_*"
    else:
        system = "videomae_*"
    towers = ("_video", "_audio")
    named = [name for name in list_models(system) if name.endswith(towers) == system.endswith(towers)]
    sizes = {model_arguments(name)["dim"]: name for name in named}
    if width not in sizes:
        near = " or ".join(f"{size} ({name})" for size, name in sizes.items())
        raise UserError(
            f"{file}: looks like {system.rstrip('_*')} {width} wide, and published are {near}; "
            "no tensor tells the number of heads, so say --name and --heads"
        )
    return sizes[width]


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors in our layout, our metadata, and the arguments of a published run."""
    if file.suffix == ".safetensors":
        state, meta = read_weights(file)
        return from_published(plain_weights(state, meta)), meta, {}
    state, told = read_published(file)
    return from_published(state), {}, told


def _arguments(
    file: Path, name: str, state: Mapping[str, Tensor], told: Mapping[str, Any], given: Mapping[str, Any] | None
) -> tuple[Stage, dict[str, Any], tuple[str, ...]]:
    """Stage and arguments of a published file, and what had to be assumed."""
    stage = STAGES[any(key.startswith(("encoder_to_decoder", "decoder.")) for key in state)]
    known = model_arguments(name, stage)
    found = determined(state)
    if name.endswith("_audio"):
        found |= {key: found[f"audio_{key}"] for key in ("dim", "depth") if f"audio_{key}" in found}
    if "head.weight" in state:
        found["num_classes"] = len(state["head.weight"])
    elif "fc_norm.weight" in state:
        found["num_classes"] = 0
    size, frames, region = (told.get(key) for key in ("input_size", "num_frames", "lg_region_size"))
    found |= {key: value for key, value in (("size", size), ("frames", frames)) if isinstance(value, int)}
    if isinstance(region, list | tuple) and len(region) == 3:
        found["region"] = list(region)
    result = {key: value for key, value in {**found, **(given or {})}.items() if key in known}
    for key in given or {}:
        if key not in known:
            raise UserError(f"{name} ({stage}) takes no argument {key!r}; it takes {', '.join(sorted(known))}")
    if result.get("dim", known["dim"]) != known["dim"] and "heads" not in result:
        raise UserError(
            f"{file}: is {result['dim']} wide, {name} is {known['dim']}; no tensor tells the number of heads, "
            "so say --heads"
        )
    inputs = {key: result.get(key, known[key]) for key in ("frames", "size", "audio_frames") if key in known}
    silent = {key: value for key, value in inputs.items() if key not in result}
    assumed = [f"{key.replace('_', ' ')} {value}" for key, value in silent.items()]
    if "heads" not in result:
        assumed.append(f"heads {known['heads']}")
    return stage, result, tuple(assumed)


def _whole(file: Path, name: str, stage: Stage, args: Mapping[str, Any], state: Mapping[str, Tensor]) -> Model:
    """The model of a file, all of whose tensors have found their place unchanged."""
    try:
        model = create_model(name, stage, **args)
        report = load_checkpoint(model, file, strict_head=True)
        if report.differences:  # what no tensor shows but the file says, such as the tokens that are pooled
            told = {key: pair[0] for key, pair in report.differences.items() if key not in args}
            model = create_model(name, stage, **{**args, **told})
            report = load_checkpoint(model, file, strict_head=True)
    except ValueError as error:
        raise UserError(f"{file}: cannot be rebuilt as {name} ({error})") from None
    if report.new or report.left_over:
        raise UserError(f"{file}: is not {name} ({stage}), whole: {report}")
    own = model.state_dict()
    for key, value in state.items():
        if own[key].shape != value.shape:
            raise UserError(
                f"{file}: {key} has shape {tuple(value.shape)}, and {name} of this input {tuple(own[key].shape)}; "
                "say the --region, --size and --frames it was made for"
            )
    return model


def _order(about: Card, told: Mapping[str, Any], model: Model) -> Result | None:
    """The card's result on the data set that a published file names, if it has as many classes as the head."""
    named = "".join(letter for letter in str(told.get("data_set", "")).lower() if letter.isalnum())
    for result in about.results:
        dataset = "".join(letter for letter in result.dataset.lower() if letter.isalnum())
        if named and named == dataset and result.labels and len(result.labels) == model.args.get("num_classes"):
            return result
    return None


def _labels(file: Path, model: Model, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    classes = model.args.get("num_classes")
    if labels is not None and len(labels) != classes:
        raise UserError(f"{file}: has {classes or 'no'} outputs, and {len(labels)} labels were given")
    return None if labels is None else tuple(labels)


def about_model(name: str, own: bool) -> Card:
    """The card of the system a file belongs to; for a file trained here with the terms of no published file."""
    found = card(name if name in names("models") else name.removesuffix("_video").removesuffix("_audio"))
    if not own:
        return found
    return dataclasses.replace(
        found,
        weights_licence="not stated; whoever passes this file on says it, and respects the terms of the training data",
        weights=dataclasses.replace(found.weights, published=None),
        preprocessing=Preprocessing(known=("as the header of the weights file says",)),
        labels_mean=f"those of the clips it was trained on, which this file does not tell; {EXPRESSED}",
        groups="not known: whoever passes this file on says on whom it was measured",
        consent="not known: whoever passes this file on says whose recordings it learnt from, and whether they agreed",
        note="The published results of the system are not this file's.",
    )


def _write(target: Path, model: Model, header: Mapping[str, Any], about: Card) -> None:
    """Both files, each whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    save_weights(part, model, header)
    form: Any = model.stage
    file = ModelFile(name=target.name, form=form, size=part.stat().st_size, sha256=sha256(part), mirrors=(target.name,))
    weights = dataclasses.replace(about.weights, obtained=True, files=(file,))
    text = card_text(dataclasses.replace(about, weights=weights, costs=(), results=()), MADE)
    beside = target.with_suffix(".yaml")
    words = beside.with_name(beside.name + ".part")
    words.write_text(text, encoding="utf-8")
    part.replace(target)
    words.replace(beside)
