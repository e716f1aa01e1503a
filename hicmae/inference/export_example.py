"""The example that lies beside an exported model: a video to probabilities with numpy, PyAV and onnxruntime alone."""

from __future__ import annotations

from hicmae.inference.export_graph import Deployed, samples_of
from hicmae.inference.processor import Processor

__all__ = ["example_of"]

_HEAD = '''\
"""python example.py CLIP.mp4 [model.onnx]: what is expressed in a video, without hicmae and torch.{crop}"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime

here = Path(__file__).parent
told = json.loads((here / "export.json").read_text())
session = onnxruntime.InferenceSession(sys.argv[2] if len(sys.argv) > 2 else here / told["files"]["onnx"]["name"])
'''
_FRAMES = """\
T, stride, side = (told["window"][key] for key in ("frames", "stride", "stored"))
frames, times = [], []
with av.open(sys.argv[1]) as video:
    rate = float(video.streams.video[0].average_rate)
    stride *= max(1, int(np.ceil(rate / (told["window"]["max_fps"] or rate) - 0.01)))
    for number, frame in enumerate(video.decode(video=0)):
        if number % stride == 0:
            picture = frame.to_ndarray(format="rgb24")
            n = min(picture.shape[:2])
            top, left = ((length - n) // 2 for length in picture.shape[:2])
            square = picture[top : top + n, left : left + n].copy()
            square = av.VideoFrame.from_ndarray(square, format="rgb24")
            frames.append(square.reformat(side, side, interpolation="BICUBIC").to_ndarray(format="rgb24"))
            times.append(frame.time)
frames += frames[-1:] * (T - len(frames))
starts = range(0, len(frames) - T + 1, T)
given = {"frames": np.stack([frames[i : i + T] for i in starts])}
"""
_SPANS = """\
begins, length = [times[i] for i in starts], T * stride / rate
"""
_SOUND = """\
resampler = av.AudioResampler("s16", "mono", 16000)
with av.open(sys.argv[1]) as video:
    parts = [p.to_ndarray()[0] for f in video.decode(audio=0) for p in resampler.resample(f)]
    parts += [p.to_ndarray()[0] for p in resampler.resample(None)]
wave = np.concatenate(parts).astype(np.float32) / 32768
"""
_SPANS_OF_SOUND = """\
length = {length}
begins = np.arange(0, max(len(wave) / 16000 - length / 2, 0.01), length)
"""
_FILL = """\
cut = [wave[int(at * 16000) : int((at + length) * 16000)][:{samples}] for at in begins]
given["sound"] = np.stack([np.pad(part, (0, {samples} - len(part))) for part in cut])
given["samples"] = np.array([len(part) for part in cut])
"""
_END = """\
found = dict(zip(told["outputs"], session.run(None, given)))
"""
_SHOW = """\
for name, value in zip(told["{labels}"], found["{output}"].mean(0)):
    print(f"{name:12} {value:.4f}")
"""
_OUTPUTS = {"probabilities": "labels", "values": "values"}


def example_of(deployed: Deployed, processor: Processor) -> str:
    """The text of `example.py` for one model."""
    how = processor.how
    words = {"centre": " It takes the centre square.", "none": " It takes the centre square: clips are faces already."}
    crop = words.get(how.faces, " It takes the centre square: give it clips of faces cropped as processor.json says.")
    text = _HEAD.replace("{crop}", crop)
    if deployed.sight is not None:
        text += _FRAMES
    if deployed.hearing is not None:
        config = deployed.hearing.config
        text += _SOUND + ("" if deployed.sight is not None else "given = {}\n")
        text += _SPANS if deployed.sight is not None else _SPANS_OF_SOUND.replace("{length}", f"{config.length / 100}")
        text += _FILL.replace("{samples}", str(samples_of(config)))
    shown = [name for name in deployed.names if name in _OUTPUTS]
    lines = [_SHOW.replace("{labels}", _OUTPUTS[name]).replace("{output}", name) for name in shown]
    return text + _END + "".join(lines)
