"""The command that lets people try a model in a browser: serve."""

from __future__ import annotations

import argparse
import sys

from hicmae.cli.words import Add, device_option, write

__all__ = ["add_to"]


def add_to(add: Add) -> None:
    """`serve`."""
    more = (
        "A clip is uploaded or recorded; the page shows faces, emotions over time and reconstructions. Nothing is "
        "kept, and no network is needed. Ctrl-C ends it."
    )
    sub = add("serve", _serve, "a page in the browser to try a model on a clip", more=more)
    sub.add_argument("--checkpoint", required=True, metavar="RUN", help="a fine-tuned model, as for predict")
    sub.add_argument("--pretrained", metavar="RUN", help="a pretrained model, which draws reconstructions")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine alone)")
    sub.add_argument("--port", type=int, default=7860, help="0 takes a free one (%(default)s)")
    sub.add_argument("--max-mb", type=float, default=100, metavar="MB", help="largest clip (%(default)s)")
    sub.add_argument("--max-seconds", type=int, default=60, metavar="S", help="longest clip (%(default)s)")
    told = "time that a clip is looked at, at most (%(default)s)"
    sub.add_argument("--work-seconds", type=float, default=180, metavar="S", help=told)
    told = "let other machines reach the page, with --host; there is no password and no encryption"
    sub.add_argument("--allow-network", action="store_true", help=told)
    told = "another name by which the page is reached, as that of a proxy; may be repeated"
    sub.add_argument("--name", action="append", default=[], metavar="HOST", help=told)
    device_option(sub)


def _serve(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae.inference.serving import serve

    serve(
        arguments.checkpoint,
        pretrained=arguments.pretrained,
        host=arguments.host,
        port=arguments.port,
        max_mb=arguments.max_mb,
        max_seconds=arguments.max_seconds,
        work_seconds=arguments.work_seconds,
        allow_network=arguments.allow_network,
        names=arguments.name,
        device=arguments.device,
        say=_say,
    )
    return 0


def _say(text: str) -> None:
    write(text)
    sys.stdout.flush()
