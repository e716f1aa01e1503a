"""Files of features: written whole or not at all, read without pickles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hicmae.configs.errors import UserError
from hicmae.datasets.jobs import replacing

__all__ = ["Rows", "Skipped", "check_kind", "merge_parts", "read_part", "write_part"]


class Skipped(NamedTuple):
    """A clip without features."""

    clip: str
    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """R rows of features, and what is known of each."""

    features: NDArray[np.float32]
    """(R, D)."""
    clip: NDArray[np.str_]
    """(R,)."""
    label: NDArray[np.str_]
    """(R,), empty where there is none."""
    group: NDArray[np.str_]
    """(R,), empty where there is none."""
    start: NDArray[np.float64]
    """(R,) seconds."""
    end: NDArray[np.float64]
    """(R,) seconds."""
    skipped: tuple[Skipped, ...] = ()


_COLUMNS = ("features", "clip", "label", "group", "start", "end")


def check_kind(path: Path) -> None:
    """Raise UserError unless features can be written as `path` says."""
    if path.suffix.lower() not in ("", ".npz", ".parquet"):
        raise UserError(f"{path}: features are written as .npz or .parquet, or into a folder (a name without a suffix)")
    if path.suffix == ".parquet":
        _pyarrow()


def write_part(path: Path, found: Sequence[tuple[str, str, str, Any]], skipped: Sequence[Skipped]) -> None:
    """Rows of (clip, label, group, `Embedding`) as .npz."""
    count = [len(each.features) for *_, each in found]
    columns: dict[str, Any] = {
        "features": np.concatenate([each.features for *_, each in found]) if found else np.zeros((0, 0), np.float32),
        "start": np.concatenate([each.start for *_, each in found]) if found else np.zeros(0),
        "end": np.concatenate([each.end for *_, each in found]) if found else np.zeros(0),
    }
    for place, name in enumerate(("clip", "label", "group")):
        columns[name] = np.repeat(np.array([str(row[place]) for row in found], np.str_), count)
    _write_npz(path, columns, {"skipped": [skip._asdict() for skip in skipped]})


def read_part(path: Path) -> Rows:
    """What `write_part` wrote, or a whole .npz file."""
    return _read_npz(path)[0]


def merge_parts(
    paths: Sequence[Path], kind: str, out: Path | None = None, about: dict[str, Any] | None = None
) -> tuple[Rows, dict[str, Any]]:
    """Rows of several files of a `kind` as one, written to `out` if it is given; and what the first says of itself."""
    read = _read_parquet if kind == ".parquet" else _read_npz
    parts = [read(path) for path in paths]
    filled = [rows for rows, _ in parts if len(rows.features)] or [parts[0][0]]
    columns: dict[str, Any] = {name: np.concatenate([getattr(rows, name) for rows in filled]) for name in _COLUMNS}
    whole = Rows(**columns, skipped=tuple(skip for rows, _ in parts for skip in rows.skipped))
    if out is not None:
        (_write_parquet if out.suffix == ".parquet" else _write_npz)(out, columns, about or {})
    return whole, parts[0][1]


def _write_npz(path: Path, columns: dict[str, Any], about: dict[str, Any]) -> None:
    with replacing(path) as file:
        np.savez(file, **columns, about=np.array(json.dumps(about, ensure_ascii=False)))


def _read_npz(path: Path) -> tuple[Rows, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            columns = {name: file[name] for name in _COLUMNS}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{path}: holds no features that hicmae wrote ({error}); delete it or choose another --out"
        ) from None
    return _rows(columns, about), about


def _write_parquet(path: Path, columns: dict[str, Any], about: dict[str, Any]) -> None:
    pa, pq = _pyarrow()
    features = np.ascontiguousarray(columns["features"], np.float32)
    flat = pa.array(features.reshape(-1))
    table = pa.table(
        {
            **{name: pa.array(columns[name].tolist()) for name in ("clip", "label", "group")},
            **{name: pa.array(columns[name]) for name in ("start", "end")},
            "features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
        }
    ).replace_schema_metadata({"hicmae": json.dumps(about, ensure_ascii=False)})
    with replacing(path) as file:
        pq.write_table(table, file)


def _read_parquet(path: Path) -> tuple[Rows, dict[str, Any]]:
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"hicmae"])
        width = table.schema.field("features").type.list_size
        columns = {name: np.array(table[name].to_pylist()) for name in _COLUMNS if name != "features"}
        flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        columns["features"] = flat.reshape(-1, width).astype(np.float32)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: holds no features that hicmae wrote ({error}); delete it or choose another --out"
        ) from None
    return _rows(columns, about), about


def _rows(columns: dict[str, Any], about: dict[str, Any]) -> Rows:
    return Rows(**columns, skipped=tuple(Skipped(**skip) for skip in about.get("skipped", ())))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError('parquet files need pyarrow: pip install "hicmae[parquet]"; or write .npz') from None
    return pyarrow, pyarrow.parquet
