"""A pretraining run from its recipe: shards -> stream -> masked autoencoder -> loop -> checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hicmae import configs
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.index import Index
from hicmae.datasets.nvjpeg import OnDevice, coded_clip
from hicmae.datasets.pipeline import Stream
from hicmae.datasets.sampling import pretrain_view
from hicmae.models.factory import create_model, model_arguments
from hicmae.models.profile import profile
from hicmae.pretrain.config import PretrainConfig
from hicmae.pretrain.objectives import objective_for
from hicmae.pretrain.online import online
from hicmae.runtime.dist import Place, process_group
from hicmae.runtime.log import UserError, say
from hicmae.runtime.loop import Fit, Objective
from hicmae.runtime.optim import parameter_groups

__all__ = ["Prepared", "build_model", "prepare", "run"]


def run(config: PretrainConfig, *, show: bool = True) -> Path:
    """Pretrain as the recipe says; returns the folder of the last checkpoint.

    An unfinished run in `config.out` is continued. Works in one process or under `torchrun` (DDP).

    Raises:
        ConfigError: no shards, a size the model cannot take, a run in `out` made by another recipe.
        UserError: unreadable data above `data.max_bad_share`, too many non-finite steps, a full disk.
    """
    with process_group(config.device, config.loop.timeout) as place:
        return _run(config, place, show)


def build_model(config: PretrainConfig) -> Any:
    """The masked autoencoder a recipe describes, its weights drawn from the recipe's seed."""
    torch.manual_seed(config.seed)
    sizes = {"frames": config.data.frames, "size": config.data.size}
    sizes |= {"audio_frames": config.sound.length, "mels": config.sound.bins}
    try:
        known = model_arguments(config.model, "pretrain")
        defaults: dict[str, Any] = {name: size for name, size in sizes.items() if name in known}
        if config.fidelity == "published" and {"region", "decoder_order"} <= known.keys():
            defaults["decoder_order"] = "published"
        return create_model(config.model, stage="pretrain", **{**defaults, **config.args})
    except (TypeError, ValueError) as error:
        raise configs.ConfigError(f"args: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a recipe says of a run, before the first step."""

    model: Any
    objective: Objective
    stream: Stream
    groups: list[dict]
    meta: dict[str, Any]
    clips: int
    left_out: int
    """Clips that have no sound or a silent one, where the model hears."""


def prepare(config: PretrainConfig, place: Place) -> Prepared:
    """Model, objective, data and parameter groups of a recipe; see `run` for the errors."""
    if not config.data.shards:
        raise configs.ConfigError("data.shards is empty: name the folders that `hicmae shard` wrote, --data.shards DIR")
    if (on_gpu := config.data.decode == "gpu") and place.device.type != "cuda":
        raise configs.ConfigError("data.decode: gpu needs a GPU, and this run has none: leave it at cpu")
    model = build_model(config)
    hears = model.audio_grid is not None
    whole = Index.join([Index.load(folder) for folder in config.data.shards])
    index = _audible(whole, model.name) if hears else whole
    sound = config.sound.shaped(model.audio_grid, model.audio_patch) if hears else None
    view = pretrain_view(
        *(config.data.frames, config.data.stride, config.data.size, sound, config.sound_augment),
        need_sound=hears,
        see=model.grid is not None,
        clips=config.data.clips,
        look=partial(coded_clip, side=index.preprocessing["size"], size=config.data.size) if on_gpu else None,
    )
    stream = Stream(
        index,
        view,
        batch_size=config.loop.batch_size,
        accumulate=config.loop.accumulate,
        seed=config.seed,
        rank=place.rank,
        world=place.world,
        workers=config.data.workers,
        max_bad_share=config.data.max_bad_share,
        timeout=config.loop.timeout,
        weights=config.data.weights,
        clips=config.data.clips,
        pin=place.device.type == "cuda",
        finish=OnDevice(config.data.size, place.device) if on_gpu else None,
    )
    return Prepared(
        model=model,
        objective=objective_for(
            model, mask=config.mask, target=config.target, contrast=config.contrast, seed=config.seed
        ),
        stream=stream,
        groups=parameter_groups(
            model, weight_decay=config.optim.weight_decay, published=config.fidelity == "published"
        ),
        meta={
            "name": model.name,
            "stage": "pretrain",
            "args": model.args,
            "preprocessing": _preprocessing(config, index, sound),
            "config": configs.as_dict(config),
        },
        clips=len(index),
        left_out=len(whole) - len(index),
    )


def _run(config: PretrainConfig, place: Place, show: bool) -> Path:
    run = prepare(config, place)
    on_epoch = None
    if config.watch.every:
        from hicmae.pretrain.watch import watcher_for  # draws, which takes a second to import

        on_epoch = watcher_for(config, run.model, run.stream, place)
    out = Path(config.out)
    configs.check_recipe(config, out)
    place.wait()
    if place.first:
        configs.keep_recipe(config, out)
        if show:
            if run.left_out:
                say(f"{run.left_out:,} of {run.clips + run.left_out:,} clips have no sound or a silent one: left out")
            size = sum(parameter.numel() for parameter in run.model.parameters())
            say(
                f"{config.model}: {size:,} parameters; {run.clips:,} clips, {run.stream.steps_per_epoch} steps per "
                f"epoch, {config.loop.epochs} epochs on {place.world} x {place.device.type}; run folder {out}"
            )
    with online(config, place) as listener:
        return Fit(
            run.model,
            run.objective,
            run.stream,
            groups=run.groups,
            optim=config.optim,
            loop=config.loop,
            out=out,
            place=place,
            meta=run.meta,
            show=show,
            on_epoch=on_epoch,
            clip_flops=float(profile(run.model).executed_flops) if place.device.type == "cuda" else 0.0,
            listener=listener,
        ).run()


def _audible(index: Index, model: str) -> Index:
    """The clips that can be heard: without sound there is nothing to hide and nothing to contrast with."""
    kept = index.audible
    if not kept.any():
        raise UserError(
            f"{index.folder}: none of its {len(index):,} clips has sound that can be heard, and {model} hears; shard "
            "videos with sound, or pretrain a model that only sees"
        )
    return index if kept.all() else index.select(kept)


def _preprocessing(config: PretrainConfig, index: Index, sound: SoundConfig | None) -> dict[str, Any]:
    """How clips become input, for whoever uses the weights."""
    own = {"frames": config.data.frames, "stride": config.data.stride, "fingerprint": index.fingerprint}
    stated = {**index.preprocessing, **own}
    if sound is not None:
        stated |= {"sound": dataclasses.asdict(sound), "sound_augment": dataclasses.asdict(config.sound_augment)}
    return stated
