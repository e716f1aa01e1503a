"""The video with what a model makes of it drawn in: a box around every face, its label, and bars.

The frames are those of the original, at their times and with its sound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from hicmae.datasets.media import MediaError, VideoInfo, _opened, open_video, read_frames
from hicmae.inference.people import Person
from hicmae.inference.prediction import Prediction
from hicmae.inference.timeline import ink
from hicmae.pretrain.picture import font
from hicmae.runtime.log import progress

__all__ = ["Marker", "annotate_video"]

TALLEST = 1080
"""Pixels of the shorter side that are kept; larger pictures are scaled down."""
_TICK = Fraction(1, 90_000)
_BARS = 3
Area = tuple[float, float, float, float]  # left, top, right, bottom
Bar = tuple[str, float, str, str]  # name, share of the full length, colour, what is told


def annotate_video(
    result: Prediction, out: str | Path, *, quality: int = 23, sound: bool = True, show: bool = False
) -> Path:
    """Write the video of a prediction with boxes, labels and bars, H.264 and AAC in mp4, whole or not at all.

    Sound that is AAC already is copied bit by bit, other sound coded anew. Memory does not grow with length.

    Args:
        quality: constant rate factor, smaller is better.
        sound: False leaves it out.
        show: a progress bar.

    Returns:
        the path of the video.

    Raises:
        MediaError: the video of the prediction is no longer there, or damaged.
        ValueError: `out` does not end in .mp4.
    """
    clip, out = Path(result.clip), Path(out)
    if out.suffix.lower() != ".mp4":
        raise ValueError(f"{out}: the annotated video is an mp4; give a name that ends in .mp4")
    info = open_video(clip)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.part")
    try:
        with contextlib.ExitStack() as stack:
            options = {"movflags": "+faststart"}  # a browser can begin before it has all
            made = stack.enter_context(av.open(str(partial), "w", format="mp4", options=options))
            marker = Marker(result, info)
            stream = _video_stream(made, info, marker.size, quality)
            heard = stack.enter_context(contextlib.closing(_sound(clip, made) if sound else _silence()))
            next(heard)
            frames = progress(_frames(clip), total=info.frames, desc=f"draw {clip.name}", unit="frame", show=show)
            last = 0
            for time, pixels in frames:
                frame = av.VideoFrame.from_ndarray(marker.draw(pixels, time), format="rgb24")
                frame.time_base, frame.pts = _TICK, max(round(time / _TICK), last + 1)
                last = frame.pts
                made.mux(stream.encode(frame.reformat(format="yuv420p")))
                heard.send(time)
            made.mux(stream.encode(None))
            heard.send(None)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


class Marker:
    """Draws what is known of everyone into frames."""

    def __init__(self, result: Prediction, info: VideoInfo) -> None:
        self.people = result.people
        self.scale = min(1.0, TALLEST / min(info.width, info.height))
        # H.264 halves the colours' resolution, so sides are even
        wide, tall = (round(side * self.scale) for side in (info.width, info.height))
        self.size = (wide + wide % 2, tall + tall % 2)
        """Width and height of the frames that are drawn."""
        self._letter = max(11, round(min(self.size) / 30))
        self._line = max(2, round(min(self.size) / 200))

    def draw(self, pixels: np.ndarray, time: float) -> np.ndarray:
        """A frame (H, W, 3) uint8 as shown at a time -> (H', W', 3), H' and W' as `size` says."""
        picture = self._fitted(pixels)
        pen = ImageDraw.Draw(picture)
        placed = ((person, person.boxes.at(time)) for person in self.people)
        here = [(person, corners * self.scale) for person, corners in placed if corners is not None]
        tags = [self._outlined(pen, person, corners, time) for person, corners in here]
        boxes = [self._reach(corners) for _, corners in here]
        taken = [*tags, *boxes]
        for (person, _), box in zip(here, boxes, strict=True):
            bars = self._bars(person, time)
            spot = self._spot(pen, bars, box, taken) if bars else None
            if spot is not None:
                taken.append(spot)
                self._draw_bars(picture, pen, bars, spot)
        return np.asarray(picture)

    def _fitted(self, pixels: np.ndarray) -> Image.Image:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        if self.scale < 1:
            return picture.resize(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        if picture.size != self.size:  # the last row or column once more
            across, down = (new - old for new, old in zip(self.size, picture.size, strict=True))
            return Image.fromarray(np.pad(pixels, ((0, down), (0, across), (0, 0)), "edge"))
        return picture

    def _reach(self, corners: np.ndarray) -> Area:
        """The part of the picture that a square covers."""
        low, high = np.clip(corners.min(0), 0, self.size), np.clip(corners.max(0), 0, self.size)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def _outlined(self, pen: ImageDraw.ImageDraw, person: Person, corners: np.ndarray, time: float) -> Area:
        """Draw the square and the label; returns where the label is."""
        part = person.at(time)
        colour, name = "#d0d4d8", person.name
        if part is not None and part.label is not None:
            colour = ink(list(person.probabilities).index(part.label))
            name += f": {part.label} {part.probabilities[part.label]:.0%}"
        outline = [tuple(corner) for corner in corners.tolist()]
        pen.line([*outline, *outline[:2]], "#000000", self._line + 2, joint="curve")
        pen.line([*outline, *outline[:2]], colour, self._line, joint="curve")
        left, top, _, _ = self._reach(corners)
        return self._tag(pen, name, left, top, colour)

    def _bars(self, person: Person, time: float) -> list[Bar]:
        part = person.at(time)
        if part is None:
            return []
        labels = list(person.probabilities)
        ranked = sorted(part.probabilities.items(), key=lambda item: -item[1])[:_BARS]
        bars = [(word, value, ink(labels.index(word)), f"{value:.0%}") for word, value in ranked]
        numbers = enumerate(part.values.items(), len(labels))
        return bars + [(word, abs(value), ink(n), f"{value:+.2f}") for n, (word, value) in numbers]

    def _spot(self, pen: ImageDraw.ImageDraw, bars: list[Bar], box: Area, taken: list[Area]) -> Area | None:
        """Where bars go: beside the square where that covers nothing; one person alone has the lower left corner."""
        letters, unit = font(self._letter), self._letter
        wide = max(int(max(pen.textlength(bar[0], letters) for bar in bars)) + 8 * unit, 11 * unit)
        tall = round((1.4 * len(bars) + 0.6) * unit)
        left, top, right, bottom = box
        corners = [(right + unit / 2, top), (left - unit / 2 - wide, top), (left, bottom + unit / 2)]
        corners += [(right + unit / 2, bottom - tall), (left - unit / 2 - wide, bottom - tall)]
        for x, y in corners:
            area = (x, y, x + wide, y + tall)
            inside = x >= 0 and y >= 0 and area[2] <= self.size[0] and area[3] <= self.size[1]
            if inside and not any(_overlap(area, other) for other in taken):
                return area
        if len(taken) > 2:
            return None
        y = max(0.0, self.size[1] - tall - unit / 2)
        return unit / 2, y, unit / 2 + wide, y + tall

    def _tag(self, pen: ImageDraw.ImageDraw, words: str, x: float, y: float, colour: str) -> Area:
        letters = font(self._letter, True)
        wide, tall = pen.textlength(words, letters) + self._letter, 1.5 * self._letter
        x = max(0.0, min(x, self.size[0] - wide))
        y = y - tall if y >= tall else y
        area = (x, y, x + wide, y + tall)
        pen.rectangle(area, colour)
        dark = sum(int(colour[n : n + 2], 16) * share for n, share in ((1, 0.3), (3, 0.6), (5, 0.1))) < 140
        pen.text((x + self._letter / 2, y + tall / 2), words, "#ffffff" if dark else "#000000", letters, anchor="lm")
        return area

    def _draw_bars(self, picture: Image.Image, pen: ImageDraw.ImageDraw, bars: list[Bar], area: Area) -> None:
        letters, unit = font(self._letter), self._letter
        left, top, right, bottom = (int(edge) for edge in area)
        ground = picture.crop((left, top, right, bottom))
        picture.paste(Image.blend(ground, Image.new("RGB", ground.size), 0.62), (left, top, right, bottom))
        first = right - 7 * unit
        for n, (word, share, colour, told) in enumerate(bars):
            y = top + (1.0 + 1.4 * n) * unit
            pen.text((left + unit / 2, y), word, "#ffffff", letters, anchor="lm")
            pen.rectangle((first, y - unit / 3, first + 4 * unit, y + unit / 3), "#4a4f55")
            pen.rectangle((first, y - unit / 3, first + max(1.0, 4 * unit * min(1.0, share)), y + unit / 3), colour)
            pen.text((right - unit / 3, y), told, "#ffffff", letters, anchor="rm")


def _overlap(one: Area, two: Area) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _video_stream(made: Any, info: VideoInfo, size: tuple[int, int], quality: int) -> Any:
    rate = Fraction(min(info.fps, 240.0)).limit_denominator(1001)
    stream = made.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "veryfast"})
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TICK
    return stream


def _frames(clip: Path) -> Iterator[tuple[float, np.ndarray]]:
    return read_frames(clip, threads=0)


def _silence() -> Any:
    while True:
        yield


def _sound(clip: Path, made: Any) -> Any:
    """A generator that, sent a time, muxes the clip's sound up to it, and all that is left when sent None."""
    with _opened(clip) as (container, _):
        if not container.streams.audio or container.streams.audio[0].codec_context is None:
            yield from _silence()
        stream = container.streams.audio[0]
        copied = stream.codec_context.name == "aac" and bool(stream.codec_context.extradata)
        packets = _copied(container, stream, made) if copied else _coded(clip, container, stream, made)
        next(packets)  # a file's tracks are told before its first packet
        until: float | None = yield
        for time, found in packets:
            while until is not None and time > until:
                until = yield
            made.mux(found)
        while True:
            yield


def _copied(container: Any, stream: Any, made: Any) -> Iterator[tuple[float, Any]]:
    target = made.add_stream_from_template(stream)
    yield 0.0, []
    for packet in container.demux(stream):
        if packet.dts is None:  # the flush at the end
            continue
        time = float(packet.pts * packet.time_base) if packet.pts is not None else 0.0
        packet.stream = target
        yield time, packet


def _coded(clip: Path, container: Any, stream: Any, made: Any) -> Iterator[tuple[float, Any]]:
    rate = stream.rate if stream.rate in _RATES else 48_000
    layout = "stereo" if stream.codec_context.layout.nb_channels > 1 else "mono"
    target = made.add_stream("aac", rate=rate, layout=layout)
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    yield 0.0, []
    for frame in container.decode(stream):
        try:
            parts = resampler.resample(frame)
        except ValueError as error:
            raise MediaError(clip, "changes its sound format midway", "convert its sound with ffmpeg") from error
        for part in parts:
            yield frame.time or 0.0, target.encode(part)
    for part in resampler.resample(None):
        yield 0.0, target.encode(part)
    yield 0.0, target.encode(None)


_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
