"""Curves over missing modalities and noise: exact at the clean end, blind at the other, the same however measured."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae import cli
from hicmae.configs import ConfigError
from hicmae.datasets.draws import Draws
from hicmae.datasets.index import Index
from hicmae.datasets.store import ClipStore
from hicmae.finetune import FinetuneConfig, evaluate, robustness, run
from hicmae.finetune.disturbances import KINDS, Disturbed, Voices, losing
from hicmae.finetune.robustness import curves
from hicmae.runtime.areas import areas
from hicmae.runtime.metrics import bootstrap, confusion_matrix, scores
from tests.finetune.conftest import changed
from tests.finetune.test_audio_visual import recipe, shards

FEW: dict[str, Any] = {name: (*kind.levels[1:2], kind.levels[-1]) for name, kind in KINDS.items()}
FREE: dict[str, Any] = {"device": "cpu", "show": False, "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 clips, of which the first of every class has no sound."""
    return shards(tmp_path_factory.mktemp("test"), 4, mute=["0-"])


@pytest.fixture(scope="module")
def runs(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Barely trained models: with learnt vectors for what is missing, without, and of frames alone."""
    root, heard = tmp_path_factory.mktemp("runs"), shards(tmp_path_factory.mktemp("train"), 2)
    plain = changed(recipe(heard, root / "plain", data__test=[data]), loop__epochs=2)
    told = changed(plain, args={**plain.args, "missing": True}, out=str(root / "told"))
    args = {key: value for key, value in plain.args.items() if key in ("dim", "depth", "heads", "patch", "init_scale")}
    seeing = changed(plain, model="hicmae_tiny_video", args=args, out=str(root / "seeing"))
    configs: list[FinetuneConfig] = [plain, told, seeing]
    for config in configs:
        run(config, show=False)
    return {Path(config.out).name: Path(config.out) for config in configs}


@pytest.mark.parametrize(("name", "kinds"), [("told", "all"), ("plain", "missing"), ("seeing", "all")])
def test_clips_as_they_are_have_the_figures_of_evaluation_digit_by_digit(
    name: str, kinds: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    plain = evaluate(runs[name], **FREE)
    result = curves(runs[name], kinds=kinds, levels=FEW, out=tmp_path, **FREE)
    assert np.array_equal(result.plain[name].probabilities, plain.probabilities)
    asked = {kind.name for kind in KINDS.values() if kinds in ("all", kind.family)}
    assert set(result.curves) == (asked if name != "seeing" else {"spans-video", "blur", "occlusion", "frame-drop"})
    for curve in result.curves.values():
        assert all(curve.figures[figure][0] == plain.intervals[figure] for figure in ("uar", "war"))
        assert np.array_equal(curve.guess[0], plain.guess)
    written = json.loads((tmp_path / "robustness.json").read_text())
    assert written["models"][name]["spans-video"]["uar"][0] == plain.intervals["uar"]._asdict()
    assert (tmp_path / "robustness.csv").read_text().count("\n") == 1 + sum(
        len(c.kind.levels) for c in result.curves.values()
    )
    left_out = [note for note in result.notes if "left out" in note]
    assert len(left_out) == len(asked) - len(result.curves)
    assert ("4 of 16 clips have no sound: they keep their frames" in " ".join(result.notes)) == (name != "seeing")


@pytest.mark.parametrize("name", ["told", "plain"])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_where_all_of_a_modality_is_lost_other_inputs_of_it_give_the_same_outputs(
    modality: str, name: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [f"missing-{modality}", f"spans-{modality}"]

    def outputs(out: str) -> list[np.ndarray]:
        curves(runs[name], kinds=kinds, levels={kind: [0.0, 1.0] for kind in kinds}, out=tmp_path / out, **FREE)
        files = [file for kind in ("clean", *kinds) for file in (tmp_path / out / "points").glob(f"{kind}*.npz")]
        return [np.load(file)["found"] for file in files]

    own = ClipStore.__getitem__

    def other(store: ClipStore, number: int) -> Any:
        clip = own(store, number)
        if modality == "video":
            return dataclasses.replace(clip, frames=own(store, (number + 1) % len(store)).frames)
        return clip if clip.audio is None else dataclasses.replace(clip, audio=clip.audio[::-1] * 0.3)

    before = outputs("a")
    monkeypatch.setattr(ClipStore, "__getitem__", other)
    after = outputs("b")
    keeps = 4 if modality == "video" else 0  # clips without sound keep their frames, in their order
    assert [len(x) for x in before] == [16, 16 - keeps, 16]
    assert [np.array_equal(one, two) for one, two in zip(before, after, strict=True)] == [False, True, True]


def test_a_clip_that_lacks_a_modality_at_one_rate_lacks_it_at_every_higher_one() -> None:
    keys = np.array([f"clip {n}" for n in range(57)], object)
    before = np.zeros(57, bool)
    for rate in KINDS["missing-audio"].levels:
        lost = losing(keys, "missing-audio", rate)
        assert lost.sum() == round(rate * 57) and (lost | ~before).all()
        before = lost
    half = losing(keys, "missing-audio", 0.5)
    mirrored = losing(keys[::-1], "missing-audio", 0.5)[::-1]
    assert np.array_equal(half, mirrored)  # whatever the order
    assert not np.array_equal(half, losing(keys, "missing-video", 0.5))
    assert not np.array_equal(half, losing(keys, "missing-audio", 0.5, seed=1))


def test_draws_do_not_depend_on_batches_or_workers_and_points_are_kept(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some: dict[str, Any] = {"kinds": ["missing-audio", "babble"], "levels": {"babble": [-5.0, 0.0]}}
    whole = curves(runs["told"], out=tmp_path / "a", **some, **FREE)
    other = curves(runs["told"], out=tmp_path / "b", **some, **{**FREE, "workers": 1, "batch_size": 5})
    for kind, curve in whole.curves.items():
        assert np.array_equal(curve.guess, other.curves[kind].guess)
    ours = {file.name: np.load(file)["found"] for file in (tmp_path / "a" / "points").glob("*.npz")}
    # interrupted: half of the points are lost, one is damaged
    gone = sorted(ours)[::2]
    for name in gone:
        (tmp_path / "a" / "points" / name).unlink()
    damaged = tmp_path / "a" / "points" / sorted(ours)[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    made: list[Any] = []
    measure = robustness.predict_index
    monkeypatch.setattr(robustness, "predict_index", lambda *a, **k: made.append(k) or measure(*a, **k))
    again = curves(runs["told"], out=tmp_path / "a", **some, **FREE)
    assert len(made) == len(gone) + 1
    assert again.to_dict() == whole.to_dict()
    for name, found in ours.items():
        assert np.array_equal(np.load(tmp_path / "a" / "points" / name)["found"], found)


def view(clip: Any, _: torch.Generator) -> dict[str, Any]:
    return {"video": clip.video, "audio": torch.from_numpy(clip.audio)[None, :, None]}


@dataclasses.dataclass(frozen=True)
class Take:
    video: torch.Tensor
    audio: Any
    key: str = "a"
    number: int = 0


def spoilt(kind: str, level: float, key: str = "a", voices: Any = None) -> tuple[Take, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(3, 11, 20, 20, generator=generator)
    take = Take(video, 0.1 * torch.randn(8000, generator=generator).numpy(), key)
    return take, Disturbed(view, kind, level, voices=voices)(take, torch.Generator())


@pytest.mark.parametrize("kind", ["white", "babble"])
@pytest.mark.parametrize("snr", [20.0, 0.0, -5.0])
def test_noise_is_as_loud_as_its_level_says_and_another_for_each_clip(kind: str, snr: float) -> None:
    def voices(clip: Any, draws: Any) -> Any:
        return torch.randn(len(clip.audio), generator=draws.generator).numpy()

    take, seen = spoilt(kind, snr, voices=voices)
    noise = seen["audio"][0, :, 0].numpy() - take.audio
    assert 10 * math.log10((take.audio**2).mean() / (noise**2).mean()) == pytest.approx(snr, abs=0.01)
    other = spoilt(kind, snr, "b", voices)[1]["audio"][0, :, 0].numpy() - take.audio
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.1
    take, seen = spoilt(kind, math.inf)
    assert np.array_equal(seen["audio"][0, :, 0].numpy(), take.audio)
    assert torch.equal(seen["video"], take.video)


def test_pictures_lose_what_their_level_says() -> None:
    for kind in ("blur", "occlusion", "frame-drop", "spans-video"):
        take, seen = spoilt(kind, 0.0)
        assert torch.equal(seen["video"], take.video)
    for share in (0.1, 0.4, 0.8):
        hidden = (spoilt("occlusion", share)[1]["video"] == 0).all(0)
        assert hidden.float().mean() == pytest.approx(share, abs=0.05) and torch.equal(hidden[0], hidden[-1])
    take, seen = spoilt("frame-drop", 0.6)
    same = [torch.equal(seen["video"][:, t], take.video[:, t]) for t in range(11)]
    assert sum(same) == 5 and same[0]  # 6 of the 10 after the first
    for t in range(1, 11):
        assert same[t] or torch.equal(seen["video"][:, t], seen["video"][:, t - 1])
    sharp = [spoilt("blur", sigma)[1]["video"].diff(dim=-1).square().mean() for sigma in KINDS["blur"].levels]
    assert sharp == sorted(sharp, reverse=True) and sharp[-1] < 0.1 * sharp[0]


def test_babble_is_made_of_other_videos_of_the_index(data: str) -> None:
    index = Index.load(data)
    voices = Voices(index)
    clips = [voices.store[int(n)] for n in voices.numbers]
    assert len(clips) == 12
    pair = index.select(np.isin(np.arange(len(index)), voices.numbers[:2]))
    voices = Voices(pair)
    first, second = voices.store[0], voices.store[1]
    heard = voices(first, Draws.keyed("0"))
    start = np.correlate(heard, second.audio, "full").argmax()
    shifted = np.roll(second.audio, start - len(heard) + 1)[: len(heard)]
    assert np.corrcoef(heard, shifted)[0, 1] > 0.5 and np.square(heard).mean() == pytest.approx(1, rel=1e-3)
    assert not np.array_equal(heard, voices(first, Draws.keyed("1")))
    assert not Voices(pair.select(np.array([True, False])))(first, Draws.keyed("0")).any()


def test_areas_are_those_of_the_curves_and_intervals_are_paired() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 60)
    groups = [f"person {n // 6}" for n in range(60)]
    good, bad = (
        np.stack([np.where(generator.random(60) < p, truth, 0) for p in ps])
        for ps in ((0.9, 0.8, 0.7), (0.8, 0.5, 0.1))
    )
    x = [0.0, 0.2, 1.0]
    found, gaps = areas(truth, {"good": good, "bad": bad}, x, groups, 3)
    for name, guess in (("good", good), ("bad", bad)):
        uar = [scores(confusion_matrix(truth, row, 3)).uar for row in guess]
        assert found[name]["uar"].value == pytest.approx(np.trapezoid(uar, x), abs=1e-12)
        flat = areas(truth, {name: guess[[0, 0, 0]]}, x, groups, 3)[0][name]["uar"]
        assert flat == pytest.approx(bootstrap(truth, guess[0], groups, 3)["uar"], abs=0.03)
    gap = gaps["bad"]["uar"]
    assert gap.value == pytest.approx(found["good"]["uar"].value - found["bad"]["uar"].value) and gap.low > 0
    same = areas(truth, {"a": good, "b": good}, x, groups, 3)[1]["b"]["war"]
    assert same == (0.0, 0.0, 0.0)
    turned = areas(truth, {"good": good[::-1]}, x[::-1], None, 3)[0]["good"]["uar"]
    assert turned.value == pytest.approx(found["good"]["uar"].value)


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("plain", {"kinds": "hail"}, "there are all, missing, noise, missing-video"),
        ("seeing", {"kinds": ["missing-video"]}, "takes one modality only"),
        ("seeing", {"kinds": ["white"]}, "takes no audio"),
        ("plain", {"kinds": ["blur"], "levels": {"blur": [0.0]}}, "needs two or more"),
        ("plain", {"against": ["plain"]}, "the same model twice"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    name: str, changes: dict[str, Any], match: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    changes = {**changes, **({"against": [runs[name]]} if "against" in changes else {})}
    with pytest.raises(ConfigError, match=match):
        curves(runs[name], out=tmp_path, **changes, **FREE)


def test_the_command_draws_two_models_in_one_page(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--curves",
        "missing-audio",
        "--against",
        str(runs["plain"]),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert cli.main(["evaluate", str(runs["told"]), *words]) == 0
    told = capsys.readouterr().out
    assert "No sound" in told and "less plain: area UAR" in told and "Blur" not in told
    page = (tmp_path / "robustness.html").read_text()
    assert page.count('aria-label="UAR in %"') == 1 and "told" in page and "plain" in page
