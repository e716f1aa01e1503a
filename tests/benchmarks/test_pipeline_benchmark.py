"""The input pipeline gives what the plain formulation gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.pipeline import TARGETS, difference, files_of, make, measure

from hicmae.datasets.index import Index


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    return make(tmp_path_factory.mktemp("pipeline"), people=1, seconds=3.0)


def test_both_pipelines_give_the_same_samples_from_the_same_mp4(found: dict[str, Index], tmp_path: Path) -> None:
    levels, sound = difference(found["mp4"], files_of(found["mp4"], tmp_path / "files"), seeds=3)
    assert levels <= 1.01  # Pillow and torchvision round a grey level differently
    assert sound < 1e-5


def test_every_format_has_a_row_with_its_target(found: dict[str, Index], tmp_path: Path) -> None:
    rows = measure(found, files_of(found["mp4"], tmp_path / "files"), pairs=1, seeds=1, show=False)
    aimed = {row.what.split(",")[0]: row.target for row in rows if row.target is not None}
    assert aimed == TARGETS and all(row.value > 0 for row in rows)
