"""From a card to a model in use: downloaded, verified, converted on arrival, found again without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hicmae
from hicmae import configs, zoo
from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.models import create_model
from hicmae.models.convert import to_published
from hicmae.runtime.mirrors import Patience
from tests.file_server import serving
from tests.zoo.conftest import LABELS, NAME, SMALL, described, write_card


def test_a_published_file_is_converted_on_arrival_and_used_by_its_name(
    pickled: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_CARDS", str(tmp_path / "cards"))
    content = pickled.read_bytes()
    with serving({"checkpoint-99.pth": content}) as server:
        url = f"{server.url}/cut-further/checkpoint-99.pth"
        file = described(content, "checkpoint-99.pth", f"{server.url}/404/checkpoint-99.pth", url, labels=list(LABELS))
        write_card(tmp_path / "cards" / "my_faces.yaml", [file])
        haste = Patience(connect=1, silence=1, tries=2, pause=0.01)
        path = zoo.download("my_faces", patience=haste, show=False)
        assert path.suffix == ".safetensors" and cache in path.parents
    # the server is gone
    model, processor, meta = hicmae.from_pretrained("my_faces", device="cpu")
    state = torch.load(pickled, weights_only=False)["model"]
    assert all(torch.equal(state[key], value) for key, value in to_published(model.state_dict()).items())
    assert (meta["labels"], model.training, processor.inputs) == (list(LABELS), False, ("audio",))
    fresh = create_model(NAME, **SMALL)
    report = hicmae.load_checkpoint(fresh, "my_faces")
    assert report.new == [] and report.left_over == []
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_published_file_at_hand_is_used_as_it_is(pickled: Path) -> None:
    loaded = hicmae.inference.load_model(pickled, "finetune", device="cpu")
    assert loaded.model.name == NAME and loaded.meta["converted"]["source"] == "checkpoint-99.pth"


def test_the_decoder_of_a_published_pretraining_file_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_model(NAME, "pretrain", depth=1)
    torch.save({"model": source.state_dict()}, tmp_path / "checkpoint.pth")
    files = [described((tmp_path / "checkpoint.pth").read_bytes(), "checkpoint.pth", "checkpoint.pth", form="pretrain")]
    place = write_card(tmp_path / "faces.yaml", files)
    model = hicmae.from_pretrained(place, "pretrain", device="cpu").model
    decoder = {name: value for name, value in source.state_dict().items() if name.startswith("decoder")}
    assert decoder and all(torch.equal(model.state_dict()[name], value) for name, value in decoder.items())


def test_of_two_forms_the_one_that_is_needed_is_taken(tmp_path: Path) -> None:
    files = []
    for form in ("finetune", "pretrain"):
        model = create_model(NAME, form, dim=32, depth=1, heads=2)  # type: ignore[arg-type]
        hicmae.models.save_weights(tmp_path / f"{form}.safetensors", model)
        content = (tmp_path / f"{form}.safetensors").read_bytes()
        files.append(described(content, f"{form}.safetensors", f"{form}.safetensors", form=form))
    place = write_card(tmp_path / "both.yaml", files)
    for form in ("finetune", "pretrain"):
        assert hicmae.inference.load_model(place, form, device="cpu").model.stage == form  # type: ignore[arg-type]
        assert zoo.download(place, form=form).name == f"{form}.safetensors"
    with pytest.raises(
        UserError, match=r"2 files fit, name one with --form or --file; there are finetune\.safetensors"
    ):
        zoo.download(place)
    with pytest.raises(UserError, match=r"has no other\.pth file; there are"):
        zoo.download(place, file="other.pth")


@pytest.mark.parametrize("name", configs.names("models"))
def test_a_shipped_card_is_honest_about_what_cannot_be_downloaded(name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name}: cannot be downloaded. This project has had none of its files"
    ) as error:
        zoo.download(name)
    told = str(error.value)
    about = zoo.card(name)
    assert f"hicmae zoo convert FILE.pth {name}.safetensors" in told and about.weights.what in told
    assert about.weights.published is None or about.weights.published in told
    with pytest.raises(UserError, match="cannot be downloaded"):
        hicmae.from_pretrained(name)


def test_a_file_whose_hash_nobody_knows_is_not_downloaded(tmp_path: Path) -> None:
    place = write_card(tmp_path / "faces.yaml", [{"name": "a.pth", "mirrors": ["https://host.invalid/a.pth"]}])
    with pytest.raises(UserError, match=r"a\.pth is not downloaded, since its card does not state its size and sha256"):
        zoo.download(place)
    assert "unknown, so that it cannot be downloaded" in zoo.information(str(place))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hicmea_base", r"hicmea_base: no such checkpoint.*no name of the zoo; did you mean hicmae_base"),
        ("nothing like it", "no such checkpoint, run folder or weights file, and no name of the zoo"),
        ("here/nothing", "no such checkpoint"),  # `here` is a folder: a slip of the pen, and no repository of the Hub
    ],
)
def test_a_source_that_is_nowhere_is_told(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match=message):
        hicmae.from_pretrained(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": "TODO"}, "groups must say something in words, not 'TODO'"),
        ({"consent": ""}, "consent must say something in words, not ''"),
        ({"labels_mean": "unknown."}, "labels_mean must say something in words"),
        ({"intended_use": "n/a"}, ".* if nothing is known, say that and why"),
    ],
)
def test_a_card_that_says_nothing_of_people_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    place = write_card(tmp_path / "faces.yaml", [], **changes)
    with pytest.raises(configs.ConfigError, match=rf"faces\.yaml: {message}"):
        zoo.card(place)


@pytest.mark.parametrize("field", ["intended_use", "out_of_scope", "labels_mean", "groups", "consent"])
def test_every_card_must_say_for_what_and_of_whom_it_is(field: str, tmp_path: Path) -> None:
    place = write_card(tmp_path / "faces.yaml", [])
    lines: Any = configs.read_yaml(place)
    del lines[field]
    place.write_text(configs.files.yaml.safe_dump(lines))
    with pytest.raises(configs.ConfigError, match=rf"faces\.yaml: {field} is missing"):
        zoo.card(place)
    assert all(
        getattr(about, field) in zoo.information(about.name) or len(getattr(about, field)) > 90 for about in zoo.cards()
    )


def test_a_card_with_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    place = write_card(tmp_path / "faces.yaml", [described(b"x", "../../evil.pth", "x")])
    with pytest.raises(
        configs.ConfigError, match=r"faces\.yaml: weights\.files\[0\]\.name: '\.\./\.\./evil\.pth' is not"
    ):
        zoo.download(place)


def test_own_cards_are_listed_and_come_before_shipped_ones(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HICMAE_CARDS", str(tmp_path / "cards"))
    shutil.copy(pickled, tmp_path / "obtained.pth")
    file = described(pickled.read_bytes(), "obtained.pth", "../obtained.pth", labels=list(LABELS))
    write_card(tmp_path / "cards" / "hicmae_tiny.yaml", [file])
    write_card(tmp_path / "cards" / "my_faces.yaml", [file])
    assert main(["zoo", "list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert set(listed) == {*configs.names("models"), "my_faces"} and len(listed) == len(set(listed))
    assert hicmae.from_pretrained("hicmae_tiny", device="cpu").labels == LABELS


def test_the_commands_download_and_verify(
    pickled: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_card(tmp_path / "faces.yaml", [described(pickled.read_bytes(), "a.pth", str(pickled))])
    assert main(["zoo", "verify", str(place)]) == 1
    assert f"a.pth: is not here; hicmae zoo download {place}" in capsys.readouterr().out
    assert main(["zoo", "download", str(place)]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert main(["zoo", "verify", str(place)]) == 0
    assert "a.pth: as its card says" in capsys.readouterr().out
    (kept,) = (cache / "files").rglob("a.pth")
    kept.write_bytes(b"x" + kept.read_bytes()[1:])
    assert main(["zoo", "verify", str(place)]) == 1
    assert "a.pth: has sha256" in capsys.readouterr().out
    assert main(["zoo", "verify"]) == 0  # nothing of the known cards is here
    assert "nothing to verify: no file of the known cards is here" in capsys.readouterr().out
    assert main(["zoo", "download"]) == 2
    assert "say what to download" in capsys.readouterr().err


def test_a_bundle_brings_everything_to_a_machine_without_a_network(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = described(pickled.read_bytes(), "checkpoint.pth", str(pickled), labels=list(LABELS))
    place = write_card(tmp_path / "my_faces.yaml", [file])
    tar = tmp_path / "stick" / "zoo.tar"
    assert main(["zoo", "bundle", str(place), "--out", str(tar)]) == 0
    assert "there: hicmae zoo download --from zoo.tar" in capsys.readouterr().out
    place.unlink()
    monkeypatch.setenv("HICMAE_CACHE", str(tmp_path / "other machine"))
    monkeypatch.setenv("HICMAE_OFFLINE", "1")
    with pytest.raises(UserError, match="holds no card other; it holds my_faces"):
        zoo.unbundle(tar, ["other"])
    assert main(["zoo", "download", "--from", str(tar)]) == 0
    assert "known from now on: my_faces" in capsys.readouterr().out
    tar.unlink()
    assert hicmae.from_pretrained("my_faces", device="cpu").labels == LABELS
    assert main(["zoo", "info", "my_faces"]) == 0 and main(["zoo", "verify"]) == 0
    assert "checkpoint.pth: as its card says" in capsys.readouterr().out
    assert str(pickled) not in (tmp_path / "other machine" / "cards" / "my_faces.yaml").read_text()


def test_what_cannot_be_bundled_is_told(pickled: Path, tmp_path: Path) -> None:
    place = write_card(tmp_path / "faces.yaml", [described(pickled.read_bytes(), "a.pth", str(pickled))])
    with pytest.raises(UserError, match=r"give a name that ends in \.tar"):
        zoo.bundle([place], tmp_path / "zoo.zip")
    with pytest.raises(UserError, match="another card is called faces too"):
        zoo.bundle([place, place], tmp_path / "zoo.tar")
    with pytest.raises(UserError, match="names no file with size and sha256"):
        zoo.bundle(["mae_dfer_base"], tmp_path / "zoo.tar")
    assert not list(tmp_path.glob("zoo.*"))
