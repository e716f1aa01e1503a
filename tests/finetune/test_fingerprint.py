"""A checkpoint says what was measured of its data, and evaluation names what differs."""

from __future__ import annotations

from pathlib import Path

from hicmae import zoo
from hicmae.datasets import Index
from hicmae.finetune import FinetuneConfig, evaluate, run
from hicmae.runtime.checkpoint import read_weights, weights_file
from tests.finetune.conftest import changed, make_shards, rows


def test_the_fingerprint_travels_to_checkpoint_card_and_evaluation(
    recipe: FinetuneConfig, train_shards: str, tmp_path: Path
) -> None:
    run(changed(recipe, loop__epochs=1), show=False)
    file = weights_file(recipe.out)
    trained = read_weights(file)[1]["preprocessing"]["fingerprint"]
    assert trained == Index.load(train_shards).fingerprint == zoo.fingerprint(recipe.out)
    assert trained["fps"] == [12.5, 12.5, 12.5] and trained["eye_distance"] is None and trained["sharpness"]
    alike = evaluate(recipe.out, device="cpu", show=False)
    assert not [note for note in alike.notes if "unlike those" in note]
    slow = make_shards(tmp_path, rows(2), max_fps=6.3)
    (note,) = (note for note in evaluate(recipe.out, [slow], device="cpu", show=False).notes if "unlike those" in note)
    assert "frame rate 6.2 fps here, 12.5 fps there (the same frames span more time)" in note
    page = (Path(recipe.out) / "evaluation" / "evaluation.html").read_text()
    assert "Clips as measured" in page and "unlike those" in page
    done = zoo.convert(file, tmp_path / "mine.safetensors")
    stated = {name: values for name, values in trained.items() if values}
    assert {name: list(values) for name, values in zoo.fingerprint(done.card).items()} == stated
    assert "frame rate 12.5 fps (12.5 to 12.5)" in " ".join(zoo.information(str(done.card)).split())
