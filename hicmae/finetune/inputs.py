"""What a classifier is shown of a clip: frames, sound or both, and what it is told where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hicmae.configs.errors import UserError
from hicmae.datasets.fbank import SoundConfig

__all__ = ["Inputs", "Modality", "mixed", "sound_of"]

Modality = Literal["video", "audio"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is given to a model, known from the model; calls it with that.

    Where a clip has no sound, models with learnt vectors for what is missing (`missing=True`) are told so clip by
    clip; others can do without a modality for a whole batch only (`None`).
    """

    video: bool = True
    """Frames are shown."""
    audio: bool = False
    """Sound is played."""
    both: bool = False
    """The model takes two inputs, whether or not it is given both."""
    missing: bool = False
    """The model has learnt vectors for a missing modality."""

    @classmethod
    def of(cls, model: nn.Module, modality: str | None = None) -> Inputs:
        """Everything that `model` takes, or one `modality` of it alone.

        Raises:
            UserError: the model does not take it.
        """
        takes = tuple(getattr(model, "modalities", ("video",)))
        if modality is not None and modality not in takes:
            raise UserError(
                f"modality {modality!r}: {getattr(model, 'name', 'the model')} takes {' and '.join(takes)} only"
            )
        shown = takes if modality is None else (modality,)
        return cls(
            video="video" in shown,
            audio="audio" in shown,
            both=len(takes) == 2,
            missing=bool(getattr(model, "missing", False)),
        )

    def __str__(self) -> str:
        shown = " and ".join(name for name in ("video", "audio") if getattr(self, name))
        left = "audio" if self.video else "video"
        return shown if self.both == (self.video and self.audio) else f"{shown} alone, without the {left} it takes too"

    @property
    def need_audio(self) -> bool:
        """Clips without sound cannot be used."""
        return self.audio and not self.video

    def of_training(
        self,
        model: nn.Module,
        video: Tensor | None,
        audio: Tensor | None,
        has_audio: Tensor | None,
        lost: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, classes) of one forward pass of the batch as a whole.

        Args:
            video: (B, 3, T, H, W).
            audio: (B, 1, F, K).
            has_audio: bool (B,), which rows of `audio` are sound and which stand for none; None: all are sound.
            lost: bool (B, 2), rows that are to do without frames, without sound; what would leave a row with nothing
                is not heeded. Needs `missing`.

        Raises:
            UserError: some clips have sound and some have not, and the model cannot be told.
        """
        if not self.both:
            return model(video if self.video else audio)
        video, audio = video if self.video else None, audio if self.audio else None
        present = self.present(video, audio, has_audio, lost)
        if present is not None:
            return model(video, audio, present)
        if audio is None or has_audio is None:
            return model(video, audio)
        if not bool(has_audio.any()):
            return model(video, None)
        if not bool(has_audio.all()):
            raise UserError(mixed(f"{int((~has_audio).sum())} of the {len(has_audio)} clips of a batch have no sound"))
        return model(video, audio)

    def present(
        self, video: Tensor | None, audio: Tensor | None, has_audio: Tensor | None, lost: Tensor | None = None
    ) -> Tensor | None:
        """Which rows have frames, and sound, bool (B, 2), for a model that can be told; None where all have both."""
        if not (self.both and self.missing) or audio is None or (has_audio is None and lost is None):
            return None
        heard = has_audio if has_audio is not None else torch.ones(len(audio), dtype=torch.bool, device=audio.device)
        there = torch.stack([torch.full_like(heard, video is not None), heard], 1)
        if lost is None:
            return there
        left = there & ~lost
        return torch.where(left.any(1, keepdim=True), left, there)

    def of_evaluation(
        self, model: nn.Module, video: Tensor | None, audio: Tensor | None, has_audio: Tensor | None
    ) -> Tensor:
        """As `of_training`, for any mixture of clips: those without sound are shown to the model by themselves."""
        whole = has_audio is None or self.missing or not (self.both and self.audio)
        if whole or has_audio is None or bool(has_audio.all() | ~has_audio.any()):
            return self.of_training(model, video, audio, has_audio)
        assert video is not None and audio is not None
        heard, unheard = has_audio.nonzero().flatten(), (~has_audio).nonzero().flatten()
        logits = torch.cat([model(video[heard], audio[heard]), model(video[unheard], None)])
        return logits[torch.cat([heard, unheard]).argsort()]


def mixed(what: str) -> str:
    """Why clips with and without sound do not go together, and what to do."""
    return (
        f"{what}, and this model has nothing to put in its place: set args.missing=true, which adds learnt vectors for "
        "a missing modality, or data.drop_without_sound=true, which leaves such clips out"
    )


def sound_of(model: Any, stated: Mapping[str, Any] | SoundConfig | None) -> SoundConfig | None:
    """The picture of sound that a model takes, with the statistics that its recipe or checkpoint states."""
    if getattr(model, "audio_grid", None) is None:
        return None
    sound = stated if isinstance(stated, SoundConfig) else SoundConfig(**(stated or {}))
    return sound.shaped(model.audio_grid, model.audio_patch)
