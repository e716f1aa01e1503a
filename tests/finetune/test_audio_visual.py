"""Fine-tuning and measuring with sound: labels that neither frames nor sound tell alone, and clips without sound."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hicmae.configs import ConfigError
from hicmae.datasets import ShardConfig, write_shards, write_video
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.transforms import AugmentConfig
from hicmae.finetune import Classification, FinetuneConfig, FinetuneData, build_model, evaluate, run
from hicmae.finetune.inputs import Inputs, Modality
from hicmae.models.factory import create_model
from hicmae.pretrain import MaskConfig, PretrainConfig, PretrainData
from hicmae.pretrain import run as pretrain
from hicmae.runtime.checkpoint import read_weights
from hicmae.runtime.log import UserError
from hicmae.runtime.loop import LoopConfig
from hicmae.runtime.optim import OptimConfig
from tests.finetune.conftest import PLAIN, changed

CLASSES = ("blue-high", "blue-low", "red-high", "red-low")
TOWER = {"dim": 32, "depth": 4, "heads": 2}
SHAPE = {"patch": [2, 8, 8], "audio_patch": [8, 8], "audio_frames": 24, "mels": 16, "fusion_depth": 1}
DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
FREE: dict[str, Any] = {"frames": 4, "stride": 2, "size": 32, "workers": 0}


def clip(path: Path, label: str, seed: int, sound: bool = True) -> Path:
    """Half a second of a tinted picture and a tone: the label names both."""
    colour, pitch = label.split("-")
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 90, (8, 32, 32, 3))
    pixels[..., ("red", "green", "blue").index(colour)] += 120
    time = np.arange(8000) / 16_000
    tone = np.sin(2 * np.pi * {"low": 300, "high": 3000}[pitch] * (1 + 0.05 * generator.normal()) * time)
    wave = (0.3 * tone + 0.01 * generator.normal(size=8000)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, pixels.astype(np.uint8), 16, wave if sound else None)


def shards(root: Path, per_class: int, mute: Sequence[str] = ()) -> str:
    """`per_class` clips of each class; those whose names begin with one of `mute` have no sound track."""
    lines = ["path,label"]
    for number in range(per_class * len(CLASSES)):
        label = CLASSES[number % len(CLASSES)]
        name = f"{number // len(CLASSES)}-{label}.mp4"
        clip(root / "clips" / name, label, number + 100 * per_class, sound=not name.startswith(tuple(mute) or ("-",)))
        lines.append(f"clips/{name},{label}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    write_shards([], root / "shards", config=ShardConfig(size=32, list=str(root / "list.csv")), progress=False)
    return str(root / "shards")


@pytest.fixture(scope="module")
def train_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shards(tmp_path_factory.mktemp("train"), 8)


@pytest.fixture(scope="module")
def test_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shards(tmp_path_factory.mktemp("test"), 3)


@pytest.fixture(scope="module")
def partly_mute(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 clips, of which the first of every class has no sound."""
    return shards(tmp_path_factory.mktemp("mute"), 4, mute=["0-"])


@pytest.fixture(scope="module")
def pretrained(train_shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(
        PretrainConfig(
            model="hicmae_tiny",
            args={**TOWER, **SHAPE, **DECODER},
            data=PretrainData(shards=[train_shards], **FREE),
            mask=MaskConfig(video=0.75, audio=0.5),
            loop=LoopConfig(epochs=2, batch_size=8),
            device="cpu",
            out=str(out),
        ),
        show=False,
    )
    return str(out)


def recipe(train: str, out: Path, **changes: Any) -> FinetuneConfig:
    config = FinetuneConfig(
        model="hicmae_tiny",
        args={**TOWER, **SHAPE, "init_scale": 1.0},
        data=FinetuneData(train=[train], **FREE),
        augment=PLAIN,
        optim=OptimConfig(lr=0.1, min_lr=0, betas=(0.9, 0.999), warmup_epochs=0.5, layer_decay=0.9),
        loop=LoopConfig(epochs=8, batch_size=8, log_every=1, save_every=99),
        device="cpu",
        out=str(out),
    )
    return changed(config, **changes)


def uar(source: Any, data: str, **how: Any) -> float:
    report = evaluate(source, [data], segments=1, device="cpu", show=False, **how)
    return float(report.intervals["uar"].value)


def test_two_modalities_tell_what_neither_tells_alone(
    train_shards: str, test_shards: str, pretrained: str, tmp_path: Path
) -> None:
    config = recipe(train_shards, tmp_path / "run", args={"init_scale": 1.0}, init=pretrained)
    last = run(config, show=False)
    meta = read_weights(last / "weights.safetensors")[1]
    assert (meta["args"]["audio_frames"], meta["args"]["mels"]) == (24, 16)  # the pretraining run's
    assert meta["preprocessing"]["sound"]["length"] == 24 and "gain" in meta["preprocessing"]["sound_augment"]
    assert uar(last, test_shards) > 0.9  # chance is 0.25
    modality: Modality
    for modality in ("video", "audio"):
        report = evaluate(last, [test_shards], modality=modality, device="cpu", show=False)
        assert report.intervals["uar"].value <= 0.75
        assert report.protocol["input"].startswith(f"{modality} alone, without the ")
        assert any("alone" in note for note in report.notes)
        assert (tmp_path / "run" / f"evaluation-{modality}" / "evaluation.json").is_file()


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_tower_starts_from_the_audio_visual_checkpoint(
    modality: Modality, train_shards: str, test_shards: str, pretrained: str, tmp_path: Path
) -> None:
    config = recipe(train_shards, tmp_path, model=f"hicmae_tiny_{modality}", args={"init_scale": 1.0}, init=pretrained)
    config = changed(config, loop__epochs=2, data__test=[test_shards])
    loaded = build_model(config, CLASSES)[1]
    assert loaded is not None
    assert {name.split(".")[0] for name in loaded.new} == {"fc_norm", "head", f"{modality}_layer_weights"}
    run(config, show=False)
    report = evaluate(tmp_path, device="cpu", show=False)
    assert report.protocol["input"] == modality
    other: Modality = "audio" if modality == "video" else "video"
    with pytest.raises(UserError, match=f"takes {modality} only"):
        evaluate(tmp_path, modality=other, device="cpu", show=False)


def test_clips_without_sound_in_training_need_a_decision(partly_mute: str, tmp_path: Path) -> None:
    remedy = r"4 of 16 clips have no sound.*args\.missing=true.*data\.drop_without_sound=true"
    with pytest.raises(UserError, match=remedy):
        run(recipe(partly_mute, tmp_path / "a"), show=False)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"args": {**TOWER, **SHAPE, "missing": True}}, 16),
        ({"data__drop_without_sound": True}, 12),
        ({"model": "hicmae_tiny_audio", "args": {**TOWER, "audio_patch": [8, 8], "audio_frames": 24, "mels": 16}}, 12),
    ],
    ids=["missing", "drop", "audio"],
)
def test_clips_without_sound_are_told_to_the_model_or_left_out_and_listed(
    changes: dict[str, Any], left: int, partly_mute: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(partly_mute, tmp_path, loop__epochs=1, loop__batch_size=4, data__test=[partly_mute])
    run(changed(config, augment=AugmentConfig(policy=""), **changes))
    told = capsys.readouterr().err
    assert f"parameters; {left} clips" in told
    assert ("4 of 16 training clips cannot be heard: left out" in told) is (left == 12)
    report = evaluate(tmp_path, device="cpu", show=False)
    assert len(report.truth) == left and report.protocol["left out"] == 16 - left
    assert [reason for _, reason in report.skipped] == ["it has no sound"] * (16 - left)
    assert any("4 clips without sound" in note for note in report.notes)


def test_a_clip_without_sound_is_measured_by_its_frames(train_shards: str, partly_mute: str, tmp_path: Path) -> None:
    last = run(recipe(train_shards, tmp_path, loop__epochs=2), show=False)
    both = evaluate(last, [partly_mute], device="cpu", show=False, batch_size=3)
    seen = evaluate(last, [partly_mute], modality="video", device="cpu", show=False)
    mute = np.array([Path(source).name.startswith("0-") for source in both.sources])
    assert mute.sum() == 4
    np.testing.assert_allclose(both.probabilities[mute], seen.probabilities[mute], atol=1e-6)
    assert np.abs(both.probabilities[~mute] - seen.probabilities[~mute]).max() > 1e-3
    heard = evaluate(last, [partly_mute], modality="audio", device="cpu", show=False)
    assert len(heard.truth) == 12 and len(heard.skipped) == 4


class Recorder(nn.Module):
    """Takes two modalities and remembers them."""

    modalities = ("video", "audio")

    def __init__(self, missing: bool = False) -> None:
        super().__init__()
        self.missing = missing
        self.calls: list[tuple[Tensor | None, ...]] = []

    def forward(self, video: Tensor | None, audio: Tensor | None, present: Tensor | None = None) -> Tensor:
        self.calls.append((video, audio, present))
        parts = [x.flatten(1).mean(1) for x in (video, audio) if x is not None]
        return torch.stack([sum(parts), -sum(parts), parts[0] * 0], 1)  # type: ignore[list-item]


def batch(has_audio: Sequence[bool] | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        "video": torch.randn(4, 3, 2, 16, 16, generator=generator),
        "audio": torch.randn(4, 1, 40, 16, generator=generator),
        "label": torch.tensor([0, 1, 2, 0]),
        "key": list("abcd"),
        "epoch": 0,
    }
    return given if has_audio is None else {**given, "has_audio": torch.tensor(has_audio)}


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_sound_is_mixed_with_the_partner_and_weight_of_the_frames(mixup: float, cutmix: float) -> None:
    augment = AugmentConfig(mixup=mixup, cutmix=cutmix)
    given, model = batch(), Recorder()
    given["video"] = given["video"] * 0 + torch.tensor([1.0, 0, 0, 0])[:, None, None, None, None]
    given["audio"] = given["audio"] * 0 + torch.tensor([1.0, 0, 0, 0])[:, None, None, None]
    Classification(classes=3, augment=augment, inputs=Inputs.of(model))(model, given)
    Classification(classes=3, augment=augment, inputs=Inputs.of(model), mix_audio=False)(model, given)
    (video, audio, _), (again, plain, _) = model.calls
    assert video is not None and audio is not None and again is not None and plain is not None
    assert 0 < video[0].mean() < 1
    assert audio[0].mean() == pytest.approx(video[0].mean().item(), abs=0.02)  # cutmix: to whole frames
    assert audio[3].mean() == pytest.approx(1 - audio[0].mean().item(), abs=1e-6)
    assert torch.equal(again, video) and torch.equal(plain, given["audio"])


def test_a_clip_whose_partner_has_no_sound_keeps_its_own() -> None:
    model, given = Recorder(missing=True), batch([True, True, True, False])
    Classification(classes=3, augment=AugmentConfig(cutmix=0), inputs=Inputs.of(model))(model, given)
    _, audio, present = model.calls[0]
    assert audio is not None and present is not None
    assert torch.equal(audio[[0, 3]], given["audio"][[0, 3]])
    assert not torch.equal(audio[[1, 2]], given["audio"][[1, 2]])
    assert present.tolist() == [[True, True]] * 3 + [[True, False]]


def test_a_batch_of_clips_with_and_without_sound_is_refused_in_training_and_parted_in_evaluation() -> None:
    model = Recorder()
    inputs, given = Inputs.of(model), batch([True, False, True, False])
    with pytest.raises(UserError, match=r"2 of the 4 clips.*args\.missing=true"):
        Classification(classes=3, augment=PLAIN, inputs=inputs)(model, given)
    Classification(classes=3, augment=PLAIN, inputs=inputs)(model, batch([False] * 4))
    assert model.calls[-1][1] is None
    video, audio, has = given["video"], given["audio"], given["has_audio"]
    together = inputs.of_evaluation(model, video, audio, has)
    alone = [inputs.of_evaluation(model, video[n : n + 1], audio[n : n + 1], has[n : n + 1]) for n in range(len(video))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_fidelity_decides_whether_sound_is_mixed_unless_it_is_said(tmp_path: Path) -> None:
    assert recipe("x", tmp_path).mix_audio is True
    assert recipe("x", tmp_path, fidelity="published", mix_audio=None).mix_audio is False
    assert recipe("x", tmp_path, fidelity="published", mix_audio=True).mix_audio is True


def test_length_and_bands_of_sound_are_the_recipes_then_the_checkpoints(pretrained: str, tmp_path: Path) -> None:
    config = recipe("x", tmp_path, args={}, init=pretrained)
    longer = dataclasses.replace(config, sound=SoundConfig(length=32))
    assert [build_model(c, CLASSES)[0].audio_grid for c in (config, longer)] == [(3, 2), (4, 2)]
    with pytest.raises(ValueError, match=r"sound\.length is 32, and the model takes 24"):
        recipe("x", tmp_path, sound=SoundConfig(length=32))
    with pytest.raises(ConfigError, match=r"args"):
        build_model(recipe("x", tmp_path, args={"audio_patch": [7, 7]}), CLASSES)


def test_a_model_that_only_sees_is_given_no_sound() -> None:
    model = create_model("videomae_base", size=32, frames=4, dim=16, depth=1, heads=2)
    assert Inputs.of(model) == Inputs() and str(Inputs()) == "video"
    with pytest.raises(UserError, match="videomae_base takes video only"):
        Inputs.of(model, "audio")


def test_sound_normalised_otherwise_than_in_pretraining_is_told(
    train_shards: str, pretrained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(train_shards, tmp_path, args={}, init=pretrained, loop__epochs=1)
    run(config)
    assert "it heard" not in capsys.readouterr().err
    run(dataclasses.replace(config, sound=SoundConfig(mean=-6.0), out=str(tmp_path / "b")))
    assert "it heard sound with mean -4.2677393, not -6.0: see sound.mean" in capsys.readouterr().err
