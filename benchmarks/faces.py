"""How exact face crops are, on real clips of one face each: `python benchmarks/faces.py FOLDER [TABLE …]`.

* `clips`: the clips as they are. Is there one track, is the eye line of the finished crop level, how fast does the
  scale change?
* `scenes`: every clip pasted into 1280 x 720 scenes at five known places, with scales from 0.4 on and tilts of up to 20
  degrees. Where the crop of the pasted clip shows what the crop of the clip itself shows, they agree; stated is how far
  apart they are in pixels of a crop of 160, with the second pass on the levelled crop and without it.
* `ways`: the same of clips filmed and coded otherwise, and of several people.
* `profiles`: a head that turns aside and back. Up to which angle is it found, and is it still one track?

Nothing is drawn by chance: the same clips give the same tables.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hicmae.datasets.faces import CropConfig
from hicmae.datasets.faces.crop import Geometry, cropped, from_crop, pose_of, to_crop
from hicmae.datasets.faces.mtcnn import Mtcnn
from hicmae.datasets.faces.path import Path as FacePath
from hicmae.datasets.faces.path import paths_of
from hicmae.datasets.faces.tracks import Track, chosen, find_tracks
from hicmae.datasets.listing import SUFFIXES
from hicmae.datasets.media import open_video, read_frames, write_video

SIZE = 160
CONFIG = CropConfig()
GEOMETRY = Geometry(CONFIG.eye_distance, CONFIG.eye_height)
FIRST, CLOSER, JUDGE = Mtcnn(CONFIG.smallest), Mtcnn(0.35, retry=0.3), Mtcnn(0.35)
GRID = np.stack(np.meshgrid(*[np.linspace(0, SIZE, 9)] * 2), -1).reshape(-1, 2)
RADIUS = 1.6  # of a head, in distances of the eyes
CORNERS = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]], float)


@dataclass(frozen=True)
class Place:
    """Where a clip lies in a scene: its middle as shares of the scene, its scale, and its tilt clockwise."""

    x: float
    y: float
    scale: float
    degrees: float

    def map(self, clip: tuple[int, int], scene: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """scene = matrix @ clip + shift, both as (width, height)."""
        turn = math.radians(self.degrees)
        matrix = self.scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        return matrix, np.array([self.x, self.y]) * scene - matrix @ np.array(clip) / 2


PLACES = {
    "centre": Place(0.5, 0.5, 1.0, 10),
    "upper left": Place(0.16, 0.27, 0.55, -20),
    "upper right": Place(0.86, 0.22, 0.4, 20),
    "lower left": Place(0.14, 0.77, 0.4, -10),
    "lower right": Place(0.8, 0.68, 0.7, 15),
}


@dataclass(frozen=True)
class Clip:
    """A clip in memory."""

    name: str
    times: np.ndarray
    pictures: list[np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pictures[0].shape[1], self.pictures[0].shape[0]

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """As `read_frames` gives them."""
        return zip(self.times.tolist(), self.pictures, strict=True)


Scene = Callable[[], Iterator[tuple[float, np.ndarray]]]


def read(path: Path, seconds: float) -> Clip:
    """The first seconds of a video."""
    times, pictures = zip(*itertools.takewhile(lambda each: each[0] < seconds, read_frames(path)), strict=True)
    return Clip(path.stem, np.array(times), list(pictures))


def ground(width: int, height: int) -> Image.Image:
    """Blurred colours."""
    colours = np.random.default_rng(0).integers(40, 200, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def pasted(clips: Sequence[tuple[Clip, Place]], width: int, height: int) -> Scene:
    """The clips at their places in one scene, as long as the shortest."""

    def layer(picture: np.ndarray, place: Place) -> tuple[Image.Image, Image.Image]:
        clip = Image.fromarray(picture)
        matrix, shift = place.map(clip.size, (width, height))
        if place.scale < 1:  # antialiased
            size = (round(clip.width * place.scale), round(clip.height * place.scale))
            matrix = matrix @ np.diag([clip.width / size[0], clip.height / size[1]])
            clip = clip.resize(size, Image.Resampling.BICUBIC)
        inverse = np.linalg.inv(matrix)
        rows = np.column_stack([inverse, -inverse @ shift]).ravel().tolist()
        where = Image.new("L", clip.size, 255)
        how = (width, height), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC
        return clip.transform(*how), where.transform(*how)

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        count = min(len(clip.pictures) for clip, _ in clips)
        for n in range(count):
            scene = ground(width, height)
            for clip, place in clips:
                picture, mask = layer(clip.pictures[n], place)
                scene.paste(picture, mask=mask)
            yield float(clips[0][0].times[n]), np.asarray(scene)

    return frames


def followed(frames: Scene, config: CropConfig = CONFIG) -> tuple[list[Track], dict[bool, list[FacePath]]]:
    """All tracks, and the paths of those that are taken with the second pass (True) and without it (False)."""
    times, tracks = find_tracks(frames(), FIRST, config, CLOSER)
    taken = chosen(tracks, config.several)
    return tracks, {True: paths_of(taken, times, config, frames, CLOSER), False: paths_of(taken, times, config)}


def apart(paths: Sequence[FacePath], own: FacePath, place: Place, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(F, 2) of the frames that both have: mean over a grid, and worst corner, of how far the crop of the pasted clip
    shows things from where the clip's `own` crop shows them; the path that stays nearest is taken."""
    matrix, shift = place.map(*sizes)
    found = []
    for path in paths:
        rows = []
        for n in range(max(path.first, own.first), min(path.end, own.end)):
            ours, theirs = own.poses[n - own.first], path.poses[n - path.first]
            off = []
            for points in (GRID, CORNERS):
                there = from_crop(points, ours, GEOMETRY, SIZE) @ matrix.T + shift
                off.append(np.linalg.norm(to_crop(there, theirs, GEOMETRY, SIZE) - points, axis=1))
            rows.append((off[0].mean(), off[1].max()))
        found.append(np.array(rows).reshape(-1, 2))
    return min(found, key=lambda rows: np.median(rows[:, 1]) if len(rows) else np.inf, default=np.empty((0, 2)))


def rolls(crops: Sequence[np.ndarray], looks: int) -> np.ndarray:
    """(F, looks) degrees by which the eye line of finished crops leans, NaN where no face is found.

    Every look is at the crop shifted by a few pixels and scaled by a few percent, and every other one at its mirror
    image, so that looks differ by what the detector is off by. The first is at the crop itself.
    """
    rng = np.random.default_rng(0)
    found = np.full((len(crops), looks), np.nan)
    for look in range(looks):
        step, (dx, dy) = (1.0, (0.0, 0.0)) if look == 0 else (rng.uniform(0.92, 1.08), rng.uniform(-5, 5, 2))
        rows = (step, 0, dx, 0, step, dy)
        views = [
            Image.fromarray(crop).transform((SIZE, SIZE), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)
            for crop in crops
        ]
        mirrored = look % 2 == 1
        shown = [np.asarray(view)[:, ::-1] if mirrored else np.asarray(view) for view in views]
        for start in range(0, len(shown), 16):
            for n, faces in enumerate(JUDGE(shown[start : start + 16]), start):
                if len(faces):
                    roll = math.degrees(pose_of(faces.points[0].astype(float))[2])
                    found[n, look] = -roll if mirrored else roll
    return found


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print in columns."""
    sys.stdout.write(f"{title}\n")
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    for row in (head, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def spread(values: np.ndarray) -> str:
    """Median and 95 %."""
    return f"{np.median(values):.2f} / {np.percentile(values, 95):.2f}" if len(values) else "no face"


def clips_table(clips: Sequence[Clip]) -> None:
    """One track, level, steady?"""
    rows = []
    for clip in clips:
        tracks, paths = followed(clip.frames)
        (path,) = paths[True]
        crops = [cropped(clip.pictures[path.first + n], pose, GEOMETRY, SIZE) for n, pose in enumerate(path.poses)]
        seen = rolls(crops, 12)
        mean = np.nanmean(seen, 1)
        noise = np.sqrt(np.nanmean((seen - mean[:, None]) ** 2) * 12 / 11)
        change = np.abs(path.poses[1:, 3] / path.poses[:-1, 3] - 1).max()
        within = [100 * np.mean(np.abs(each[~np.isnan(each)]) <= 2) for each in (seen[:, 0], mean)]
        rows.append(
            [
                clip.name,
                str(len(tracks)),
                f"{len(path.poses)} of {len(clip.times)}",
                f"{within[0]:.1f} %",
                f"{within[1]:.1f} %",
                f"{noise:.2f}°",
                f"{np.std(mean):.2f}°",
                f"{100 * change:.2f} %",
            ]
        )
    table(
        "Clips as they are; eye line of the finished crop by a second look of the detector",
        [
            "clip",
            "tracks",
            "frames",
            "within 2° (one look)",
            "within 2° (mean of 12)",
            "sd of a look",
            "sd of the mean",
            "largest change of scale",
        ],
        rows,
    )


def scenes_table(clips: Sequence[Clip]) -> None:
    """The same crop wherever the clip lies?"""
    rows: list[list[str]] = []
    every: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for clip in clips:
        own = {second: paths[0] for second, paths in followed(clip.frames)[1].items()}
        for name, place in PLACES.items():
            tracks, paths = followed(pasted([(clip, place)], 1280, 720))
            off = {s: apart(paths[s], own[s], place, [clip.size, (1280, 720)]) for s in (True, False)}
            for second in (True, False):
                every[second].append(off[second])
            cells = [spread(off[second][:, k]) for second in (True, False) for k in (1, 0)]
            rows.append([clip.name, name, f"{place.scale:g}", f"{place.degrees:g}°", str(len(tracks)), *cells])
    whole = {second: np.concatenate(each) for second, each in every.items()}
    rows.append(["all", "", "", "", "", *(spread(whole[s][:, k]) for s in (True, False) for k in (1, 0))])
    table(
        "Clips pasted into 1280 x 720; pixels at 160, median / 95 % over frames",
        [
            "clip",
            "place",
            "scale",
            "tilt",
            "tracks",
            "worst corner",
            "grid",
            "one pass: worst corner",
            "one pass: grid",
        ],
        rows,
    )


def ways_table(clips: Sequence[Clip]) -> None:
    """The same crop however it was filmed and coded?"""
    centre, small = Place(0.5, 0.5, 1.0, 0), Place(0.72, 0.35, 0.25, 5)
    ways = {
        "portrait 720 x 1280, no sound": ((720, 1280), Place(0.5, 0.4, 1.2, 5), ".mp4", 25.0),
        "wide shot, scale 0.25": ((1280, 720), small, ".mp4", 25.0),
        "30 fps": ((640, 640), centre, ".mp4", 30.0),
        "29.97 fps": ((640, 640), centre, ".mkv", 30000 / 1001),
        "mpeg4": ((640, 640), centre, ".avi", 25.0),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for (way, (size, place, suffix, fps)), clip in itertools.product(ways.items(), clips):
            clip = replace(clip, times=np.arange(len(clip.times)) / fps)
            (own,) = followed(clip.frames)[1][True]
            file = Path(folder) / f"clip{suffix}"
            write_video(file, (picture for _, picture in pasted([(clip, place)], *size)()), fps, quality=18)
            info = open_video(file)
            tracks, paths = followed(lambda file=file: read_frames(file))  # type: ignore[misc]
            off = apart(paths[True], own, place, [clip.size, size])
            rows.append([way, clip.name, f"{info.codec} {info.fps:.2f} fps", str(len(tracks)), spread(off[:, 1])])
        beside = [
            (clip, Place(0.25 + 0.5 * (n % 2), 0.27 + 0.47 * (n // 2), 0.6, 0)) for n, clip in enumerate(clips[:4])
        ]
        tracks, paths = followed(pasted(beside, 1280, 720), replace(CONFIG, several="all"))
        for clip, place in beside:
            (own,) = followed(clip.frames)[1][True]
            off = apart(paths[True], own, place, [clip.size, (1280, 720)])
            rows.append([f"{len(beside)} people at a time", clip.name, "", str(len(tracks)), spread(off[:, 1])])
    table(
        "Other ways of filming and coding; worst corner in pixels at 160, median / 95 % over frames",
        ["way", "clip", "coded as", "tracks", "worst corner"],
        rows,
    )


def turned(picture: np.ndarray, pose: np.ndarray, degrees: float) -> np.ndarray:
    """A head turned aside, as if the picture lay on an upright cylinder about it; what a camera did not see is drawn
    from the edge of what it saw."""
    x, _, _, span = pose
    radius = RADIUS * span
    columns = np.arange(picture.shape[1]) + 0.5 - x
    inside = np.abs(columns) < radius
    angle = np.arcsin(np.clip(columns / radius, -1, 1)) - math.radians(degrees)
    source = np.where(inside, radius * np.sin(np.clip(angle, -1.5, 1.5)), columns) + x
    return picture[:, np.clip(source, 0, picture.shape[1] - 1).astype(int)]


def profiles_table(clips: Sequence[Clip]) -> None:
    """Followed while it turns?"""
    import skimage.data

    head = skimage.data.astronaut()[:320, 60:380]
    still = [Clip("astronaut", np.zeros(1), [head])] + [replace(clip, pictures=clip.pictures[:1]) for clip in clips]
    rows = []
    for clip, most in itertools.product(still, (60, 75, 90)):
        picture = clip.pictures[0]
        pose = pose_of(FIRST([picture])[0].points[0].astype(float))
        angles = [*np.linspace(0, most, 50), *[float(most)] * 25, *np.linspace(most, 0, 50)]
        filmed = Clip(clip.name, np.arange(125) / 25, [turned(picture, pose, angle) for angle in angles])
        place = Place(0.5, 0.5, 0.9, 0)
        tracks, paths = followed(pasted([(filmed, place)], 640, 480))
        seen = {number for track in tracks for number in track.frames}
        missed = [angles[n] for n in range(0, 125, CONFIG.every) if n not in seen]
        known = sum(int((~np.isnan(path.eyes[:, 0, 0])).sum()) for path in paths[True])
        matrix, shift = place.map(clip.size, (640, 480))
        off = []
        for path in paths[True]:
            aside = [RADIUS * pose[3] * math.sin(math.radians(angles[n])) for n in range(path.first, path.end)]
            there = (pose[:2] + np.array(aside)[:, None] * [1, 0]) @ matrix.T + shift
            pixels = SIZE * GEOMETRY.eye_distance / (place.scale * pose[3])
            off.append(np.linalg.norm(path.poses[:, :2] - there, axis=1) * pixels)
        rows.append(
            [
                clip.name,
                f"{most}°",
                f"{min(missed):.0f}°" if missed else "never",
                f"{(125 - known) / 25:.2f} s",
                str(len(tracks)),
                f"{sum(len(path.poses) for path in paths[True])} of 125",
                spread(np.concatenate(off)),
            ]
        )
    table(
        "A head that turns aside in 2 s, stays for 1 s, and turns back (25 fps, 640 x 480); off: the crop's distance "
        "from where the eyes are, pixels at 160, median / 95 % over frames",
        ["head", "turned to", "not found from", "eyes unknown for", "tracks", "frames", "off, px"],
        rows,
    )


TABLES = {"clips": clips_table, "scenes": scenes_table, "ways": ways_table, "profiles": profiles_table}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="which tables; all by default")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of every clip")
    given = parser.parse_args()
    files = sorted(path for path in given.folder.iterdir() if path.suffix in SUFFIXES)
    clips = [read(path, given.seconds) for path in files]
    for name in given.tables or TABLES:
        TABLES[name](clips)
