"""Corpora whose labels and folds stand in files beside the clips: official ones, lists, and folders per class."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.corpora.found import NOT_THERE, Found
from hicmae.datasets.corpora.named import videos
from hicmae.datasets.listing import Item, read_list

__all__ = ["avcaffe", "dfew", "ferv39k", "folder_per_class", "iemocap", "lists", "mafw"]

LIST = "annotations.csv"
_ROLES = {"train": ("train",), "test": ("test", "val")}  # of a fold; some published lists call the test part `val`
_SOUND = (".wav", ".m4a")
_UTTERANCE = re.compile(r"\[[\d. -]+\]\s+(Ses0(\d)[FM]_\w+)\s+(\w+)\s+\[[-\d., ]+\]")


@dataclass(frozen=True)
class _Line:
    """What a file says of a clip."""

    file: Path
    number: int
    clip: str
    words: tuple[str, ...]
    sound: str | None = None

    @property
    def where(self) -> tuple[str, int]:
        return str(self.file), self.number


Files = Mapping[tuple[str, str], Sequence[_Line]]
"""(fold, `train` or `test`) -> lines."""


def dfew(found: Found) -> None:
    """Official csv files per fold; clips are folders of frames, or videos of the same number."""
    place = found.root / "EmoLabel_DataSplit"
    files = {
        (fold.name, role): _table(place / f"{role}(single-labeled)" / f"set_{fold.name}.csv", "video_name", "label")
        for fold in found.variant.folds
        for role in _ROLES
    }
    clips = _Clips(found, "Clip/jpg_256", sounds=("Clip/jpg_256", "Clip/wav"))
    for fold, line in _folds(found, files):
        name = line.clip.zfill(5)
        found.take(clips.item(name), key=name, word=line.words[0], part=fold, where=line.where)


def ferv39k(found: Found) -> None:
    """Official lists of the training and the test part; clips are folders of face crops."""
    clips = _Clips(found, "2_ClipsforFaceCrop")
    for fold in found.variant.folds:
        for line in _blank_separated(found.root / "4_setups" / "All_scenes" / f"{fold.name}_All.csv"):
            found.take(clips.item(line.clip), key=line.clip, word=line.words[0], part=fold.name, where=line.where)


def mafw(found: Found) -> None:
    """Official lists of single labels; clips are folders of face frames, or videos. Compound labels: as `lists`."""
    if found.variant.name == "43class":
        lists(found)
        return
    places = [found.root / top / "single" / "no_caption" for top in ("Train & Test Set", "split")]
    place = next((path for path in places if path.is_dir()), places[0])
    files = {
        (fold.name, role): _blank_separated(place / f"set_{fold.name}" / f"{role}.txt")
        for fold in found.variant.folds
        for role in _ROLES
    }
    clips = _Clips(found, "data/frames", sounds=("data/audio_16k",))
    for fold, line in _folds(found, files):
        name = line.clip.partition(".")[0]
        item = clips.item(name)
        if found.variant.name == "11class" and item.path.is_dir() and item.sound is None:
            found.leave(item.source, "it has no sound file")
        else:
            found.take(item, key=name, word=line.words[0], part=fold, where=line.where)


def iemocap(found: Found) -> None:
    """The corpus' evaluation files; clips of single utterances that somebody has cut, found by name."""
    files = sorted(found.root.glob("Session*/dialog/EmoEvaluation/Ses*.txt"))
    if not files:
        raise UserError(f"{found.root} holds no Session1/dialog/EmoEvaluation/Ses….txt; give the folder of the corpus")
    clips = _Clips(found, "clips")
    for file in files:
        for number, text in enumerate(_text(file).splitlines(), 1):
            match = _UTTERANCE.match(text)
            if match is None:
                continue
            name, session, word = match.groups()
            if word not in found.variant.codes:
                found.leave(name, f"its label is none of {found.variant.key}")
                continue
            item = clips.item(name)
            wav = found.root / f"Session{session}" / "sentences" / "wav" / name.rpartition("_")[0] / f"{name}.wav"
            item = dataclasses.replace(item, sound=wav) if wav.is_file() else item
            found.take(item, key=name, word=word, group=session, where=(str(file), number))


def lists(found: Found) -> None:
    """`annotations.csv` with named columns, or the published form: split01 … with train.csv and test.csv each.

    Raises:
        UserError: neither is there, one cannot be read, or a column is missing.
    """
    if (found.root / LIST).is_file():
        _own_list(found, found.root / LIST)
        return
    folders = {fold.name: found.root / f"split{fold.name:>02}" for fold in found.variant.folds}
    if not any(folder.is_dir() for folder in folders.values()):
        raise UserError(f"{found.root} holds no {LIST}; {found.card.name} expects: {'; '.join(found.card.tree)}")
    files: dict[tuple[str, str], Sequence[_Line]] = {}
    for fold, folder in folders.items():
        for role, names in _ROLES.items():
            there = [path for path in (folder / f"{name}.csv" for name in names) if path.is_file()]
            files[fold, role] = _blank_separated(there[0] if there else folder / f"{role}.csv", found)
    groups = {fold.name: str(fold.groups[0]) for fold in found.variant.folds if len(set(fold.groups)) == 1}
    for fold, line in _folds(found, files):
        sound = _inside(found.root, line.sound) if line.sound else None
        item = _item(found.root, _inside(found.root, line.clip), sound)
        values = dict(zip((value.name for value in found.variant.values), line.words, strict=False))
        word = None if values else line.words[0]
        group = groups.get(fold)
        found.take(item, key=item.source, word=word, group=group, part=fold, extra=values, where=line.where)


def avcaffe(found: Found) -> None:
    """As `lists`, with the column `task`: participant and task, over which predictions are averaged."""
    lists(found)
    for n, item in enumerate(found.items):
        task = "_".join(item.path.stem.split("_")[:3])
        found.items[n] = dataclasses.replace(item, extra={**item.extra, "task": task})


def folder_per_class(found: Found) -> None:
    """The uppermost folder is the label."""
    for item in videos(found):
        label, slash, _ = item.source.partition("/")
        if slash:
            found.take(item, key=item.source, word=label)
        else:
            found.problem(item.path, "lies in no class folder", "put it in one")


def _own_list(found: Found, path: Path) -> None:
    items, problems = read_list(path, found.root)
    found.problems += problems
    variant, column = found.variant, found.variant.column
    columns = {name for item in items for name in item.extra}
    columns |= {name for name in ("label", "group") if any(getattr(item, name) is not None for item in items)}
    needed = [value.name for value in variant.values]
    needed += ["label"] if variant.folds and not variant.values and variant.name not in columns else []
    needed += [column] if variant.folds and not any(fold.groups for fold in variant.folds) else []
    needed += ["group"] if found.card.group is not None else []
    lacking = [name for name in needed if name not in columns]
    if items and lacking:
        raise UserError(
            f"{path} has no column {', '.join(lacking)}, or nothing in it; it needs {', '.join(['path', *needed])}"
        )
    for item in items:
        extra = dict(item.extra)
        word = item.label if item.label is not None else extra.pop(variant.name, None) or None
        part = extra.pop(column, None) or None if variant.folds else None
        there = item if _there(item.path) else dataclasses.replace(item, trouble=NOT_THERE)
        where = (str(path), item.line)
        found.take(there, key=item.source, word=word, group=item.group, part=part, extra=extra, where=where)


def _folds(found: Found, files: Files) -> Iterator[tuple[str, _Line]]:
    """Each clip once, with the fold that tests it; what the training lists say otherwise becomes problems."""
    tests = {line.clip: (fold, line) for (fold, role), lines in files.items() if role == "test" for line in lines}
    for (fold, role), lines in files.items():
        if role == "test":
            yield from ((fold, line) for line in lines)
            continue
        for line in lines:
            tested, other = tests.get(line.clip, ("no fold", line))
            if tested in (fold, "no fold"):
                remedy = "training and test of a fold must share no clip, and each clip be tested once"
                found.problem(line.file, f"trains on {line.clip}, which {tested} tests", remedy, line.number)
            elif other.words != line.words:
                said = f"says {' '.join(line.words)} of {line.clip}, where {other.file.name}:{other.number} says "
                found.problem(line.file, said + " ".join(other.words), "correct one of them", line.number)
        absent = sum(tested != fold for tested, _ in tests.values()) - len({line.clip for line in lines})
        if absent > 0:
            reason = f"lacks {absent} clips that other folds test"
            found.problem(lines[0].file if lines else found.root, reason, "take the corpus' own file")


class _Clips:
    """Where the clips of a corpus lie: folders of pictures by name, else videos anywhere by name."""

    def __init__(self, found: Found, folder: str, sounds: Sequence[str] = ()) -> None:
        self.found, self.folder = found, found.root / folder
        self.sounds = [found.root / place for place in sounds]

    def item(self, name: str) -> Item:
        """The clip called `name`, with `trouble` where there is none."""
        sound = next((path for path in (place / f"{name}.wav" for place in self.sounds) if _there(path)), None)
        path = self.folder / name
        if _there(path) and path.is_dir():
            return _item(self.found.root, path, sound)
        video = self._videos.get(name)
        return _item(self.found.root, video.path if video else path, sound)

    @cached_property
    def _videos(self) -> dict[str, Item]:
        named: dict[str, Item] = {}
        for item in videos(self.found):
            named.setdefault(item.path.stem.zfill(5) if item.path.stem.isdecimal() else item.path.stem, item)
        return named


def _item(root: Path, path: Path, sound: Path | None) -> Item:
    source = Path(os.path.relpath(path, root)).as_posix()
    return Item(source=source, path=path, sound=sound, trouble=None if _there(path) else NOT_THERE)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # of a name that is too long, say
        return False


def _inside(root: Path, text: str) -> Path:
    """The file that a list from another machine means: what is there of its path, however much of its beginning is
    left out; the whole path below `root` where nothing is there."""
    parts = Path(text).parts
    candidates = [root / text, *(root.joinpath(*parts[n:]) for n in range(1, len(parts)))]
    return Path(os.path.normpath(next((path for path in candidates if _there(path)), root / text.lstrip("/"))))


def _blank_separated(path: Path, found: Found | None = None) -> list[_Line]:
    """Lines `clip label`, or of the published lists also `clip sound label` and `clip [sound] value value …`."""
    count = len(found.variant.values) or 1 if found is not None else 1
    lines = []
    for number, text in enumerate(_text(path).splitlines(), 1):
        if not text.strip():
            continue
        clip, *words = text.strip().rsplit(" ", count)
        if len(words) < count:
            raise UserError(f"{path}:{number}: holds {text.strip()!r}, which is no clip and {count} further words")
        sound = None
        if found is not None and clip.endswith(_SOUND) and " " in clip:
            clip, _, sound = clip.rpartition(" ")
        lines.append(_Line(path, number, clip, tuple(words), sound))
    return lines


def _table(path: Path, clip: str, label: str) -> list[_Line]:
    """A csv file with a header that names at least the columns `clip` and `label`."""
    reader = csv.reader(_text(path).splitlines())
    try:
        (_, header), *rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader] or [(0, [])]
    except csv.Error as error:
        raise UserError(f"{path} is no csv file that can be read ({error}); take the corpus' own file") from error
    lacking = [name for name in (clip, label) if name not in header]
    if lacking:
        raise UserError(f"{path} has no column {', '.join(lacking)} (there are {', '.join(header) or 'none'})")
    at, what = header.index(clip), header.index(label)
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number}: has {len(cells)} columns where the header has {len(header)}")
    return [_Line(path, number, cells[at], (cells[what],)) for number, cells in rows]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); take the corpus' own file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the folder of the corpus as --root") from error
