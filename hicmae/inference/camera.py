"""A camera: what a model makes of those in front of it, as it happens. Nothing is recorded, and no sound is heard."""

from __future__ import annotations

import contextlib
import queue
import re
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.crops import Run, detectors, runs_of
from hicmae.datasets.faces.crop import Geometry, cropped, pose_of
from hicmae.datasets.faces.tracks import Track, linked
from hicmae.datasets.media import VideoInfo
from hicmae.datasets.strips import ShardConfig
from hicmae.datasets.transforms import resize
from hicmae.inference.loading import Loaded
from hicmae.inference.people import WindowPrediction
from hicmae.inference.recognising import Recogniser
from hicmae.inference.windows import Preprocessing, Window

__all__ = ["NOTICE", "Live", "camera_frames", "camera_name", "watch_camera"]

NOTICE = "the camera is on; nothing is recorded, stored or sent, and no sound is heard; Ctrl-C ends it"
_SYSTEMS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
_KEPT = 0.5  # of a face's old place, against trembling


class Live(NamedTuple):
    """What is said of one person at a moment."""

    person: str
    time: float
    """Seconds since the camera began."""
    found: WindowPrediction


def camera_frames(device: str = "0") -> Generator[tuple[float, np.ndarray], None, None]:
    """Frames of a camera, (seconds, (H, W, 3) uint8 RGB), always the newest: those nobody asked for in time are left
    out.

    Args:
        device: its number; or its name as FFmpeg knows it (`/dev/video0`; on Windows the camera's name).

    Raises:
        UserError: there is no camera, it cannot be opened, or this system is not known.
    """
    kind, pattern = _SYSTEMS.get(sys.platform, (None, ""))
    if kind is None:
        raise UserError(f"webcam: cameras are read on Linux, macOS and Windows, not on {sys.platform}")
    name = pattern.format(device) if device.isdecimal() or kind == "dshow" else device
    remedy = "connect one, allow access to it, or name another: webcam:1"
    if kind == "v4l2" and not Path(name).exists():
        raise UserError(f"webcam: there is no camera {name}; {remedy}")
    options = {"framerate": "30"} if kind == "avfoundation" else {}
    try:
        container = av.open(name, "r", format=kind, options=options)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise UserError(f"webcam: camera {name} cannot be opened ({error}); {remedy}") from None
    with container:
        yield from _newest(container)


def _newest(container: Any) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of an open device, decoded in a thread of their own."""
    frames: queue.Queue[tuple[float, np.ndarray] | None] = queue.Queue(4)
    ended = threading.Event()

    def read() -> None:
        first: float | None = None
        with contextlib.suppress(av.FFmpegError):
            for frame in container.decode(video=0):
                if ended.is_set():
                    break
                time = frame.time or 0.0
                first = time if first is None else first
                if frames.full():
                    with contextlib.suppress(queue.Empty):
                        frames.get_nowait()
                frames.put((time - first, frame.to_ndarray(format="rgb24")))
        frames.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (found := frames.get()) is not None:
            yield found
    finally:
        ended.set()
        with contextlib.suppress(queue.Empty):
            while True:
                frames.get_nowait()
        reader.join(2.0)


def watch_camera(
    model: Loaded, frames: Iterable[tuple[float, np.ndarray]], *, hop: float = 0.5, fps: float = 25.0
) -> Iterator[Live]:
    """What is said of everyone in view, every `hop` seconds, once they have been seen for a window.

    Faces are looked for in the frames that the model is shown, and their squares follow them; other crops are as ever.
    Models that see and hear are shown frames alone.

    Args:
        model: what `load_model` gives.
        frames: seconds and pixels, all of one size (`camera_frames`).
        fps: frames per second that the model's training clips had.

    Raises:
        UserError: the model only hears, or there is no face detector.
    """
    recognise = Recogniser(*model)
    how = recognise.how
    if recognise.inputs.need_audio:
        raise UserError(f"webcam: {model.meta.get('name', 'the model')} only hears, and no sound is recorded")
    crops = _Faces(how) if how.faces == "mtcnn" else _Square(how)
    step = how.stride / how.rate(fps)
    due = 0.0
    with recognise.evaluating():
        for time, pixels in frames:
            if time < due - 0.25 * step:
                continue
            due = max(due, time - 0.25 * step) + step
            for person in crops.see(time, pixels):
                if len(person.frames) < how.frames or time < person.due:
                    continue
                person.due = time + hop
                times, seen = zip(*person.frames, strict=True)
                window = Window(times[0], time + step, torch.stack(seen, 1), times)
                yield Live(person.name, time, recognise([window], [None])[0])


@dataclass
class _Person:
    """Someone in view."""

    name: str
    frames: deque[tuple[float, Tensor]]
    due: float = 0.0
    pose: np.ndarray | None = field(default=None)


class _Square:
    """The square that stays."""

    def __init__(self, how: Preprocessing) -> None:
        self.how = how
        self.run: Run | None = None
        self.person = _Person("in view", deque(maxlen=how.frames))

    def see(self, time: float, pixels: np.ndarray) -> list[_Person]:
        """The one person after a frame."""
        run = self.run = self.run or _run(self.how, pixels)
        self.person.frames.append((time, _frame(run.square(pixels, 0, self.how.stored)[0], self.how)))
        return [self.person]


class _Faces:
    """Squares that follow faces."""

    def __init__(self, how: Preprocessing) -> None:
        self.how, self.geometry = how, Geometry(how.crop.eye_distance, how.crop.eye_height)
        self.detector = detectors(how.crop.smallest, how.crop.device)[0]
        self.tracks: list[tuple[Track, _Person]] = []
        self.count = 0
        self.times: deque[float] = deque(maxlen=1000)

    def see(self, time: float, pixels: np.ndarray) -> list[_Person]:
        """Everyone whose face is in a frame, after it."""
        (faces,) = self.detector([pixels])
        # a track's frames are numbers; here they are times, of which only the last is asked for
        number = round(1000 * time)
        limit = number - 1000 * self.how.crop.gap
        self.tracks = [each for each in self.tracks if each[0].frames[-1] >= limit]
        for track in linked([track for track, _ in self.tracks], faces, number, 0):
            self.count += 1
            self.tracks.append((track, _Person(f"person {self.count}", deque(maxlen=self.how.frames))))
        here = []
        for track, person in self.tracks:
            for kept in (track.frames, track.boxes, track.points, track.scores):
                del kept[:-5]
            if track.frames[-1] != number:
                continue
            pose = pose_of(track.points[-1].astype(np.float64))
            person.pose = pose if person.pose is None else _KEPT * person.pose + (1 - _KEPT) * pose
            crop = cropped(pixels, person.pose, self.geometry, self.how.stored)
            person.frames.append((time, _frame(crop, self.how)))
            here.append(person)
        return here


def _run(how: Preprocessing, pixels: np.ndarray) -> Run:
    height, width = pixels.shape[:2]
    info = VideoInfo(
        container="",
        codec="",
        frames=None,
        seconds=None,
        fps=25.0,
        width=width,
        height=height,
        rotation=0,
        has_audio=False,
    )
    config = ShardConfig(size=how.stored, box=how.box, faces="centre")
    return runs_of(Path("webcam"), config, info, lambda: iter(()), source="webcam")[0]


def _frame(crop: np.ndarray, how: Preprocessing) -> Tensor:
    return resize(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None], how.size)[0].contiguous()


def camera_name(text: str) -> str | None:
    """The device of `webcam` or `webcam:DEVICE`; None of anything else."""
    found = re.fullmatch(r"webcam(?::(.+))?", text)
    return (found[1] or "0") if found else None
