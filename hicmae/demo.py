"""The main job in five minutes: on generated talking faces, or on a person's own videos.

Generated faces come with known answers. An emotion is a pair of a facial motion and a movement of the voice; a model
that has frames alone, or sound alone, cannot tell emotions that differ in the other, so its best score is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hicmae import configs, finetune, pretrain
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.synthetic import LOOK_ALIKE, SOUND_ALIKE, Corpus, make_corpus
from hicmae.finetune.report import Report
from hicmae.inference.predict import predict_clip
from hicmae.inference.reconstruct import reconstruct_clip
from hicmae.models.factory import save_weights
from hicmae.models.profile import profile
from hicmae.runtime.log import UserError, progress, say
from hicmae.runtime.metrics import Estimate, bootstrap

__all__ = ["DemoConfig", "DemoResult", "Row", "generated_faces", "own_videos"]

FIRST = "sound alone, not pretrained"
ROWS = {FIRST: "demo_audio", "sound alone": "demo_audio", "frames alone": "demo_video", "both": "demo"}
"""What is measured: name -> recipe of the classifier; all but the first start from the pretrained checkpoint."""


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
    """Instead of the recipes'."""

    def __post_init__(self) -> None:
        for name in ("train", "test", "unlabeled", "seeds", "pretrain_epochs", "finetune_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one classifier gets right, with 95 % intervals over people."""

    uar: Estimate
    """Of six emotions."""
    look_alike: Estimate
    """Telling the right emotion of a clip from the one that looks identical and differs in voice; chance is a half."""
    sound_alike: Estimate
    """Telling the right emotion of a clip from the one that sounds identical and differs in motion; likewise."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured and where its pictures lie; `str()` is the table."""

    rows: dict[str, Row]
    chance: float
    ceilings: dict[str, float]
    """Best possible UAR from `video`, `audio` and `both`."""
    people: int
    seeds: int
    minutes: float
    prediction: str
    cost: str
    picture: Path
    page: Path

    def __str__(self) -> str:
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        one = self.ceilings["video"]
        lines = [
            f"Six emotions of {self.people} people nobody trained on{seeds}. Each emotion has a twin that looks the",
            "same and differs in voice, and another one that sounds the same and differs in motion.",
            f"{'':28}    {'UAR':^18}  {'which of two that':^18}  {'which of two that':^18}",
            f"{'':28}    {'(95 % interval)':^18}  {'look alike':^18}  {'sound alike':^18}",
            *(
                f"{name:28}    "
                + "  ".join(f"{_told(part):^18}" for part in (row.uar, row.look_alike, row.sound_alike))
                for name, row in self.rows.items()
            ),
            f"{'chance':28}    {f'{self.chance:.1%}':^18}  {'50%':^18}  {'50%':^18}",
            f"{'best possible from one alone':28}    {f'{one:.1%}':^18}",
            "The two rows of sound start from the same first weights and see the same labels for the same steps.",
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
    """Shard, pretrain a small HiCMAE, fine-tune it and its towers, evaluate, predict, reconstruct, profile.

    Everything is written below `out`; a demo that was stopped continues where it was.
    """
    config, out, started = config or DemoConfig(), Path(out), time.monotonic()
    reports: dict[str, list[Report]] = {name: [] for name in ROWS}
    for seed in range(config.seeds):
        home = out / f"seed-{seed}" if config.seeds > 1 else out
        note = f" (seed {seed})" if config.seeds > 1 else ""
        say(f"1/6 six emotions of generated faces and voices, into shards{note}")
        corpus = make_corpus(
            home / "corpus",
            train_identities=config.train,
            test_identities=config.test,
            unlabeled=config.unlabeled,
            size=config.size,
            seed=seed,
        )
        listed = {"train": corpus.train_csv, "test": corpus.test_csv, "unlabeled": corpus.unlabeled_csv}
        shards = {name: str(_shard(home / "shards" / name, file, config.size)) for name, file in listed.items()}
        say(f"2/6 pretraining a small HiCMAE on {config.unlabeled} clips with sound and without labels{note}")
        values = {"data": {"shards": [shards["unlabeled"]]}, "seed": seed, "out": str(home / "pretrain")}
        recipe = _recipe(pretrain.PretrainConfig, "demo", _loop(values, config.pretrain_epochs))
        weights = pretrain.run(recipe)
        # the same first weights without their pretraining: the two rows then differ in nothing else
        untrained = home / "untrained.safetensors"
        save_weights(untrained, pretrain.build_model(recipe))
        say(f"3/6 fine-tuning and evaluating, side by side: {'; '.join(ROWS)}{note}")
        recipes = []
        for name, finetuning in ROWS.items():
            values = {"data": {"train": [shards["train"]]}, "seed": seed, "out": str(_run_of(home, name))}
            values["init"] = str(untrained if name == FIRST else weights)
            recipes.append(_recipe(finetune.FinetuneConfig, finetuning, _loop(values, config.finetune_epochs)))
        for name, report in zip(ROWS, _side_by_side(recipes, shards["test"], corpus.clips["train"]), strict=True):
            reports[name].append(report)
    return _finish(out, home, config, corpus, reports, started)


def _finish(
    out: Path,
    home: Path,
    config: DemoConfig,
    corpus: Corpus,
    reports: Mapping[str, list[Report]],
    started: float,
) -> DemoResult:
    run = _run_of(home, "both")
    clip = min((home / "corpus" / "clips" / "test").glob("*.mp4"))
    say("4/6 predicting one clip")
    prediction = predict_clip(clip, run)
    say("5/6 drawing a reconstruction")
    picture = reconstruct_clip(clip, home / "pretrain", out=out / "reconstruction.png")
    say("6/6 counting")
    recipe = _recipe(finetune.FinetuneConfig, "demo", {})
    pretrained = _recipe(pretrain.PretrainConfig, "demo", {})
    arguments = {**pretrained.args, "frames": recipe.data.frames, "size": recipe.data.size}
    arguments = {key: value for key, value in arguments.items() if not key.startswith("decoder")}
    cost = profile(recipe.model, num_classes=len(corpus.classes), **arguments)
    result = DemoResult(
        rows={name: _row(found) for name, found in reports.items()},
        chance=1 / len(corpus.classes),
        ceilings=corpus.ceilings,
        people=config.test,
        seeds=config.seeds,
        minutes=(time.monotonic() - started) / 60,
        prediction=prediction.table(),
        cost="\n".join(str(cost).splitlines()[:2]),
        picture=picture,
        page=run / "evaluation" / "evaluation.html",
    )
    rows = {
        name: {part: estimate._asdict() for part, estimate in vars(row).items()} for name, row in result.rows.items()
    }
    told = {"rows": rows, "chance": result.chance, "ceilings": result.ceilings, "minutes": result.minutes}
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


def _run_of(home: Path, row: str) -> Path:
    return home / f"finetune-{row.replace(',', '').replace(' ', '-')}"


def _side_by_side(recipes: Sequence[finetune.FinetuneConfig], test: str, clips: int) -> list[Report]:
    """Fine-tune and evaluate classifiers at the same time, one core each: alone, one this small does not fill two."""
    steps = [recipe.loop.epochs * (clips // recipe.loop.batch_size) for recipe in recipes]
    cores = min(len(recipes), os.cpu_count() or 1)
    pool = ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
    with pool, progress(total=sum(steps), desc="fine-tune", unit="step") as bar:
        # the longest, which is the last, first: the cores then end together
        futures = [pool.submit(_classifier, recipe, test) for recipe in reversed(recipes)][::-1]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(sum(_steps_done(recipe) for recipe in recipes) - bar.n)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _classifier(recipe: finetune.FinetuneConfig, test: str) -> Report:
    torch.set_num_threads(1)
    last = finetune.run(recipe, show=False)
    report = finetune.evaluate(last, [test], out=Path(recipe.out) / "evaluation", show=False)
    assert isinstance(report, Report)  # of classes
    return report


def _steps_done(recipe: finetune.FinetuneConfig) -> int:
    log = Path(recipe.out) / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    with contextlib.suppress(ValueError):  # the last line may be half written
        return int(json.loads(lines[-1])["step"]) if lines else 0
    return 0


def _shard(folder: Path, listed: Path | None, size: int) -> Path:
    write_shards([], folder, config=ShardConfig(size=size, list=str(listed)))
    return folder


def _recipe(config: type, name: str, values: Mapping[str, Any]) -> Any:
    recipe = configs.resolve(name, "pretrain" if config is pretrain.PretrainConfig else "finetune")
    for key, value in values.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, Mapping) else value
    return configs.load(config, recipe)


def _loop(values: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    return values if epochs is None else {**values, "loop": {"epochs": epochs}}


def _row(reports: list[Report]) -> Row:
    """Figures over the clips of all seeds; intervals resample people."""
    classes = reports[0].labels
    truth = np.concatenate([report.truth for report in reports])
    guess = np.concatenate([report.guess for report in reports])
    likely = np.concatenate([report.probabilities for report in reports])
    people = [f"{seed}/{person}" for seed, report in enumerate(reports) for person in report.groups or report.keys]
    return Row(
        uar=bootstrap(truth, guess, people, len(classes))["uar"],
        look_alike=_between(LOOK_ALIKE, classes, truth, likely, people),
        sound_alike=_between(SOUND_ALIKE, classes, truth, likely, people),
    )


def _between(
    twins: Sequence[tuple[str, str]], classes: Sequence[str], truth: np.ndarray, likely: np.ndarray, people: list[str]
) -> Estimate:
    """How often the right one of two twins is the likelier, as a mean over first and second twins."""
    other, second = np.empty(len(classes), np.int64), np.zeros(len(classes), np.int64)
    for pair in twins:
        first, last = (classes.index(name) for name in pair)
        other[first], other[last], second[last] = last, first, 1
    clips = np.arange(len(truth))
    right = likely[clips, truth] > likely[clips, other[truth]]
    side = second[truth]
    return bootstrap(side, np.where(right, side, 1 - side), people, 2)["uar"]


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})"
