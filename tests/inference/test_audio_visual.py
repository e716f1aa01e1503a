"""Prediction and reconstruction with sound: heard at the time it is seen, and told where there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hicmae.configs import UserError
from hicmae.datasets.fbank import SoundConfig, clip_sound
from hicmae.datasets.media import MediaError, read_audio
from hicmae.datasets.pipeline import evaluate_batches
from hicmae.datasets.sampling import eval_views, pretrain_view
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.transforms import normalise
from hicmae.inference import Loaded, load_model, predict_clip, reconstruct, reconstruct_clip
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.windows import Preprocessing, windows
from hicmae.models.factory import create_model, save_weights
from tests.inference.clips import video
from tests.media_files import BAD, ODD

SOUND = {"audio_patch": [8, 8], "audio_frames": 48, "mels": 16}
SIGHT = {"frames": 4, "size": 32, "patch": [2, 8, 8]}
TOWER = {"dim": 32, "depth": 2, "heads": 2}
STATED = SoundConfig(length=48, bins=16, mean=-5.0, std=4.0)
META: dict[str, Any] = {
    "labels": ["angry", "happy", "sad"],
    "step": 7,
    "preprocessing": {
        **{"crop": {"kind": "centre"}, "size": 48, "max_fps": 30.0, "frames": 4, "stride": 3},
        "sound": vars(STATED),
    },
    "config": {"target": {"difference": 2}, "mask": {"video": 0.75, "audio": 0.5}},
}


def loaded(path: Path, name: str, stage: Any, **args: Any) -> Loaded:
    torch.manual_seed(0)
    parts = {
        "hicmae_tiny": {**SIGHT, **SOUND, "fusion_depth": 1},
        "hicmae_tiny_video": SIGHT,
        "hicmae_tiny_audio": SOUND,
    }
    model = create_model(name, stage=stage, **TOWER, **parts[name], **args)
    with torch.no_grad():  # so that what is seen and heard makes a difference
        for parameter in model.parameters():
            parameter.copy_(parameter if parameter.dim() < 2 else torch.randn_like(parameter) * 0.15)
    save_weights(path, model, META)
    return load_model(path, stage=stage, device="cpu")


def classifier(tmp_path: Path, name: str = "hicmae_tiny", **args: Any) -> Loaded:
    return loaded(tmp_path / f"{name}.safetensors", name, "finetune", num_classes=3, **args)


def autoencoder(tmp_path: Path, name: str = "hicmae_tiny") -> Loaded:
    return loaded(tmp_path / f"{name}.safetensors", name, "pretrain", decoder_dim=16, decoder_depth=2)


def sweep(seconds: float) -> np.ndarray:
    """A tone that rises and grows: every moment sounds otherwise."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (0.05 + 0.3 * time / seconds).astype(np.float32) * np.sin(2 * np.pi * (200 + 900 * time) * time).astype(
        np.float32
    )


def talking(path: Path, count: int = 40, **extra: Any) -> Path:
    return video(path, count, audio=sweep(count / 25), **extra)


def values(result: Any) -> torch.Tensor:
    return torch.tensor([list(window.probabilities.values()) for window in result.windows])


def test_every_window_is_heard_at_the_time_it_is_seen(tmp_path: Path) -> None:
    net, meta = classifier(tmp_path)
    path = talking(tmp_path / "clip.mp4", 40)
    result = predict_clip(path, Loaded(net, meta), batch_size=4)
    assert result.note == "" and "no sound" not in repr(result)
    found = read_audio(path)
    assert found is not None
    wave, begin = found
    wanted, frames = [], list(windows(path, Preprocessing.of(net, meta)))
    for window in frames:
        span = (round((window.start - begin) * 16_000), round((window.end - begin) * 16_000))
        audio = clip_sound(wave, span, STATED)
        with torch.no_grad():
            wanted.append(net(normalise(window.frames[None]), audio[None]).softmax(-1)[0])
    torch.testing.assert_close(values(result), torch.stack(wanted), atol=1e-4, rtol=0)
    assert values(result).std(0).max() > 1e-3


@pytest.mark.parametrize("missing", [False, True])
def test_a_video_without_sound_is_recognised_from_its_frames_and_says_so(missing: bool, tmp_path: Path) -> None:
    model = classifier(tmp_path, missing=missing)
    mute, heard = video(tmp_path / "mute.mp4"), talking(tmp_path / "clip.mp4")
    result = predict_clip(mute, model)
    assert result.note == "there is no sound: recognised from frames alone"
    assert result.note in repr(result) and result.note in result.table() and result.to_dict()["note"] == result.note
    with torch.no_grad():
        frames = torch.stack([w.frames for w in windows(mute, Preprocessing.of(*model))])
        alone = model.model(normalise(frames), None).softmax(-1)
    torch.testing.assert_close(values(result), alone, atol=1e-6, rtol=0)
    assert (values(predict_clip(heard, model)) - alone).abs().max() > 1e-3


def test_sound_that_ends_early_or_begins_late_is_heard_where_it_is(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    short = video(tmp_path / "short.mp4", 60, audio=sweep(1.0))
    result = predict_clip(short, model)
    late = [window.start > 1.0 for window in result.windows]
    assert result.note == f"{sum(late)} of {len(late)} windows have no sound: recognised from frames alone"
    alone = values(predict_clip(video(tmp_path / "mute.mp4", 60), model))
    same = (values(result) - alone).abs().amax(1) < 1e-4
    assert same.tolist() == late
    track = Soundtrack.of(talking(tmp_path / "late.mp4", audio_start=0.2))
    assert track is not None and track.begin == pytest.approx(0.2, abs=0.07)  # AAC's first packet
    silent = track.between(0.0, 0.48, STATED)
    assert silent is not None
    quiet = silent[0].mean(1) < (-15.9 + 5) / 8  # log of nothing, normalised
    assert quiet[:11].all() and not quiet[22:44].any()


def test_a_model_that_only_hears_needs_sound(tmp_path: Path) -> None:
    model = classifier(tmp_path, "hicmae_tiny_audio")
    result = predict_clip(talking(tmp_path / "clip.mp4"), model)
    assert len(result.windows) > 2 and values(result).std(0).max() > 1e-4 and result.note == ""
    with pytest.raises(MediaError, match=r"mute\.mp4 has no sound; hicmae_tiny_audio only hears"):
        predict_clip(video(tmp_path / "mute.mp4"), model)
    short = predict_clip(video(tmp_path / "short.mp4", 60, audio=sweep(1.0)), model)
    assert short.note.endswith("without sound left out") and short.windows[-1].start < 1.0


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_video_is_predicted(name: str, tmp_path: Path) -> None:
    result = predict_clip(ODD[name](tmp_path), classifier(tmp_path))
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(name: str, tmp_path: Path) -> None:
    path = BAD[name][0](tmp_path)
    for use in (predict_clip, lambda *given: reconstruct_clip(*given, out=tmp_path / "out.png")):
        with pytest.raises(MediaError) as error:
            use(path, (classifier if use is predict_clip else autoencoder)(tmp_path))
        assert str(path) in str(error.value)


def test_a_window_hears_what_a_sample_of_shards_does(tmp_path: Path) -> None:
    path = talking(tmp_path / "clip.mp4", 13)  # one window: 4 frames, 3 apart
    index = write_shards([path], tmp_path / "shards", config=ShardConfig(size=48), progress=False)
    (batch,) = evaluate_batches(index, eval_views(4, 3, 32, 1, STATED), batch_size=1)
    track = Soundtrack.of(path)
    assert track is not None
    heard = track.between(0, 0.48, STATED)
    assert heard is not None
    # the published protocol ends at the file's end where the clock says one frame earlier
    torch.testing.assert_close(heard[:, :44], batch["audio"][0][:, :44], atol=0.05, rtol=0)
    (batch,) = evaluate_batches(index, [pretrain_view(4, 3, 32, STATED)], batch_size=1)
    how = Preprocessing.of(*autoencoder(tmp_path))
    window = next(iter(windows(path, how)))
    assert batch["audio"].shape == reconstruct._sound(path, window, how, "").shape


@pytest.mark.parametrize(("name", "rows"), [("hicmae_tiny", 8), ("hicmae_tiny_video", 5), ("hicmae_tiny_audio", 3)])
def test_the_picture_shows_what_the_model_takes(
    name: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip, said = autoencoder(tmp_path, name), talking(tmp_path / "clip.mp4"), {}
    out = reconstruct_clip(clip, model, out=tmp_path / "out.png")
    with Image.open(out) as picture:
        picture.load()
        assert picture.height > rows * 150
    monkeypatch.setattr(reconstruct, "draw", lambda path, **words: said.update(words))
    reconstruct_clip(clip, model, out=out)
    assert len(said["rows"]) == rows
    titles = [row.title for row in said["rows"]]
    assert ("sound" in titles, "original" in titles) == (name != "hicmae_tiny_video", name != "hicmae_tiny_audio")
    assert {"hicmae_tiny": "75% of the patches and 50% of those of sound", "hicmae_tiny_video": "75% of the patches",
            "hicmae_tiny_audio": "50% of the patches"}[name] + " hidden" in said["caption"]  # fmt: skip


@pytest.mark.parametrize("normalised", [True, False])
def test_a_perfect_prediction_gives_the_sound_back(
    normalised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, meta = autoencoder(tmp_path, "hicmae_tiny_audio")
    meta = {**meta, "config": {"target": {"normalise": normalised}, "mask": {"audio": 0.5}}}
    path, how = talking(tmp_path / "clip.mp4"), Preprocessing.of(net, meta)
    window = next(iter(windows(path, how)))
    sound = reconstruct._sound(path, window, how, "")

    def perfect(audio: torch.Tensor, mask: torch.Tensor) -> Any:
        patches = audio[0, 0].view(6, 8, 2, 8).transpose(1, 2).reshape(1, 12, 64)[mask].view(1, -1, 64)
        if normalised:
            patches = (patches - patches.mean(2, keepdim=True)) / (patches.std(2, keepdim=True) + 1e-6)
        return SimpleNamespace(audio=patches)

    monkeypatch.setattr(net, "forward", perfect)
    (true, covered, rebuilt), part = reconstruct._reconstructed(net, meta, window, seed=0, ratio=None, sound=sound)
    assert true.frames.shape == (1, 16, 48, 3)
    torch.testing.assert_close(rebuilt.frames, true.frames, atol=0.02, rtol=0)
    assert rebuilt.note.startswith("error 0.00")
    grey = (covered.frames[0] == 0.5).all(-1)
    mask = part.hide(torch.zeros(1, dtype=torch.int64), 0).mask
    hidden = mask.view(6, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)  # (F, K)
    assert torch.equal(grey, hidden.T.flip(0))
    assert torch.equal(covered.frames[0][~grey], true.frames[0][~grey])


def test_sound_to_be_reconstructed_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"mute\.mp4 has no sound; hicmae_tiny hears"):
        reconstruct_clip(video(tmp_path / "mute.mp4"), autoencoder(tmp_path), out=tmp_path / "out.png")
    short = video(tmp_path / "short.mp4", 60, audio=sweep(0.5))
    with pytest.raises(MediaError, match=r"has no sound \(from 1\.52"):
        reconstruct_clip(short, autoencoder(tmp_path), out=tmp_path / "out.png", start=1.5)
    with pytest.raises(UserError, match="ratio"):
        reconstruct_clip(talking(tmp_path / "a.mp4"), autoencoder(tmp_path), out=tmp_path / "out.png", ratio=0.01)
