"""A corpus of generated talking faces with known answers: what each modality can give, and that nothing else can."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.datasets.synthetic.clip import write_clip
from hicmae.datasets.synthetic.person import Identity
from hicmae.datasets.synthetic.take import MOTIONS, Take
from hicmae.datasets.synthetic.voice import VOICES
from hicmae.runtime.log import progress as progress_bar

__all__ = [
    "AGREEMENT",
    "EMOTIONS",
    "LOOK_ALIKE",
    "MOTION_ONLY",
    "SOUND_ALIKE",
    "SOUND_ONLY",
    "Corpus",
    "Task",
    "ceilings",
    "make_corpus",
]

Task = Mapping[str, Sequence[tuple[int, int]]]
"""Class name -> the (motion, voice) pairs that show it."""

EMOTIONS: Task = {
    "surprise": ((0, 0),),
    "anger": ((0, 1),),
    "sadness": ((1, 1),),
    "happiness": ((1, 2),),
    "fear": ((2, 2),),
    "disgust": ((2, 0),),
}
"""A hexagon: neighbours share either the motion of the face or the movement of the voice, so both are needed."""

LOOK_ALIKE = (("surprise", "anger"), ("sadness", "happiness"), ("fear", "disgust"))
"""Emotions whose clips of one take have identical frames and differ in voice."""

SOUND_ALIKE = (("anger", "sadness"), ("happiness", "fear"), ("disgust", "surprise"))
"""Emotions whose clips of one take have identical sound and differ in facial motion."""

MOTION_ONLY: Task = {name: tuple((m, v) for v in range(3)) for m, name in enumerate(MOTIONS)}
SOUND_ONLY: Task = {name: tuple((m, v) for m in range(3)) for v, name in enumerate(VOICES)}
AGREEMENT: Task = {"agree": ((0, 0), (1, 1)), "differ": ((0, 1), (1, 0))}
"""Visible in neither modality alone: the class is whether motion and voice belong together."""

_BLOCK = 16 * 1024
_ROLES = {"train": 0, "test": 1, "unlabeled": 2}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Where a generated corpus lies and what can be known from it."""

    root: Path
    train_csv: Path
    test_csv: Path
    unlabeled_csv: Path | None
    classes: tuple[str, ...]
    ceilings: dict[str, float]
    """Best possible accuracy (and UAR, if classes are equally frequent) from `video`, `audio` and `both`."""
    clips: dict[str, int]
    """How many clips each list names."""


def ceilings(task: Task) -> dict[str, float]:
    """The accuracy of the best predictor that sees the motion only, the voice only, or both.

    Twins look (or sound) identical, so a predictor blind to one modality gives them one answer, right for one of them.
    """
    shown = [(label, motion, voice) for label, pairs in task.items() for motion, voice in pairs]

    def best(seen: slice) -> float:
        counts: dict[tuple[int, ...], Counter[str]] = {}
        for label, *pair in shown:
            counts.setdefault(tuple(pair[seen]), Counter())[label] += 1
        return sum(max(counter.values()) for counter in counts.values()) / len(shown)

    return {"video": best(slice(0, 1)), "audio": best(slice(1, 2)), "both": best(slice(0, 2))}


def make_corpus(
    out: Path | str,
    *,
    train_identities: int,
    test_identities: int,
    takes: int = 1,
    unlabeled: int = 0,
    task: Task = EMOTIONS,
    size: int = 96,
    fps: float = 12.5,
    seconds: tuple[float, float] = (1.8, 2.4),
    seed: int = 0,
    jobs: int = 2,
    progress: bool = True,
) -> Corpus:
    """Write clips (H.264 + AAC in mp4, square, `size` pixels) and their lists, train.csv, test.csv and unlabeled.csv.

    Every identity performs `takes` takes, each with every (motion, voice) pair of the task; people of training, test
    and `unlabeled` clips (one person each, random motion and voice) differ. Lists have the header
    `path,label,group,motion,voice,take` with paths relative to the list (no `label` column where unlabeled).
    The same arguments give the same bytes, and a person's clips do not depend on how many others there are.
    The files of one take are padded to one size. Sample frames with a stride of 1 or 2 at the default rate: with 3,
    some motions are so close to one oscillation per sampled frame that they seem to stand still.

    Raises:
        ValueError: an argument is out of range, or one pair stands for two classes.
    """
    counts = {"train_identities": train_identities, "test_identities": test_identities, "takes": takes}
    _check(task, size, seconds, fps, unlabeled=unlabeled, **counts)
    root = Path(out)
    rows: dict[str, list[dict[str, Any]]] = {}
    jobs_to_do = []
    label_of = {tuple(pair): label for label, pairs in task.items() for pair in pairs}
    for role, people in (("train", train_identities), ("test", test_identities), ("unlabeled", unlabeled)):
        rows[role] = []
        (root / "clips" / role).mkdir(parents=True, exist_ok=True)
        for person, number in product(range(people), range(takes if role != "unlabeled" else 1)):
            key = (seed, _ROLES[role], person)
            pairs = sorted(label_of)
            if role == "unlabeled":
                motion, voice = np.random.default_rng((*key, 1)).integers(3, size=2).tolist()
                pairs = [(motion, voice)]
            group = f"{role}-{person:04d}"
            paths = [Path("clips") / role / f"{group}-take{number}-m{m}-v{v}.mp4" for m, v in pairs]
            for path, (m, v) in zip(paths, pairs, strict=True):
                label = {"label": label_of[m, v]} if role != "unlabeled" else {}
                row = {"path": path.as_posix(), **label, "group": group, "motion": m, "voice": v, "take": number}
                rows[role].append(row)
            jobs_to_do.append((key, number, {pair: root / path for pair, path in zip(pairs, paths, strict=True)}))

    def work(job: tuple[tuple[int, int, int], int, dict[tuple[int, int], Path]]) -> int:
        key, number, paths = job
        identity = Identity.draw(np.random.default_rng((*key, 0)))
        rng = np.random.default_rng((*key, 2, number))
        take = Take.draw(rng, identity, seconds=rng.uniform(*seconds), fps=fps)
        _write_take(take, paths, size)
        return len(paths)

    total = sum(map(len, rows.values()))
    # numpy and the encoders release the interpreter's lock, so threads are enough
    with (
        ThreadPoolExecutor(max(jobs, 1)) as pool,
        progress_bar(total=total, desc="rendering talking faces", unit="clip", show=progress) as bar,
    ):
        for done in pool.map(work, jobs_to_do):
            bar.update(done)
    lists = {role: _write_list(root / f"{role}.csv", listed) for role, listed in rows.items() if listed}
    return Corpus(
        root=root,
        train_csv=lists["train"],
        test_csv=lists["test"],
        unlabeled_csv=lists.get("unlabeled"),
        classes=tuple(task),
        ceilings=ceilings(task),
        clips={role: len(listed) for role, listed in rows.items()},
    )


def _check(task: Task, size: int, seconds: tuple[float, float], fps: float, **counts: int) -> None:
    if len(task) < 2:
        raise ValueError(f"task must have at least two classes, not {len(task)}")
    if (clips := counts.pop("unlabeled")) < 0:
        raise ValueError(f"unlabeled must not be negative, not {clips}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    if size < 32 or size % 2:
        raise ValueError(f"size must be an even number of at least 32 pixels, not {size}")
    if not 1 <= seconds[0] <= seconds[1]:
        raise ValueError(f"seconds must be (shortest, longest) with 1 <= shortest <= longest, not {seconds}")
    if fps < 10:
        raise ValueError(f"fps must be at least 10 to show up to 4.4 oscillations per second, not {fps}")
    owners: dict[tuple[int, int], str] = {}
    for label, pairs in task.items():
        for motion, voice in pairs:
            if motion not in range(len(MOTIONS)) or voice not in range(len(VOICES)):
                raise ValueError(f"class {label!r}: motion and voice are 0, 1 or 2, not {(motion, voice)}")
            if owners.setdefault((motion, voice), label) != label:
                other = owners[motion, voice]
                raise ValueError(f"(motion, voice) {(motion, voice)} stands for both {other!r} and {label!r}")


def _write_take(take: Take, paths: Mapping[tuple[int, int], Path], size: int) -> None:
    """Perform each motion and each voice once, combine them, and pad all files to one size."""
    videos = {motion: take.video(motion, size) for motion in sorted({m for m, _ in paths})}
    sounds = {voice: take.sound(voice) for voice in sorted({v for _, v in paths})}
    for (motion, voice), path in paths.items():
        write_clip(path, videos[motion], take.fps, sounds[voice])
    largest = max(path.stat().st_size for path in paths.values()) + 8
    target = -(-largest // _BLOCK) * _BLOCK
    for path in paths.values():
        missing = target - path.stat().st_size
        with path.open("ab") as file:  # a box that players skip: its length, its name, nothing
            file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - 8))


def _write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
