"""A folder of shards as one page to look at: clips with their crops and their sound, and how measures spread."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from hicmae.datasets import fingerprint
from hicmae.datasets.fbank import RATE, WINDOW, log_mel
from hicmae.datasets.fingerprint import Fingerprint, Quantity
from hicmae.datasets.index import Index
from hicmae.datasets.listing import Problem
from hicmae.datasets.samples import Clip, SampleError
from hicmae.datasets.store import ClipStore
from hicmae.runtime import charts
from hicmae.runtime.page import Page

__all__ = ["sheet", "strips_of"]

CLIPS = 24
FRAMES, SIDE = 6, 108  # pictures of a clip side by side, and their pixels
WIDTH, HEIGHT = FRAMES * SIDE, 96  # of the picture of its sound
SHOWN = {"loudness": "", "sharpness": "sharpness", "eye_distance": "eyes", "eye_height": "at", "roll": "roll"}
HEAT = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))  # dark is quiet, bright is loud


def sheet(
    index: Index,
    *,
    summary: dict[str, Any],
    problems: Sequence[Problem] = (),
    notes: Sequence[str] = (),
    like: Fingerprint | None = None,
) -> Page:
    """The page of an index; `like` is the fingerprint of other data to stand beside its own."""
    page = Page(f"Data: {index.folder}", str(index))
    hours = float(index.seconds.sum()) / 3600
    page.tiles(
        [
            ("samples", f"{len(index):,}", f"of {len(set(index.sources)):,} videos"),
            ("length", f"{hours:.1f} h" if hours >= 1 else f"{3600 * hours:.0f} s", "in all"),
            ("with sound", f"{100 * index.audible.mean():.0f} %", f"{int(index.silent.sum())} silent tracks"),
            ("skipped", f"{len(index.skipped):,}", "videos, told of below" if index.skipped else "videos"),
        ]
    )
    for problem in problems[:20]:
        page.note(str(problem))
    if len(problems) > 20:
        page.note(f"and {len(problems) - 20} problems more: hicmae check {index.folder}")
    for note in notes:
        page.note(note)
    page.heading("Measured")
    page.table(
        *fingerprint.rows(here=index.fingerprint, **({"there": like} if like is not None else {})),
        "Eyes are known where a face detector looked for them. Sharpness compares only with itself.",
    )
    page.heading("Clips").text(
        "Evenly chosen. The corner shows where the crop lies in the picture of the source; below the frames, from the "
        "first to the last, the sound of the same time: waveform, and log-mel energies with low bands at the bottom."
    )
    page.cards(_cards(index))
    drawn = [(charts.histogram(values, name), caption) for values, name, caption in _spreads(index)]
    page.heading("How they spread").figures(drawn)
    extremes = [line for name, quantity in fingerprint.QUANTITIES.items() if (line := _extreme(index, name, quantity))]
    page.table(["", "least", "clip", "greatest", "clip"], extremes, "What is most unlike the rest.")
    if index.skipped:
        page.heading("Skipped").figure(charts.tally(index.reasons(), "reasons for skipping"), "Videos by reason.")
        rows = [[skip.source, skip.reason, skip.remedy] for skip in index.skipped[:100]]
        page.table(["video", "reason", "remedy"], rows, f"{len(rows)} of {len(index.skipped)}.")
    page.heading("Summary").facts({**summary, "preprocessing": index.preprocessing})
    return page


def strips_of(index: Index, numbers: Mapping[int, int]) -> dict[int, bytes]:
    """Frames of samples from the first to the last, side by side as JPEG: name -> number becomes name -> picture.

    Those that cannot be read are left out.
    """
    store, found = ClipStore(index), {}
    for name, number in numbers.items():
        with contextlib.suppress(SampleError):
            found[name] = _strip(store[number])
    store.close()
    return found


def _spreads(index: Index) -> Iterable[tuple[list[float], str, str]]:
    """(values, what they are, caption) of each histogram."""
    yield index.seconds.tolist(), "seconds", "Length of the samples."
    yield index.pace.tolist(), "frames per second", "Frame rate; stills left out."
    for name, unit, caption in (
        ("loudness", "dB of full scale", "Loudness; silent samples left out."),
        ("eye_distance", "share of the crop's width", "Face size: distance of the eyes."),
        ("side", "pixels", "Pixels of the source across a crop."),
        ("sharpness", "dB", "Sharpness."),
    ):
        yield (index.measures[name].tolist() if name in index.measures else []), unit, caption


def _extreme(index: Index, name: str, quantity: Quantity) -> list[str] | None:
    values = index.pace if name == "fps" else index.measures.get(name, np.empty(0))
    if not np.isfinite(values).any() or np.nanmin(values) == np.nanmax(values):
        return None
    ends = (int(np.nanargmin(values)), int(np.nanargmax(values)))
    return [quantity.words, *(word for n in ends for word in (quantity.show(values[n]), str(index.keys[n])))]


def _cards(index: Index) -> Iterable[tuple[str, str, str, list[str | bytes]]]:
    store = ClipStore(index)
    for number in np.unique(np.linspace(0, len(index) - 1, min(CLIPS, len(index))).round().astype(int)).tolist():
        label = index.labels[number]
        words = [index.classes[label]] if label >= 0 else []
        still = index.frames[number] == 1
        words += ["still"] if still else [f"{index.seconds[number]:.1f} s", f"{index.fps[number]:.4g} fps"]
        words += [] if index.sound[number] or still else ["no sound"]
        words += ["silent"] if index.silent[number] else []
        for name, word in SHOWN.items():
            value = index.measures[name][number] if name in index.measures else np.nan
            words += [f"{word} {fingerprint.QUANTITIES[name].show(value)}".strip()] if np.isfinite(value) else []
        try:
            clip = store[number]
            heard = _sound(clip, float(index.seconds[number])) if index.audible[number] else []
            pictures: list[str | bytes] = [_strip(clip), *heard]
        except SampleError as error:
            yield str(index.keys[number]), f"cannot be read: {error}", "", []
            continue
        yield (
            str(index.keys[number]),
            ", ".join(words),
            _where(clip.crop, index.preprocessing["crop"].get("eye_height")),
            pictures,
        )
    store.close()


def _strip(clip: Clip) -> bytes:
    """Frames from the first to the last, side by side, as JPEG."""
    chosen = np.linspace(0, len(clip.frames) - 1, FRAMES).round().astype(int)
    row = Image.new("RGB", (WIDTH, SIDE))
    for place, frame in enumerate(clip.frames.take(chosen)):
        picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
        row.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0), (place * SIDE, 0))
    buffer = io.BytesIO()
    row.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _sound(clip: Clip, seconds: float) -> list[str | bytes]:
    """Waveform and log-mel picture over the time of the frames; nothing where there is no sound."""
    if clip.audio is None or len(clip.audio) < WINDOW:
        return []
    wave = np.zeros(max(len(clip.audio), round(seconds * RATE)), np.float32)
    wave[: len(clip.audio)] = clip.audio
    stretches = np.array_split(wave, min(320, len(wave)))
    drawing = charts.waveform([float(s.min()) for s in stretches], [float(s.max()) for s in stretches])
    energies = log_mel(torch.from_numpy(wave), length=None)[0, 0].T.flip(0).numpy()  # (K, F), low bands at the bottom
    low, high = np.percentile(energies, (5, 99.5))
    share = np.clip((energies - low) / max(high - low, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(share, stops, [stop[c] for stop in HEAT]) for c in range(3)], -1)
    picture = Image.fromarray(colours.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.quantize(64).save(buffer, "PNG", optimize=True)
    return [drawing, buffer.getvalue()]


def _where(crop: dict[str, Any], eye_height: float | None) -> str:
    """The outline of the source's picture with the crop in it; nothing where that is all of it, or is not told.

    Of a crop that follows a face the middle one is drawn, and where its middle goes.
    """
    width, height = crop.get("picture", (0, 0))
    way = ""
    if "path" in crop and eye_height is not None:
        rows = np.array(crop["path"])
        turns, sides = np.radians(rows[:, 2]), rows[:, 3, None]
        down = np.stack([-np.sin(turns), np.cos(turns)], 1) * sides
        middles = rows[:, :2] + (0.5 - eye_height) * down
        x, y = np.array([1, -1]) * down[len(rows) // 2, ::-1] / 2, down[len(rows) // 2] / 2
        corners = middles[len(rows) // 2] + [-x - y, x - y, x + y, y - x]
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in middles[:: max(1, len(rows) // 60)])
        way = f'<polyline points="{points}" fill="none" stroke="var(--warn)" vector-effect="non-scaling-stroke"/>'
    elif "box" in crop:
        left, top, side = crop["box"][:3]
        corners = np.array([left, top]) + side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        if side == width == height:
            return ""
    else:
        return ""
    square = " ".join(f"{a:.0f},{b:.0f}" for a, b in corners)
    shown = 56 / max(width, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width * shown:.0f}" '
        f'height="{height * shown:.0f}" role="img" aria-label="crop in the source"><rect width="{width}" '
        f'height="{height}" fill="none" stroke="var(--soft)" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        f'<polygon points="{square}" fill="rgba(var(--cell),.35)" stroke="var(--accent)" '
        f'vector-effect="non-scaling-stroke"/>{way}</svg>'
    )
