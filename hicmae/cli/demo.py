"""The first command of a newcomer: demo."""

from __future__ import annotations

import argparse

from hicmae.cli.words import Add, write

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`demo`."""
    sub = add("demo", _demo, "run the main job on generated talking faces, or on your own videos")
    sub.add_argument("--videos", metavar="DIR", help="your own videos: shard, pretrain, reconstruct")
    sub.add_argument("--out", default="runs/demo", metavar="DIR", help="where everything is written (%(default)s)")
    sub.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions with other seeds (%(default)s)")
    sub.add_argument("--steps", type=int, default=3000, metavar="N", help="training steps with --videos (%(default)s)")


def _demo(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import demo

    if arguments.videos:
        write(demo.own_videos(arguments.videos, arguments.out, steps=arguments.steps))
    else:
        write(str(demo.generated_faces(arguments.out, demo.DemoConfig(seeds=arguments.seeds))))
    return 0
