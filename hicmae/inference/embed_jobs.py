"""Features of many clips in one file: in pieces that a killed run picks up, by as many processes as one likes.

Clip n belongs to part n // per_part; a part is a function of the clips, the weights and what was asked, so that it does
not matter who writes it. Part I of N writes the parts with number mod N = I - 1; whoever merges proves that all are
there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.configs.errors import UserError
from hicmae.datasets.index import Index
from hicmae.datasets.jobs import digest, in_processes, write_text, writing
from hicmae.datasets.listing import Item, find_videos, is_list, read_list
from hicmae.datasets.media import MediaError
from hicmae.datasets.samples import SampleError
from hicmae.datasets.store import ClipStore
from hicmae.inference.embed import Embedder
from hicmae.inference.embed_files import Rows, Skipped, check_kind, merge_parts, read_part, write_part
from hicmae.inference.embed_read import POOLING, Asked
from hicmae.inference.loading import load_model
from hicmae.runtime.checkpoint import sha256
from hicmae.runtime.log import progress as progress_bar
from hicmae.runtime.log import say

__all__ = ["EmbedResult", "embed_many"]

_PLAN = "embedding.json"


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """What was written; `str()` tells it."""

    out: Path
    clips: int
    """Of which there are features."""
    rows: int
    width: int
    skipped: tuple[Skipped, ...]
    """Clips left out, and why."""
    parts: str = ""
    """What is still to be done where only a part was asked for."""

    def __str__(self) -> str:
        lines = [f"{self.clips:,} clips, {self.rows:,} rows of {self.width} features: {self.out}"]
        if self.skipped:
            lines.append(f"{len(self.skipped):,} could not be used, and are listed in it:")
            lines += [f"  {skip.clip} {skip.reason}; {skip.remedy}" for skip in self.skipped[:5]]
            lines += [f"  … and {len(self.skipped) - 5:,} more"] if len(self.skipped) > 5 else []
        return "\n".join([*lines, *([self.parts] if self.parts else [])])


def embed_many(
    inputs: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    asked: Asked | None = None,
    hop: float | None = None,
    part: tuple[int, int] | None = None,
    merge: bool = False,
    workers: int = 0,
    batch_size: int = 8,
    device: str = "auto",
    per_part: int = 16,
    show: bool = True,
) -> EmbedResult:
    """Write features of many clips as `embed_clip` gives them.

    The same call continues a run that was killed, and changes nothing where all is done. A clip that cannot be used is
    left out, counted and listed with its reason. The result does not depend on how many processes there are.

    The file has, for each of R rows, `features` (R, D) float32, `clip` (its path relative to the folder of all, or its
    key in shards), `start`, `end` (seconds), `label` and `group` (empty where there are none). `about` (JSON; in
    parquet under the key `hicmae` of the schema) says which model, layer, level and modality, how features were pooled,
    and lists what was skipped.

    Args:
        inputs: video files and folders, one csv list, or folders of shards.
        checkpoint: whatever `load_model` takes, of either stage.
        out: a .npz or .parquet file, or a folder, in which the parts stay as .npz files.
        asked: which features; those of whole clips, of the last layer, when absent.
        hop: seconds from one window's start to the next; None is half a window.
        part: (I, N), write only part I of N; all but the last to finish leave the parts for `merge`.
        merge: only prove that all parts are there, and make the file.
        workers: processes that each do one part at a time; 0 works in this one.
        batch_size: windows per forward pass.
        per_part: clips per part.
        show: show a bar with rate and ETA.

    Raises:
        UserError: an input, the checkpoint or what was asked is wrong, `out` holds something else or cannot be written,
            or no clip can be used.
    """
    asked, target = asked or Asked(), Path(out)
    check_kind(target)
    loaded = load_model(checkpoint, device=device)
    embedder = Embedder(loaded[0], loaded[-1], asked, hop=hop, batch_size=batch_size)
    source = _source(inputs)
    about = {
        "model": embedder.name,
        "weights": sha256(Path(loaded[-1]["file"])),
        "stage": loaded[0].stage,
        "level": asked.level,
        "layer": asked.layer,
        "modality": embedder.reader.modality,
        "hop": hop,
        "window": {"frames": embedder.how.frames, "stride": embedder.how.stride},
        "pooling": " ".join(POOLING.split()),
    }
    made_from = digest([1, about, per_part, source.described()])
    plan = _Plan(target, made_from, -(-len(source) // per_part))
    with writing(target):
        done = plan.finished(about)
        if done is not None:
            return done
        plan.claim(about)
        if not merge:
            index, count = part or (1, 1)
            if not 1 <= index <= count:
                raise UserError(f"part {index}/{count}: I must lie between 1 and N")
            jobs = [_Job(plan.path(n), source.of(n * per_part, per_part)) for n in range(index - 1, plan.parts, count)]
            _work(jobs, embedder, checkpoint, (asked, hop, batch_size, device), workers, show)
        missing = [n for n in range(plan.parts) if not plan.path(n).is_file()]
        if part is not None:
            mine = [read_part(plan.path(n)) for n in range(part[0] - 1, plan.parts, part[1])]
            words = (
                f"{len(missing)} of {plan.parts} pieces are still to be written" if missing else "all pieces are there"
            )
            words += "; when they are there, give the same command with --merge in place of --part"
            return _result(target, mine, words)
        if missing:
            raise UserError(
                f"{target}: {len(missing)} of {plan.parts} pieces are missing; give the same command without --merge, "
                "or with the --part that has not finished"
            )
        return plan.finish(about)


@dataclass(frozen=True)
class _Plan:
    """Where parts and result lie."""

    target: Path
    made_from: str
    parts: int

    @property
    def folder(self) -> Path:
        return self.target.with_name(self.target.name + ".parts") if self.target.suffix else self.target

    @property
    def note(self) -> Path:
        return self.folder / _PLAN

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def finished(self, about: dict[str, Any]) -> EmbedResult | None:
        """The result if it is there and is of these very clips, weights and settings.

        Raises:
            UserError: something else is there.
        """
        if not self.target.suffix or not self.target.exists():
            return None
        if self.target.is_dir():
            raise UserError(f"{self.target} is a folder; name a file, or a folder without a suffix")
        found, told = merge_parts([self.target], self.target.suffix)
        if told.get("made_from") != self.made_from:
            raise UserError(
                f"{self.target} is there and holds other features{_differs(told, about)}; choose another --out"
            )
        return _result(self.target, [found])

    def claim(self, about: dict[str, Any]) -> None:
        """Say whose parts the folder holds.

        Raises:
            UserError: somebody else's.
        """
        if self.folder.is_file():
            raise UserError(f"{self.folder} is a file; end its name in .npz or .parquet, or name a folder")
        if self.folder.is_dir() and not self.note.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} holds other files; choose an empty or new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.note, json.dumps({"made_from": self.made_from, **about}, indent=1), first=True)
        told = json.loads(self.note.read_text())
        if told.get("made_from") != self.made_from:
            raise UserError(
                f"{self.folder} holds pieces of other features{_differs(told, about)}; choose another --out"
            )

    def finish(self, about: dict[str, Any]) -> EmbedResult:
        """Make the file of all parts, and remove them; in a folder they stay."""
        paths = [self.path(n) for n in range(self.parts)]
        whole = [read_part(path) for path in paths]
        result = _result(self.target, whole)
        if not result.clips:
            first = result.skipped[0]
            raise UserError(f"none of the {len(result.skipped)} clips can be used; {first.clip} {first.reason}")
        told = {"made_from": self.made_from, **about, "skipped": [skip._asdict() for skip in result.skipped]}
        if self.target.suffix:
            merge_parts(paths, ".npz", self.target, told)
            for path in (*paths, self.note):
                path.unlink(missing_ok=True)
            self.folder.rmdir()
        else:
            write_text(self.note, json.dumps(told, indent=1, ensure_ascii=False))
        return result


def _differs(told: dict[str, Any], about: dict[str, Any]) -> str:
    """In which of the settings; the clips or the batch size, if in none."""
    names = [name for name in about if told.get(name) != about[name]]
    return f" (they differ in {', '.join(names)})" if names else " (of other clips)"


def _result(out: Path, parts: Sequence[Rows], words: str = "") -> EmbedResult:
    return EmbedResult(
        out=out,
        clips=sum(len(set(part.clip.tolist())) for part in parts),
        rows=sum(len(part.features) for part in parts),
        width=max((part.features.shape[1] for part in parts), default=0),
        skipped=tuple(skip for part in parts for skip in part.skipped),
        parts=words,
    )


class _Videos:
    """Video files by number."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def described(self) -> list[Any]:
        return [
            [each.source, each.label, each.group, each.path.stat().st_size if each.path.is_file() else -1]
            for each in self.items
        ]

    def of(self, first: int, count: int) -> _Videos:
        return _Videos(self.items[first : first + count])

    def embedded(self, embedder: Embedder) -> Iterator[tuple[str, str | None, str | None, Any]]:
        """Clip, label, group, and a call that gives its features."""
        for each in self.items:
            if each.sound is not None:
                trouble = MediaError(each.path, "has its sound in another file", "shard it first: hicmae shard")
                yield each.source, each.label, each.group, _raising(trouble)
            elif each.trouble is not None:
                yield each.source, each.label, each.group, _raising(MediaError(each.path, *each.trouble))
            else:
                yield each.source, each.label, each.group, lambda path=each.path: embedder.video(path)


class _Shards:
    """Samples of shards by number."""

    def __init__(self, index: Index, numbers: Sequence[int]) -> None:
        self.index, self.numbers = index, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def described(self) -> list[Any]:
        return [[shard.sha256 for shard in self.index.shards], list(self.index.keys), self.index.selection]

    def of(self, first: int, count: int) -> _Shards:
        return _Shards(self.index, self.numbers[first : first + count])

    def embedded(self, embedder: Embedder) -> Iterator[tuple[str, str | None, str | None, Any]]:
        store, index = ClipStore(self.index), self.index
        for n in self.numbers:
            label = index.classes[index.labels[n]] if index.labels[n] >= 0 else None
            yield str(index.keys[n]), label, index.groups[n], lambda n=n: embedder.sample(store[n])
        store.close()


def _raising(error: Exception) -> Any:
    def call() -> None:
        raise error

    return call


def _source(inputs: Sequence[str | Path]) -> _Videos | _Shards:
    """Shards if the first input is a folder of them, one list, or videos."""
    names = [str(each) for each in inputs]
    if names and (_holds_shards(names[0]) or "://" in names[0]):
        index = Index.join([Index.load(name) for name in names])
        return _Shards(index, range(len(index)))
    if len(names) == 1 and is_list(names[0]):
        items, problems = read_list(names[0])
        for problem in problems:
            say(f"left out: {problem}")
    else:
        items, _ = find_videos(names)
    if not items:
        raise UserError(f"{', '.join(names)}: there are no videos (mp4, mov, mkv, webm, avi, flv) and no shards")
    return _Videos(items)


def _holds_shards(name: str) -> bool:
    folder = Path(name.split("@")[0]) if not Path(name).exists() else Path(name)
    return folder.is_dir() and next(folder.glob("shard-*.jsonl"), None) is not None


@dataclass(frozen=True)
class _Job:
    path: Path
    clips: _Videos | _Shards


def _work(
    jobs: Sequence[_Job],
    embedder: Embedder,
    checkpoint: str | Path,
    settings: tuple[Any, ...],
    workers: int,
    show: bool,
) -> None:
    todo = [job for job in jobs if not job.path.is_file()]
    total = sum(len(job.clips) for job in jobs)
    done = total - sum(len(job.clips) for job in todo)
    bad = 0
    with progress_bar(total=total, initial=done, desc="embed", unit="clip", show=show) as bar:
        if workers < 2 or len(todo) < 2:
            for job in todo:
                bad += _do(job, embedder, bar)
                bar.set_postfix_str(f"{bad} skipped" if bad else "", refresh=False)
            return
        for job, skipped in in_processes(_do_there, todo, workers, _begin, (checkpoint, settings, workers)):
            bad += skipped
            bar.set_postfix_str(f"{bad} skipped" if bad else "", refresh=False)
            bar.update(len(job.clips))


def _do(job: _Job, embedder: Embedder, bar: Any = None) -> int:
    """Write one part; returns how many clips were skipped."""
    skipped: list[Skipped] = []
    rows = []
    for clip, label, group, call in job.clips.embedded(embedder):
        try:
            found = call()
            rows.append((clip, label or "", group or "", found))
        except MediaError as error:
            skipped.append(Skipped(clip, error.reason, error.remedy))
        except SampleError as error:
            skipped.append(Skipped(clip, f"is damaged: {error}", "shard it again"))
        if bar is not None:
            bar.update()
    with writing(job.path):
        write_part(job.path, rows, skipped)
    return len(skipped)


_embedder: Embedder | None = None


def _begin(checkpoint: str | Path, settings: tuple[Any, ...], workers: int) -> None:
    """In a worker: load the model once."""
    import torch

    global _embedder
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    asked, hop, batch_size, device = settings
    loaded = load_model(checkpoint, device=device)
    _embedder = Embedder(loaded[0], loaded[-1], asked, hop=hop, batch_size=batch_size)


def _do_there(job: _Job) -> int:
    assert _embedder is not None
    return _do(job, _embedder)
