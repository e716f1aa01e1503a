from __future__ import annotations

import json

import pytest
import timm
import torch

import hicmae
from hicmae.models import arguments_for, create_model, list_models, model_arguments
from hicmae.models.factory import STAGES
from hicmae.models.heads import pool

SMALL = {"dim": 32, "depth": 2, "heads": 2, "frames": 4, "size": 16, "patch": (2, 4, 4)}


def test_names_are_listed_by_pattern() -> None:
    assert list_models("mae_*") == ["mae_dfer_base"]
    assert hicmae.list_models() == list_models("*")


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("stage", STAGES)
def test_timm_builds_the_same_model(name: str, stage: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_model(name, stage), timm.create_model(name, stage=stage)
    assert type(ours) is type(theirs) and ours.args == theirs.args
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("stage", STAGES)
def test_a_model_is_built_again_from_its_stored_arguments(name: str, stage: str) -> None:
    with torch.device("meta"):
        model = create_model(name, stage, drop_path=0.2)
        again = create_model(model.name, model.stage, **json.loads(json.dumps(model.args)))
    assert again.args == model.args and model.args["drop_path"] == 0.2
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize("name", list_models())
def test_arguments_of_a_pretrained_model_carry_over_to_fine_tuning(name: str) -> None:
    with torch.device("meta"):
        args = create_model(name, "pretrain", drop_path=0.3).args
        model = create_model(name, **arguments_for(name, "finetune", args))
    assert model.args["drop_path"] == 0.3
    assert "decoder_dim" not in model.args


def test_an_unknown_name_stage_or_argument_is_answered_with_alternatives() -> None:
    with pytest.raises(ValueError, match=r"no model is called 'mae_dfr_base' \(did you mean 'mae_dfer_base'\?\)"):
        create_model("mae_dfr_base")
    with pytest.raises(ValueError, match="stage='train' is not one of 'finetune', 'pretrain'"):
        create_model("mae_dfer_base", "train")
    with pytest.raises(
        ValueError, match=r"takes no argument 'regions' \(did you mean 'region'\?\); it takes depth, dim"
    ):
        create_model("mae_dfer_base", regions=(2, 5, 10))
    with pytest.raises(ValueError, match="takes no argument 'decoder_dim'"):
        create_model("mae_dfer_base", decoder_dim=192)
    with pytest.raises(ValueError, match="timm knows no weights"):
        timm.create_model("mae_dfer_base", pretrained=True)
    assert "norm" not in model_arguments("mae_dfer_base") and "pool" not in model_arguments("mae_dfer_base", "pretrain")


@pytest.mark.parametrize("name", ["videomae_base", "mae_dfer_base"])
def test_one_output_per_frame_where_time_is_kept(name: str) -> None:
    torch.manual_seed(0)
    m = create_model(name, **{**SMALL, "frames": 8}, num_classes=3, keep_temporal=True, init_scale=1.0)
    video = torch.randn(2, 3, 8, 16, 16)
    assert m(video).shape == (2, 8, 3)
    assert create_model(name, **SMALL, num_classes=0)(video[:, :, :4]).shape == (2, 32)


def test_frames_are_read_from_their_own_time_slot_and_linearly_between() -> None:
    tokens = torch.tensor([0.0, 2.0, 10.0, 14.0])[None, :, None]  # two slots of two tokens: means 1 and 12
    assert pool(tokens, slots=2, frames=4).flatten().tolist() == [1.0, 3.75, 9.25, 12.0]
    assert pool(tokens, slots=2).flatten().tolist() == [6.5]
