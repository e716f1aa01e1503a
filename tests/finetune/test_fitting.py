"""Fine-tuning recipes made to fit a card: what learns costs memory, what is frozen less, and what is chosen runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hicmae import configs
from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.finetune import FinetuneConfig, build_model, run
from hicmae.finetune.fitting import example, fit_to, need_of
from hicmae.models import save_weights
from hicmae.runtime.fitting import GIB
from hicmae.runtime.loop import Fit
from tests.finetune.conftest import COLOURS, FREE_DATA, TINY

SMALL: dict[str, Any] = {
    "model": "mae_dfer_base",
    "args": {**TINY, "dim": 64, "depth": 6},
    "data": FREE_DATA,
    "loop": {"batch_size": 64},
    "device": "cpu",
}
HEARS: dict[str, Any] = {**SMALL, "model": "hicmae_tiny", "args": {}, "data": {**FREE_DATA, "frames": 8}}


def small(base: dict[str, Any] = SMALL, **changes: Any) -> FinetuneConfig:
    merged = {key: {**base[key], **value} if key in base else value for key, value in changes.items()}
    return configs.load(FinetuneConfig, {**base, **merged}, [])


def test_a_smaller_card_gets_smaller_micro_batches_then_recomputing_then_a_refusal() -> None:
    config = small()
    need = need_of(config)
    for clips, processes in ((64, 1), (21, 1), (21, 2)):
        found = fit_to(config, need.total(clips) + 1, processes=processes)
        loop = found.config.loop
        assert found.clips == max(n for n in (16, 32, 64) if n <= min(clips, 64 // processes))
        assert found.clips * processes * loop.accumulate == loop.batch_size == 64
        assert found.need <= found.limit and not loop.recompute and loop.precision == "bf16"
        assert "unchanged" in str(found) and "an estimate, not tried on such a card" in str(found)
    found = fit_to(config, need.total(2) + 1)
    assert found.config.loop.recompute and found.clips > 2
    with pytest.raises(UserError, match=r"for 1 clip at a time with recomputing.*learn less of it"):
        fit_to(config, 0.7 * GIB)


def test_what_is_frozen_needs_neither_gradients_nor_moments_and_keeps_less_of_a_clip() -> None:
    needs = {kind: need_of(small(adapt={"kind": kind})) for kind in ("full", "attentive", "linear")}
    for kind in ("attentive", "linear"):
        assert needs[kind].clip < 0.6 * needs["full"].clip
        model, _ = build_model(small(adapt={"kind": kind}), COLOURS)
        still = sum(p.numel() for p in model.encoder.parameters())  # type: ignore[operator, union-attr]
        assert needs["full"].fixed - needs[kind].fixed > 0.8 * 12 * still  # a gradient and two moments in float32
    frames = 2 * 4 * 3 * FREE_DATA["frames"] * FREE_DATA["size"] ** 2
    assert needs["linear"].clip > 1.1 * frames  # frozen blocks still need room for one of them, and for the batch


def test_adapters_need_less_than_all_of_a_model() -> None:
    pytest.importorskip("peft")
    whole, adapted = need_of(small()), need_of(small(adapt={"kind": "lora", "rank": 2}))
    assert adapted.fixed < 0.7 * whole.fixed and adapted.total(8) < whole.total(8)


def test_a_frozen_tower_saves_its_share() -> None:
    whole, half = need_of(small(HEARS)), need_of(small(HEARS, adapt={"freeze": ["audio"]}))
    assert half.fixed < 0.8 * whole.fixed and half.clip < 0.7 * whole.clip


def test_frozen_blocks_keep_no_inputs_to_be_computed_again_from() -> None:
    config = small(adapt={"kind": "linear"})
    again = dataclasses.replace(config, loop=dataclasses.replace(config.loop, recompute=True))
    assert need_of(again).clip == need_of(config).clip
    found = fit_to(config, need_of(config).total(1) + 1)
    assert found.clips == 1 and not found.config.loop.recompute


@pytest.mark.parametrize(
    ("base", "changes", "factor"),
    [
        (SMALL, {"task": {"kind": "soft"}}, 1.0),
        (SMALL, {"task": {"kind": "multi", "columns": ["a", "b"]}}, 1.0),
        (SMALL, {"task": {"kind": "joint", "columns": ["valence"], "loss": "ccc"}}, 1.0),
        (SMALL, {"task": {"per_frame": True}}, 1.0),
        (SMALL, {"adapt": {"adversary": "group"}}, 1.0),
        (HEARS, {"args": {"missing": True}, "missing": {"audio": 0.3}}, 1.0),
        (SMALL, {"missing": {"spans": 0.5, "attract": 0.1}}, 2.0),  # each clip is seen twice
        (HEARS, {"args": {"missing": True}, "missing": {"audio": 0.3, "restore": 0.1}}, 2.0),
    ],
)
def test_every_task_is_counted(base: dict[str, Any], changes: dict[str, Any], factor: float) -> None:
    assert need_of(small(base, **changes)).clip / need_of(small(base)).clip == pytest.approx(factor, rel=0.2)


@pytest.fixture
def file(recipe: FinetuneConfig, tmp_path: Path) -> str:
    """The recipe of runs of a few seconds, as a file."""
    path = tmp_path / "mine.yaml"
    path.write_text(configs.to_yaml(recipe), encoding="utf-8")
    return str(path)


def test_what_is_counted_is_what_a_run_computes(recipe: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Fit] = []

    def note(self: Fit) -> Path:
        seen.append(self)
        return Path("unused")

    monkeypatch.setattr(Fit, "run", note)
    run(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, test=[])), show=False)
    real = next(iter(seen[0].stream.epoch(0)))[0]
    shapes = {name: (x.shape, x.dtype) for name, x in real.items() if isinstance(x, torch.Tensor) and name != "number"}
    model, _ = build_model(recipe, COLOURS)
    empty = example(recipe, model, len(real["key"]))
    assert {name: (x.shape, x.dtype) for name, x in empty.items() if isinstance(x, torch.Tensor)} == shapes


def size(total: float) -> str:
    """A size that the command reads, a little above so many bytes."""
    return f"{total / GIB + 1e-6:.9f}GB"


@pytest.mark.parametrize("recomputing", [False, True])
def test_the_command_fits_a_recipe_and_its_options_are_a_run(
    recipe: FinetuneConfig, file: str, recomputing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--args.depth=8", "--loop.batch_size=16"]
    need = need_of(configs.load(FinetuneConfig, configs.as_dict(recipe), [*own, "--loop.precision=bf16"]))
    clips, words = (4, "recomputing") if recomputing else (8, "no recomputing")
    assert main(["finetune", file, *own, "--dry-run", "--fit", size(need.total(1 if recomputing else 8))]) == 0
    told = capsys.readouterr().out
    assert f"batch     16 = 1 processes x {16 // clips} micro-batches x {clips} clips, precision bf16, {words}" in told
    assert "rate      0.04 at most (0.64 per 256 clips; unchanged)" in told
    options = re.search(r"^options +(.*)$", told, re.MULTILINE)
    assert options is not None
    loop = yaml.safe_load(told[told.index("model:") :])["loop"]
    assert (loop["accumulate"], loop["recompute"]) == (16 // clips, recomputing)
    assert main(["finetune", file, *own, *options[1].split(), "--loop.epochs=1"]) == 0
    kept = yaml.safe_load((Path(recipe.out) / "config.yaml").read_text())["loop"]
    assert (kept["accumulate"], kept["recompute"]) == (loop["accumulate"], loop["recompute"])


def test_a_batch_that_is_found_scales_the_rate_and_is_told(
    recipe: FinetuneConfig, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    need = need_of(dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, precision="bf16")))
    fit = ["--fit", size(need.total(40)), "--find-batch", "--processes", "2"]
    assert main(["finetune", file, "--dry-run", *fit]) == 0
    told = capsys.readouterr().out
    assert "batch     64 = 2 processes x 1 micro-batches x 32 clips" in told
    assert "rate      0.16 at most (0.64 per 256 clips; was 0.02 for 8)" in told
    assert "options   --loop.batch_size=64 --loop.accumulate=1" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fit", "much"], "--fit: much is no size of memory; give one as 24GB"),
        (["--fit", "24GB", "--processes", "3"], "loop.batch_size: 8 cannot be divided among 3 processes"),
        (["--fit", "24GB", "--processes", "0"], "processes must be at least 1, not 0"),
        (["--fit", "0.5GB"], "--fit: mae_dfer_base needs 0.8 GiB for 1 clip at a time with recomputing"),
        (["--fit", "24GB", "--adapt.freeze=[video]"], "adapt.freeze: mae_dfer_base has one tower only"),
        (["--find-batch"], "--find-batch goes with --fit SIZE"),
    ],
)
def test_mistakes_are_told_in_words(
    file: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", file, "--dry-run", *options]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {words}") and "Traceback" not in told.err and "batch     " not in told.out


def test_what_smaller_micro_batches_change_is_noted() -> None:
    compared = small(task={"kind": "regression", "columns": ["valence"], "loss": "ccc"})
    need = need_of(compared)
    assert "ccc is that of the 16 clips of a micro-batch, no more" in str(fit_to(compared, need.total(16) + 1))
    assert "note" not in str(fit_to(compared, need.total(64) + 1))
    with pytest.raises(UserError, match="for 2 clips at a time"):  # one has no correlation
        fit_to(compared, 0.7 * GIB)
    alone = small(loop={"batch_size": 1})
    assert "mixup and cutmix do nothing with one clip at a time" in str(fit_to(alone, GIB))
    assert "mixup" not in str(fit_to(small(loop={"batch_size": 1}, augment={"mix": 0.0}), GIB))
    assert "mixup" not in str(fit_to(small(loop={"batch_size": 2}), GIB))


def test_weights_that_are_not_here_are_noted_and_those_that_are_give_the_sizes(tmp_path: Path) -> None:
    absent = small(init=str(tmp_path / "none"), init_ema=True)
    assert f"{tmp_path / 'none'} (init) is not here" in str(fit_to(absent, GIB))
    wide, _ = build_model(small(args={"dim": 128}), COLOURS)
    file = tmp_path / "wide.safetensors"
    save_weights(file, wide)
    plain = {**SMALL, "args": {}}  # which would be of the base size
    found = fit_to(small(plain, init=str(file)), 24 * GIB)
    assert "not here" not in str(found)
    assert need_of(small(plain, init=str(file))) == need_of(small(args={"dim": 128}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae_dfer_ferv39k", "svfap_dfew", "hicmae_werewolf_xl", "videomae_ferv39k"])
def test_shipped_recipes_fit_cards_though_not_by_the_pieces_for_pretraining(name: str) -> None:
    config = configs.load(FinetuneConfig, configs.resolve(name, "finetune"), ["--loop.precision=bf16"])
    need, batch = need_of(config), config.loop.batch_size
    assert need.most(8 * GIB) >= 8 and need.total(batch) <= 80 * GIB  # no recomputing, no dividing
    if name in ("hicmae_werewolf_xl", "videomae_ferv39k"):  # as docs/guides/finetune.md says
        assert need.total(batch // 2) > 24 * GIB and need.total(batch // 8) > 8 * GIB
