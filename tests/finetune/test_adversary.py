"""Features that forget who speaks: what the losses do to them, and how much less a fresh linear probe finds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from hicmae.configs import UserError, as_dict
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import FinetuneConfig, evaluate, run
from hicmae.finetune.adapt import AdaptConfig
from hicmae.finetune.adversary import against
from hicmae.finetune.tasks import Classification
from hicmae.models import create_model
from hicmae.models.base import Model
from hicmae.runtime.checkpoint import read_weights, weights_file
from hicmae.runtime.dist import Place
from hicmae.runtime.loop import Batch, Fit, LoopConfig
from hicmae.runtime.optim import OptimConfig, parameter_groups
from tests.finetune.conftest import changed
from tests.finetune.test_adapt import same_when_continued
from tests.finetune.test_evaluation import TRAINING, two_processes

PEOPLE, CLASSES, EACH = 8, 3, 8
PLAIN = AugmentConfig(policy="", mix=0.0, smoothing=0.0, erase=0.0)


def clips(seed: int, people: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with the picture of a class and that of a person: (192, 3, 2, 8, 8), labels, persons.

    Other `people` have other pictures, those of the classes stay.
    """

    def pictures(count: int, first: int) -> Tensor:
        each = (torch.Generator().manual_seed(first + i) for i in range(count))
        return 0.5 * torch.stack([torch.randn(3, 1, 8, 8, generator=g) for g in each])

    person = torch.arange(PEOPLE).repeat_interleave(CLASSES * EACH)
    label = torch.arange(CLASSES).repeat(PEOPLE * EACH)
    noise = torch.randn(len(label), 3, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return noise + pictures(PEOPLE, 1000 + people)[person] + pictures(CLASSES, 2000)[label], label, person


@dataclasses.dataclass
class Shuffled:
    """Six batches of 32 clips per epoch."""

    seed: int
    steps_per_epoch: int = 6

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        video, label, person = clips(self.seed)
        order = torch.randperm(192, generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        for rows in order.split(32)[start:]:
            keys = [str(row) for row in rows.tolist()]
            yield [{"video": video[rows], "label": label[rows], "speaker": person[rows], "key": keys, "epoch": epoch}]


def trained(seed: int, out: Path, how: dict[str, Any] | None, decay: float = 0.4) -> Model:
    """A small encoder that has learnt the classes, against the persons where `how` says it, at rates that fall with
    depth by `decay`."""
    epochs = 25
    torch.manual_seed(seed)
    size: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "frames": 2, "size": 8, "patch": (2, 4, 4)}
    model = create_model("videomae_base", num_classes=CLASSES, init_scale=1.0, **size)
    both: nn.Module = model
    task: Any = Classification(classes=CLASSES, augment=PLAIN, seed=seed)
    if how is not None:
        both, task = against(model, task, AdaptConfig(adversary="group", **how), PEOPLE, epochs)
    Fit(
        both,
        task,
        Shuffled(seed),
        groups=parameter_groups(both, weight_decay=0.05, layer_decay=decay),
        optim=OptimConfig(lr=0.05 if decay < 1 else 0.02, min_lr=0, betas=(0.9, 0.999), warmup_epochs=1),
        loop=LoopConfig(epochs=epochs, batch_size=32, save_every=10**6),
        out=out,
        place=Place(device=torch.device("cpu")),
        meta={},
        show=False,
    ).run()
    return model.eval()


@torch.no_grad()
def probed(model: Model, people: int = 0) -> tuple[float, float]:
    """Accuracy of a fresh linear probe for persons on the features of new clips, and of the model for classes."""
    (fit_on, _, who), (video, label, person) = clips(91, people), clips(92, people)
    scaler = StandardScaler().fit(model.forward_features(fit_on))
    probe = LogisticRegression(max_iter=3000).fit(scaler.transform(model.forward_features(fit_on)), who)
    found = probe.score(scaler.transform(model.forward_features(video)), person)
    return float(found), float((model(video).argmax(1) == label).float().mean())


def test_a_fresh_probe_finds_less_of_the_speaker_and_the_classes_stay(tmp_path: Path) -> None:
    plain = trained(0, tmp_path / "plain", None)
    for loss in ("confusion", "reversal"):
        forgetful = trained(0, tmp_path / loss, {"adversary_loss": loss})
        for people, less in ((0, 0.15), (500, 0.05)):  # those of training, and others
            (before, right), (after, still) = probed(plain, people), probed(forgetful, people)
            assert after < before - less and min(right, still) > 0.9, (loss, people, before, after, right, still)


@pytest.mark.slow  # 90 s on a core beside others
def test_over_seeds_both_forget_and_only_a_reversed_gradient_overshoots_where_the_encoder_is_fast(
    tmp_path: Path,
) -> None:
    """With layer-wise rates the head keeps up; with equal rates the encoder runs away from it.

    Accuracy of the fresh probe, mean of seeds 0 to 4, chance 0.125: rates x 0.4 per layer 0.725 without, 0.497 with
    confusion, 0.444 with reversal; equal rates 0.498, 0.475 and 0.925.
    """
    found: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for decay in (0.4, 1.0):
        for name, how in (("plain", None), ("confusion", {}), ("reversal", {"adversary_loss": "reversal"})):
            runs = (trained(seed, tmp_path / f"{decay}-{name}-{seed}", how, decay) for seed in range(5))
            found[decay, name] = [probed(model) for model in runs]
    speakers = {key: torch.tensor([speaker for speaker, _ in pairs]) for key, pairs in found.items()}
    less = {key: speakers[key[0], "plain"] - value for key, value in speakers.items()}
    assert float(less[0.4, "confusion"].min()) > 0.1 and float(less[0.4, "reversal"].min()) > 0.1
    assert float(less[1.0, "confusion"].mean()) > 0 and float(less[1.0, "reversal"].max()) < 0
    assert min(c for pairs in found.values() for _, c in pairs) > 0.9


def test_a_reversed_gradient_is_the_heads_own_times_minus_the_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("videomae_base", dim=16, depth=1, heads=2, frames=2, size=8, patch=(2, 4, 4), num_classes=3)
    how = AdaptConfig(adversary="group", adversary_loss="reversal", adversary_weight=0.7, adversary_ramp=False)
    both, task = against(model, Classification(classes=CLASSES, augment=PLAIN), how, PEOPLE, 9)
    (batch,) = next(Shuffled(0).epoch(0))
    features = model.forward_features(batch["video"])
    head = both.heads["speaker"]  # type: ignore[union-attr,index]
    cross_entropy = nn.functional.cross_entropy
    (expected,) = torch.autograd.grad(cross_entropy(head.net(features), batch["speaker"]), features, retain_graph=True)
    logits = model.head(features)
    step = task.compare((logits, {"speaker": head(features)}), batch, task.mixup.draw(8, 8, torch.Generator()))
    alone = cross_entropy(logits, batch["label"])
    (of_task,) = torch.autograd.grad(alone, features, retain_graph=True)
    step.loss.backward(inputs=[features, *head.parameters()])
    torch.testing.assert_close(features.grad, of_task - 0.7 * expected)
    learnt = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    cross_entropy(head.net(features.detach()), batch["speaker"]).backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(learnt, head.parameters(), strict=True))


def test_the_weight_grows_as_published() -> None:
    _, task = against(create_model("videomae_base", dim=16, depth=1, heads=2), Classification(classes=2), RAMP, 2, 10)
    found = [task.strength(epoch) for epoch in (0, 1, 5)]  # type: ignore[attr-defined]
    assert found == pytest.approx([0.0, 2 * 0.4621172, 2 * 0.9866143], abs=1e-6)


RAMP = AdaptConfig(adversary="group", adversary_weight=2.0)


@pytest.mark.slow  # 25 s each: processes import torch
@pytest.mark.parametrize("how", [{"kind": "linear"}, {"kind": "lora", "rank": 4}, {"adversary": "group"}])
def test_two_processes_learn_what_one_does(recipe: FinetuneConfig, tmp_path: Path, how: dict[str, Any]) -> None:
    config = dataclasses.replace(changed(recipe, loop__epochs=4), adapt=AdaptConfig(**how))
    (tmp_path / "script.py").write_text(TRAINING)
    two_processes(str(tmp_path / "script.py"), json.dumps(as_dict(config)))
    run(changed(config, out=str(tmp_path / "alone")), show=False)
    both, alone = (read_weights(weights_file(out))[0] for out in (config.out, tmp_path / "alone"))
    assert both.keys() == alone.keys() and (how != {"kind": "linear"} or both["standard.count"] == 96)
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-3, atol=1e-4)


@pytest.fixture
def recipe_against(recipe: FinetuneConfig) -> FinetuneConfig:
    return dataclasses.replace(recipe, adapt=AdaptConfig(adversary="group"))


def test_a_run_logs_the_speakers_and_leaves_a_plain_model(recipe_against: FinetuneConfig, test_shards: str) -> None:
    run(recipe_against, show=False)
    lines = [json.loads(line) for line in (Path(recipe_against.out) / "log.jsonl").read_text().splitlines()]
    assert all({"speaker_accuracy", "speaker_loss", "accuracy"} <= line.keys() for line in lines)
    state, meta = read_weights(weights_file(recipe_against.out))
    assert state.keys() == create_model(meta["name"], **meta["args"]).state_dict().keys()
    report = evaluate(recipe_against.out, [test_shards], device="cpu", show=False)
    assert report.intervals["uar"].value >= 0.9  # chance is 0.33


def test_an_adversary_killed_and_continued_equals_an_undisturbed_one_bit_for_bit(
    recipe_against: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(recipe_against, loop__epochs=3, loop__save_every=2, data__test=[])
    assert same_when_continued(config, monkeypatch)


def test_clips_without_a_speaker_are_named(recipe: FinetuneConfig, tmp_path: Path) -> None:
    from tests.finetune.conftest import make_shards, rows

    data = make_shards(tmp_path, rows(2, people=False))
    config = dataclasses.replace(changed(recipe, data__train=[data]), adapt=AdaptConfig(adversary="group"))
    with pytest.raises(UserError, match=r"6 clips have no group \(adapt.adversary\), among them"):
        run(config, show=False)
