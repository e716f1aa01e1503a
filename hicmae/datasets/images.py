"""Pictures as clips: one as a frame, so that still-image data can join videos, or a folder of them as its frames."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hicmae.datasets.containers import sniff_image
from hicmae.datasets.limits import MediaLimits
from hicmae.datasets.media import MediaError, VideoInfo

__all__ = ["is_image", "read_folder", "read_image"]

_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})


def is_image(path: Path) -> bool:
    """Whether a file is a PNG or JPEG picture by its content; what cannot be read is none."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return sniff_image(file.read(16)) is not None
    except OSError:
        return False


def read_image(path: Path) -> tuple[VideoInfo, np.ndarray]:
    """A PNG or JPEG picture, turned upright as its EXIF data say, as a video of one frame: (H, W, 3) uint8 RGB.

    Its frame rate is said to be 25, as that of a video of one frame.

    Raises:
        MediaError: it is damaged, cut off, or larger than `limits.MediaLimits` allows.
    """
    limits = MediaLimits.current()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, of many pixels
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                kind = str(image.format)
                refusal = limits.too_large(*image.size)
                if refusal is not None:  # known from its head, before a pixel is unpacked
                    raise MediaError(path, *refusal)
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
                    upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
                pixels = np.asarray(upright.convert("RGB"))
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder trips over
        words = str(error).removesuffix(str(path)) or type(error).__name__
        raise MediaError(path, f"is damaged or cut off ({words})", "copy or download it again") from error
    height, width = pixels.shape[:2]
    info = VideoInfo(
        container=kind.lower(),
        codec=kind.lower(),
        frames=1,
        seconds=None,
        fps=25.0,
        width=width,
        height=height,
        rotation=0,
        has_audio=False,
    )
    return info, pixels


def read_folder(
    path: Path, seconds: float | None = None
) -> tuple[VideoInfo, Callable[[], Iterator[tuple[float, np.ndarray]]]]:
    """A folder of PNG or JPEG pictures as a video, its frames in the natural order of their names (2 before 10).

    Args:
        seconds: length of the clip where it is known, as from its sound; the frame rate is taken to be 25 otherwise.

    Returns:
        What it is, and a function that reads its frames: (seconds, (H, W, 3) uint8 RGB).

    Raises:
        MediaError: there is no picture in it, or one is damaged.
    """
    try:
        files = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")]
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror})", "change its permissions with chmod") from error
    if not files:
        raise MediaError(path, "is a folder", "name the video inside it")
    files.sort(key=lambda file: [(text, int(n or 0)) for text, n in re.findall(r"(\D*)(\d*)", file.name)])
    fps = len(files) / seconds if seconds else 25.0

    def frame(file: Path) -> tuple[VideoInfo, np.ndarray]:
        try:
            return read_image(file)
        except MediaError as error:
            raise MediaError(
                path, f"holds a frame that cannot be used ({file.name} {error.reason})", error.remedy
            ) from None

    first, _ = frame(files[0])
    info = dataclasses.replace(first, frames=len(files), seconds=len(files) / fps, fps=fps)
    return info, lambda: ((n / fps, frame(file)[1]) for n, file in enumerate(files))
