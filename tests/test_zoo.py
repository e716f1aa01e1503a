"""Cards become tables; published files become files that say what they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hicmae import configs, zoo
from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.inference.loading import load_model
from hicmae.models import create_model, list_models, read_weights, save_weights
from hicmae.models.base import Model
from hicmae.models.convert import from_published, to_published
from hicmae.runtime.checkpoint import sha256
from hicmae.zoo.conversion import identify

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "frames": 4, "size": 16, "patch": (2, 4, 4)}
TOLD = {"heads": 4, "frames": 4, "size": 16}  # what no tensor of a published file tells
LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def published(path: Path, model: Model, **arguments: Any) -> Path:
    """A file as the published repositories write them."""
    space = argparse.Namespace(model="x", **arguments)
    torch.save({"model": to_published(model.state_dict()), "epoch": 99, "args": space}, path)
    return path


def weightless(name: str, stage: Any = "finetune") -> dict[str, Tensor]:
    """The state dict of a full-size model, in the published layout, without memory for its values."""
    with torch.device("meta"):
        state = create_model(name, stage).state_dict()
    return to_published({key: torch.zeros(()).expand(value.shape) for key, value in state.items()})


@pytest.mark.parametrize("name", list_models())
def test_published_keys_tell_the_model(name: str) -> None:
    assert identify(from_published(weightless(name))) == name


@pytest.mark.parametrize("name", ["videomae_base", "mae_dfer_base", "svfap_small", "svfap_base", "hicmae_base"])
def test_keys_of_pretraining_tell_the_model_too(name: str) -> None:
    assert identify(from_published(weightless(name, "pretrain"))) == name


def test_a_published_file_becomes_one_that_says_what_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_model("mae_dfer_base", dim=512, depth=1, heads=8, frames=4, size=32, pool="local", init_scale=1.0)
    run = {"lg_classify_token_type": "org", "data_set": "DFEW", "input_size": 32, "num_frames": 4}
    file = published(tmp_path / "published.pth", source, **run)
    done = zoo.convert(file, tmp_path / "zoo" / "mine.safetensors")
    assert (done.name, done.stage, done.labels) == ("mae_dfer_base", "finetune", LABELS)
    assert done.assumed == ("heads 8", "labels in the published order of DFEW, which the file names")
    loaded = load_model(done.weights, "finetune", device="cpu")
    video = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(loaded.model(video), source.eval()(video))
    assert loaded.meta["labels"] == list(LABELS)
    assert loaded.model.args["pool"] == "local"  # no tensor shows it: the published arguments do

    about = zoo.card(done.card)
    assert about.name == "mine" and about.converted is not None
    file_ = about.weights.files[0]
    assert (file_.name, file_.form, file_.size) == ("mine.safetensors", "finetune", done.weights.stat().st_size)
    assert file_.sha256 == sha256(done.weights)
    assert (about.converted.source, about.converted.source_sha256) == ("published.pth", sha256(file))
    assert about.converted.labels == LABELS and about.results == ()
    assert about.weights_licence == zoo.card("mae_dfer_base").weights_licence
    assert about.weights.what == "finetune form of mae_dfer_base, converted from published.pth"
    told = zoo.information(str(done.card))
    assert f"sha256: {file_.sha256}" in told and "labels: happy, sad" in told and "assumed: heads 8" in told
    assert sorted(path.name for path in done.weights.parent.iterdir()) == ["mine.safetensors", "mine.yaml"]


def test_what_a_file_does_not_tell_can_be_given_and_is_listed_if_not(tmp_path: Path) -> None:
    file = published(tmp_path / "a.pth", create_model("videomae_base", "pretrain", **SMALL, decoder_dim=64))
    with pytest.raises(
        UserError, match=r"videomae 32 wide, and published are 768 \(videomae_base\).*--name and --heads"
    ):
        zoo.convert(file, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="is 32 wide, videomae_base is 768; no tensor tells the number of heads"):
        zoo.convert(file, tmp_path / "b.safetensors", "videomae_base")
    done = zoo.convert(file, tmp_path / "b.safetensors", "videomae_base", args={"heads": 4})
    assert done.assumed == ("frames 16", "size 160") and "assumed" in str(done)
    done = zoo.convert(file, tmp_path / "b.safetensors", "videomae_base", args=TOLD)
    assert done.assumed == () and read_weights(done.weights)[1]["args"]["size"] == 16


def test_a_run_of_ours_is_converted_with_what_its_header_says(tmp_path: Path) -> None:
    model = create_model("hicmae_tiny_audio", dim=32, depth=2, heads=4, audio_frames=32, mels=16, num_classes=2)
    file = tmp_path / "weights.safetensors"
    save_weights(file, model, {"labels": ["no", "yes"], "step": 7, "preprocessing": {"rate": 16000}})
    done = zoo.convert(file, tmp_path / "mine.safetensors")
    state, meta = read_weights(done.weights)
    assert (done.labels, meta["step"], meta["preprocessing"]) == (("no", "yes"), 7, {"rate": 16000})
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    about = zoo.card(done.card)
    assert about.weights.published is None and about.weights_licence.startswith("not stated")
    again = zoo.convert(done.weights, tmp_path / "again.safetensors", labels=["never", "always"])
    assert again.labels == ("never", "always")
    with pytest.raises(UserError, match="says that it is hicmae_tiny_audio, not mae_dfer_base"):
        zoo.convert(file, tmp_path / "b.safetensors", "mae_dfer_base")


def transformers_layout() -> dict[str, Tensor]:
    return {"videomae.encoder.layer.0.attention.output.dense.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"conv1.weight": torch.zeros(2, 2)}}, r"a.pth: holds no encoder of the systems known here.*conv1"),
        ({"model": transformers_layout()}, "the layout of Hugging Face's transformers"),
        ({"model": {}}, "holds no encoder"),
        ({"model": {}, "where": Path("x")}, "refused.*pathlib"),
        (torch.zeros(2), "holds a Tensor, not a state dict"),
    ],
)
def test_what_cannot_be_identified_is_refused_with_the_reason(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        zoo.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.1.mlp.fc1.weight"), "its encoder is built differently: it lacks"),
        (lambda state: state.pop("head.bias"), "is not mae_dfer_base .finetune., whole: .* 1 new"),
        (lambda state: state.update(pos_embed=torch.zeros(3)), "1 left over"),
        (lambda state: state.update(lg_region_tokens=torch.zeros(8, 32)), r"shape \(8, 32\).*--region"),
    ],
)
def test_a_file_that_is_not_one_model_whole_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    state = to_published(create_model("mae_dfer_base", **SMALL).state_dict())
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"(?s)a\.pth.*" + message):
        zoo.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", "mae_dfer_base", args=TOLD)
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "nowhere.pth", "b.safetensors"], "nowhere.pth: no such checkpoint"),
        (["convert", "a.pth", "b.pth"], "b.pth: the weights go into a file that ends in .safetensors"),
        (["convert", "a.pth", "b.safetensors", "--name", "videomea_base"], "did you mean 'videomae_base'"),
        (["convert", "a.pth", "b.safetensors", "--name", "videomae_base", "--hedas", "4"], "takes no argument 'hedas'"),
        (["info", "hicmea_base"], "did you mean hicmae_base"),
        (["list", "--wide"], "hicmae zoo list has no option --wide"),
    ],
)
def test_a_mistake_is_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "a.pth", create_model("videomae_base", **SMALL))
    assert main(["zoo", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_converts_with_options_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = published(tmp_path / "a.pth", create_model("videomae_base", **SMALL, num_classes=2))
    words = ["--name", "videomae_base", "--labels", "no", "yes", "--heads", "4", "--size=16", "--frames", "4"]
    assert main(["zoo", "convert", str(file), str(tmp_path / "b.safetensors"), *words]) == 0
    assert "b.safetensors: videomae_base (finetune)" in capsys.readouterr().out
    assert main(["zoo", "info", str(tmp_path / "b.yaml")]) == 0
    assert "CC-BY-NC-4.0" in capsys.readouterr().out


def test_labels_must_be_as_many_as_outputs(tmp_path: Path) -> None:
    file = published(tmp_path / "a.pth", create_model("videomae_base", **SMALL))
    with pytest.raises(UserError, match="has 7 outputs, and 2 labels were given"):
        zoo.convert(file, tmp_path / "b.safetensors", "videomae_base", labels=["a", "b"], args=TOLD)


def test_the_list_and_the_cards_fit_a_terminal_and_say_what_is_not_known() -> None:
    text = zoo.listing()
    assert [line.split()[0] for line in text.splitlines()[1:]] == [about.name for about in zoo.cards()]
    for about in zoo.cards():
        told = zoo.information(about.name)
        assert max(map(len, told.splitlines())) <= 100
        assert "sha256: unknown" in told and "none stated" in told and "out of scope" in told
    assert max(map(len, text.splitlines())) <= 100


def test_models_are_compared_beside_published_numbers_and_plain_attention_of_the_same_shape() -> None:
    text = zoo.comparison(["videomae_base", "mae_dfer_base", "hicmae_tiny"])
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split("  ")[0] or line.split("  ")[1]: " ".join(line.split()) for line in text.splitlines()[1:5]}
    assert list(rows) == ["videomae_base", "mae_dfer_base", "plain ViT, 512 x 16", "hicmae_tiny"]
    assert rows["mae_dfer_base"].endswith(" 84,878,343 49.75 G 41.60 G 99.30 G 85 M / 50 G 63.41 / 74.43")
    assert rows["plain ViT, 512 x 16"].endswith(" 51,221,511 51.45 G 51.45 G 102.76 G - -")
    assert rows["hicmae_tiny"].endswith(" G - -")  # its published result is of the video tower alone


def test_the_table_of_models_is_what_the_cards_say() -> None:
    made = (configs.folder("models") / "README.md").read_text(encoding="utf-8")
    assert made == zoo.readme(), "make it again: hicmae.zoo.readme()"


def test_a_card_without_a_fingerprint_says_so() -> None:
    with pytest.raises(UserError, match="mae_dfer_base: does not say what its data measure"):
        zoo.fingerprint("mae_dfer_base")
