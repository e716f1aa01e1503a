"""Validating lists, videos and shards before any training."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import crop_detector
from hicmae.datasets.fingerprint import (
    EYES,
    MOST,
    QUANTITIES,
    Fingerprint,
    Gauge,
    differences,
    matching,
    rows,
)
from hicmae.datasets.frames import RawFrames, SampleError
from hicmae.datasets.index import Index
from hicmae.datasets.listing import Item, Problem, find_videos, is_list, read_list
from hicmae.datasets.media import SOUND_RATE, MediaError, VideoInfo, open_video, read_audio, read_frames
from hicmae.datasets.remote import Remote, place_of, read_bytes
from hicmae.datasets.sidecars import problems_of
from hicmae.datasets.store import ClipStore
from hicmae.datasets.strips import SILENT
from hicmae.runtime.log import progress as progress_bar

if TYPE_CHECKING:
    from hicmae.datasets.faces.detect import Detector

__all__ = ["Problem", "Report", "check", "with_eyes"]

_SHOWN = 40
_LOOKED_AT = 100  # samples whose eyes are looked for where they were not measured before


@dataclass(frozen=True)
class Report:
    """What was looked at, what it holds, and what is wrong with it."""

    path: Path | Remote
    kind: str
    """`shards`, `list`, `folder` or `video`."""
    summary: dict[str, Any]
    """Name -> number, text, or counts by name."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Things to know that stop nothing."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        width = max((len(name) for name in self.summary), default=0)
        lines = [f"{self.path} ({self.kind})"]
        lines += [f"  {name:<{width}}  {_words(value)}" for name, value in self.summary.items()]
        lines += [f"  note: {note}" for note in self.notes]
        if self.ok:
            return "\n".join([*lines, "no problems"])
        count = len(self.problems)
        lines.append(f"{count} problem{'s' * (count != 1)}:")
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if count > _SHOWN:
            kinds = Counter(problem.reason.split(" (")[0] for problem in self.problems[_SHOWN:])
            lines.append(
                f"  … and {count - _SHOWN} more: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
            )
        return "\n".join(lines)


def check(
    path: str | Path,
    *,
    root: str | Path | None = None,
    thorough: bool = True,
    html: str | Path | None = None,
    like: Fingerprint | None = None,
    progress: bool = True,
) -> Report:
    """Look for whatever would stop or spoil training in a folder of shards, a list, a folder of videos, or a video.

    Shards may lie elsewhere (`https://…`, `s3://…`); all their bytes are read then, if it is `thorough`.

    Args:
        root: folder that relative paths of a list start from; the list's own by default.
        thorough: decode every frame and the sound, and hash every shard; otherwise look at sizes, structure and first
            frames only.
        html: file to write a page to, with a contact sheet of the clips; for shards.
        like: the fingerprint of other data that the shards are compared with; what differs is noted, and the options
            of `hicmae shard` that put the eyes where they are there.
        progress: show a bar.

    Raises:
        UserError: there is nothing at `path`, it cannot be read at all, or nothing answers there; `html` or `like` for
            what is no shards.
    """
    place = place_of(path)
    if isinstance(place, Remote):
        return _check_shards(place, thorough, progress, html, like)
    path = place
    if path.is_dir() and any((path / name).exists() for name in ("config.json", "index.json", "shard-000000.tar")):
        return _check_shards(path, thorough, progress, html, like)
    if html is not None or like is not None:
        raise UserError(f"{path} is no folder of shards, and only those are drawn and compared: hicmae shard {path}")
    if is_list(path):
        return _check_list(path, root, thorough, progress)
    items, others = find_videos([path])
    summary, problems, notes = _check_videos(items, thorough, progress)
    if not path.is_dir():
        return Report(path, "video", summary, problems, notes)
    if not items:
        reason, remedy = f"holds no video ({others} other files)", "give mp4, mov, mkv, webm or avi files"
        problems = [Problem(path=str(path), reason=reason, remedy=remedy)]
    return Report(path, "folder", {**summary, "other files": others}, problems, notes)


def _check_list(path: Path, root: str | Path | None, thorough: bool, progress: bool) -> Report:
    items, problems = read_list(path, root)
    summary, bad, notes = _check_videos(items, thorough, progress)
    lines = {str(item.path): item.line for item in items}
    for problem in bad:
        reason = f"names {problem.path}, which {problem.reason}"
        problems.append(Problem(path=str(path), line=lines.get(problem.path), reason=reason, remedy=problem.remedy))
    summary |= _labels([item.label for item in items], [item.group for item in items])
    return Report(path, "list", summary, sorted(problems, key=lambda problem: problem.line or 0), notes)


def _check_videos(
    items: Sequence[Item], thorough: bool, progress: bool
) -> tuple[dict[str, Any], list[Problem], list[str]]:
    good: list[tuple[VideoInfo, float]] = []
    problems: list[Problem] = []
    silent = apart = 0
    for item in progress_bar(items, desc="check", unit="video", show=progress and len(items) > 1):
        try:
            if item.trouble is not None:
                raise MediaError(item.path, *item.trouble)
            info = open_video(item.path)
            seconds = info.seconds or 0.0
            if thorough:
                times = [time for time, _ in read_frames(item.path)]
                seconds = times[-1] - times[0] + 1 / info.fps
                sound = read_audio(item.path) if info.has_audio else None
                if sound is not None:
                    silent += bool(np.abs(sound[0]).max() < SILENT)
                    apart += abs(len(sound[0]) / SOUND_RATE - seconds) >= 0.1
            good.append((info, seconds))
        except MediaError as error:
            problems.append(Problem(path=str(item.path), reason=error.reason, remedy=error.remedy))
    infos = [info for info, _ in good]
    summary: dict[str, Any] = {"videos": len(items), "usable": len(good)}
    if good:
        summary |= {
            "length": _length([seconds for _, seconds in good]),
            "frame rate": _counts(f"{info.fps:g}" for info in infos),
            "picture": _counts(f"{info.width}x{info.height}" for info in infos),
            "coded as": _counts(f"{info.codec} in {info.container}" for info in infos),
            "with sound": sum(info.has_audio for info in infos),
            "turned": sum(info.rotation != 0 for info in infos),
        }
    notes = [f"{silent} sound tracks are silent"] if silent else []
    notes += [f"{apart} sound tracks are 0.1 s or more longer or shorter than their video"] if apart else []
    return summary, problems, notes


def with_eyes(index: Index, detector: Detector, *, progress: bool = False) -> Index:
    """The index with the eyes found by `detector` in up to 100 samples, evenly chosen; unreadable ones are left out."""
    eyes = {name: np.full(len(index), np.nan) for name in EYES}
    store = ClipStore(index)
    numbers = np.unique(np.linspace(0, len(index) - 1, min(_LOOKED_AT, len(index))).round().astype(int)).tolist()
    for number in progress_bar(numbers, desc="eyes", unit="sample", show=progress):
        gauge = Gauge(detector)
        try:
            frames = store[number].frames
            taken = frames.take(np.linspace(0, len(frames) - 1, min(MOST, len(frames))).round().astype(int))
        except SampleError:
            continue
        for frame in taken:
            gauge.look(frame.permute(1, 2, 0).contiguous().numpy())
        for name, value in gauge.measures().items():
            if name in eyes:
                eyes[name][number] = value
    store.close()
    return replace(index, measures={**index.measures, **eyes})


def _check_shards(
    folder: Path | Remote, thorough: bool, progress: bool, html: str | Path | None, like: Fingerprint | None
) -> Report:
    problems = problems_of(folder)
    if problems:
        return Report(folder, "shards", {}, problems)
    index = Index.load(folder)
    if thorough:
        for number in progress_bar(range(len(index.shards)), desc="check", unit="shard", show=progress):
            problems += _check_shard(index, number)
    repeated = [key for key, count in Counter(index.keys).items() if count > 1]
    if repeated:
        reason = f"holds the key {repeated[0]} more than once"
        problems.append(Problem(path=str(folder), reason=reason, remedy="shard again"))
    summary = {
        "samples": len(index),
        "videos": len(set(index.sources)),
        "shards": len(index.shards),
        "format": ", ".join(sorted({shard.format for shard in index.shards})),
        "gigabytes": round(sum(shard.bytes for shard in index.shards) / 1e9, 3),
        "length": _length(index.seconds.tolist()),
        "frame rate": _counts(
            "stills" if frames == 1 else f"{fps:.4g}" for fps, frames in zip(index.fps, index.frames, strict=True)
        ),
        "picture": f"{index.preprocessing['size']}x{index.preprocessing['size']}",
        "crop": index.preprocessing["crop"]["kind"],
        "with sound": int(index.sound.sum()),
        **({"of it silent": int(index.silent.sum())} if index.silent.any() else {}),
        **_labels([index.classes[n] if n >= 0 else None for n in index.labels], index.groups.tolist()),
        **({"protocol": index.protocol} if index.protocol else {}),
        "skipped videos": len(index.skipped),
    }
    if (html is not None or like is not None) and not index.fingerprint["eye_distance"]:
        with contextlib.suppress(UserError):  # no detector is installed
            index = with_eyes(index, crop_detector(), progress=progress)
    table = zip(QUANTITIES, rows(here=index.fingerprint)[1], strict=True)
    summary |= {words: values for name, (words, values) in table if name in index.measures}
    notes = [f"skipped {skip.source}: it {skip.reason}; {skip.remedy}" for skip in index.skipped[:_SHOWN]]
    if len(index.skipped) > _SHOWN:
        notes.append(f"{len(index.skipped) - _SHOWN} more skipped videos are named in {folder}/shard-*.jsonl")
    compared = _compared(index, like) if like is not None else []
    if html is not None:
        from hicmae.datasets.sheet import sheet  # imported here because it brings torch

        page = sheet(index, summary=summary, problems=problems, notes=compared, like=like).write(Path(html))
        notes.append(f"page: {page}")
    return Report(folder, "shards", summary, problems, notes + compared)


def _compared(index: Index, like: Fingerprint) -> list[str]:
    """What differs from other data, and the options that would mend it where the eyes of both are known."""
    unlike = differences(index.fingerprint, like) or ["nothing that was measured of both differs"]
    try:
        return [
            *unlike,
            f"the same crop: hicmae shard … {matching(index.fingerprint, like, index.preprocessing['crop'])}",
        ]
    except UserError as error:
        return [*unlike, str(error)]


def _check_shard(index: Index, number: int) -> list[Problem]:
    """Hash a tar; where it differs, name the samples that do."""
    shard = index.shards[number]
    remedy = f"copy it again, or delete {shard.path.stem}.* and shard again"
    try:
        whole = hashlib.sha256()
        for at in range(0, shard.bytes, 1 << 23):
            whole.update(read_bytes(shard.path, at, min(1 << 23, shard.bytes - at)))
        if whole.hexdigest() == shard.sha256:
            return []
        bad, store = [], ClipStore(index)
        for sample in np.flatnonzero(index.shard == number).tolist():
            try:
                frames = store[sample].frames
                if isinstance(frames, RawFrames):  # they have checksums of their own
                    for frame in range(len(frames)):
                        frames.take([frame])
            except SampleError:
                bad.append(str(index.keys[sample]))
    except OSError as error:
        return [Problem(path=str(shard.path), reason=f"cannot be read ({error.strerror or error})", remedy=remedy)]
    where = f"in {len(bad)} of {shard.samples} samples: {', '.join(bad[:5])}" if bad else "outside its samples"
    return [Problem(path=str(shard.path), reason=f"is damaged ({where})", remedy=remedy)]


def _labels(labels: Sequence[str | None], groups: Sequence[str | None]) -> dict[str, Any]:
    counts = Counter(label for label in labels if label is not None)
    summary: dict[str, Any] = {"classes": dict(sorted(counts.items()))} if counts else {}
    if counts and None in labels:
        summary["without label"] = sum(label is None for label in labels)
    known = {group for group in groups if group is not None}
    return summary | ({"groups": len(known)} if known else {})


def _length(seconds: Sequence[float]) -> str:
    total = sum(seconds)
    words = f"{total / 3600:.1f} h" if total >= 3600 else f"{total:.0f} s"
    return f"{words} in all; shortest {min(seconds):.1f}, median {np.median(seconds):.1f}, longest {max(seconds):.1f} s"


def _counts(values: Iterable[str]) -> dict[str, int]:
    common = Counter(values).most_common()
    rest = sum(count for _, count in common[6:])
    return dict(common[:6]) | ({"other": rest} if rest else {})


def _words(value: Any) -> str:
    return ", ".join(f"{name}: {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)
