"""What turns a video file into a model's input: crop, rate, normalisation, filter bank. Kept as `processor.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.configs.files import did_you_mean
from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.fbank import SoundConfig
from hicmae.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise
from hicmae.finetune.inputs import Inputs
from hicmae.inference.hearing import Soundtrack
from hicmae.inference.windows import Preprocessing, windows
from hicmae.models.base import Model

__all__ = ["ModelInput", "Processor"]


class ModelInput(NamedTuple):
    """One window of a clip, ready for the model: `model(x.video)`, `model(x.audio)` or `model(x.video, x.audio)`."""

    video: Tensor | None
    """(1, 3, T, H, W) float32, normalised; None for a model that only hears."""
    audio: Tensor | None
    """(1, 1, F, K) float32, log-mel, normalised; None for a model that only sees, and where there is no sound."""
    start: float
    """Seconds on the file's clock at which the window begins."""
    end: float
    """Seconds at which it ends."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """How clips become input of one model; `processor(clip)` yields its windows in the order of time.

    >>> Processor.from_dict(Processor().to_dict()) == Processor()
    True
    """

    how: Preprocessing = Preprocessing()
    """Crop, rate, size, and the filter bank of models that hear."""
    inputs: tuple[str, ...] = ("video",)
    """What the model takes: `video`, `audio`, or both."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of red, green and blue, in [0, 1]; pixels become (x - mean) / std."""
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def of(cls, model: Model, meta: Mapping[str, Any]) -> Processor:
        """That of a model and what its checkpoint says of the clips it was trained on."""
        takes = Inputs.of(model)
        inputs = tuple(name for name, taken in (("video", takes.video), ("audio", takes.audio)) if taken)
        return cls(how=Preprocessing.of(model, meta), inputs=inputs)

    def __call__(self, clip: str | Path, *, hop: int | None = None) -> Iterator[ModelInput]:
        """The windows of a video file, decoded as a stream; `hop` is their distance in frames of a window (half a one).

        Windows without sound are left out for a model that only hears.

        Raises:
            MediaError: the clip cannot be used; the message says why.
        """
        hears = "audio" in self.inputs and self.how.sound is not None
        track = Soundtrack.of(clip) if hears else None
        for window in windows(clip, self.how, hop=hop):
            video = normalise(window.frames, self.mean, self.std)[None] if "video" in self.inputs else None
            audio = None
            if track is not None and self.how.sound is not None:
                heard = track.between(window.start, window.end, self.how.sound)
                audio = None if heard is None else heard[None]
            if video is not None or audio is not None:
                yield ModelInput(video, audio, window.start, window.end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        how = {field.name: getattr(self.how, field.name) for field in dataclasses.fields(self.how)}
        how["crop"] = self.how.crop.recipe()
        how["sound"] = None if self.how.sound is None else dataclasses.asdict(self.how.sound)
        how["box"] = None if self.how.box is None else list(self.how.box)
        return {"inputs": list(self.inputs), "mean": list(self.mean), "std": list(self.std), **how}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "processor") -> Processor:
        """What `to_dict` gave.

        Raises:
            UserError: a key that this version does not know, or a value that cannot be.
        """
        fields = [field.name for field in dataclasses.fields(Preprocessing)]
        for key in values:
            if key not in ("inputs", "mean", "std", *fields):
                raise UserError(f"{where}: unknown key {key}; {did_you_mean(str(key), fields)}")
        how = {key: values[key] for key in fields if key in values}
        try:
            if how.get("crop") is not None:
                how["crop"] = CropConfig(**how["crop"])
            if how.get("sound") is not None:
                how["sound"] = SoundConfig(**how["sound"])
            if how.get("box") is not None:
                how["box"] = tuple(how["box"])
            rest = {key: tuple(values[key]) for key in ("inputs", "mean", "std") if key in values}
            return cls(how=Preprocessing(**how), **rest)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: does not say how clips become input ({error})") from None

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Processor:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or one that is not such a description; the message names file and key.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: is not a readable processor.json ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds a {type(values).__name__}, not the description of a processor")
        return cls.from_dict(values, str(path))
