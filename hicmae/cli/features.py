"""Commands that take a model elsewhere: embed, export."""

from __future__ import annotations

import argparse
from typing import Literal

from hicmae.cli.words import Add, device_option, fraction, write

__all__ = ["add_to"]

_POOLING = (
    "Pooling: a row is the mean over all tokens of the layer, after the norm that closes the tower (a classifier of "
    "frames alone has none there: its mean passes the norm before its head). clip: the mean over the clip's windows, "
    "which overlap by half. frame: the mean over each time step's tokens (in the published models two frames of a "
    "window), windows one after another. fused: video features, then audio features. mix: the means of all layers "
    "weighted by the softmax of the learnt layer weights; with fused what the head of an audio-visual model sees. "
    "The file says it too, and hicmae.embed does the same in Python."
)
_EXPORT = (
    "In the graph: resizing, normalisation, the log-mel filter bank, the model, and what makes probabilities of its "
    "outputs, for any number of windows. Beside it: processor.json and export.json, which say what is left to do, and "
    "example.py, which does it with numpy, av and onnxruntime alone. Every file is loaded again and compared with the "
    "model at batch sizes 1, 2 and 5."
)


def add_to(add: Add) -> None:
    """`embed` and `export`."""
    sub = add("embed", _embed, "features of videos or shards, from any layer, as npz or parquet", more=_POOLING)
    sub.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="video files, folders of them, one csv list, or folders of shards"
    )
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder or weights file, fine-tuned or pretrained"
    )
    sub.add_argument("--out", required=True, metavar="OUT", help="FILE.npz, FILE.parquet, or a folder of parts")
    sub.add_argument("--level", choices=["clip", "window", "frame"], default="clip", help="one row each (%(default)s)")
    sub.add_argument(
        "--layer", type=_layer, default="last", metavar="N|last|mix", help="block from 1, or learnt mix (%(default)s)"
    )
    sub.add_argument("--modality", choices=["video", "audio", "fused"], help="default: all that the model takes")
    sub.add_argument("--hop", type=float, metavar="S", help="seconds between windows (default: half a window)")
    division = sub.add_mutually_exclusive_group()
    division.add_argument("--part", type=fraction, metavar="I/N", help="write only part I of N, on any machine")
    division.add_argument("--merge", action="store_true", help="prove that all parts are there, and make the file")
    sub.add_argument("--workers", type=int, default=0, metavar="N", help="processes on this machine (%(default)s)")
    sub.add_argument("--batch-size", type=int, default=8, metavar="N", help="windows at a time (%(default)s)")
    device_option(sub)

    sub = add(
        "export", _export, "a fine-tuned model as ONNX or torch.export, with what prepares its input", more=_EXPORT
    )
    sub.add_argument("checkpoint", metavar="CHECKPOINT", help="run folder or weights file of a fine-tuned model")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the files")
    sub.add_argument("--format", choices=["onnx", "torch", "both"], default="onnx", help="which (%(default)s)")
    sub.add_argument("--int8", action="store_true", help="also in 8-bit integers, and what that costs in agreement")
    sub.add_argument("--modality", choices=["video", "audio"], help="an audio-visual model given this alone")
    sub.add_argument(
        "--data", nargs="+", metavar="CLIP", help="videos or folders to measure agreement on (default: generated)"
    )
    sub.add_argument("--windows", type=int, default=64, metavar="N", help="windows of them at most (%(default)s)")


def _embed(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference import Asked, embed_many

    asked = Asked(level=arguments.level, layer=arguments.layer, modality=arguments.modality)
    result = embed_many(
        arguments.inputs,
        arguments.checkpoint,
        arguments.out,
        asked=asked,
        hop=arguments.hop,
        part=arguments.part,
        merge=arguments.merge,
        workers=arguments.workers,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    write(str(result))
    return 0


def _export(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference import export_model

    result = export_model(
        arguments.checkpoint,
        arguments.out,
        format=arguments.format,
        int8=arguments.int8,
        modality=arguments.modality,
        data=arguments.data,
        windows=arguments.windows,
    )
    write(str(result))
    return 0


def _layer(text: str) -> int | Literal["last", "mix"]:
    if text == "last" or text == "mix":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be last, mix, or the number of a block, not {text}")
    return int(text)
