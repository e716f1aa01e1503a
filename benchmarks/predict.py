"""How fast and how large `predict` is, beside a pipeline that recognises frame by frame.

The pipeline finds faces in every frame with the same detector, crops each and shows it to an image model of timm with
random weights, one frame after the other, as common tools do. It tells speed only: nothing here is trained.

    python benchmarks/predict.py [--clip VIDEO] [--pairs N] [--out FILE.json] [--quick]
    python benchmarks/predict.py --long [HOURS]     # does memory stay flat over a film of two hours?

Without `--clip` a face that moves before a coloured ground is generated. Frames per second are those of the video per
second of processor time, face tracks included. The film of `--long` is one clip repeated, packets copied; its model is
tiny and takes centre squares, and `--faces` makes it follow faces (hours of processor time).
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Row, Spread, compare, row
from benchmarks.memory_long import drift

__all__ = ["frame_by_frame", "long_film", "main", "measure", "moving_face", "peak_bytes", "repeated"]

MIB = 2**20
LABELS = ["neutral", "happy", "sad", "angry", "surprise", "fear", "disgust"]
SMALL: dict[str, Any] = {"frames": 8, "size": 64, "patch": [2, 8, 8], "dim": 64, "depth": 2, "heads": 4}


def measure(clip: Path, pairs: int, *, model: str, shape: dict[str, Any], image_model: str, show: bool) -> list[Row]:
    """Rows of speed and peak memory of one clip, `model` of ours beside `image_model` of timm."""
    frames = sum(1 for _ in _frames(clip))
    works = {"predict": _ours(clip, model, shape, faces=True), "frame by frame": frame_by_frame(clip, image_model)}
    found = compare(works, pairs=pairs, label="predict", show=show)
    rows = []
    notes = {"predict": f"{model}, windows on face tracks", "frame by frame": f"{image_model}, every frame's faces"}
    for name in works:
        rates = Spread.of([frames / seconds for seconds in found.times[name]])
        rows.append(row("frames per second", name, rates, unit="fps", note=notes[name]))
    rows.append(row("times the speed", "predict", found.ratio("frame by frame", "predict")))
    for name, arguments in (("predict", (clip, model, shape)), ("frame by frame", (clip, image_model))):
        peak = _alone(name, *arguments)
        rows.append(row("peak memory", name, peak / MIB, unit="MiB", better="lower", note="of a process of its own"))
    return rows


def frame_by_frame(clip: Path, image_model: str) -> Callable[[], int]:
    """What recognises every face of every frame by itself; returns how many it was."""
    import timm

    from hicmae.datasets.crops import detectors
    from hicmae.datasets.faces.config import CropConfig
    from hicmae.datasets.faces.crop import Geometry, cropped, pose_of

    crop = CropConfig()
    detector = detectors(crop.smallest, "cpu")[0]
    net = timm.create_model(image_model, pretrained=False, num_classes=len(LABELS)).eval()
    size = int(net.default_cfg["input_size"][-1])
    geometry = Geometry(crop.eye_distance, crop.eye_height)

    @torch.inference_mode()
    def work() -> int:
        faces = 0
        for _, pixels in _frames(clip):
            for points in detector([pixels])[0].points:
                face = cropped(pixels, pose_of(points.astype(np.float64)), geometry, size)
                picture = torch.from_numpy(face.copy()).permute(2, 0, 1)[None].float().div_(255)
                net(picture).softmax(-1)
                faces += 1
        return faces

    return work


def long_film(hours: float, *, faces: bool = False, every: float = 1.0, show: bool = True) -> list[Row]:
    """Rows of one prediction of a film of so many hours: the drift of memory and its peak."""
    with tempfile.TemporaryDirectory() as folder:
        # cheap to decode: what could grow is kept per frame and per window, whatever their size
        small = moving_face(Path(folder) / "clip.mp4", 250, 160, 120, sound=True)
        film = repeated(small, Path(folder) / "film.mp4", 3600 * hours)
        begun, sizes = time.monotonic(), []
        for size in _watched(film, "videomae_base", SMALL, faces, every):
            sizes.append(size)
        seconds = time.monotonic() - begun
    note = (
        f"{sizes[len(sizes) // 10] / MIB:.0f} MiB after a tenth, {sizes[-1] / MIB:.0f} at the end, "
        f"{max(sizes) / MIB:.0f} at most; {len(sizes)} looks in {seconds:.0f} s; "
        + ("faces followed" if faces else "centre squares")
        + ", windows every 1.28 s" * (not faces)
    )
    what = f"prediction of {hours:g} h of video, tiny model"
    common: dict[str, Any] = {"better": "lower", "note": note}
    return [
        row("drift of memory", what, 100 * drift(sizes), 5.0, unit="%", **common),
        row("peak memory", what, max(sizes) / MIB, 2048, unit="MiB", better="lower"),
    ]


def repeated(clip: Path, out: Path, seconds: float) -> Path:
    """A clip again and again until it lasts so long, its packets copied."""
    import av

    with av.open(str(out), "w") as made:
        ends: dict[int, int] = {}
        targets: dict[int, Any] = {}
        begin = 0.0
        while begin < seconds:
            with av.open(str(clip)) as source:
                streams = [*source.streams.video[:1], *source.streams.audio[:1]]
                targets = targets or {each.index: made.add_stream_from_template(each) for each in streams}
                for packet in source.demux(streams):
                    index = packet.stream.index
                    if packet.dts is None or packet.pts is None:
                        continue
                    shift = round(begin / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.dts <= ends.get(index, packet.dts - 1):  # sound overlaps by a packet
                        continue
                    ends[index] = packet.dts
                    packet.stream = targets[index]
                    made.mux(packet)
                begin += float(streams[0].duration * streams[0].time_base)
    return out


def _frames(clip: Path) -> Iterator[tuple[float, np.ndarray]]:
    from hicmae.datasets.media import read_frames

    return read_frames(clip)


def _ours(clip: Path, model: str, shape: dict[str, Any], *, faces: bool) -> Callable[[], Any]:
    from hicmae.datasets import ShardConfig
    from hicmae.inference import Loaded, predict_clip
    from hicmae.models import create_model

    torch.manual_seed(0)
    net = create_model(model, num_classes=len(LABELS), **shape).eval()
    recipe = ShardConfig(faces="mtcnn" if faces else "centre", size=max(96, shape.get("size", 160))).preprocessing()
    loaded = Loaded(net, {"name": model, "labels": LABELS, "preprocessing": {"stride": 4, **recipe}})
    return lambda: predict_clip(clip, loaded)


def _alone(name: str, clip: Path, model: str, shape: dict[str, Any] | None = None) -> float:
    """Peak bytes of a process that does one of the two once."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, clip, model, shape))


def _peak(name: str, clip: Path, model: str, shape: dict[str, Any] | None) -> float:
    torch.set_num_threads(1)
    work = _ours(clip, model, shape or {}, faces=True) if name == "predict" else frame_by_frame(clip, model)
    work()
    return peak_bytes()


def peak_bytes() -> float:
    """The most memory that this process has held."""
    import resource

    status = Path("/proc/self/status")  # what getrusage tells is inherited from the parent on Linux
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
        if found:
            return 1024.0 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)


def _watched(film: Path, model: str, shape: dict[str, Any], faces: bool, every: float) -> Iterator[int]:
    """Bytes of this process while it predicts."""
    work = _ours(film, model, shape, faces=faces)
    thread = threading.Thread(target=work)
    thread.start()
    page = 4096
    while thread.is_alive():
        yield int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page
        thread.join(every)


def moving_face(path: Path, frames: int, width: int, height: int, *, fps: float = 25, sound: bool = False) -> Path:
    """A video of the astronaut of scikit-image, a real face, that sways; with a tone that rises."""
    import skimage.data
    from PIL import Image

    from hicmae.datasets.media import write_video

    head = Image.fromarray(skimage.data.astronaut()[:300, 80:380]).resize((height, height))

    def pictures() -> Iterator[np.ndarray]:
        for n in range(frames):
            paper = Image.new("RGB", (width, height), (70, 110, 90))
            paper.paste(head, (round((width - height) / 2 * (1 + np.sin(2 * np.pi * n / 125))), 0))
            yield np.asarray(paper)

    time = np.arange(round(frames / fps * 16_000)) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time)).astype(np.float32) if sound else None
    return write_video(path, pictures(), fps, wave)


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__, pairs=3)
    parser.add_argument("--clip", type=Path, help="a video with faces (default: one is generated)")
    parser.add_argument("--model", default="hicmae_base_video", help="of ours (%(default)s)")
    parser.add_argument("--image-model", default="efficientnet_b0", help="of timm (%(default)s)")
    parser.add_argument("--long", type=float, nargs="?", const=2.0, metavar="HOURS", help="memory over a film (2 h)")
    parser.add_argument("--faces", action="store_true", help="with --long: follow faces")
    given = parser.parse_args()
    measuring.prepare(given)
    if given.long is not None:
        hours = min(given.long, 0.05) if given.quick else given.long
        every = 0.05 if given.quick else 1.0
        rows = long_film(hours, faces=given.faces, every=every)
        measuring.write(rows, given.out, hours=hours, faces=given.faces, quick=given.quick)
        return
    with tempfile.TemporaryDirectory() as folder:
        count = 12 if given.quick else 125
        clip = given.clip or moving_face(Path(folder) / "clip.mp4", count, 640, 360)
        model, shape = ("videomae_base", SMALL) if given.quick else (given.model, {})
        image_model = "resnet10t" if given.quick else given.image_model
        pairs = 1 if given.quick else given.pairs
        rows = measure(clip, pairs, model=model, shape=shape, image_model=image_model, show=True)
        measuring.write(rows, given.out, pairs=pairs, quick=given.quick, model=model, image_model=image_model)


if __name__ == "__main__":
    measuring.script(main)
