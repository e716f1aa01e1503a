"""A run from its recipe: from scratch and from checkpoints, killed and continued, and every mistake in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hicmae
from hicmae.configs import ConfigError
from hicmae.finetune import FinetuneConfig, build_model, engine, evaluate, run
from hicmae.models import save_weights
from hicmae.runtime.checkpoint import newest, read_weights
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import Fit
from hicmae.runtime.optim import cosine
from tests.finetune.conftest import COLOURS, TINY, Killed, Life, changed, make_shards, rows

PRETRAINED = {**TINY, "frames": 4, "size": 32, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 1}


def weights(path: Path | str, name: str = "weights") -> dict[str, torch.Tensor]:
    folder = newest(Path(path))
    assert folder is not None
    return read_weights(folder / f"{name}.safetensors")[0]


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A pretraining checkpoint of a size that no default has."""
    torch.manual_seed(7)
    path = tmp_path / "pretrained.safetensors"
    save_weights(path, hicmae.create_model("mae_dfer_base", stage="pretrain", **PRETRAINED), {"step": 5})
    return path


def test_a_run_from_scratch_learns_measures_itself_and_leaves_everything_a_user_needs(recipe: FinetuneConfig) -> None:
    last = run(recipe, show=False)
    out = Path(recipe.out)
    assert last.parent.parent == out
    found = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert found["numbers"]["uar"]["value"] > 0.9  # chance is 0.33
    assert len(found["predictions"]) == 15
    meta = read_weights(last / "weights.safetensors")[1]
    assert meta["labels"] == list(COLOURS)
    assert (meta["stage"], meta["name"], meta["args"]["dim"]) == ("finetune", "mae_dfer_base", 16)
    assert meta["preprocessing"]["size"] == 32 and meta["preprocessing"]["stride"] == 2
    assert meta["config"]["data"]["train"] == recipe.data.train
    assert yaml.safe_load((out / "config.yaml").read_text())["layer_decay_groups"] == "corrected"
    assert (out / "evaluation" / "predictions.csv").is_file() and (out / "evaluation" / "evaluation.html").is_file()


def test_learning_rates_of_the_groups_follow_the_layers(
    recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    class Noted(Fit):
        def run(self) -> Path:
            seen.extend(self.groups)
            return Path("unused")

    monkeypatch.setattr(engine, "Fit", Noted)
    run(changed(recipe, data__test=[], fidelity="published", layer_decay_groups=None), show=False)
    run(changed(recipe, data__test=[], layer_decay_groups="corrected", out=recipe.out + "2"), show=False)
    scale = [group["lr_scale"] for group in seen for name in group["names"] if name.endswith("lg_region_tokens")]
    assert scale == [1.0, pytest.approx(0.9**3)]  # the head's in the published code; the embedding's here
    assert {group["weight_decay"] for group in seen} == {0.0, 0.05}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_runs_logged_learning_rates_equal_the_schedules(recipe: FinetuneConfig, accumulate: int) -> None:
    lr, floor, batch = 0.32, 0.016, 8
    optim = dataclasses.replace(recipe.optim, lr=lr, min_lr=floor, warmup_epochs=2)
    run(changed(recipe, optim=optim, loop__accumulate=accumulate, loop__epochs=6, data__test=[]), show=False)
    log = [json.loads(line) for line in (Path(recipe.out) / "log.jsonl").read_text().splitlines()]
    clips, per_epoch = batch / 256, 24 // batch  # a step's, however many pieces it is taken in
    value = cosine(lr * clips, floor * clips, 6 * per_epoch, 2 * per_epoch)
    assert [line["lr"] for line in log] == [value(line["step"] - 1) for line in log]
    assert len(log) == 6 * per_epoch and log[0]["lr"] == 0


def test_weights_and_arguments_come_from_the_checkpoint(recipe: FinetuneConfig, pretrained: Path) -> None:
    config = changed(recipe, args={"drop_path": 0.1}, init=str(pretrained))
    model, loaded = build_model(config, COLOURS)
    assert loaded is not None
    assert {key: model.args[key] for key in TINY} == TINY
    assert model.args["num_classes"] == 3 and model.args["drop_path"] == 0.1
    stored = read_weights(pretrained)[0]
    own = model.state_dict()
    encoder = [name for name in own if name.startswith("encoder.")]
    assert len(encoder) > 20 and all(torch.equal(own[name], stored[name]) for name in encoder)
    assert {name.split(".")[0] for name in loaded.new} == {"fc_norm", "head"}


@pytest.mark.parametrize("wrap", ["model", "module", None])
def test_a_published_pth_can_be_the_start(recipe: FinetuneConfig, tmp_path: Path, wrap: str | None) -> None:
    state = hicmae.create_model("mae_dfer_base", stage="pretrain", **PRETRAINED).state_dict()
    torch.save({wrap: state} if wrap else state, tmp_path / "published.pth")
    model, loaded = build_model(changed(recipe, init=str(tmp_path / "published.pth")), COLOURS)
    assert loaded is not None and len(loaded.loaded) > 20
    name = "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(model.get_parameter(name), state[name])


def test_what_was_loaded_is_told_in_one_sentence(
    recipe: FinetuneConfig, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(changed(recipe, init=str(pretrained), loop__epochs=1, data__test=[]))
    told = capsys.readouterr().err
    line = next(line for line in told.splitlines() if line.startswith("init "))
    assert "tensors loaded (encoder), 4 new (fc_norm, head)" in line
    assert "left over (" in line and "decoder" in line and "mask_token" in line
    assert f"hicmae evaluate {recipe.out} --data DIR" in told


def test_the_seed_decides_the_fresh_weights(recipe: FinetuneConfig, pretrained: Path) -> None:
    def head(**changes: Any) -> torch.Tensor:
        torch.manual_seed(hash(str(changes)) % 1000)
        return build_model(changed(recipe, **changes), COLOURS)[0].get_parameter("head.weight").detach()

    assert torch.equal(head(), head(loop__epochs=9))
    assert not torch.equal(head(), head(seed=1))


@pytest.mark.parametrize(("labels", "kept"), [(list(COLOURS), True), (["red", "green", "blue"], False), (None, False)])
def test_a_head_is_taken_over_only_where_its_outputs_mean_the_same(
    recipe: FinetuneConfig, tmp_path: Path, labels: list[str] | None, kept: bool
) -> None:
    torch.manual_seed(3)
    before = hicmae.create_model("mae_dfer_base", **TINY, frames=4, size=32, num_classes=3, init_scale=1.0)
    save_weights(tmp_path / "m.safetensors", before, {"labels": labels} if labels else {})
    model, loaded = build_model(changed(recipe, init=str(tmp_path / "m.safetensors")), COLOURS)
    assert loaded is not None
    assert torch.equal(model.get_parameter("head.weight"), before.get_parameter("head.weight")) is kept
    assert torch.equal(model.get_parameter("fc_norm.weight"), before.get_parameter("fc_norm.weight"))
    assert ("head.weight" in loaded.loaded) is kept and ("head.weight" in loaded.new) is not kept


def test_a_run_can_start_from_the_averaged_weights_of_another(recipe: FinetuneConfig) -> None:
    run(changed(recipe, loop__ema=0.5, loop__epochs=2, data__test=[]), show=False)
    first = Path(recipe.out)
    for ema in (False, True):
        model, _ = build_model(changed(recipe, init=str(first), init_ema=ema), COLOURS)
        name = "encoder.blocks.0.first_attn.proj.weight"
        assert torch.equal(model.get_parameter(name), weights(first, "ema" if ema else "weights")[name])
    assert not torch.equal(weights(first)[name], weights(first, "ema")[name])


@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_run_killed_and_continued_equals_an_undisturbed_one_bit_for_bit(
    recipe: FinetuneConfig, mortal: Life, pretrained: Path, at: int
) -> None:
    full = changed(
        recipe,
        augment=dataclasses.replace(type(recipe.augment)(), policy="rand-m7-n4-mstd0.5-inc1"),
        args={"drop_path": 0.2},
        init=str(pretrained),
        loop__epochs=3,
        loop__ema=0.9,
        loop__save_every=2,
    )
    a, b = changed(full, out=recipe.out + "-a"), changed(full, out=recipe.out + "-b")
    run(a, show=False)
    mortal.left = at
    with pytest.raises(Killed):
        run(b, show=False)
    mortal.left = 10**9
    torch.manual_seed(123)  # the new process's state must not matter
    run(b, show=False)
    for name in ("weights", "ema"):
        one, two = weights(a.out, name), weights(b.out, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    for folder in ("evaluation", "evaluation-ema"):
        first, second = (json.loads((Path(c.out) / folder / "evaluation.json").read_text()) for c in (a, b))
        assert first["predictions"] == second["predictions"]


def test_averaged_weights_are_measured_beside_the_last_ones_and_neither_is_chosen(recipe: FinetuneConfig) -> None:
    run(changed(recipe, loop__ema=0.99, loop__epochs=3), show=False)
    out = Path(recipe.out)
    plain, mean = (json.loads((out / f / "evaluation.json").read_text()) for f in ("evaluation", "evaluation-ema"))
    assert plain["protocol"]["weights"] == "weights of step 9"
    assert mean["protocol"]["weights"] == "averaged weights of step 9"
    assert plain["predictions"] != mean["predictions"]
    again = evaluate(out, ema=True, device="cpu", show=False)
    assert again.to_dict()["predictions"] == mean["predictions"]


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__train": []}, r"data\.train is empty"),
        ({"data__train": ["/nowhere"]}, "/nowhere is no folder of shards"),
        ({"data__test": ["/nowhere"]}, "/nowhere is no folder of shards"),
        ({"args": {**TINY, "region": [2, 3, 4]}}, r"args: .*region"),
        ({"args": {**TINY, "depht": 3}}, r"args: .*did you mean 'depth'"),
        ({"data__size": 36}, r"args: .*36"),
        ({"model": "mae_dfer_bas"}, "did you mean 'mae_dfer_base'"),
        ({"loop__batch_size": 64}, r"loop\.batch_size: .* 24 clips, fewer than one batch of 64"),
        ({"init": "/nowhere.safetensors"}, r"/nowhere\.safetensors: no such checkpoint"),
    ],
)
def test_a_mistake_in_the_recipe_is_named_before_anything_is_written(
    recipe: FinetuneConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(changed(recipe, **change), show=False)
    assert not Path(recipe.out).exists()


def test_clips_without_labels_are_named(recipe: FinetuneConfig, tmp_path: Path) -> None:
    from hicmae.datasets import ShardConfig, write_shards

    make_shards(tmp_path, rows(1))
    write_shards([tmp_path / "clips"], tmp_path / "bare", config=ShardConfig(size=32), progress=False)
    for side in ("data__train", "data__test"):
        with pytest.raises(UserError, match=r"3 of 3 clips have no label \(.*p0-blue.*--labels folder"):
            run(changed(recipe, **{side: [str(tmp_path / "bare")]}), show=False)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("blue", "green", "pink", "red"), "only in test: pink"),
        (("blue", "red"), "only in training: green"),
    ],
)
def test_label_names_that_differ_between_training_and_test_are_both_listed(
    recipe: FinetuneConfig, tmp_path: Path, classes: tuple[str, ...], message: str
) -> None:
    clips = [row for row in rows(1) if row[1] in classes]
    folder = make_shards(tmp_path, clips, classes=classes)
    with pytest.raises(UserError, match=f"{message}.*the training labels are blue, green, red") as caught:
        run(changed(recipe, data__test=[folder]), show=False)
    assert ", ".join(classes) in str(caught.value)


def test_a_class_without_training_clips_is_an_error(recipe: FinetuneConfig, tmp_path: Path) -> None:
    folder = make_shards(tmp_path, [("a.mp4", "red", None), ("b.mp4", "blue", None)], classes=COLOURS)
    with pytest.raises(UserError, match="no training clip has the label green"):
        run(changed(recipe, data__train=[folder]), show=False)


def test_one_class_is_not_enough(recipe: FinetuneConfig, tmp_path: Path) -> None:
    folder = make_shards(tmp_path, [("a.mp4", "red", None)])
    with pytest.raises(UserError, match="needs two classes or more"):
        run(changed(recipe, data__train=[folder]), show=False)


def test_an_argument_the_checkpoint_contradicts_is_an_error(recipe: FinetuneConfig, pretrained: Path) -> None:
    with pytest.raises(UserError, match=r"depth=2 \(the model: 3\)"):
        run(changed(recipe, args={"depth": 3}, init=str(pretrained)), show=False)


def test_an_argument_no_tensor_shows_is_compared_with_the_checkpoint_too(
    recipe: FinetuneConfig, pretrained: Path
) -> None:
    with pytest.raises(ConfigError, match=r"args\.region is \[1, 4, 4\], .* has \[2, 2, 4\]; leave the key out"):
        run(changed(recipe, args={"region": [1, 4, 4]}, init=str(pretrained)), show=False)


def test_weights_of_another_architecture_are_refused(recipe: FinetuneConfig, tmp_path: Path) -> None:
    other = hicmae.create_model(
        "videomae_base", stage="pretrain", dim=16, depth=2, heads=2, patch=(2, 8, 8), frames=4, size=32
    )
    save_weights(tmp_path / "vit.safetensors", other)
    with pytest.raises(UserError, match=r"vit\.safetensors"):
        run(changed(recipe, init=str(tmp_path / "vit.safetensors")), show=False)


def test_averaged_weights_of_a_plain_file_are_refused(recipe: FinetuneConfig, pretrained: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_ema: .* is a file; name the run folder"):
        run(changed(recipe, init=str(pretrained), init_ema=True), show=False)


def test_a_run_folder_of_another_recipe_is_not_continued(recipe: FinetuneConfig) -> None:
    run(changed(recipe, loop__epochs=1, data__test=[]), show=False)
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1"):
        run(changed(recipe, loop__epochs=1, data__test=[], seed=1), show=False)
