"""The recorded numbers of the published systems, on compiled blocks."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests import processes
from tests.models import compiled_worker


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", compiled_worker.SYSTEMS)
def test_compiled_blocks_give_the_recorded_numbers(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes.run(1, functools.partial(compiled_worker.check, name), log=log, seconds=1500)
