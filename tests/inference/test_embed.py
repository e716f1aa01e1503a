"""Embedding: what is read of which model, from one clip or from many, by one process or by several."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hicmae
from hicmae.cli import main
from hicmae.configs import UserError
from hicmae.datasets.media import MediaError
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.datasets.transforms import normalise
from hicmae.inference import Asked, Loaded, embed_clip, embed_many, load_model
from hicmae.inference.embed import Embedder
from hicmae.inference.embed_read import Reader
from hicmae.inference.windows import Preprocessing, windows
from hicmae.models.factory import create_model, save_weights
from tests.inference.clips import video
from tests.inference.test_audio_visual import META, SIGHT, SOUND, TOWER

# three blocks, so that there are levels to contrast and stages to halve; a sound window as long as the frames'
PARTS: dict[str, dict[str, Any]] = {
    "videomae_base": SIGHT,
    "mae_dfer_base": SIGHT | {"region": [2, 2, 4]},
    "svfap_base": SIGHT | {"frames": 16},
    "hicmae_tiny": {**SIGHT, **SOUND, "fusion_depth": 2},
    "hicmae_tiny_video": SIGHT,
    "hicmae_tiny_audio": SOUND,
}


def save(folder: Path, name: str, stage: Any, **args: Any) -> Path:
    path = folder / f"{name}-{stage}{''.join(args)}.safetensors"
    torch.manual_seed(0)
    form = {"num_classes": 3} if stage == "finetune" else {"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 2}
    model = create_model(name, stage=stage, **{**TOWER, "depth": 3}, **PARTS[name], **form, **args)
    with torch.no_grad():  # so that every layer makes a difference
        for parameter in model.parameters():
            parameter.copy_(parameter if parameter.dim() < 2 else torch.randn_like(parameter) * 0.15)
    save_weights(path, model, META)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    wave = np.random.default_rng(0).normal(0, 0.1, 2 * 16_000).astype(np.float32)
    return video(folder / "clip.mp4", 50, audio=wave)


@pytest.fixture(scope="module")
def both(folder: Path) -> Loaded:
    return load_model(save(folder, "hicmae_tiny", "finetune"), device="cpu")


def first_window(loaded: Loaded, clip: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model sees, and hears, first."""
    from hicmae.inference.hearing import Soundtrack

    how = Preprocessing.of(loaded.model, loaded.meta)
    window = next(windows(clip, how))
    track = Soundtrack.of(clip)
    assert track is not None and how.sound is not None
    sound = track.between(window.start, window.end, how.sound)
    assert sound is not None
    return normalise(window.frames)[None], sound[None]


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
@pytest.mark.parametrize("name", PARTS)
def test_every_model_gives_features_of_every_level_and_layer(name: str, stage: Any, folder: Path, clip: Path) -> None:
    loaded = load_model(save(folder, name, stage), device="cpu")
    seen = {}
    for level in ("clip", "window", "frame"):
        for layer in ("last", 1, 2):
            found = embed_clip(clip, loaded, level=level, layer=layer)
            width = 64 if name == "hicmae_tiny" else 32
            assert found.features.shape == (len(found), width) and found.features.dtype == np.float32
            assert np.isfinite(found.features).all() and found.features.std() > 0
            assert len(found) == 1 if level == "clip" else len(found) > 1
            assert (found.end > found.start).all()
            seen[level, layer] = found.features
    assert not np.allclose(seen["clip", 1], seen["clip", 2])
    assert np.allclose(seen["clip", "last"][0], seen["window", "last"].mean(0), atol=1e-5)
    assert np.ptp(seen["frame", "last"], 0).max() > 1e-3


@pytest.mark.parametrize("readout", ["mean", "attentive"])
@pytest.mark.parametrize("name", ["videomae_base", "mae_dfer_base", "svfap_base"])
def test_the_last_layer_of_a_classifier_is_what_its_head_sees(
    name: str, readout: str, folder: Path, clip: Path
) -> None:
    loaded = load_model(save(folder, name, "finetune", readout=readout), device="cpu")
    window = next(windows(clip, Preprocessing.of(*loaded)))
    with torch.inference_mode():
        seen = loaded.model.forward_features(normalise(window.frames)[None])  # type: ignore[operator]
    assert np.allclose(embed_clip(clip, loaded, level="window").features[0], seen[0], atol=1e-6)


@pytest.mark.parametrize("name", ["hicmae_tiny", "videomae_base", "svfap_base"])
def test_the_learnt_mix_is_what_the_head_of_a_model_that_learnt_one_sees(name: str, folder: Path, clip: Path) -> None:
    loaded = load_model(save(folder, name, "finetune", layers="weighted"), device="cpu")
    given: Any = (
        first_window(loaded, clip)
        if name == "hicmae_tiny"
        else (normalise(next(windows(clip, Preprocessing.of(*loaded))).frames)[None],)
    )
    with torch.inference_mode():
        seen = loaded.model.forward_features(*given)  # type: ignore[operator]
    found = embed_clip(clip, loaded, level="window", layer="mix")
    assert np.allclose(found.features[0], seen[0], atol=1e-5)
    assert len(embed_clip(clip, loaded, level="frame", layer="mix")) > len(found) / 2


def test_fused_features_are_video_then_sound_after_fusion(both: Loaded, clip: Path) -> None:
    frames, sound = first_window(both, clip)
    model: Any = both.model
    with torch.inference_mode():
        v, a = model.tower("video")(frames), model.tower("audio")(sound)
        fused = torch.cat([x.mean(1) for x in model.encoder_fusion(v.tokens, a.tokens)], -1)[0]
    for layer in ("last", 5):  # three blocks, then two of fusion
        assert np.allclose(embed_clip(clip, both, level="window", layer=layer).features[0], fused, atol=1e-5)  # type: ignore[arg-type]
    alone = {m: embed_clip(clip, both, level="window", modality=m).features[0] for m in ("video", "audio")}  # type: ignore[arg-type]
    assert np.allclose(alone["video"], v.tokens.mean(1)[0], atol=1e-5)
    assert np.allclose(alone["audio"], a.tokens.mean(1)[0], atol=1e-5)
    first = embed_clip(clip, both, level="window", layer=3).features[0]  # before fusion
    assert np.allclose(first, np.concatenate([alone["video"], alone["audio"]]), atol=1e-5)


def test_rows_of_time_steps_follow_each_other_to_the_end_of_the_video(both: Loaded, clip: Path) -> None:
    found = embed_clip(clip, both, level="frame", modality="video")
    assert found.start[0] == 0 and abs(found.end[-1] - 2) < 0.05
    assert (np.diff(found.start) > 0).all() and (np.diff(found.end) > 0).all()
    assert (found.start[1:] <= found.end[:-1] + 0.001).all()  # nothing is left out


def test_steps_of_sound_are_those_heard_while_the_frames_are_seen(both: Loaded) -> None:
    reader = Reader(both.model, Asked(level="frame"))
    reader.seconds = 0.48  # as long as the picture of sound: 6 steps of sound to 2 of video
    ramp = torch.arange(6.0)[None, :, None]
    assert reader._to_frames(ramp).flatten().tolist() == pytest.approx([1.0, 4.0])
    reader.seconds = 0.24  # the second half of the picture is padding
    assert reader._to_frames(ramp).flatten().tolist() == pytest.approx([0.25, 1.75])


def test_a_sample_of_shards_gives_what_its_video_gives(both: Loaded, clip: Path, folder: Path) -> None:
    index = write_shards([clip], folder / "shards", config=ShardConfig(size=48, quality=95), progress=False)
    from hicmae.datasets.store import ClipStore

    for level in ("clip", "window", "frame"):
        asked = Asked(level=level)  # type: ignore[arg-type]
        embedder = Embedder(both.model, both.meta, asked)
        there, here = embedder.sample(ClipStore(index)[0]), embedder.video(clip)
        assert np.allclose(there.start, here.start, atol=0.002) and np.allclose(there.end, here.end, atol=0.05)
        assert np.abs(there.features - here.features).mean() < 0.05 * np.abs(here.features).mean()  # JPEG lies between


def test_asking_for_what_a_model_has_not_names_what_it_has(both: Loaded, folder: Path, clip: Path) -> None:
    with pytest.raises(UserError, match="layers 1 to 3 for fused, and of fusion 4 to 5"):
        embed_clip(clip, both, layer=6)
    with pytest.raises(UserError, match=r"layers 1 to 3 for audio$"):
        embed_clip(clip, both, layer=4, modality="audio")
    sees = load_model(save(folder, "videomae_base", "pretrain"), device="cpu")
    with pytest.raises(UserError, match=r"has learnt no mix of its layers.*--layer last"):
        embed_clip(clip, sees, layer="mix")
    with pytest.raises(UserError, match="videomae_base gives features of video only"):
        embed_clip(clip, sees, modality="audio")
    with pytest.raises(UserError, match="one of clip, window, frame"):
        embed_clip(clip, sees, level="scene")  # type: ignore[arg-type]


def test_a_clip_without_sound_has_features_of_its_frames_only(both: Loaded, tmp_path: Path) -> None:
    mute = video(tmp_path / "mute.mp4")
    with pytest.raises(MediaError, match="has no sound; --modality video embeds frames alone"):
        embed_clip(mute, both)
    assert embed_clip(mute, both, modality="video").features.shape == (1, 32)


@pytest.fixture(scope="module")
def films(folder: Path) -> Path:
    """Five videos with sound, one without, one that is none."""
    made = folder / "films"
    for n in range(5):
        wave = np.random.default_rng(n).normal(0, 0.1, 16_000).astype(np.float32)
        (made / "abc"[n % 3]).mkdir(parents=True, exist_ok=True)
        video(made / "abc"[n % 3] / f"{n}.mp4", 20 + 3 * n, audio=wave)
    video(made / "mute.mp4")
    (made / "broken.mp4").write_bytes(b"")
    return made


def columns(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def same(one: Path, other: Path) -> dict[str, Any]:
    """The columns of the first file, once they are shown to be those of the other."""
    first, second = columns(one), columns(other)
    assert np.allclose(first["features"], second["features"], atol=1e-6)
    assert all((first[name] == second[name]).all() for name in first if name != "features")
    return first


@pytest.mark.slow  # processes that each import torch
def test_workers_give_what_one_process_gives(films: Path, both: Loaded, folder: Path) -> None:
    how: dict[str, Any] = {"asked": Asked(level="window"), "per_part": 2, "device": "cpu", "show": False}
    one = embed_many([films], both.meta["file"], folder / "alone.npz", **how)
    same(one.out, embed_many([films], both.meta["file"], folder / "workers.npz", workers=2, **how).out)


def test_however_many_share_the_work_the_file_is_the_same(films: Path, both: Loaded, folder: Path) -> None:
    how: dict[str, Any] = {"asked": Asked(level="window"), "per_part": 2, "device": "cpu", "show": False}
    checkpoint = both.meta["file"]
    one = embed_many([films], checkpoint, folder / "one.npz", **how)
    assert (one.clips, len(one.skipped)) == (5, 2)
    assert "7 clips" not in str(one) and "broken.mp4 is empty" in str(one) and "mute.mp4 has no sound" in str(one)
    for part in (2, 1):
        told = embed_many([films], checkpoint, folder / "parts.npz", part=(part, 2), **how)
        assert "--merge" in str(told)
    merged = embed_many([films], checkpoint, folder / "parts.npz", merge=True, **how)
    first = same(one.out, merged.out)
    assert not list(folder.glob("*.parts"))
    about = json.loads(str(first["about"]))
    assert about["layer"] == "last" and "mean over all tokens" in about["pooling"] and len(about["skipped"]) == 2
    alone = embed_clip(films / "a" / "0.mp4", both, level="window")
    assert np.array_equal(first["features"][first["clip"] == "a/0.mp4"], alone.features)


def test_a_killed_run_is_continued_and_a_finished_one_left_alone(
    films: Path, both: Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"per_part": 2, "device": "cpu", "show": False}
    out, done = folder / "killed.npz", []
    module = sys.modules[embed_many.__module__]
    real = module._do

    def dies_at_the_third(job: Any, *rest: Any) -> int:
        done.append(job.path.name)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(job, *rest)

    monkeypatch.setattr(module, "_do", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed_many([films], both.meta["file"], out, **how)
    assert not out.exists()
    continued = embed_many([films], both.meta["file"], out, **how)
    assert done == [f"part-{n:06d}.npz" for n in (0, 1, 2, 2, 3)]
    again = embed_many([films], both.meta["file"], out, **how)
    assert len(done) == 5 and str(again) == str(continued)
    with pytest.raises(UserError, match=r"holds other features \(they differ in level\)"):
        embed_many([films], both.meta["file"], out, asked=Asked(level="frame"), **how)


def test_parquet_and_a_folder_hold_the_same_as_npz(films: Path, both: Loaded, folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    how: dict[str, Any] = {"per_part": 3, "device": "cpu", "show": False}
    given = [films / "a", films / "b"]
    npz = columns(embed_many(given, both.meta["file"], folder / "x.npz", **how).out)
    table = parquet.read_table(embed_many(given, both.meta["file"], folder / "x.parquet", **how).out)
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), npz["features"])
    assert table["clip"].to_pylist() == npz["clip"].tolist()
    assert json.loads(table.schema.metadata[b"hicmae"]) == json.loads(str(npz["about"]))
    assert embed_many(given, both.meta["file"], folder / "x.parquet", **how).rows == 4  # read back, not made again
    parts = embed_many(given, both.meta["file"], folder / "x", **how).out
    found = [columns(path) for path in sorted(parts.glob("part-*.npz"))]
    assert np.array_equal(np.concatenate([part["features"] for part in found]), npz["features"])


def test_a_list_gives_labels_and_shards_give_theirs(films: Path, both: Loaded, folder: Path) -> None:
    listed = folder / "list.csv"
    listed.write_text("path,label,group\n" + "".join(f"films/a/{n}.mp4,happy,ann\n" for n in (0, 3)))
    how: dict[str, Any] = {"device": "cpu", "show": False}
    found = columns(embed_many([listed], both.meta["file"], folder / "listed.npz", **how).out)
    assert found["label"].tolist() == ["happy"] * 2 and found["group"].tolist() == ["ann"] * 2
    shards = folder / "labelled"
    write_shards([], shards, config=ShardConfig(size=48, list=str(listed)), progress=False)
    from_shards = columns(embed_many([shards], both.meta["file"], folder / "shards.npz", **how).out)
    assert from_shards["label"].tolist() == ["happy"] * 2


def test_mistakes_of_the_command_are_explained(
    films: Path, both: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        assert main(["embed", *words, "--device", "cpu"]) == 2
        return capsys.readouterr().err

    with_model = ("--checkpoint", both.meta["file"])
    assert "written as .npz or .parquet" in told(str(films), *with_model, "--out", str(tmp_path / "x.csv"))
    assert "does not exist" in told("nowhere.mp4", *with_model, "--out", str(tmp_path / "x.npz"))
    (tmp_path / "empty").mkdir()
    assert "there are no videos" in told(str(tmp_path / "empty"), *with_model, "--out", str(tmp_path / "x.npz"))
    silent = told(str(films / "mute.mp4"), *with_model, "--out", str(tmp_path / "x.npz"))
    assert "none of the 1 clips can be used; mute.mp4 has no sound" in silent
    (tmp_path / "file").write_text("")
    blocked = told(str(films), *with_model, "--out", str(tmp_path / "file" / "x.npz"))
    assert "cannot write" in blocked
    missing = told(str(films), *with_model, "--out", str(tmp_path / "y.npz"), "--merge")
    assert "1 of 1 pieces are missing" in missing


def test_the_command_and_python_give_the_same(films: Path, both: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    words = ["embed", str(films / "a"), "--checkpoint", both.meta["file"], "--out", str(out), "--device", "cpu"]
    assert main([*words, "--layer", "2", "--modality", "audio"]) == 0
    found = hicmae.embed(films / "a" / "0.mp4", both.meta["file"], layer=2, modality="audio", device="cpu")
    assert np.array_equal(columns(out)["features"][0], found.vector)
    assert "1 row of 32 features" in repr(found)


def test_help_of_the_command_says_how_features_are_pooled() -> None:
    done = subprocess.run([sys.executable, "-m", "hicmae", "embed", "--help"], capture_output=True, text=True)
    assert "mean over all tokens of the layer" in " ".join(done.stdout.split())
