"""Trees with the corpora's real file-name patterns and folders; files are empty unless somebody fills them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

__all__ = ["CREMA_ACTORS", "crema_d_names", "enterface_names", "ravdess_names", "touch"]

CREMA_ACTORS = range(1001, 1092)
_SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
_BROKEN = {"1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD", "1040_ITH_SAD_XX"}


def touch(root: Path, names: Iterable[str]) -> Path:
    """Empty files below `root`."""
    paths = [root / name for name in names]
    for folder in {path.parent for path in [*paths, root / "any"]}:
        folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.touch()
    return root


def ravdess_names(modalities: Iterable[str] = ("01",), channels: Iterable[str] = ("01",)) -> list[str]:
    """The 1,440 speech clips in each modality; with channel 02 the songs as well (all actors, roughly)."""
    return [
        f"Actor_{actor:02d}/{modality}-{channel}-{emotion:02d}-{strength}-{sentence}-{again}-{actor:02d}.mp4"
        for actor in range(1, 25)
        for modality in modalities
        for channel in channels
        for emotion in range(1, 9)
        for strength in ("01", "02")[: 1 if emotion == 1 else 2]
        for sentence in ("01", "02")
        for again in ("01", "02")
    ]


def crema_d_names(seed: int = 0) -> list[str]:
    """7,442 names: the full grid without 20, so many of each class and fold as the corpus lacks; which is drawn."""
    grid = [
        f"{actor}_{sentence}_{emotion}_{strength}"
        for actor in CREMA_ACTORS
        for sentence in _SENTENCES
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
        for strength in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
    ]
    draw = random.Random(seed)
    lacks = ["NEU"] * 5 + ["ANG", "DIS", "FEA", "HAP", "SAD"] * 3
    draw.shuffle(lacks)
    actors = [range(1001, 1019)] * 13 + [range(1019, 1037)] * 6 + [range(1073, 1092)]
    absent: set[str] = set()
    for emotion, among in zip(lacks, actors, strict=True):
        free = [name for name in grid if name[9:12] == emotion and int(name[:4]) in among]
        absent.add(draw.choice([name for name in free if name not in absent | _BROKEN]))
    return [f"VideoFlash/{name}.flv" for name in grid if name not in absent]


def enterface_names(seed: int = 0) -> list[str]:
    """1,287 names: 43 subjects (6 is not cut), three clips of subjects 20 to 28 absent; which is drawn."""
    emotions = {"an": "anger", "di": "disgust", "fe": "fear", "ha": "happiness", "sa": "sadness", "su": "surprise"}
    whole = [
        f"subject {subject}/{word}/sentence {n}/s{subject}_{code}_{n}.avi"
        for subject in range(1, 45)
        if subject != 6
        for code, word in emotions.items()
        for n in range(1, 6)
    ]
    lacking = [name for name in whole if 20 <= int(name.split("/")[0].split()[1]) <= 28]
    absent = set(random.Random(seed).sample(lacking, 3))
    return [name for name in whole if name not in absent] + ["subject 6/anger.avi", "subject 6/anger/s_6.avi"]
