"""Recipes made to fit a card: what is chosen fits by the estimate, and the estimate grows as memory does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from hicmae import configs
from hicmae.cli import main
from hicmae.configs import ConfigError
from hicmae.configs.errors import UserError
from hicmae.pretrain import PretrainConfig
from hicmae.pretrain.fitting import fit_to, need_of
from hicmae.runtime.fitting import CARDS, GIB, Need, gibibytes
from tests.pretrain.test_engine import TINY


def recipe(**loop: Any) -> PretrainConfig:
    changed = {**TINY, "args": {**TINY["args"], "depth": 6, "dim": 64}, "loop": {"batch_size": 64, **loop}}
    return configs.load(PretrainConfig, changed, [])


def test_sizes_are_read_as_makers_write_them() -> None:
    assert gibibytes("24GB") == gibibytes("24 GiB") == gibibytes("24") == 24 * GIB
    for wrong in ("much", "0GB", "-3"):
        with pytest.raises(ConfigError, match="no size of memory"):
            gibibytes(wrong)


def test_recomputing_keeps_less_of_a_clip_and_the_same_weights() -> None:
    plain, again = need_of(recipe()), need_of(recipe(recompute=True))
    assert 0 < again.clip < plain.clip / 2
    assert again.fixed == pytest.approx(plain.fixed, rel=0.5)
    assert need_of(recipe(precision="fp32")).clip > 1.2 * need_of(recipe(precision="bf16")).clip
    assert plain.most(plain.total(7) + 1) == 7


def test_what_is_chosen_fits_and_keeps_batch_and_rate() -> None:
    config = recipe()
    need = need_of(config)
    for clips, processes in ((64, 1), (21, 1), (21, 2), (9, 1)):
        found = fit_to(config, need.total(clips) + 1, processes=processes)
        loop = found.config.loop
        assert found.clips * processes * loop.accumulate == loop.batch_size == 64
        assert found.clips == max(n for n in (1, 2, 4, 8, 16, 32, 64) if n <= min(clips, 64 // processes))
        assert found.need <= found.limit and not loop.recompute
        assert "an estimate, not tried on such a card" in str(found) and "unchanged" in str(found)


def test_a_small_card_gets_recomputing_and_a_smaller_one_is_refused() -> None:
    config = recipe()
    found = fit_to(config, need_of(config).total(2) + 1)
    assert found.config.loop.recompute and found.clips > 2
    with pytest.raises(UserError, match="for 1 clip at a time with recomputing"):
        fit_to(config, 0.7 * GIB)
    with pytest.raises(ValueError, match="64 cannot be divided among 3"):
        fit_to(config, GIB, processes=3)


def test_the_batch_that_is_found_scales_the_rate() -> None:
    config = recipe()
    found = fit_to(config, need_of(config).total(200) + 1, find_batch=True)
    assert (found.clips, found.config.loop.batch_size, found.config.loop.accumulate) == (128, 128, 1)
    rate = config.optim.lr * 128 / 256
    assert f"rate      {rate:.3g} at most ({config.optim.lr:g} per 256 clips; was {rate / 2:.3g} for 64)" in str(found)


def test_the_command_prints_the_recipe_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "--dry-run", "--fit", "8GB"]) == 0
    told = capsys.readouterr().out
    assert "4 = 1 processes x 1 micro-batches x 4 clips" in told and "accumulate: 1" in told
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "--dry-run", "--find-batch"]) == 2
    assert "goes with --fit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae_dfer_voxceleb2", "hicmae_voxceleb2", "svfap_voxceleb2", "videomae_voxceleb2"])
def test_the_pieces_for_cards_fit_them_by_the_estimate_in_float32_too(name: str, tmp_path: Path) -> None:
    whole = configs.load(PretrainConfig, configs.resolve(name, "pretrain"), [])
    needs: dict[str, Need] = {}
    for gigabytes in CARDS:
        (tmp_path / "mine.yaml").write_text(f"extends: [{name}, card_{gigabytes}gb]\n", encoding="utf-8")
        config = configs.load(PretrainConfig, configs.resolve(tmp_path / "mine.yaml", "pretrain"), [])
        assert config.loop.batch_size == whole.loop.batch_size and config.optim == whole.optim
        for precision in ("bf16", "fp32") if gigabytes < 80 else ("bf16",):
            if precision not in needs:
                exact = dataclasses.replace(config.loop, precision=precision)  # type: ignore[arg-type]
                needs[precision] = need_of(dataclasses.replace(config, loop=exact))
            clips = config.loop.batch_size // config.loop.accumulate
            assert needs[precision].total(clips) <= gigabytes * GIB


@pytest.mark.parametrize("gigabytes", CARDS)
def test_every_card_has_a_piece_that_recipes_extend(gigabytes: int, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: [mae_dfer_voxceleb2, card_{gigabytes}gb]\n", encoding="utf-8")
    loop = configs.load(PretrainConfig, configs.resolve(tmp_path / "mine.yaml", "pretrain"), []).loop
    assert loop.batch_size == 160 and loop.accumulate == {8: 8, 24: 2, 80: 1, 141: 1}[gigabytes]
