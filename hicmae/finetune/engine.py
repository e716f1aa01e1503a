"""A fine-tuning run from its recipe: labelled shards -> stream -> model -> loop -> checkpoint -> evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hicmae import configs
from hicmae.datasets.divisions import few, validation_part
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.index import Index
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.sampling import train_view
from hicmae.finetune.adapt import adapt, told
from hicmae.finetune.adversary import against, speakers
from hicmae.finetune.clips import from_clips
from hicmae.finetune.config import FinetuneConfig
from hicmae.finetune.evaluation import check_labelled, measure, open_own
from hicmae.finetune.inputs import Inputs, mixed, sound_of
from hicmae.finetune.outputs import Outputs
from hicmae.finetune.selection import Chooser
from hicmae.finetune.targets import Targeted, read_targets
from hicmae.finetune.tasks import Task, task_of
from hicmae.finetune.views import TwoViews
from hicmae.models.base import Model
from hicmae.models.convert import LoadReport, load_checkpoint
from hicmae.models.factory import arguments_for, create_model, model_arguments
from hicmae.runtime.checkpoint import read_weights, weights_file
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.log import UserError, say
from hicmae.runtime.loop import Fit
from hicmae.runtime.optim import parameter_groups

__all__ = ["build_model", "learner", "run"]

# what the fine-tuning form decides for itself, whatever the checkpoint says
OWN = frozenset({"drop_path", "frames", "init_scale", "keep_temporal", "num_classes", "readout", "size"})


def run(config: FinetuneConfig, *, show: bool = True) -> Path:
    """Fine-tune as the recipe says, measure the last weights on `data.test`; returns the last checkpoint's folder.

    An unfinished run in `config.out` is continued. Works in one process or under `torchrun` (DDP). Where the recipe
    keeps averaged weights, both are measured (`evaluation`, `evaluation-ema`); neither is chosen.

    Raises:
        ConfigError: no shards, a size the model cannot take, arguments the checkpoint contradicts, a batch that cannot
            be divided, or a run in `out` made by another recipe.
        UserError: clips without labels, label names that differ between training and test, weights that do not fit,
            unreadable data above `data.max_bad_share`, a full disk.
    """
    with process_group(config.device, config.loop.timeout) as place:
        return _run(config, place, show and place.first)


def build_model(config: FinetuneConfig, labels: Sequence[str]) -> tuple[Model, LoadReport | None]:
    """The model a recipe describes: fresh weights from the recipe's seed, then those of `init`.

    Arguments the recipe does not state are those of the checkpoint. A head is taken over only where its outputs are
    known to be `labels`, in this order, and to mean the same.
    """
    file = _init_file(config)
    stored = read_weights(file)[1] if file is not None and file.suffix == ".safetensors" else {}
    torch.manual_seed(config.seed)
    try:
        known = model_arguments(config.model, "finetune")
        inherited = arguments_for(config.model, "finetune", stored.get("args", {}))
        model = create_model(
            config.model,
            stage="finetune",
            **{
                **{key: value for key, value in inherited.items() if key not in OWN},
                **{key: value for key, value in _sizes(config).items() if key in known},
                **config.args,
                "num_classes": len(labels),
                "keep_temporal": config.task.per_frame,
                "readout": config.adapt.readout,
            },
        )
    except (TypeError, ValueError) as error:
        raise configs.ConfigError(f"args: {error}") from None
    if file is None:
        return adapt(model, config.adapt), None
    own = ("head.", "standard.")
    fresh = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(own)}
    loaded = load_checkpoint(model, file)
    free = OWN | {"audio_frames", "mels", "layers"}  # any length can be heard, and any layers read
    contradicted = {key: pair for key, pair in loaded.differences.items() if key in config.args and key not in free}
    if contradicted:
        told = ", ".join(f"args.{key} is {mine!r}, {file} has {its!r}" for key, (its, mine) in contradicted.items())
        raise configs.ConfigError(f"{told}; leave the key out to take the checkpoint's")
    other = Outputs.of(stored) != Outputs.for_task(config.task, labels)
    if (other or {"layers", "readout"} & loaded.differences.keys()) and any(name in fresh for name in loaded.loaded):
        model.load_state_dict(fresh, strict=False)
        loaded.loaded = [name for name in loaded.loaded if name not in fresh]
        loaded.new += list(fresh)
        loaded.left_over += list(fresh)
    return adapt(model, config.adapt), loaded


def learner(
    config: FinetuneConfig, model: Model, counts: Sequence[int], speakers: int = 0
) -> tuple[nn.Module, Task, list[dict]]:
    """What is trained: the model and what lies beside it; its task; and the groups of parameters that learn.

    Args:
        counts: training clips of each class, where classes are learnt.
        speakers: how many there are, where an adversary is to recognise them.
    """
    task = task_of(config, Inputs.of(model), counts)
    trained: nn.Module = model
    if speakers:
        trained, task = against(model, task, config.adapt, speakers, config.loop.epochs)
    elif config.missing.views:
        trained = TwoViews(model, config.missing)
    groups = parameter_groups(
        trained,
        weight_decay=config.optim.weight_decay,
        layer_decay=config.optim.layer_decay,
        published=config.layer_decay_groups == "published",
    )
    return trained, task, groups


def _run(config: FinetuneConfig, place: Place, show: bool) -> Path:
    if config.loop.engine in ("fsdp", "deepspeed"):
        raise configs.ConfigError(
            f"loop.engine: {config.loop.engine} is for pretraining; fine-tuning measures whole models: single or ddp"
        )
    config = from_clips(config, place, show=show)
    train = _open_train(config)
    listed = len(train)
    if config.data.fraction < 1:
        train = train.select(few(train, config.data.fraction, config.seed))
    share = f" ({100 * config.data.fraction:.4g} % of {listed:,})" if len(train) < listed else ""
    labels = config.task.outputs(train.classes)
    test = open_own(config, config.data.test, train.classes) if config.data.test else None
    train, judge, unit = _judged(config, train, test)
    out = Path(config.out)
    configs.check_recipe(config, out)
    model, loaded = build_model(config, labels)
    inputs = Inputs.of(model)
    config.missing.check(inputs, model.name)
    whole, train = len(train), _heard(config, train, inputs, model.name)
    counts = _check_classes(config, train) if config.task.labelled else []
    sound = sound_of(model, config.sound)
    known = speakers(train, config.adapt.adversary) if config.adapt.adversary else None
    stream = _stream(config, train, place, inputs, sound, known)
    place.wait()
    if place.first:
        configs.keep_recipe(config, out)
    if show:
        if loaded is not None:
            say(f"init {config.init}: {loaded}{_heard_before(config, sound)}")
        if len(train) < whole:
            say(f"{whole - len(train):,} of {whole:,} training clips cannot be heard: left out")
        size = sum(parameter.numel() for parameter in model.parameters())
        say(
            f"{config.model}: {size:,} parameters{told(model, config.adapt, loaded is None)}; {len(train):,} clips"
            f"{share} of {_told_outputs(config, labels)}, {stream.steps_per_epoch} steps per epoch, "
            f"{config.loop.epochs} epochs on {place.world} x {place.device.type}; run folder {out}"
        )
    meta = _meta(config, model, train, labels, sound)
    chooser = None
    if judge is not None:
        chooser = Chooser(out=out, index=judge, place=place, meta=meta, unit=unit, config=config, stream=stream)
        if show:
            say(f"the epoch is chosen on {unit}")
    trained, task, groups = learner(config, model, counts, 0 if known is None else int(known.max()) + 1)
    torch.manual_seed(config.seed + place.rank)  # drop path drawn anew in each process
    last = Fit(
        trained,
        task,
        stream,
        groups=groups,
        optim=config.optim,
        loop=config.loop,
        out=out,
        place=place,
        meta=meta,
        show=show,
        on_epoch=chooser,
    ).run()
    place.wait()
    if test is not None:
        plain = chooser.file if chooser is not None else weights_file(last)
        for file in [plain, weights_file(last, ema=True)] if config.loop.ema else [plain]:
            measure(file, test, out, place, show)
    elif show:
        say(f"no data.test to measure it on; hicmae evaluate {out} --data DIR does that")
    return last


# -- what goes in ----------------------------------------------------------------------------------------------------


def _open_train(config: FinetuneConfig) -> Index:
    if not config.data.train:
        raise configs.ConfigError(
            "data.train is empty: name labelled folders that `hicmae shard` wrote, or one of clips with a folder per "
            "class, --data.train DIR"
        )
    train = Index.join([Index.load(folder) for folder in config.data.train])
    if config.task.labelled:
        check_labelled(train)
    if config.task.classed and len(train.classes) < 2:
        raise UserError(f"{train.folder}: a classifier needs two classes or more, its labels are {train.classes}")
    return train


def _judged(config: FinetuneConfig, train: Index, test: Index | None) -> tuple[Index, Index | None, str]:
    """The clips to train on, those the epoch is chosen on (None: it is the last), and what those are, in words."""
    if config.select == "last":
        return train, None, ""
    if config.select == "test":
        if test is None:
            raise configs.ConfigError("select: test needs data.test, the clips to choose on")
        return train, test, "the test clips themselves"
    if config.data.val:
        return train, open_own(config, config.data.val, train.classes), f"data.val, {', '.join(config.data.val)}"
    mask, unit = validation_part(train, config.val_share, config.seed)
    return train.select(~mask), train.select(mask), unit


def _check_classes(config: FinetuneConfig, train: Index) -> list[int]:
    """How many clips each class has; UserError where one has none."""
    counts = np.bincount(train.labels, minlength=len(train.classes))
    empty = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"{', '.join(map(str, config.data.train))}: no training clip has the label {', '.join(empty)}; "
            f"shard clips of it, or shard without it in `classes`"
        )
    return counts.tolist()


def _heard(config: FinetuneConfig, train: Index, inputs: Inputs, model: str) -> Index:
    """The training clips that a model which hears can use.

    Raises:
        UserError: there are none, or the model can not be told which have no sound.
    """
    if not inputs.audio:
        return train
    kept = train.audible if inputs.need_audio else train.sound
    if not kept.any():
        raise UserError(
            f"{train.folder}: none of its {len(train):,} clips has sound that can be heard, and {model} hears; shard "
            "videos with sound, or train a model that only sees"
        )
    if inputs.need_audio or config.data.drop_without_sound:
        return train if kept.all() else train.select(kept)
    if not kept.all() and not inputs.missing:
        raise UserError(mixed(f"{train.folder}: {(~kept).sum():,} of {len(train):,} clips have no sound"))
    return train


def _sizes(config: FinetuneConfig) -> dict[str, int]:
    """Sizes of the input as arguments of models; those of sound where the recipe sets them."""
    sizes = {"frames": config.data.frames, "size": config.data.size}
    for key, name in (("audio_frames", "length"), ("mels", "bins")):
        if getattr(config.sound, name) != getattr(SoundConfig, name):
            sizes[key] = getattr(config.sound, name)
    return sizes


def _stream(
    config: FinetuneConfig,
    train: Index,
    place: Place,
    inputs: Inputs,
    sound: SoundConfig | None,
    known: Tensor | None,
) -> Stream:
    data, loop, task = config.data, config.loop, config.task
    view = train_view(
        *(data.frames, data.stride, data.size, config.augment, sound, config.sound_augment),
        need_sound=not inputs.missing,
        see=inputs.video,
    )
    if task.columns:
        view = Targeted(view, read_targets(train, task))
    if known is not None:
        view = Targeted(view, known, "speaker")
    try:
        return Stream(
            dataclasses.replace(train, corpus=train.labels) if task.balanced else train,
            view,
            batch_size=loop.batch_size,
            accumulate=loop.accumulate,
            seed=config.seed,
            rank=place.rank,
            world=place.world,
            workers=data.workers,
            max_bad_share=data.max_bad_share,
            timeout=loop.timeout,
            pin=place.device.type == "cuda",
            weights=[1.0] * len(train.classes) if task.balanced else None,
        )
    except ValueError as error:
        raise configs.ConfigError(f"loop.batch_size: {error}") from None


def _init_file(config: FinetuneConfig) -> Path | None:
    if config.init is None:
        return None
    if config.init_ema and Path(config.init).is_file():
        raise configs.ConfigError(f"init_ema: {config.init} is a file; name the run folder, or its ema.safetensors")
    return weights_file(config.init, ema=config.init_ema)


def _meta(
    config: FinetuneConfig, model: Model, train: Index, labels: Sequence[str], sound: SoundConfig | None
) -> Mapping[str, Any]:
    preprocessing = {**train.preprocessing, "frames": config.data.frames, "stride": config.data.stride}
    preprocessing["fingerprint"] = train.fingerprint
    if sound is not None:
        augment = dataclasses.asdict(config.sound_augment)
        preprocessing |= {"sound": dataclasses.asdict(sound), "sound_augment": augment}
    return {
        "name": model.name,
        "stage": "finetune",
        "args": model.args,
        "labels": list(labels),
        "task": configs.as_dict(config.task),
        "preprocessing": preprocessing,
        "config": configs.as_dict(config),
        **({"lora": {"alpha": config.adapt.alpha}} if config.adapt.kind == "lora" else {}),
    }


def _told_outputs(config: FinetuneConfig, labels: Sequence[str]) -> str:
    """What is learnt, in words: `7 classes`, `3 classes and valence`."""
    values = config.task.values
    classes = len(labels) - len(values)
    return " and ".join([*([f"{classes} classes"] if classes else []), *values])


def _heard_before(config: FinetuneConfig, sound: SoundConfig | None) -> str:
    """Words, where the weights to start from were trained on sound that was normalised otherwise."""
    file = _init_file(config)
    if sound is None or file is None or file.suffix != ".safetensors":
        return ""
    before = read_weights(file)[1].get("preprocessing", {}).get("sound", {})
    unlike = {k: before[k] for k in ("mean", "std") if k in before and before[k] != getattr(sound, k)}
    return "".join(f"; it heard sound with {k} {v}, not {getattr(sound, k)}: see sound.{k}" for k, v in unlike.items())
