"""Pictures as clips of one frame, so that still-image data can join videos."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hicmae.datasets.containers import sniff_image
from hicmae.datasets.media import MediaError, VideoInfo

__all__ = ["is_image", "read_image"]


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
        MediaError: it is damaged, cut off, or larger than 178 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, of many pixels
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                kind = str(image.format)
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
                    upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
                pixels = np.asarray(upright.convert("RGB"))
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
