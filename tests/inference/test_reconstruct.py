"""The picture shows what was hidden, what was asked for, and what came back."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from hicmae.configs import UserError
from hicmae.datasets.media import MediaError
from hicmae.inference import Loaded, load_model, reconstruct, reconstruct_clip
from hicmae.inference.windows import Preprocessing, middle_window
from hicmae.pretrain import rebuilt
from hicmae.pretrain.masking import hidden_index
from hicmae.pretrain.objectives import Hidden
from hicmae.pretrain.picture import Row, draw
from tests.inference.clips import video
from tests.inference.conftest import save_autoencoder
from tests.media_files import BAD, ODD


@pytest.mark.parametrize("name", ODD)
def test_every_kind_of_video_gives_a_picture(name: str, autoencoder: Loaded, tmp_path: Path) -> None:
    out = reconstruct_clip(ODD[name](tmp_path), autoencoder, out=tmp_path / "new folder" / "picture.png")
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 500 and picture.height > 5 * 150
    assert [path.name for path in out.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_leaves_no_picture(name: str, autoencoder: Loaded, tmp_path: Path) -> None:
    path = BAD[name][0](tmp_path)
    with pytest.raises(MediaError) as error:
        reconstruct_clip(path, autoencoder, out=tmp_path / "out.png")
    assert str(path) in str(error.value)
    assert not list(tmp_path.glob("out.png*"))


@pytest.mark.parametrize("name", ["mae_dfer_base", "videomae_base"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("difference", "motion"), [(None, "normalised"), (2, "normalised"), (2, "raw")])
def test_a_perfect_prediction_gives_the_clip_back(
    name: str, normalise: bool, difference: int | None, motion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"normalise": normalise, "difference": difference, "motion": motion}
    meta = {"config": {"target": target, "mask": {"video": 0.75}}}
    loaded = load_model(save_autoencoder(tmp_path / "weights.safetensors", name, **meta), device="cpu")
    window = middle_window(video(tmp_path / "clip.mp4"), Preprocessing.of(*loaded))
    asked: list[Any] = []

    def perfect(_: torch.Tensor, mask: torch.Tensor) -> Any:
        hidden = int(mask.sum())
        return SimpleNamespace(video=asked[0].part.goal(window.frames[None], Hidden(mask, hidden, None, hidden)))

    made = rebuilt.objective_for

    def watched(*args: Any, **kwargs: Any) -> Any:
        asked.append(made(*args, **kwargs))
        return asked[0]

    monkeypatch.setattr(rebuilt, "objective_for", watched)
    monkeypatch.setattr(loaded.model, "forward", perfect)
    rows, objective = reconstruct._reconstructed(*loaded, window, seed=0, ratio=None)
    by_title = {row.title: row for row in rows}
    original = window.frames.permute(1, 2, 3, 0).float() / 255
    assert objective.target.motion == motion and objective.target.normalise is normalise
    assert torch.allclose(by_title["reconstruction"].frames, original, atol=1e-4)
    assert "error 0.00" in by_title["reconstruction"].note
    assert ("motion to predict" in by_title) is (difference is not None)
    if difference is not None:
        predicted, true = by_title["predicted motion"], by_title["motion to predict"]
        assert torch.equal(predicted.frames, true.frames) and true.frames.std() > 0.05
        assert predicted.note.startswith("error 0.00")
        assert true.frames[::2].unique().tolist() == [0.5]  # motion is asked of every second frame


def test_hidden_patches_are_grey_and_visible_ones_pasted_in(autoencoder: Loaded, tmp_path: Path) -> None:
    window = middle_window(video(tmp_path / "clip.mp4"), Preprocessing.of(*autoencoder))
    rows, objective = reconstruct._reconstructed(*autoencoder, window, seed=3, ratio=0.5)
    original, covered, rebuilt = (row.frames for row in rows[:3])
    mask = objective.hide(torch.zeros(1, dtype=torch.int64), 0).mask
    assert objective.mask.video == 0.5 and objective.seed == 3
    hidden = mask.view(2, 4, 4).repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert hidden_index(mask).shape[1] * 2 == mask.shape[1]
    assert torch.equal(covered[hidden], torch.full_like(covered[hidden], 0.5))
    assert torch.equal(covered[~hidden], original[~hidden])
    assert torch.equal(rebuilt[~hidden], original[~hidden])
    assert not torch.equal(rebuilt[hidden], original[hidden])


def test_seed_decides_what_is_hidden(autoencoder: Loaded, tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4")
    drawn = [reconstruct_clip(clip, autoencoder, out=tmp_path / f"{i}.png", seed=s) for i, s in enumerate((0, 0, 1))]
    first, again, other = (path.read_bytes() for path in drawn)
    assert first == again != other


def test_the_caption_says_model_steps_ratio_and_clip(
    autoencoder: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setattr(reconstruct, "draw", lambda path, **words: said.update(words))
    reconstruct_clip(video(tmp_path / "clip.mp4"), autoencoder, out=tmp_path / "picture.png", seed=5)
    assert said["title"] == "clip.mp4"
    for words in ("mae_dfer_base", "1,234 steps", "75% of the patches", "seed 5"):
        assert words in said["caption"]
    assert len(said["columns"]) == len(said["rows"][0].frames) == 2


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.001, 3.0])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio: float, autoencoder: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ratio"):
        reconstruct_clip(video(tmp_path / "clip.mp4"), autoencoder, out=tmp_path / "picture.png", ratio=ratio)


def test_a_fine_tuned_model_cannot_reconstruct(classifier: Loaded, classifier_file: Path, tmp_path: Path) -> None:
    for without in (classifier, classifier_file):
        with pytest.raises(UserError, match="pretraining run it came from"):
            reconstruct_clip(video(tmp_path / "clip.mp4"), without, out=tmp_path / "picture.png")


def test_a_picture_that_cannot_be_written_is_named(autoencoder: Loaded, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    clip = video(tmp_path / "clip.mp4")
    with pytest.raises(UserError, match="cannot be written"):
        reconstruct_clip(clip, autoencoder, out=tmp_path / "file" / "picture.png")
    with pytest.raises(UserError, match=r"ends in \.png"):
        reconstruct_clip(clip, autoencoder, out=tmp_path / "picture.jpg")


def test_a_full_disk_leaves_no_broken_picture(tmp_path: Path) -> None:
    row = Row("noise", torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=r"picture\.png: cannot be written"):
            draw(tmp_path / "picture.png", rows=[row], columns=["0"] * 4, title="a", caption="b", footnote="c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_long_titles_are_cut_to_the_picture(tmp_path: Path) -> None:
    row = Row("frames", torch.zeros(1, 8, 8, 3))
    draw(tmp_path / "p.png", rows=[row], columns=["0"], title="long name " * 50, caption="c", footnote="word " * 80)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 720
        right = picture.crop((700, 0, 720, picture.height)).getcolors()
        assert right is not None and len(right) == 1  # the margin is empty
