"""The command that tells which emotions videos express: `predict`."""

from __future__ import annotations

import argparse
from typing import Any

from hicmae.cli.words import Add, device_option, write
from hicmae.configs.errors import UserError

__all__ = ["add_to"]

_MORE = (
    "Of every person whose face is followed, over time. With --out a folder gets, for each video, a page with a player "
    "and timelines (html), the annotated video (mp4), a plot (png), and tables (csv, json); what is done there is not "
    "done again. Exit code 1: some videos could not be predicted, 2: none could."
)


def add_to(add: Add) -> None:
    """`predict`."""
    sub = add("predict", _predict, "emotions of the people in videos, over time and over the whole clip", more=_MORE)
    sub.add_argument(
        "inputs", nargs="*", metavar="VIDEO", help="video files or folders of them; or webcam, webcam:1 (live)"
    )
    sub.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder, weights file or name of a fine-tuned model"
    )
    sub.add_argument("--out", metavar="DIR", help="write pages, videos, plots and tables there")
    sub.add_argument(
        "--watch",
        metavar="DIR",
        help="predict the videos that are in a folder or come into it, until Ctrl-C; with --out",
    )
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sub.add_argument("--window", type=float, metavar="S", help="seconds a window spans (as the model was trained)")
    sub.add_argument("--hop", type=float, metavar="S", help="seconds between windows (half a window)")
    sub.add_argument("--batch-size", type=int, default=8, metavar="N", help="windows per forward pass (%(default)s)")
    sub.add_argument("--no-video", action="store_true", help="draw no annotated video")
    sub.add_argument("--again", action="store_true", help="predict also what is done in --out")
    device_option(sub)


def _predict(arguments: argparse.Namespace, _: list[str]) -> int:
    settings = {"window": arguments.window, "hop": arguments.hop, "batch_size": arguments.batch_size}
    _check(arguments)
    from hicmae.inference import load_model
    from hicmae.inference.camera import camera_name

    model = load_model(arguments.checkpoint, stage="finetune", device=arguments.device)
    cameras = [camera_name(text) for text in arguments.inputs]
    if any(cameras):
        if len(cameras) > 1 or arguments.out or arguments.watch:
            raise UserError("webcam: stands alone, without --out: nothing is recorded")
        return _live(str(cameras[0]), model, arguments)
    if arguments.watch:
        from hicmae.inference.watching import watch_folder

        draw = not arguments.no_video
        return watch_folder(arguments.watch, model, arguments.out, video=draw, show=True, **settings).code
    return _files(arguments, model, settings)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.watch and (arguments.inputs or not arguments.out):
        raise UserError("--watch DIR: needs --out DIR for the results, and takes no other videos")
    if not arguments.watch and not arguments.inputs:
        raise UserError("there is nothing to predict: name videos, folders of videos, webcam, or --watch DIR")
    for name in ("window", "hop", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, not {value}")


def _files(arguments: argparse.Namespace, model: Any, settings: dict[str, Any]) -> int:
    import json

    from hicmae.inference.watching import predict_folder
    from hicmae.runtime.log import say

    found: list[Any] = []

    def told(result: Any) -> None:
        if arguments.json:
            found.append(result.to_dict())
        else:
            write(f"{result.table()}\n")

    how = {"again": arguments.again, "video": not arguments.no_video, "show": True}
    summary = predict_folder(arguments.inputs, model, arguments.out, found=told, **how, **settings)
    if arguments.json:
        write(json.dumps(found, indent=1, ensure_ascii=False))
    if arguments.out or len(summary.done) + len(summary.failed) > 1:
        say(str(summary) + (f"; {arguments.out}" if arguments.out else ""))
    return summary.code


def _live(device: str, model: Any, arguments: argparse.Namespace) -> int:
    import contextlib
    import itertools

    from hicmae.inference.camera import NOTICE, camera_frames, watch_camera
    from hicmae.inference.people import shortly
    from hicmae.runtime.log import say

    frames = camera_frames(device)
    first = next(frames, None)  # a missing camera is told before anything else
    if first is None:
        raise UserError(f"webcam: camera {device} gives no pictures; is another program using it?")
    say(NOTICE)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(frames):
        for each in watch_camera(model, itertools.chain([first], frames), hop=arguments.hop or 0.5):
            write(f"{each.time:8.1f} s  {each.person}: {shortly(each.found.probabilities, each.found.values, 3)}")
    return 0
