"""A published folder: loaded by this library, by timm, by plain safetensors; the Hub reads its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import hicmae
import hicmae.models
from hicmae import zoo
from hicmae.cli import main
from hicmae.configs import ConfigError, UserError
from hicmae.inference import Processor, load_model
from hicmae.models import create_model, list_models, save_weights
from hicmae.models.factory import STAGES, model_arguments
from hicmae.runtime import checkpoint
from tests.file_server import serving
from tests.inference import clips
from tests.inference.conftest import PREPROCESSING, save_autoencoder, save_classifier
from tests.models import small

ABOUT = {
    "licence": "cc-by-nc-4.0",
    "authors": "Ann and Bob",
    "dataset": "Own clips",
    "target": "acted",
    "labels_mean": "what twelve actors were asked to show",
    "groups": "six women and six men between 20 and 40; nobody else",
    "consent": "the actors agreed in writing to research and to the weights being passed on",
}
NUMBERS = {"uar": {"value": 0.625, "low": 0.5, "high": 0.7}, "war": {"value": 0.5, "low": 0.4, "high": float("nan")}}
PROTOCOL = {"data": ["/data/ann/test/shards"], "input": "video", "clips": 24, "weights": "weights of step 12"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As fine-tuning leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "faces"
    file = save_classifier(folder.parent / "weights.safetensors", config={"data": {"train": ["/data/ann/shards"]}})
    state, meta = checkpoint.read_weights(file)
    checkpoint.save(folder, 12, weights=state, meta=meta, state={})
    evaluation = {
        "title": "on /data/ann",
        "numbers": NUMBERS,
        "protocol": PROTOCOL,
        "per_class": {"happy": {"recall": 0.5}},
        "predictions": [{"key": "ann-0001", "source": "ann/holiday.mp4"}],
        "skipped": [["bob.mp4", "is cut off"]],
        "config": {"out": "/data/ann/run"},
    }
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "my-faces"
    zoo.publish(run, out, about=zoo.About(**ABOUT))  # type: ignore[arg-type]
    return out


def test_a_published_folder_is_loaded_with_everything_that_belongs_to_it(
    run: Path, published: Path, tmp_path: Path
) -> None:
    clip = clips.video(tmp_path / "clip.mp4")
    before, after = load_model(run, device="cpu"), hicmae.from_pretrained(published, device="cpu")
    window = next(after.processor(clip))
    assert torch.equal(before.model(window.video), after.model(window.video))
    assert after.processor == Processor.of(before.model, before.meta) == Processor.load(published / "processor.json")
    assert after.labels == ("angry", "happy", "sad") and after.meta["step"] == 12
    ours, theirs = hicmae.predict(clip, run), hicmae.predict(clip, str(published))
    assert ours.probabilities == theirs.probabilities == hicmae.predict(clip, after).probabilities
    assert hicmae.load_checkpoint(before.model, published).new == []


def test_plain_safetensors_read_the_weights(run: Path, published: Path) -> None:
    plain = load_file(published / "model.safetensors")
    assert all(torch.equal(plain[name], value) for name, value in load_model(run).model.state_dict().items())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", list_models())
def test_timm_builds_every_published_form_with_its_weights(name: str, stage: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = {key: value for key, value in small.SIZES.items() if key in model_arguments(name, stage)}
    labels = ["no", "yes"]
    model = create_model(name, stage, **args, **({"num_classes": 2} if stage == "finetune" else {}))
    meta = {"preprocessing": PREPROCESSING, **({"labels": labels} if stage == "finetune" else {})}
    save_weights(tmp_path / "weights.safetensors", model, meta)
    zoo.publish(tmp_path / "weights.safetensors", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert type(theirs) is type(model) and theirs.stage == stage
    assert all(torch.equal(theirs.state_dict()[key], value) for key, value in model.state_dict().items())
    if stage == "finetune":
        other = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5)
        first = next(key for key in model.state_dict() if "blocks.0" in key)
        assert other.head.weight.shape[0] == 5 and torch.equal(other.state_dict()[first], model.state_dict()[first])
    random = timm.create_model(f"local-dir:{tmp_path / 'out'}")  # pretrained=False builds the form without its weights
    assert list(random.state_dict()) == list(model.state_dict())


def test_timm_still_says_that_it_knows_no_weights_of_a_bare_name() -> None:
    with pytest.raises(ValueError, match="timm knows no weights of videomae_base"):
        timm.create_model("videomae_base", pretrained=True, dim=16, depth=1, heads=2)


def test_the_card_is_in_the_format_of_the_hub(published: Path) -> None:
    card = ModelCard.load(published / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "cc-by-nc-4.0",
        "hicmae",
        "video-classification",
    )
    assert card.data.eval_results is not None
    found = {result.metric_name: (result.dataset_name, result.metric_value) for result in card.data.eval_results}
    assert found == {"UAR": ("Own clips", 62.5), "WAR": ("Own clips", 50.0)}
    for key in ("authors", "labels_mean", "groups", "consent"):
        assert ABOUT[key] in card.text
    assert "1. happy" in card.text and "Out of scope." in card.text


def test_the_config_names_outputs_and_the_results_their_protocol(published: Path) -> None:
    config, results = (json.loads((published / f"{name}.json").read_text()) for name in ("config", "results"))
    assert config["label_names"] == ["angry", "happy", "sad"] and config["architecture"] == "videomae_base"
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert results["dataset"] == "Own clips" and results["protocol"]["clips"] == 24
    assert results["per_class"] == {"happy": {"recall": 0.5}} and results["numbers"]["war"]["high"] is None
    about = zoo.card(published)
    assert about.weights_licence == "cc-by-nc-4.0" and about.results[0].metrics == {"UAR": 62.5, "WAR": 50.0}
    assert "expressed" not in about.labels_mean and about.labels_mean == ABOUT["labels_mean"]


def test_neither_paths_of_this_machine_nor_names_of_clips_are_published(run: Path, published: Path) -> None:
    everything = b"".join(path.read_bytes() for path in published.iterdir())
    for secret in (b"/data/ann", b"ann-0001", b"holiday", b"bob.mp4", str(run).encode()):
        assert secret not in everything


def test_what_nobody_said_is_said_to_be_missing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "publish", str(run), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "not stated: licence, labels_mean, groups, consent; say them in a file, --about about.yaml" in told
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "not-stated")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("not stated by whoever published this") >= 4
    (tmp_path / "about.yaml").write_text(yaml.safe_dump(ABOUT))
    words = ["zoo", "publish", str(run), "--out", str(tmp_path / "out"), "--about", str(tmp_path / "about.yaml")]
    assert main(words) == 0  # over what was published before
    assert "not stated" not in capsys.readouterr().out
    (tmp_path / "about.yaml").write_text("licens: mit\n")
    assert main(words) == 2
    assert "about.yaml: unknown key licens; did you mean licence" in capsys.readouterr().err


def test_a_pretraining_run_is_published_with_its_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_autoencoder(tmp_path / "weights.safetensors")
    assert main(["zoo", "publish", str(file), "--out", str(tmp_path / "out")]) == 0
    clip, picture = clips.video(tmp_path / "clip.mp4"), str(tmp_path / "picture.png")
    words = ["reconstruct", str(clip), "--checkpoint", str(tmp_path / "out"), "--out", picture, "--device", "cpu"]
    assert main(words) == 0 and Path(picture).is_file()
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert "pipeline_tag" not in data and "model-index" not in data
    assert main(["predict", str(clip), "--checkpoint", str(tmp_path / "out")]) == 2
    assert "fine-tune it on labelled clips first" in capsys.readouterr().err


def test_adapters_are_added_to_the_layers_they_belong_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = save_classifier(tmp_path / "plain.safetensors")
    state, meta = checkpoint.read_weights(file)
    key = "encoder.blocks.0.attn.proj"
    state[f"{key}.base_layer.weight"], state[f"{key}.base_layer.bias"] = (
        state.pop(f"{key}.weight"),
        state.pop(f"{key}.bias"),
    )
    width = len(state[f"{key}.base_layer.bias"])
    state[f"{key}.lora_A.default.weight"] = torch.randn(2, width)
    state[f"{key}.lora_B.default.weight"] = torch.randn(width, 2)
    checkpoint.save_weights(tmp_path / "lora.safetensors", state, {**meta, "lora": {"alpha": 4.0}})
    zoo.publish(tmp_path / "lora.safetensors", tmp_path / "out")
    video = torch.randn(1, 3, 4, 32, 32)
    ours, theirs = load_model(tmp_path / "lora.safetensors", device="cpu"), load_model(tmp_path / "out", device="cpu")
    assert torch.equal(ours.model(video), theirs.model(video))
    timms = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(ours.model(video), timms(video))


def test_what_cannot_be_published_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things already; name a new or empty folder"):
        zoo.publish(run, tmp_path / "full")
    assert (tmp_path / "full" / "diary.txt").read_text() == "mine"
    with pytest.raises(UserError, match="no such checkpoint"):
        zoo.publish(tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"is not a readable evaluation .* hicmae evaluate makes it again"):
        zoo.publish(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match="groups must say something"):
        zoo.publish(run, tmp_path / "out", about=zoo.About(**{**ABOUT, "groups": "todo"}))  # type: ignore[arg-type]


def test_verify_finds_a_published_file_that_was_changed(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "copy")
    assert main(["zoo", "verify", str(tmp_path / "copy")]) == 0
    content = (tmp_path / "copy" / "model.safetensors").read_bytes()
    (tmp_path / "copy" / "model.safetensors").write_bytes(content[:-1] + b"x")
    assert main(["zoo", "verify", str(tmp_path / "copy")]) == 1


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The published folder as a repository of a hub."""
    files = {f"ann/faces/resolve/main/{path.name}": path.read_bytes() for path in published.iterdir()}
    with serving(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_repository_of_the_hub_is_loaded_verified_and_found_again_offline(
    hub: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_file(published / "model.safetensors")
    for source in ("ann/faces", "hf://ann/faces", "ann/faces@main"):
        model, _, meta = hicmae.from_pretrained(source, device="cpu")
        assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
        assert meta["labels"] == ["angry", "happy", "sad"]
    assert sum(path.endswith("model.safetensors") for path, *_ in hub.asked) == 1
    monkeypatch.setenv("HICMAE_OFFLINE", "1")
    asked = len(hub.asked)
    assert hicmae.from_pretrained("ann/faces", device="cpu").labels and len(hub.asked) == asked
    with pytest.raises(UserError, match=r"ann/other: there is no such folder or file here.*HICMAE_OFFLINE=1 forbids"):
        hicmae.from_pretrained("ann/other")


def test_a_repository_whose_weights_are_not_what_its_card_says_is_refused(hub: Any) -> None:
    name = "ann/faces/resolve/main/model.safetensors"
    hub.files[name] = hub.files[name][:-1] + b"x"
    with pytest.raises(UserError, match="sent something else: it has sha256"):
        hicmae.from_pretrained("ann/faces")


@pytest.mark.parametrize("content", [b"", b"- 1", b"name: faces", b"\xff\xfe", b"a: &a [*a]"])
def test_a_repository_without_a_card_of_ours_is_refused(content: bytes, hub: Any, cache: Path) -> None:
    hub.files["ann/faces/resolve/main/card.yaml"] = content
    with pytest.raises(UserError, match=r"its card\.yaml is none of this library"):
        hicmae.from_pretrained("ann/faces")
    del hub.files["ann/faces/resolve/main/card.yaml"]
    with pytest.raises(UserError, match=r"HTTP 404.*Repositories that hicmae zoo publish filled hold a card\.yaml"):
        hicmae.from_pretrained("ann/faces")
    assert not [path for path in cache.rglob("*") if path.is_file()]
