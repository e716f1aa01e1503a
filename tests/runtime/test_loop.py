"""The loop: accumulation, resuming, non-finite gradients, interruption."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hicmae.runtime import checkpoint
from hicmae.runtime.dist import Place
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import Batch, Fit, Interrupted, LoopConfig, Step
from hicmae.runtime.optim import OptimConfig

PLACE = Place(device=torch.device("cpu"))
OPTIM = OptimConfig(lr=0.05 * 256 / 8, min_lr=0, warmup_epochs=0.5)


class Points:
    """Regression points drawn from (epoch, step); `hook(step)` is called before each step is handed out."""

    steps_per_epoch = 5

    def __init__(self, accumulate: int = 1, hook: Any = None, poison: range = range(0)) -> None:
        self.accumulate, self.hook, self.poison = accumulate, hook, poison

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        for step in range(start, self.steps_per_epoch):
            done = epoch * self.steps_per_epoch + step
            if self.hook:
                self.hook(done)
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(done))
            if done in self.poison:
                x[0, 0] = torch.nan
            y = x @ torch.tensor([1.0, -2.0, 0.5])
            keys = [f"clip-{done}-{i}" for i in range(8)]
            micro = zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True)
            yield [{"x": a, "y": b, "key": keys} for a, b in micro]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.2), nn.GELU(), nn.Linear(16, 1))


def objective(net: nn.Module, batch: Batch) -> Step:
    loss = (net(batch["x"])[:, 0] - batch["y"]).square().mean()
    return Step(loss, {"squared": loss.detach()})


def train(
    out: Path, stream: Points | None = None, net: nn.Module | None = None, **loop: Any
) -> dict[str, torch.Tensor]:
    net = net or model()
    config = LoopConfig(**{"epochs": 4, "batch_size": 8, "log_every": 1, "ema": 0.9, **loop})
    groups = [{"params": list(net.parameters()), "weight_decay": 0.05, "lr_scale": 1.0}]
    stream = stream or Points(config.accumulate)
    folder = Fit(
        net, objective, stream, groups=groups, optim=OPTIM, loop=config, out=out, place=PLACE, meta={}, show=False
    ).run()
    return {
        **checkpoint.read_weights(folder / "weights.safetensors")[0],
        **{f"ema.{k}": v for k, v in checkpoint.read_weights(folder / "ema.safetensors")[0].items()},
    }


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_every_step_is_logged(tmp_path: Path) -> None:
    train(tmp_path, epochs=20)
    log = lines(tmp_path)
    assert [line["step"] for line in log] == list(range(1, 101))
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]
    assert {"loss", "squared", "lr", "grad_norm", "clips_per_second"} <= log[0].keys()


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 7, 13, 19])
def test_a_run_killed_and_continued_equals_an_undisturbed_one_bit_for_bit(tmp_path: Path, at: int) -> None:
    def kill(step: int) -> None:
        if step == at:
            raise Killed

    undisturbed = train(tmp_path / "a", save_every=2)
    with pytest.raises(Killed):
        train(tmp_path / "b", Points(hook=kill), save_every=2)
    torch.manual_seed(99)  # whatever state the new process is in must not matter
    assert_equal(undisturbed, train(tmp_path / "b", save_every=2))
    a, b = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert [(x["step"], x["loss"], x["lr"]) for x in a] == [(x["step"], x["loss"], x["lr"]) for x in b]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_a_checkpoint_that_continues_exactly(tmp_path: Path, number: int) -> None:
    def interrupt(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), number)

    undisturbed = train(tmp_path / "a")
    with pytest.raises(Interrupted, match="stopped at step 8 of 20; the same command continues it"):
        train(tmp_path / "b", Points(hook=interrupt))
    assert_equal(undisturbed, train(tmp_path / "b"))


@pytest.mark.parametrize("k", [2, 4])
def test_accumulation_equals_one_big_batch(tmp_path: Path, k: int) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1).double()

    def points(accumulate: int) -> Points:
        stream = Points(accumulate)
        original = stream.epoch
        stream.epoch = lambda *a: (  # type: ignore[method-assign]
            [{"x": m["x"].double(), "y": m["y"].double()} for m in step] for step in original(*a)
        )
        return stream

    one = train(tmp_path / "one", points(1), net(), epochs=2)
    many = train(tmp_path / "many", points(k), net(), epochs=2, accumulate=k)
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=1e-12, atol=1e-12)


def test_a_step_with_a_non_finite_gradient_changes_nothing_and_names_its_clips(tmp_path: Path) -> None:
    weights = []
    poisoned = Points(poison=range(5, 6), hook=lambda step: weights.append(net[0].weight.detach().clone()))
    net: Any = model()
    final = train(tmp_path, poisoned, net)
    assert torch.equal(weights[5], weights[6])
    assert not torch.equal(weights[6], weights[7])
    assert all(torch.isfinite(value).all() for value in final.values())
    bad = [line for line in lines(tmp_path) if line["bad_steps"]]
    assert [line["step"] for line in bad] == [6]
    assert bad[0]["bad_keys"][0] == "clip-5-0"


def test_too_many_non_finite_steps_stop_the_run_with_the_weights_intact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite in 3 steps in a row up to step 8.*Lower optim\.lr"):
        train(tmp_path, Points(poison=range(5, 20)), max_bad_steps=3)
    kept = checkpoint.read_weights(checkpoint.weights_file(tmp_path))[0]
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_a_run_of_another_length_is_not_continued_silently(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    with pytest.raises(UserError, match="holds a run of 10 steps, this one has 15"):
        train(tmp_path, epochs=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"loop\.epochs must be at least 1, not 0"),
        ({"batch_size": 6, "accumulate": 4}, r"loop\.batch_size \(6\) must be a multiple of loop\.accumulate \(4\)"),
        ({"ema": 1.0}, r"loop\.ema must lie in \(0, 1\)"),
        ({"save_every": 0}, r"loop\.save_every must be at least 1 or null"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_dotted_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopConfig(**change)


class Paired(nn.Module):
    """A model with a head that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.core = model()
        self.second = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.core(x)
        return first + self.second(first)


def test_what_lies_beside_a_model_is_trained_and_continued_but_is_none_of_its_weights(tmp_path: Path) -> None:
    def kill(step: int) -> None:
        if step == 7:
            raise Killed

    first = Paired()
    undisturbed = train(tmp_path / "a", net=first, save_every=2)
    assert undisturbed.keys() == {*model().state_dict(), *(f"ema.{name}" for name in model().state_dict())}
    with pytest.raises(Killed):
        train(tmp_path / "b", Points(hook=kill), net=Paired(), save_every=2)
    last = Paired()
    torch.nn.init.zeros_(last.second.weight)  # what the checkpoint holds counts
    assert_equal(undisturbed, train(tmp_path / "b", net=last, save_every=2))
    assert_equal(dict(first.second.state_dict()), dict(last.second.state_dict()))
    assert not torch.equal(first.second.weight, Paired().second.weight)
