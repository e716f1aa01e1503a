"""Training on clips that lack a modality or stretches of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hicmae.configs import ConfigError
from hicmae.datasets import ShardConfig, write_shards
from hicmae.datasets.draws import Draws
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import Classification, FinetuneConfig, evaluate, run
from hicmae.finetune.inputs import Inputs
from hicmae.finetune.missing import MissingConfig, hidden_steps
from hicmae.finetune.views import MODALITIES, TwoViews, attraction, restoration
from hicmae.runtime.checkpoint import read_weights
from tests.finetune.conftest import changed
from tests.finetune.test_audio_visual import clip, recipe
from tests.models.small import build as small

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
    return changed(config, args={**config.args, "depth": 2, "missing": True}, loop__epochs=6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, r"args\.missing=true"),
        ({"missing": MissingConfig(spans=0.5, restore=1.0)}, r"missing\.restore.*args\.missing=true"),
        ({"model": "hicmae_tiny_video", "args": {"patch": [2, 8, 8], "dim": 32, "depth": 2, "heads": 2}}, "one modal"),
    ],
)
def test_a_model_that_cannot_be_told_what_is_missing_is_refused_before_training(
    changes: dict[str, Any], match: str, train_shards: str, tmp_path: Path
) -> None:
    config = changed(recipe(train_shards, tmp_path / "run"), **{"missing": MissingConfig(audio=0.5), **changes})
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


BOTH_VIEWS = MissingConfig(video=0.3, audio=0.3, spans=0.6, attract=0.5, restore=0.5)


def test_losses_between_views_are_zero_distance_for_equal_views_and_look_at_what_is_gone_only() -> None:
    x = torch.randn(3, 5)
    assert attraction(x, x, 2 * x, 3 * x) == pytest.approx(-1.0)
    wanted, made = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    gone = torch.zeros(2, 3, dtype=torch.bool)
    assert restoration(wanted, made, gone) == 0
    gone[1, 2] = True
    torch.testing.assert_close(restoration(wanted, made, gone), F.smooth_l1_loss(made[1, 2], wanted[1, 2]) / 2)
    assert restoration(wanted, torch.where(gone[..., None, None], wanted, made), gone) == 0


def test_features_that_are_predicted_or_restored_are_not_pulled_towards_the_guess() -> None:
    features = [torch.randn(2, 5, requires_grad=True) for _ in range(4)]
    attraction(*features).backward()
    assert features[0].grad is None and features[1].grad is None and features[2].grad is not None


def test_what_restoration_looks_at_is_what_the_second_view_lost() -> None:
    config = MissingConfig(video=0.4, audio=0.4, spans=0.7, restore=1.0)
    task = Classification(classes=2, augment=UNMIXED, inputs=BOTH, missing=config)
    model = TwoViews(small("hicmae_tiny", num_classes=2, missing=True), config)
    batch = given([f"clip {i}" for i in range(12)])
    batch |= {"video": torch.randn(12, 3, 8, 16, 16), "audio": torch.randn(12, 1, 32, 16)}
    batch["has_audio"] = torch.arange(12) > 2
    met: list[Any] = []
    model.register_forward_hook(lambda _, inputs, outputs: met.extend([inputs, outputs[1]]))
    step = task(model, batch)
    (video, audio, present), beside = met
    assert torch.equal(video[:12], batch["video"]) and torch.equal(audio[:12], batch["audio"])  # complete views first
    assert torch.equal(present[:12, 1], batch["has_audio"]) and bool(present[:12, 0].all())
    total = torch.zeros(())
    for i, (x, slots) in enumerate(((video, 4), (audio, 4))):
        blank = (x[12:] == 0).flatten(3).all(3).all(1).unflatten(1, (slots, -1)).all(2)
        gone = (blank | ~present[12:, i, None]) & present[:12, i, None]
        wanted, made = beside[MODALITIES[i]]
        assert 0 < gone.float().mean() < 1
        total = (
            total + sum(F.smooth_l1_loss(made[n, gone[n]], wanted[n, gone[n]]) for n in range(12) if gone[n].any()) / 12
        )
    torch.testing.assert_close(step.parts["restore"], total.detach())
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # or DDP would wait for it for ever


def test_losses_between_views_fall_when_they_are_learnt() -> None:
    config = MissingConfig(video=0.4, audio=0.4, spans=0.7, attract=1.0, restore=1.0)
    task = Classification(classes=2, augment=UNMIXED, inputs=BOTH, missing=config)
    model = TwoViews(small("hicmae_tiny", num_classes=2, missing=True), config)
    generator = torch.Generator().manual_seed(0)
    batch = given([f"clip {i}" for i in range(8)])
    batch["video"] = torch.randn(8, 3, 8, 16, 16, generator=generator)
    batch["audio"] = torch.randn(8, 1, 32, 16, generator=generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    parts = []
    for _ in range(25):
        step = task(model, batch)
        step.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        parts.append({name: float(value) for name, value in step.parts.items()})
    assert parts[-1]["attract"] < parts[0]["attract"] - 0.5
    assert parts[-1]["restore"] < 0.6 * parts[0]["restore"]


def test_views_attract_each_other_and_the_run_continues_bit_for_bit(
    train_shards: str, test_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(run_of(train_shards, tmp_path / "whole"), missing=BOTH_VIEWS, loop__save_every=2)
    last = run(config, show=False)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    for name in ("attract", "incomplete_loss"):  # what is to be restored differs from step to step
        first, later = (np.mean([line[name] for line in part]) for part in (log[:4], log[-4:]))
        assert later < first - 0.2, name
    report = evaluate(last, [test_shards], segments=1, device="cpu", show=False, modality="audio")
    assert report.intervals["uar"].value > 0.9
    assert not [
        name for name in read_weights(last / "weights.safetensors")[0] if name.startswith(("heads", "restored"))
    ]

    class Killed(Exception):
        pass

    calls, own = [0], Classification.compare

    def compare(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 * 7:
            raise Killed
        return own(*args)

    other = changed(config, out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "compare", compare)
        with pytest.raises(Killed):
            run(other, show=False)
    torch.manual_seed(3)
    again = run(other, show=False)
    whole, cut = (read_weights(folder / "weights.safetensors")[0] for folder in (last, again))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_one_modality_can_be_seen_in_two_views(train_shards: str, tmp_path: Path) -> None:
    args = {"patch": [2, 8, 8], "dim": 32, "depth": 2, "heads": 2, "init_scale": 1.0}
    config = recipe(train_shards, tmp_path / "run", model="hicmae_tiny_video", args=args, loop__epochs=1)
    last = run(changed(config, missing=MissingConfig(spans=0.5, attract=1.0)), show=False)
    assert "attract" in (tmp_path / "run" / "log.jsonl").read_text() and last.is_dir()
