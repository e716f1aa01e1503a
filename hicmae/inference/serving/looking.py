"""What the page shows of a clip: people, their faces, what is said of them over time, and a reconstruction."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.configs.errors import UserError
from hicmae.inference.loading import Loaded, load_model
from hicmae.inference.people import Person
from hicmae.inference.predict import predict_clip
from hicmae.inference.reconstruct import reconstruct_clip
from hicmae.inference.serving.worker import Job, words
from hicmae.inference.timeline import ink, lane, shown_people, stretch

__all__ = ["Models", "load", "look"]


@dataclass(frozen=True)
class Models:
    """What a page is served with."""

    classifier: Loaded
    autoencoder: Loaded | None
    about: dict[str, Any]
    """Names for the page."""


def load(job: Job) -> Models:
    """The models of a job.

    Raises:
        UserError: one is not there, or of the other stage.
    """
    classifier = load_model(job.checkpoint, stage="finetune", device=job.device)
    autoencoder = load_model(job.pretrained, stage="pretrain", device=job.device) if job.pretrained else None
    about = {
        "model": classifier.meta["name"],
        "labels": [str(label) for label in classifier.meta.get("labels") or []],
        "pretrained": autoencoder.meta["name"] if autoencoder else "",
    }
    return Models(classifier, autoencoder, about)


def look(clip: Path, models: Models) -> dict[str, Any]:
    """All that the page shows, ready for JSON. Pictures beside the clip are written into its folder.

    Raises:
        MediaError, UserError: as `predict_clip`. Where a reconstruction alone is impossible, the answer says why.
    """
    found = predict_clip(clip, models.classifier)
    start, end = stretch(found)
    people = shown_people(found)
    answer = {
        "model": found.model,
        "note": found.note,
        "span": [round(start, 3), round(end, 3)],
        "left_out": max(0, len(found.people) - len(people)),
        "people": [_shown(person, (start, end)) for person in people],
    }
    if models.autoencoder is not None:
        picture = clip.parent / "reconstruction.png"
        try:
            reconstruct_clip(clip, models.autoencoder, out=picture)
            answer["reconstruction"] = {"picture": _inline(picture.read_bytes(), "png")}
        except (UserError, ValueError) as error:
            answer["reconstruction"] = {"note": words(error, clip)}
    return answer


def _shown(person: Person, span: tuple[float, float]) -> dict[str, Any]:
    told = person.to_dict()
    names = [*person.probabilities, *person.values]
    return {
        **told,
        "probabilities": person.probabilities,
        "values": person.values,
        "look": _inline(person.look, "jpeg") if person.look else "",
        "lane": lane(person, span),
        "inks": {name: ink(number) for number, name in enumerate(names)},
    }


def _inline(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
