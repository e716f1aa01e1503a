"""A fold of a card's corpus is trained on and tested by its condition alone."""

from pathlib import Path

from hicmae import finetune
from hicmae.datasets.corpora import inputs
from hicmae.datasets.shards import ShardConfig, write_shards
from hicmae.finetune import FinetuneConfig, FinetuneData
from hicmae.runtime.loop import LoopConfig
from tests.finetune.conftest import FREE_DATA, PLAIN, TINY, tinted


def test_a_fold_is_tested_on_people_that_were_not_trained_on(tmp_path: Path) -> None:
    for actor in (1001, 1018, 1019, 1040, 1091):
        for emotion, colour in (("ANG", "red"), ("NEU", "green"), ("HAP", "green"), ("SAD", "blue")):
            tinted(tmp_path / "crema" / f"{actor}_DFA_{emotion}_XX.flv", colour, seed=actor, frames=8)
    items, config = inputs("crema_d", tmp_path / "crema", "4class", ShardConfig(size=32))
    folder = write_shards(items, tmp_path / "shards", config=config, progress=False).folder
    recipe = FinetuneConfig(
        model="mae_dfer_base",
        args=TINY,
        augment=PLAIN,
        data=FinetuneData(train=[f"{folder}@fold!=1"], test=[f"{folder}@fold=1"], **FREE_DATA),
        loop=LoopConfig(epochs=1, batch_size=4),
        device="cpu",
        out=str(tmp_path / "run"),
    )
    finetune.run(recipe, show=False)
    report = finetune.evaluate(tmp_path / "run", show=False)
    assert sorted(set(report.groups or ())) == ["crema_d-1001", "crema_d-1018"] and len(report.truth) == 8
    assert report.labels == ("anger", "happy", "neutral", "sad")
    assert report.protocol["protocol"] == "crema_d/4class-intended/subject-5fold/last"
    assert report.protocol["samples with"] == "fold=1" and report.title.endswith("@fold=1")
