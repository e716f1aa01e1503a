"""Generated talking faces with a voice, and corpora of them whose answers are known.

`make_corpus` writes files; `Take`, `Identity`, `render_face` and `synthesise_voice` are the pieces it is made of.
"""

from __future__ import annotations

from hicmae.datasets.synthetic.corpus import (
    AGREEMENT,
    EMOTIONS,
    LOOK_ALIKE,
    MOTION_ONLY,
    SOUND_ALIKE,
    SOUND_ONLY,
    Corpus,
    Task,
    ceilings,
    make_corpus,
)
from hicmae.datasets.synthetic.face import MIDDLE, REGIONS, render_face
from hicmae.datasets.synthetic.person import Expression, Identity, Scene
from hicmae.datasets.synthetic.take import MOTIONS, Take
from hicmae.datasets.synthetic.voice import RATE, VOICES, Speech, synthesise_voice

__all__ = [
    "AGREEMENT",
    "EMOTIONS",
    "LOOK_ALIKE",
    "MIDDLE",
    "MOTIONS",
    "MOTION_ONLY",
    "RATE",
    "REGIONS",
    "SOUND_ALIKE",
    "SOUND_ONLY",
    "VOICES",
    "Corpus",
    "Expression",
    "Identity",
    "Scene",
    "Speech",
    "Take",
    "Task",
    "ceilings",
    "make_corpus",
    "render_face",
    "synthesise_voice",
]
