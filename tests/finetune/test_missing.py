"""Training on clips that lack a modality or stretches of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hicmae.configs import ConfigError
from hicmae.datasets import ShardConfig, write_shards
from hicmae.datasets.draws import Draws
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import Classification, FinetuneConfig, evaluate, run
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.missing import MissingConfig, hidden_steps
from tests.finetune.conftest import changed
from tests.finetune.test_audio_visual import clip, recipe

BOTH = Inputs(audio=True, both=True, missing=True)
UNMIXED = AugmentConfig(mix=0.0, smoothing=0.0)


def shards(root: Path, per_class: int) -> str:
    """Clips whose label shows in the picture and sounds too."""
    lines = ["path,label"]
    for number in range(2 * per_class):
        label = ("blue-low", "red-high")[number % 2]
        clip(root / "clips" / f"{number}.mp4", label, number + 100 * per_class)
        lines.append(f"clips/{number}.mp4,{label}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    write_shards([], root / "shards", config=ShardConfig(size=32, list=str(root / "list.csv")), progress=False)
    return str(root / "shards")


@pytest.fixture(scope="module")
def train_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shards(tmp_path_factory.mktemp("train"), 12)


@pytest.fixture(scope="module")
def test_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shards(tmp_path_factory.mktemp("test"), 6)


class Ear(nn.Module):
    """Remembers what it was given."""

    def forward(self, video: Tensor, audio: Tensor, present: Tensor | None = None) -> Tensor:
        self.given = video, audio, present
        return video.mean((2, 3, 4))[:, :2]


def given(keys: list[str], epoch: int = 0) -> dict[str, Any]:
    count = len(keys)
    return {
        "video": torch.ones(count, 3, 8, 4, 4),
        "audio": torch.ones(count, 1, 30, 4),
        "label": torch.zeros(count, dtype=torch.int64),
        "key": keys,
        "epoch": epoch,
    }


def shown(config: MissingConfig, keys: list[str], epoch: int = 0, **more: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    ear = Ear()
    seed = more.pop("seed", 0)
    Classification(classes=2, augment=UNMIXED, inputs=BOTH, missing=config, seed=seed)(ear, given(keys, epoch) | more)
    return ear.given


def test_clips_lose_either_modality_as_often_as_asked_and_never_both() -> None:
    present = shown(MissingConfig(video=0.2, audio=0.5), [f"clip {i}" for i in range(4000)])[2]
    assert present is not None and bool(present.any(1).all())
    lost = 1 - present.double().mean(0)
    assert lost.tolist() == pytest.approx([0.2, 0.5], abs=0.03)
    assert bool((~shown(MissingConfig(video=1.0), ["a", "b"])[2][:, 0]).all())  # type: ignore[index]
    assert shown(MissingConfig(), ["a", "b"])[2] is None


def test_what_a_clip_loses_depends_on_seed_epoch_and_clip_not_on_its_batch() -> None:
    config, keys = MissingConfig(video=0.3, audio=0.3, spans=0.8, span_count=2), [f"clip {i}" for i in range(40)]
    whole = shown(config, keys)
    torch.manual_seed(5)
    for part in (keys[:7], keys[7:], keys[::-1]):
        rows = [keys.index(key) for key in part]
        for one, all_ in zip(shown(config, part), whole, strict=True):
            assert one is not None and all_ is not None and torch.equal(one, all_[rows])
    for other in (shown(config, keys, epoch=1), shown(config, keys, seed=1)):
        assert not torch.equal(other[2], whole[2]) and not torch.equal(other[0], whole[0])  # type: ignore[arg-type]


def test_a_clip_without_sound_keeps_its_frames() -> None:
    has_audio = torch.tensor([True, False, False])
    present = shown(MissingConfig(video=1.0), ["a", "b", "c"], has_audio=has_audio)[2]
    assert present is not None and present.tolist() == [[False, True], [True, False], [True, False]]


def test_spans_blank_shares_of_the_time_of_each_modality_by_itself() -> None:
    video, audio, present = shown(MissingConfig(spans=0.5, span_count=2), [f"clip {i}" for i in range(400)])
    assert present is None
    for x in (video, audio):
        steps = x.flatten(3).mean((1, 3))  # every step wholly there or wholly blank
        assert set(steps.unique().tolist()) == {0.0, 1.0}
        shares = 1 - steps.mean(1)
        assert shares.max() <= 0.5 and shares.mean() == pytest.approx(0.25, abs=0.03)
    seen, heard = (1 - x.flatten(3).mean((1, 2, 3)) for x in (video, audio))
    assert abs(np.corrcoef(seen.numpy(), heard.numpy())[0, 1]) < 0.15


def test_a_longer_span_covers_a_shorter_one_and_ends_within_the_clip() -> None:
    for seed in range(20):
        before = torch.zeros(37, dtype=torch.bool)
        for share in np.linspace(0, 1, 21):
            hidden = hidden_steps(37, share, Draws(torch.Generator().manual_seed(seed)))
            assert int(hidden.sum()) == round(share * 37) and bool((hidden | ~before).all())
            edges = hidden.int().diff().abs().sum()
            assert edges <= 2  # one span
            before = hidden
        assert bool(before.all())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"video": 0.7, "audio": 0.5}, "at most 1"),
        ({"spans": 1.5}, r"missing\.spans"),
        ({"span_count": 0}, "span_count"),
    ],
)
def test_impossible_losses_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MissingConfig(**changes)


def run_of(train: str, out: Path, **changes: Any) -> FinetuneConfig:
    config = recipe(train, out, **changes)
    return changed(config, args={**config.args, "missing": True}, loop__epochs=7)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, r"args\.missing=true"),
        ({"model": "hicmae_tiny_video", "args": {"patch": [2, 8, 8], "dim": 32, "depth": 2, "heads": 2}}, "one modal"),
    ],
)
def test_a_model_that_cannot_be_told_what_is_missing_is_refused_before_training(
    changes: dict[str, Any], match: str, train_shards: str, tmp_path: Path
) -> None:
    config = changed(recipe(train_shards, tmp_path / "run"), missing=MissingConfig(audio=0.5), **changes)
    with pytest.raises(ConfigError, match=match):
        run(config, show=False)
    assert not (tmp_path / "run").exists()


def test_a_model_trained_on_clips_that_lack_frames_does_without_where_one_trained_on_whole_clips_fails(
    train_shards: str, test_shards: str, tmp_path: Path
) -> None:
    def uar(name: str, modality: Any) -> float:
        report = evaluate(tmp_path / name, [test_shards], segments=1, device="cpu", show=False, modality=modality)
        return float(report.intervals["uar"].value)

    plain = run_of(train_shards, tmp_path / "plain")
    run(plain, show=False)
    run(changed(plain, missing=MissingConfig(video=0.3, audio=0.3), out=str(tmp_path / "robust")), show=False)
    for modality in (None, "video", "audio"):
        assert uar("robust", modality) > 0.9
    assert uar("plain", None) > 0.9 and uar("plain", "audio") < 0.7  # chance is 0.5
