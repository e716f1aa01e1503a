"""Ways to adapt: each learns a known answer, keeps bit by bit what it is to keep, and leaves a file to be used."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hicmae.configs import ConfigError, UserError
from hicmae.finetune import FinetuneConfig, build_model, evaluate, run
from hicmae.finetune.adapt import AdaptConfig
from hicmae.finetune.evaluation import load_classifier
from hicmae.inference.loading import load_model
from hicmae.models import create_model, save_weights
from hicmae.runtime.checkpoint import read_weights, weights_file
from hicmae.runtime.loop import Interrupted
from hicmae.runtime.optim import parameter_groups
from tests.finetune.conftest import COLOURS, FREE_DATA, TINY, changed
from tests.models import small

SIZE = {"frames": FREE_DATA["frames"], "size": FREE_DATA["size"]}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # adapt, args
    "linear": ({"kind": "linear"}, {"layers": "weighted"}),
    "attentive": ({"kind": "attentive"}, {}),
    "lora": ({"kind": "lora", "rank": 4, "targets": "all"}, {}),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining form's weights."""
    torch.manual_seed(7)
    args = {key: value for key, value in TINY.items() if key != "init_scale"}
    file = tmp_path_factory.mktemp("encoder") / "weights.safetensors"
    save_weights(file, create_model("mae_dfer_base", "pretrain", **args, **SIZE, decoder_dim=16, decoder_heads=2))
    return file


def adapted(recipe: FinetuneConfig, name: str, init: Path, **changes: Any) -> FinetuneConfig:
    how, args = KINDS[name]
    config = changed(recipe, args={"init_scale": 1.0, "drop_path": 0.3, **args}, init=str(init), **changes)
    return dataclasses.replace(config, adapt=AdaptConfig(**how))


def tensors(out: str | Path) -> dict[str, Tensor]:
    return read_weights(weights_file(out))[0]


@pytest.mark.parametrize("name", KINDS)
def test_each_way_learns_the_colours_keeps_the_encoder_and_can_be_used(
    recipe: FinetuneConfig, encoder: Path, test_shards: str, name: str
) -> None:
    config = adapted(recipe, name, encoder)
    last = run(config, show=False)
    of_run = json.loads((Path(config.out) / "evaluation" / "evaluation.json").read_text())
    report = evaluate(config.out, [test_shards], device="cpu", show=False)
    assert report.intervals["uar"].value >= 0.9  # chance is 0.33
    again = json.loads((Path(config.out) / "evaluation" / "evaluation.json").read_text())
    assert of_run["predictions"] == again["predictions"]
    before, after = read_weights(encoder)[0], tensors(last)
    plain = {key.replace(".base_layer.", "."): value for key, value in after.items()}
    kept = [key for key in before if key.startswith("encoder.") and key in plain]
    assert len(kept) > 40 and all(torch.equal(before[key], plain[key]) for key in kept)
    assert any(".lora_A." in key for key in after) == name.startswith("lora")
    model = load_model(config.out, "finetune", device="cpu").model
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier = load_classifier(weights_file(config.out))[0].eval()
    assert torch.equal(model(clip), classifier(clip))
    trained, _ = build_model(config, COLOURS)
    trained.load_state_dict(after)
    torch.testing.assert_close(trained.eval()(clip), model(clip), rtol=1e-4, atol=1e-5)
    # and what was learnt can be started from, whatever way comes next
    loaded = build_model(dataclasses.replace(config, adapt=AdaptConfig(), init=config.out), COLOURS)[1]
    assert loaded is not None and not any("lora" in key or "base_layer" in key for key in loaded.left_over)
    assert ("head.weight" in loaded.loaded) == name.startswith("lora")  # another readout's head means something else


@pytest.mark.parametrize("name", ["linear", "lora"])
def test_a_way_killed_and_continued_equals_an_undisturbed_one_bit_for_bit(
    recipe: FinetuneConfig, encoder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = adapted(recipe, name, encoder, loop__epochs=3, loop__save_every=2, data__test=[])
    assert same_when_continued(config, monkeypatch)


def same_when_continued(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether weights and state of a run stopped in its middle and continued are those of one that was not."""
    from hicmae.datasets import pipeline

    a, b = (dataclasses.replace(config, out=f"{config.out}-{name}") for name in "ab")
    whole = run(a, show=False)
    epoch = pipeline.Stream.epoch

    def stopping(self: Any, number: int, start: int = 0) -> Any:
        for i, step in enumerate(epoch(self, number, start), start):
            if (number, i) == (1, 2):
                raise Interrupted("stop")
            yield step

    monkeypatch.setattr(pipeline.Stream, "epoch", stopping)
    with pytest.raises(Interrupted):
        run(b, show=False)
    monkeypatch.setattr(pipeline.Stream, "epoch", epoch)
    torch.manual_seed(99)
    continued = run(b, show=False)
    one, two = tensors(whole), tensors(continued)
    beside = [torch.load(f / "state.pt", weights_only=True).get("beside", {}) for f in (whole, continued)]
    pairs = [(one, two), (beside[0], beside[1])]
    return all(x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in pairs)


def test_frozen_parts_do_the_same_in_training_as_afterwards(encoder: Path, recipe: FinetuneConfig) -> None:
    model, _ = build_model(adapted(recipe, "linear", encoder), COLOURS)
    clip = torch.randn(2, 3, 4, 32, 32)
    model.train()
    assert model.standard.training and not any(part.training for part in model.encoder.modules())
    assert torch.equal(model.encoder(clip).tokens, model.encoder(clip).tokens)  # drop path is off
    full, _ = build_model(changed(recipe, args={"drop_path": 0.3}, init=str(encoder)), COLOURS)
    assert not torch.equal(full.train().encoder(clip).tokens, full.encoder(clip).tokens)


@pytest.mark.parametrize("frozen", [["audio"], ["video", "audio"]])
def test_frozen_towers_keep_their_weights_and_the_others_learn(frozen: list[str]) -> None:
    args = {key: value for key, value in small.SIZES.items() if key in small.build("hicmae_base").args}
    args = {key: value for key, value in args.items() if key not in ("frames", "size")}
    config = FinetuneConfig(model="hicmae_base", args={**args, "init_scale": 1.0, "missing": True})
    config = changed(config, data__frames=8, data__size=16)
    model, _ = build_model(dataclasses.replace(config, adapt=AdaptConfig(freeze=frozen)), ["a", "b"])
    full, _ = build_model(config, ["a", "b"])
    groups = parameter_groups(model.train(), weight_decay=0.05, layer_decay=0.7)
    scale = {
        name: g["lr_scale"] for g in parameter_groups(full, weight_decay=0.05, layer_decay=0.7) for name in g["names"]
    }
    assert all(scale[name] == g["lr_scale"] for g in groups for name in g["names"])  # freezing shifts no rate
    before = {name: p.clone() for name, p in model.named_parameters()}
    video, audio = small.inputs("hicmae_base")
    optimiser = torch.optim.AdamW([{"params": g["params"]} for g in groups], lr=1e-2)
    label = torch.tensor([0, 1, 0])
    for _ in range(16):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(video, audio, torch.ones(3, 2, dtype=torch.bool)), label)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1  # chance is 0.69
    towers = {"video": "encoder.", "audio": "encoder_audio."}
    for name, p in model.named_parameters():
        still = name.startswith(tuple(towers[t] for t in frozen)) or not p.requires_grad
        assert torch.equal(p, before[name]) == still, name


def test_mistakes_are_told_in_words(recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for how, words in (
        ({"kind": "linear", "rank": 4}, "adapt.rank does nothing where adapt.kind is linear: leave it out"),
        ({"kind": "lora", "freeze": ["video"]}, "adapt.freeze does nothing where adapt.kind is lora"),
        ({"kind": "linear", "adversary": "group"}, "adapt.adversary does nothing where adapt.kind is linear"),
        ({"adversary_weight": 2.0}, "adapt.adversary_weight does nothing without adapt.adversary"),
        ({"freeze": ["text"]}, r"adapt.freeze holds towers, video or audio, each once, not \['text'\]"),
        ({"kind": "lora", "rank": 0}, "adapt.rank and adapt.alpha must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            AdaptConfig(**how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"args.readout cannot be set for fine-tuning: it is adapt\.kind"):
        changed(recipe, args={"readout": "attentive"})
    with pytest.raises(ConfigError, match="mae_dfer_base has one tower only, for video"):
        build_model(dataclasses.replace(recipe, adapt=AdaptConfig(freeze=["video"])), COLOURS)
    with pytest.raises(UserError, match=r"no column person \(adapt.adversary\); there are: group"):
        run(dataclasses.replace(recipe, adapt=AdaptConfig(adversary="person")), show=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'pip install "hicmae\[lora\]"'):
        build_model(dataclasses.replace(recipe, adapt=AdaptConfig(kind="lora")), COLOURS)
