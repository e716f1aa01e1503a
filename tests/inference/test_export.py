"""Export: a file does what the model does, without the library, from bytes and samples on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.datasets.fbank import SoundConfig, log_mel
from hicmae.datasets.transforms import resize
from hicmae.inference import Loaded, export, export_model, load_model, predict_clip
from hicmae.inference.export_graph import Deployed, Hearing, Sight, samples_of
from hicmae.inference.export_inputs import clips, generated, prepared
from hicmae.inference.processor import Processor
from hicmae.models.factory import create_model, save_weights
from tests.inference.clips import picture, video
from tests.inference.test_audio_visual import META, SIGHT, SOUND, TOWER

onnxruntime = pytest.importorskip("onnxruntime")

PARTS: dict[str, dict[str, Any]] = {
    "videomae_base": SIGHT,
    "mae_dfer_base": SIGHT | {"region": [2, 2, 4]},
    "svfap_base": SIGHT | {"frames": 16, "depth": 3},
    "hicmae_tiny": {**SIGHT, **SOUND, "fusion_depth": 1},
    "hicmae_tiny_video": SIGHT,
    "hicmae_tiny_audio": SOUND,
}


def saved(folder: Path, name: str, stage: Any = "finetune", meta: dict[str, Any] | None = None, **args: Any) -> Path:
    torch.manual_seed(0)
    form = {"num_classes": 3} if stage == "finetune" else {}
    model = create_model(name, stage=stage, **{**TOWER, "depth": 1, **PARTS[name], **form, **args})
    with torch.no_grad():  # so that every layer makes a difference
        for parameter in model.parameters():
            parameter.copy_(parameter if parameter.dim() < 2 else torch.randn_like(parameter) * 0.15)
    path = folder / f"{name}-{stage}.safetensors"
    save_weights(path, model, {**META, **(meta or {})})
    return path


def outputs(file: Path, given: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {one.name: x.numpy() for one, x in zip(session.get_inputs(), given, strict=True)})


# the others take five seconds each; the fixture below is tested like the first
FAST = ("mae_dfer_base",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in PARTS])
def test_onnx_does_what_the_model_does_at_any_batch_size(name: str, tmp_path: Path) -> None:
    loaded = load_model(saved(tmp_path, name), device="cpu")
    done = export_model(loaded, tmp_path / "out")
    assert set(done.differences["onnx"]) == {"1", "2", "5"} and max(done.differences["onnx"].values()) < 1e-4
    processor = Processor.of(*loaded)
    deployed = Deployed(loaded.model, loaded.meta, processor).eval()
    given = generated(deployed, 3, seed=7)  # what it was neither traced nor checked with
    told = prepared(deployed, processor, given)
    found = outputs(done.files["onnx"], given)
    for here, there in zip(found, told, strict=True):
        assert np.abs(here - there.numpy()).max() < 1e-4
    assert np.abs(found[0][0] - found[0][1]).max() > 1e-4  # and clips make a difference
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["labels"] == ["angry", "happy", "sad"] and about["outputs"] == ["probabilities", "features"]
    assert [one["name"] for one in about["inputs"]] == list(deployed.inputs)
    assert Processor.load(tmp_path / "out" / "processor.json") == processor


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Any]:
    folder = tmp_path_factory.mktemp("exported")
    loaded = load_model(saved(folder, "hicmae_tiny"), device="cpu")
    return loaded, export_model(loaded, folder / "out", format="both", int8=True, windows=8)


def test_a_program_of_torch_export_does_what_the_model_does(both: tuple[Loaded, Any]) -> None:
    loaded, done = both
    assert max(done.differences["torch"].values()) < 1e-4
    processor = Processor.of(*loaded)
    deployed = Deployed(loaded.model, loaded.meta, processor).eval()
    given = generated(deployed, 3, seed=7)
    with export._quiet():
        program = torch.export.load(done.files["torch"]).module()
    for here, there in zip(program(*given), prepared(deployed, processor, given), strict=True):
        assert (here - there).abs().max() < 1e-4


def test_8_bit_integers_are_measured_against_floats(both: tuple[Loaded, Any]) -> None:
    loaded, done = both
    deployed = Deployed(loaded.model, loaded.meta, Processor.of(*loaded)).eval()
    given = generated(deployed, 8, seed=1)
    pairs = [
        [outputs(done.files[kind], tuple(x[i : i + 1] for x in given))[0][0] for kind in ("onnx", "int8")]
        for i in range(8)
    ]
    assert done.int8["agreement"] == np.mean([a.argmax() == b.argmax() for a, b in pairs])
    assert done.int8["max_difference"] == pytest.approx(max(np.abs(a - b).max() for a, b in pairs), abs=1e-6)
    assert 0 < done.int8["max_difference"] < 0.2
    assert "generated" in done.int8["of"] and "8 windows" in str(done)
    about = json.loads((done.out / "export.json").read_text())
    assert about["int8"]["agreement"] == done.int8["agreement"]
    import onnx

    kinds = [node.op_type for node in onnx.load(done.files["int8"]).graph.node]
    assert kinds.count("MatMulInteger") > 10  # the weights really are integers


@pytest.mark.parametrize("kind", ["onnx", "int8"])
def test_the_example_runs_without_this_library_and_torch(both: tuple[Loaded, Any], kind: str, tmp_path: Path) -> None:
    loaded, done = both
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    # as large as the stored frames, and one window long: the example and the library see the same
    clip = video(tmp_path / "clip.mp4", 12, height=48, width=48, audio=wave[: 16_000 * 12 // 25])
    code = (
        "import sys, runpy\n"
        "sys.modules['torch'] = sys.modules['hicmae'] = None\n"
        f"sys.argv = ['example.py', {str(clip)!r}, {str(done.files[kind])!r}]\n"
        f"runpy.run_path({str(done.out / 'example.py')!r}, run_name='__main__')\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    told = {name: float(value) for name, value in (line.split() for line in ran.stdout.splitlines())}
    expected = predict_clip(clip, loaded).probabilities
    assert told == pytest.approx(expected, abs=1e-3 if kind == "onnx" else 0.2)
    assert abs(sum(told.values()) - 1) < 1e-3


@pytest.mark.parametrize(("stored", "size"), [(224, 160), (48, 32), (50, 33), (32, 48)])
def test_frames_are_resized_in_the_graph_to_the_bit(stored: int, size: int) -> None:
    frames = torch.randint(
        0, 256, (2, stored, stored, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    levels = Sight(stored, size, (0.0,) * 3, (1 / 255,) * 3)(frames[None])[0].transpose(0, 1)
    assert torch.equal(levels, resize(frames.permute(0, 3, 1, 2), size).float())


@pytest.mark.parametrize("seconds", [0.05, 1.0, 2.6])
def test_the_filter_bank_in_the_graph_is_that_of_the_library(seconds: float) -> None:
    wave = torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(0)) * 0.1 + 0.05
    config = SoundConfig()
    sound = torch.zeros(1, samples_of(config))
    count = min(len(wave), sound.shape[1])
    sound[0, :count] = wave[:count]
    sound[0, count:] = 9  # what does not count is not heard
    found = Hearing(config)(sound, torch.tensor([count]))
    assert (found - log_mel(wave[:count])[None]).abs().max() < 1e-4


def test_agreement_is_measured_on_given_clips(both: tuple[Loaded, Any], tmp_path: Path) -> None:
    loaded, _ = both
    processor = Processor.of(*loaded)
    deployed = Deployed(loaded.model, loaded.meta, processor).eval()
    wave = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    video(tmp_path / "clip.mp4", 50, height=48, width=48, audio=wave)
    video(tmp_path / "mute.mp4")  # cannot be used
    given = clips(deployed, processor, [tmp_path], 3)
    assert [tuple(x.shape) for x in given] == [(3, 4, 48, 48, 3), (3, samples_of(SoundConfig(length=48))), (3,)]
    first = given[0][0, 0].numpy().astype(int)
    assert np.abs(first - picture(0, 48, 48)).mean() < 8
    expected = predict_clip(tmp_path / "clip.mp4", loaded).windows[0].probabilities
    assert prepared(deployed, processor, given)[0][0].tolist() == pytest.approx(list(expected.values()), abs=1e-4)


@pytest.mark.slow
def test_an_audio_visual_model_is_exported_as_it_is_without_sound(both: tuple[Loaded, Any], tmp_path: Path) -> None:
    loaded, _ = both
    done = export_model(loaded, tmp_path / "out", modality="video")
    assert [one["name"] for one in json.loads((done.out / "export.json").read_text())["inputs"]] == ["frames"]
    clip = video(tmp_path / "mute.mp4", 12, height=48, width=48)
    ran = subprocess.run([sys.executable, done.out / "example.py", clip], capture_output=True, text=True)
    told = [float(line.split()[1]) for line in ran.stdout.splitlines()]
    assert told == pytest.approx(list(predict_clip(clip, loaded).probabilities.values()), abs=1e-3)


@pytest.mark.slow
def test_numbers_are_told_apart_from_probabilities(tmp_path: Path) -> None:
    task = {"task": {"kind": "joint", "columns": ["valence"]}, "labels": ["happy", "sad", "valence"]}
    loaded = load_model(saved(tmp_path, "videomae_base", meta=task), device="cpu")
    done = export_model(loaded, tmp_path / "out")
    about = json.loads((done.out / "export.json").read_text())
    assert about["outputs"] == ["probabilities", "values", "features"]
    assert about["labels"] == ["happy", "sad"] and about["values"] == ["valence"]
    clip = video(tmp_path / "clip.mp4", 12, height=48, width=48)
    ran = subprocess.run([sys.executable, done.out / "example.py", clip], capture_output=True, text=True)
    told = {line.split()[0]: float(line.split()[1]) for line in ran.stdout.splitlines()}
    expected = predict_clip(clip, loaded)
    assert told == pytest.approx({**expected.probabilities, **expected.values}, abs=1e-3)


def test_mistakes_of_the_command_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> str:
        assert main(["export", *words]) == 2
        return capsys.readouterr().err

    good = str(saved(tmp_path, "videomae_base"))
    out = str(tmp_path / "out")
    assert "is a pretraining checkpoint" in told(str(saved(tmp_path, "videomae_base", "pretrain")), "--out", out)
    assert "no head to export" in told(str(saved(tmp_path, "hicmae_tiny_video", num_classes=0)), "--out", out)
    assert "videomae_base takes video only" in told(good, "--out", out, "--modality", "audio")
    assert "made of the ONNX file" in told(good, "--out", out, "--format", "torch", "--int8")
    (tmp_path / "file").write_text("")
    assert "cannot write" in told(good, "--out", str(tmp_path / "file" / "out"))
    assert "does not exist" in told(good, "--out", out, "--int8", "--data", str(tmp_path / "nowhere"))


def test_without_onnx_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'pip install "hicmae\[export\]"'):
        export_model(saved(tmp_path, "videomae_base"), tmp_path / "out")


def test_a_file_that_does_something_else_is_refused(both: tuple[Loaded, Any]) -> None:
    loaded, _ = both
    processor = Processor.of(*loaded)
    deployed = Deployed(loaded.model, loaded.meta, processor).eval()
    given = generated(deployed, 5)
    wrong = [x + 0.001 for x in prepared(deployed, processor, given)]
    with pytest.raises(UserError, match="differs from the model it was made of"):
        export._compare(lambda rows: [x[: len(rows[0])] for x in wrong], deployed, processor, given, Path("model.onnx"))
