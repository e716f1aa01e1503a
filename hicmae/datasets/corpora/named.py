"""Corpora whose labels, persons and folds stand in the names of their files."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hicmae.configs.errors import UserError
from hicmae.datasets.corpora.found import Found
from hicmae.datasets.listing import Item, find_videos, walk

__all__ = ["crema_d", "enterface05", "ravdess", "videos", "voxceleb2"]

_OTHER = "its name is none of the corpus' clips"
_RAVDESS = re.compile(r"(01|02)-(01|02)-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
_CREMA_D = re.compile(r"(1\d{3})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")
_ENTERFACE = re.compile(r"s(\d{1,2})_(an|di|fe|ha|sa|su)_(\d)", re.IGNORECASE)
_VOXCELEB2 = re.compile(r"(?:.*/)??(?:(dev|test)/)?(?:mp4/)?(id\d+)/([^/]+)/[^/]+\.mp4")
_QUERIES = {"votes_audio": "1", "votes_face": "2", "votes_both": "3"}  # as the corpus' description numbers them


def videos(found: Found) -> Iterator[Item]:
    """The videos below the root; what cannot be looked into becomes a problem."""
    for item in find_videos([found.root])[0]:
        if item.trouble is not None:
            found.problem(item.path, *item.trouble)
        else:
            yield item


def ravdess(found: Found) -> None:
    """Speech of 24 actors: files with picture and sound, else picture alone and the sound file of the same numbers."""
    clips: dict[str, list[Item]] = {}
    for item in videos(found):
        match = _RAVDESS.fullmatch(item.path.stem)
        if match is None:
            found.leave(item.source, _OTHER)
        elif match[2] == "02":
            found.leave(item.source, "it is song")
        else:
            clips.setdefault(item.path.stem[3:], []).append(item)
    sounds = {path.stem[3:]: path for path, _ in walk(found.root) if path.suffix == ".wav" and path.stem[:3] == "03-"}
    for name, files in clips.items():
        whole = any(item.path.stem.startswith("01") for item in files)
        for item in files:
            if whole and item.path.stem.startswith("02"):
                found.leave(item.source, "the same with sound is there")
                continue
            clip = Item(source=item.source, path=item.path, sound=None if whole else sounds.get(name))
            emotion, actor = name.split("-")[1], name.split("-")[-1]
            found.take(clip, key=name, word=emotion, group=actor)


def crema_d(found: Found) -> None:
    """91 actors; labels as intended, or as most raters answered."""
    target = found.variant.target
    votes = _votes(found, _QUERIES[target]) if target in _QUERIES else None
    for item in videos(found):
        match = _CREMA_D.fullmatch(item.path.stem)
        if match is None:
            found.leave(item.source, _OTHER)
            continue
        name, word, extra = item.path.stem, match[3], {"sentence": match[2], "intensity": match[4]}
        if votes is not None:
            counts = votes.get(name, Counter())
            best = [letter for letter, count in counts.items() if count == max(counts.values())]
            if len(best) != 1:
                found.leave(item.source, "its raters have no majority" if best else "it has no votes")
                continue
            word = best[0]
            extra["votes"] = " ".join(str(counts[letter]) for letter in found.variant.codes)
        found.take(item, key=name, word=word, group=match[1], extra=extra)


def _votes(found: Found, query: str) -> dict[str, Counter[str]]:
    """Clip -> letter -> answers to one way of presenting it, from `finishedResponses.csv`."""
    path = found.root / "finishedResponses.csv"
    votes: dict[str, Counter[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = {"clipName", "queryType", "respEmo"} - set(reader.fieldnames or ())
            if lacking:
                raise UserError(f"{path} has no column {', '.join(sorted(lacking))}; take the file of the corpus")
            for row in reader:
                if (row["queryType"] or "").strip() != query:
                    continue
                letter = (row["respEmo"] or "").strip()
                if letter not in found.variant.codes:
                    remedy = f"known are {', '.join(found.variant.codes)}"
                    found.problem(path, f"has the answer {letter or '(none)'}", remedy, reader.line_num)
                    continue
                votes.setdefault(Path((row["clipName"] or "").strip()).stem, Counter())[letter] += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "is no csv file of text"
        raise UserError(f"{path} cannot be read ({reason}); {found.variant.key} needs the raters' answers") from error
    return votes


def enterface05(found: Found) -> None:
    """43 subjects."""
    for item in videos(found):
        match = _ENTERFACE.fullmatch(item.path.stem)
        if match is None:
            found.leave(item.source, _OTHER)
        else:
            subject, emotion, sentence = int(match[1]), match[2].lower(), match[3]
            name = f"s{subject}_{emotion}_{sentence}"
            found.take(item, key=name, word=emotion, group=str(subject), extra={"sentence": sentence})


def voxceleb2(found: Found) -> None:
    """Speakers' clips of the dev part, each with the sound file beside it where the release keeps sound apart."""
    for item in videos(found):
        match = _VOXCELEB2.fullmatch(item.source)
        if match is None:
            found.leave(item.source, _OTHER)
            continue
        part = match[1] or "dev"
        if part != "dev":
            found.leave(item.source, f"it is of the {part} part")
            continue
        folders = list(item.path.parts)
        sound = None
        if folders[-4] == "mp4":
            folders[-4] = "aac"
            beside = (Path(*folders).with_suffix(suffix) for suffix in (".m4a", ".wav"))
            sound = next((path for path in beside if path.is_file()), None)
        clip = Item(source=item.source, path=item.path, sound=sound)
        key = "/".join(item.path.with_suffix("").parts[-3:])
        found.take(clip, key=key, group=match[2], part=part, extra={"video": match[3]})
