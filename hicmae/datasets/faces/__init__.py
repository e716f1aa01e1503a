"""Faces: found (`mtcnn`, or read from files by `boxes`), linked into tracks, smoothed, and cut out levelled."""

from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.detect import Detector, Faces

__all__ = ["CropConfig", "Detector", "Faces"]
