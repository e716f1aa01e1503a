"""The command `zoo`: cards, downloads, conversion, publishing, bundles."""

from __future__ import annotations

import argparse
from typing import Any

from hicmae.cli.models import model_arguments
from hicmae.cli.words import Add, Command, write
from hicmae.configs.errors import ConfigError

__all__ = ["add_to"]

_FORMS = ("finetune", "pretrain")


def add_to(add: Add) -> None:
    """`zoo` and what it does."""
    sub = add("zoo", _zoo, "model cards; download, verify, convert, publish and bundle checkpoints", "")
    kinds = sub.add_subparsers(dest="what", metavar="COMMAND", required=True)

    def kind(name: str, words: str, more: str = "") -> argparse.ArgumentParser:
        about = f"{words[0].upper()}{words[1:]}. {more}".strip()
        return kinds.add_parser(name, help=words, description=about, allow_abbrev=False)

    kind("list", "all cards, one line each")
    info = kind("info", "one card: paper, terms, costs, published results and their sources")
    info.add_argument("name", metavar="NAME", help="name of a model, or a card file")

    download = kind(
        "download",
        "fetch files of cards, or those of a bundle, into the cache, verified",
        "A download that was cut off is continued by the same command. The cache is ~/.cache/hicmae, or HICMAE_CACHE; "
        "HICMAE_OFFLINE=1 forbids the network.",
    )
    download.add_argument("names", nargs="*", metavar="NAME", help="cards, card files or published folders")
    download.add_argument("--form", choices=_FORMS, help="which, where a card has files of both")
    download.add_argument("--file", metavar="FILE", help="which, where a card has several")
    download.add_argument("--from", dest="bundle", metavar="BUNDLE", help="a tar that `hicmae zoo bundle` wrote")

    verify = kind("verify", "check size and sha256 of the files that are here", "Leaves with 1 if any is wrong.")
    verify.add_argument(
        "names", nargs="*", metavar="NAME", help="cards or published folders (default: all known cards)"
    )

    convert = kind(
        "convert",
        "a published .pth file or a run of yours -> safetensors and a card",
        "Further options are arguments that the file does not tell, e.g. --size 224.",
    )
    convert.add_argument("source", metavar="IN", help="a .pth or .safetensors file, or a run folder")
    convert.add_argument("out", metavar="OUT", help="the .safetensors file to write; its card gets the same name")
    convert.add_argument("--name", metavar="NAME", help="name of the model (default: found from the file)")
    convert.add_argument("--labels", nargs="+", metavar="LABEL", help="class names in the order of the outputs")

    publish = kind(
        "publish",
        "a run -> a folder for the Hugging Face Hub: weights, config, processor, results, cards",
        "Names of single clips and paths of this machine are left out.",
    )
    publish.add_argument("source", metavar="RUN", help="a run, a checkpoint, or a weights file")
    publish.add_argument("--out", required=True, metavar="DIR", help="a new or empty folder")
    publish.add_argument("--about", metavar="YAML", help="what no run knows: licence, labels_mean, groups, consent, …")
    publish.add_argument("--ema", action="store_true", help="the averaged weights")

    bundle = kind("bundle", "cards and their files as one tar, for machines without a network")
    bundle.add_argument("names", nargs="+", metavar="NAME", help="cards, card files or published folders")
    bundle.add_argument("--out", required=True, metavar="TAR", help="the tar to write")


def _zoo(arguments: argparse.Namespace, options: list[str]) -> int:
    if options and arguments.what != "convert":
        raise ConfigError(f"hicmae zoo {arguments.what} has no option {options[0]}; see hicmae zoo --help")
    does: dict[str, Command] = {
        "list": _list,
        "info": _info,
        "download": _download,
        "verify": _verify,
        "convert": _convert,
        "publish": _publish,
        "bundle": _bundle,
    }
    return does[arguments.what](arguments, options)


def _list(_: argparse.Namespace, __: list[str]) -> int:
    from hicmae import zoo

    write(zoo.listing())
    return 0


def _info(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import zoo

    write(zoo.information(arguments.name))
    return 0


def _download(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import zoo

    if arguments.bundle:
        done = zoo.unbundle(arguments.bundle, arguments.names)
        write("\n".join([*map(str, done.files), f"known from now on: {', '.join(done.cards)}"]))
        return 0
    if not arguments.names:
        raise ConfigError("say what to download: names of `hicmae zoo list`, or --from BUNDLE")
    for name in arguments.names:
        write(str(zoo.download(name, form=arguments.form, file=arguments.file)))
    return 0


def _verify(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import zoo

    bad, told = 0, 0
    for name in arguments.names or zoo.known():
        for path, problem in zoo.verify(name):
            absent = problem is not None and problem.startswith("is not here")
            if absent and not arguments.names:
                continue
            told, bad = told + 1, bad + (problem is not None)
            write(f"{path}: {problem or 'as its card says'}")
    if not told:
        write(f"nothing to verify: no file of {', '.join(arguments.names) or 'the known cards'} is here")
    return int(bad > 0)


def _convert(arguments: argparse.Namespace, options: list[str]) -> int:
    from hicmae import zoo

    args: dict[str, Any] = model_arguments(options)
    write(str(zoo.convert(arguments.source, arguments.out, arguments.name, labels=arguments.labels, args=args)))
    return 0


def _publish(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import zoo

    write(str(zoo.publish(arguments.source, arguments.out, about=arguments.about, ema=arguments.ema)))
    return 0


def _bundle(arguments: argparse.Namespace, _: list[str]) -> int:
    from hicmae import zoo

    done = zoo.bundle(arguments.names, arguments.out)
    write(f"{done}: {done.stat().st_size / 1e6:,.1f} MB; there: hicmae zoo download --from {done.name}")
    return 0
