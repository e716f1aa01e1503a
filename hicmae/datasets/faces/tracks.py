"""Faces found frame by frame, linked into tracks: one person within one shot, also where the head turns aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hicmae.datasets.faces.config import CropConfig
from hicmae.datasets.faces.crop import pose_of
from hicmae.datasets.faces.detect import Detector, Faces
from hicmae.datasets.faces.levelled import looked_at

__all__ = ["Track", "chosen", "find_tracks", "linked"]

_BATCH = 8  # frames; fixed, so that results do not depend on who asks
_SURE = 0.9  # score that a track must reach somewhere
_SEEN = 0.6  # and at both ends of the time for which it must last


@dataclass
class Track:
    """One face through a shot: the F frames in which it was found."""

    shot: int
    """First frame of its shot."""
    end: int = 0
    """The first after its shot."""
    frames: list[int] = field(default_factory=list)
    """F numbers, rising."""
    boxes: list[np.ndarray] = field(default_factory=list)
    """F x (4,), as in `Faces`."""
    points: list[np.ndarray] = field(default_factory=list)
    """F x (5, 2), as in `Faces`."""
    scores: list[float] = field(default_factory=list)
    hold: float = 0.0
    """Seconds before its first and after its last frame for which the face is taken to be where it was."""

    def add(self, frame: int, box: np.ndarray, points: np.ndarray, score: float) -> None:
        """Note where the face is in one more frame."""
        self.frames.append(frame)
        self.boxes.append(box)
        self.points.append(points)
        self.scores.append(score)

    @property
    def size(self) -> float:
        """Typical span of the eyes in pixels."""
        return float(np.median(pose_of(np.stack(self.points))[:, 3]))


def find_tracks(
    frames: Iterable[tuple[float, np.ndarray]], detector: Detector, config: CropConfig, closer: Detector | None = None
) -> tuple[np.ndarray, list[Track]]:
    """Follow all faces through a video that is seen once, a few frames at a time.

    Args:
        frames: seconds and pixels, as `read_frames` gives them.
        closer: looks for a face that `detector` has lost where it was last; one that is content with a lower score
            follows heads that turn aside.

    Returns:
        the frames' times (N,), and the tracks that are no chance findings, in order of time.
    """
    times: list[float] = []
    shots: list[int] = []
    tracks: list[Track] = []
    live: list[Track] = []
    waiting: list[tuple[int, int, np.ndarray]] = []

    def look() -> None:
        for (number, shot, frame), faces in zip(waiting, detector([frame for *_, frame in waiting]), strict=True):
            since = times[number] - config.gap - 1e-6
            live[:] = [track for track in live if track.shot == shot and times[track.frames[-1]] >= since]
            started = linked(live, faces, number, shot)
            for track in live:
                if closer is not None and track.frames[-1] != number:
                    _sought(track, number, frame, faces, closer)
            live.extend(started)
            tracks.extend(started)
        waiting.clear()

    cuts = _Cuts()
    for number, (time, frame) in enumerate(frames):
        if cuts.before(frame):
            shots.append(number)
        times.append(time)
        if (number - shots[-1]) % config.every == 0:
            waiting.append((number, shots[-1], frame))
        if len(waiting) == _BATCH:
            look()
    if waiting:
        look()
    clock = np.array(times)
    ends = dict(zip(shots, [*shots[1:], len(times)], strict=True))
    for track in tracks:
        track.end, track.hold = ends[track.shot], config.hold
    kept = [track for track in tracks if _lasting(track, clock, config)]
    return clock, sorted(kept, key=lambda track: (track.frames[0], -track.size))


def chosen(tracks: Sequence[Track], several: str) -> list[Track]:
    """What is taken of tracks: all, or of those seen at the same time the `largest` or `longest`; in order of time."""
    if several == "all":
        return list(tracks)
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda t: -(t.size if several == "largest" else len(t.frames))):
        if not any(track.frames[0] <= other.frames[-1] and other.frames[0] <= track.frames[-1] for other in kept):
            kept.append(track)
    return sorted(kept, key=lambda track: track.frames[0])


class _Cuts:
    """Tells where a shot begins: the picture changes much, and far more than it did just before."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None
        self.usual = 0.0

    def before(self, frame: np.ndarray) -> bool:
        """Whether a cut lies before this frame; there is one before the first."""
        rows, columns = (np.linspace(0, side - 1, 64).round().astype(int) for side in frame.shape[:2])
        small = frame[rows[:, None], columns].reshape(16, 4, 16, 4, 3).mean((1, 3))  # (16, 16, 3)
        change = np.inf if self.last is None else float(np.abs(small - self.last).mean())
        cut = change > max(20.0, 4 * self.usual)
        self.usual = self.usual if cut else 0.8 * self.usual + 0.2 * change
        self.last = small
        return cut


def linked(tracks: Sequence[Track], faces: Faces, number: int, shot: int) -> list[Track]:
    """Add the faces of a frame to the tracks they continue, the best fit first; returns new tracks for the others."""
    fits = []
    for n, track in enumerate(tracks):
        near = _likeness(track.boxes[-1], faces.boxes)
        fits += [(near[k], n, k) for k in range(len(faces)) if near[k] > 0]
    owners: dict[int, Track] = {}
    taken: set[int] = set()
    for _, n, k in sorted(fits, reverse=True):
        if n not in taken and k not in owners:
            owners[k] = tracks[n]
            taken.add(n)
    started = []
    for k in range(len(faces)):
        if k not in owners:
            owners[k] = Track(shot)
            started.append(owners[k])
        owners[k].add(number, faces.boxes[k], faces.points[k], float(faces.scores[k]))
    return started


def _sought(track: Track, number: int, frame: np.ndarray, others: Faces, detector: Detector) -> None:
    """Add the face to its track if it is still where it was, and is none of the `others` of the frame."""
    poses = pose_of(np.stack(track.points[-5:]).astype(np.float64))
    (points,), (score,) = looked_at([frame], np.r_[poses[-1, :2], np.median(poses[:, 2:], 0)][None], detector)
    if np.isnan(score):
        return
    moved = points[:2].mean(0) - track.points[-1][:2].mean(0)
    box = (track.boxes[-1] + np.tile(moved, 2)).astype(np.float32)
    if not (_likeness(box, others.boxes) > 0.4).any():
        track.add(number, box, points.astype(np.float32), float(score))


def _likeness(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Of a face's last box (4,) with boxes (n, 4): 1 at the same place and size, 0 too far to be the same face."""
    size, sizes = (box[2:] - box[:2]).mean(), (boxes[:, 2:] - boxes[:, :2]).mean(1)
    larger, smaller = np.maximum(size, sizes), np.minimum(size, sizes)
    apart = np.linalg.norm(boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:], axis=1) / 2 / larger
    return np.where(larger < 1.7 * smaller, np.clip(1 - apart / 0.7, 0, 1), 0)


def _lasting(track: Track, times: np.ndarray, config: CropConfig) -> bool:
    """Whether a track is long, dense and sure enough to be a face."""
    shot = times[track.end - 1] - times[track.shot]
    seen = [number for number, score in zip(track.frames, track.scores, strict=True) if score >= _SEEN]
    length = times[seen[-1]] - times[seen[0]] if seen else -1.0
    often = len(track.frames) * config.every >= 0.3 * (track.frames[-1] - track.frames[0] + 1)
    return often and max(track.scores) >= _SURE and length >= min(config.shortest, 0.5 * shot)
