"""The main job in five minutes: on generated talking faces, or on a person's own videos.

Generated faces come with known answers. An emotion is a pair of a facial motion and a movement of the voice; a model
that sees frames alone cannot tell emotions that differ in the voice alone, so its best possible score is known.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicmae import configs, finetune, pretrain
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.synthetic import Corpus, make_corpus
from hicmae.finetune.report import Report
from hicmae.inference.predict import predict_clip
from hicmae.inference.reconstruct import reconstruct_clip
from hicmae.models.factory import save_weights
from hicmae.models.profile import profile
from hicmae.runtime.log import UserError, say
from hicmae.runtime.metrics import Estimate, bootstrap

__all__ = ["DemoConfig", "DemoResult", "generated_faces", "own_videos"]

FROM = ("from scratch", "from the pretrained checkpoint")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How large the demo is; the defaults take at most five minutes on two CPU cores."""

    train: int = 40
    """People in the labelled training clips; each shows all six emotions."""
    test: int = 20
    """Other people, whom the models are measured on."""
    unlabeled: int = 160
    """Further people, one clip each, for pretraining."""
    size: int = 64
    """Height and width of the clips, in pixels."""
    seeds: int = 1
    """Repetitions with other people and other weights."""
    pretrain_epochs: int | None = None
    """Instead of the recipe's."""
    finetune_epochs: int | None = None
    """Instead of the recipe's."""

    def __post_init__(self) -> None:
        for name in ("train", "test", "unlabeled", "seeds", "pretrain_epochs", "finetune_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured and where its pictures lie; `str()` is the table."""

    rows: dict[str, Estimate]
    """Six-class UAR with its 95 % interval over people, from scratch and from the pretrained checkpoint."""
    chance: float
    ceiling: float
    """Best possible UAR without sound."""
    people: int
    seeds: int
    minutes: float
    prediction: str
    cost: str
    picture: Path
    page: Path

    def __str__(self) -> str:
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        lines = [
            f"Six emotions from frames alone; {self.people} people nobody trained on{seeds}.",
            "Both models start from the same first weights and see the same labels for the same steps.",
            f"{'':34} {'UAR':>6}   95 % interval",
            *(f"{name:34} {row.value:6.1%}   {row.low:.1%} to {row.high:.1%}" for name, row in self.rows.items()),
            f"{'chance':34} {self.chance:6.1%}",
            f"{'best possible without sound':34} {self.ceiling:6.1%}   three pairs of emotions differ in voice only",
            "",
            self.prediction,
            "",
            self.cost,
            f"reconstruction  {self.picture}",
            f"page            {self.page}",
            f"took            {self.minutes:.1f} minutes",
        ]
        return "\n".join(lines)


def generated_faces(out: str | Path, config: DemoConfig | None = None) -> DemoResult:
    """Shard, pretrain, fine-tune from scratch and from the checkpoint, evaluate, predict, reconstruct, profile.

    Everything is written below `out`; a demo that was stopped continues where it was.
    """
    config, out, started = config or DemoConfig(), Path(out), time.monotonic()
    reports: dict[str, list[Report]] = {name: [] for name in FROM}
    for seed in range(config.seeds):
        home = out / f"seed-{seed}" if config.seeds > 1 else out
        note = f" (seed {seed})" if config.seeds > 1 else ""
        say(f"1/7 six emotions of generated faces and voices, into shards{note}")
        corpus = make_corpus(
            home / "corpus",
            train_identities=config.train,
            test_identities=config.test,
            unlabeled=config.unlabeled,
            size=config.size,
            seed=seed,
        )
        shards = {
            name: str(_shard(home / "shards" / name, listed, config.size))
            for name, listed in (
                *(("train", corpus.train_csv), ("test", corpus.test_csv), ("unlabeled", corpus.unlabeled_csv)),
            )
        }
        common: dict[str, Any] = {"seed": seed}
        loops = [{} if n is None else {"epochs": n} for n in (config.pretrain_epochs, config.finetune_epochs)]
        say(f"2/7 pretraining on {config.unlabeled} clips without labels: MAE-DFER, appearance and motion{note}")
        values = {**common, "loop": loops[0], "data": {"shards": [shards["unlabeled"]]}, "out": str(home / "pretrain")}
        recipe = _recipe(pretrain.PretrainConfig, "pretrain", values)
        weights = pretrain.run(recipe)
        # the same first weights without their pretraining: the rows then differ in nothing else
        untrained = home / "untrained.safetensors"
        save_weights(untrained, pretrain.build_model(recipe))
        for number, name in enumerate(FROM):
            say(f"{3 + number}/7 fine-tuning {name}, and evaluating{note}")
            run = home / f"finetune-{('scratch', 'pretrained')[number]}"
            values = {**common, "loop": loops[1], "data": {"train": [shards["train"]]}, "out": str(run)}
            values["init"] = str(weights if number else untrained)
            last = finetune.run(_recipe(finetune.FinetuneConfig, "finetune", values))
            reports[name].append(finetune.evaluate(last, [shards["test"]], out=run / "evaluation"))
    return _finish(out, home, run, config, corpus, reports, started)


def _finish(
    out: Path,
    home: Path,
    run: Path,
    config: DemoConfig,
    corpus: Corpus,
    reports: Mapping[str, list[Report]],
    started: float,
) -> DemoResult:
    clip = min((home / "corpus" / "clips" / "test").glob("*.mp4"))
    say("5/7 predicting one clip")
    prediction = predict_clip(clip, run)
    say("6/7 drawing a reconstruction")
    picture = reconstruct_clip(clip, home / "pretrain", out=out / "reconstruction.png")
    say("7/7 counting")
    recipe = _recipe(finetune.FinetuneConfig, "finetune", {})
    pretrained = _recipe(pretrain.PretrainConfig, "pretrain", {})
    arguments = {**pretrained.args, "frames": recipe.data.frames, "size": recipe.data.size}
    arguments = {key: value for key, value in arguments.items() if not key.startswith("decoder")}
    cost = profile(recipe.model, num_classes=len(corpus.classes), **arguments)
    result = DemoResult(
        rows={name: _pooled(found, len(corpus.classes)) for name, found in reports.items()},
        chance=1 / len(corpus.classes),
        ceiling=corpus.ceilings["video"],
        people=config.test,
        seeds=config.seeds,
        minutes=(time.monotonic() - started) / 60,
        prediction=prediction.table(),
        cost="\n".join(str(cost).splitlines()[:2]),
        picture=picture,
        page=run / "evaluation" / "evaluation.html",
    )
    rows = {name: row._asdict() for name, row in result.rows.items()}
    told = {"rows": rows, "chance": result.chance, "ceiling": result.ceiling, "minutes": result.minutes}
    (out / "results.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    return result


def own_videos(videos: str | Path, out: str | Path, *, steps: int = 3000) -> str:
    """Shard a person's own videos, pretrain a small model on them, draw a reconstruction of the first one."""
    out = Path(out)
    say("1/3 sharding")
    index = write_shards([videos], out / "shards", config=ShardConfig(size=96, max_seconds=2))
    say(str(index))
    config = configs.load(pretrain.PretrainConfig, configs.resolve("own_videos", "pretrain"))
    batch = min(config.loop.batch_size, len(index))
    loop = dataclasses.replace(
        config.loop, batch_size=batch, epochs=max(1, steps // (len(index) // batch)), save_every=500
    )
    say("2/3 pretraining")
    pretrain.run(
        dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, shards=[str(out / "shards")]),
            # few clips make a small batch; the rate of a step stays that of the recipe
            optim=dataclasses.replace(
                config.optim,
                lr=config.optim.lr * config.loop.batch_size / batch,
                warmup_epochs=0.1 * loop.epochs,
            ),
            loop=loop,
            out=str(out / "pretrain"),
        )
    )
    log = [json.loads(line)["loss"] for line in (out / "pretrain" / "log.jsonl").read_text().splitlines()]
    say("3/3 drawing a reconstruction")
    first = Path(videos) if Path(videos).is_file() else Path(videos) / index.sources[0]
    picture = reconstruct_clip(first, out / "pretrain", out=out / "reconstruction.png")
    return f"loss {log[0]:.3f} -> {log[-1]:.3f} ({1 - log[-1] / log[0]:.0%} lower)\nreconstruction  {picture}"


def _shard(folder: Path, listed: Path | None, size: int) -> Path:
    write_shards([], folder, config=ShardConfig(size=size, list=str(listed)))
    return folder


def _recipe(config: type, kind: str, values: Mapping[str, Any]) -> Any:
    recipe = configs.resolve("demo", kind)
    for key, value in values.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, Mapping) else value
    return configs.load(config, recipe)


def _pooled(reports: list[Report], classes: int) -> Estimate:
    """UAR over the clips of all seeds; intervals resample people."""
    truth = np.concatenate([report.truth for report in reports])
    guess = np.concatenate([report.guess for report in reports])
    people = [f"{seed}/{person}" for seed, report in enumerate(reports) for person in report.groups or report.keys]
    return bootstrap(truth, guess, people, classes)["uar"]
