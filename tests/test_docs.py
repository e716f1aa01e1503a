"""What a page tells people to type or to follow is there: commands, Python, links, names of the reference, pictures."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import yaml

import hicmae
from hicmae import configs, datasets, finetune, pretrain
from hicmae.cli import TOPICS
from hicmae.cli.words import Commands
from hicmae.configs.options import check_options, dotted, join_options, load_config
from hicmae.models import list_models, model_arguments

ROOT = Path(__file__).resolve().parents[1]
PAGES = list(
    dict.fromkeys(
        [
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            ROOT / "CHANGELOG.md",
            *sorted(ROOT.glob("docs/**/*.md")),
            *sorted(ROOT.glob("*/README.md")),
        ]
    )
)
NEEDS = re.compile(r"<!-- needs ([\w ,]+) -->\s*$")
"""Stands before a block of Python that a test cannot run, and says what it needs."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(language, code, text before it) of all code blocks of a page, those within tabs too."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
        indent = len(match[1])
        code = "\n".join(line[indent:] for line in match[3].splitlines())
        yield match[2], code, text[: match.start()].rstrip()


def lines() -> list[tuple[str, str]]:
    """(page, command) of all code blocks, continued lines joined."""
    found = []
    for page in PAGES:
        for _, code, _ in blocks(page):
            joined = code.replace("\\\n", " ")
            found += [(name_of(page), line.strip()) for line in joined.splitlines() if line.strip()]
    return found


TYPED = [(page, line) for page, line in lines() if re.match(r"(\.venv/bin/)?hicmae ", line)]
SCRIPTS = [(page, line) for page, line in lines() if re.match(r"(python|bash|sbatch) ", line)]


@pytest.mark.parametrize(("page", "line"), TYPED)
def test_a_command_of_a_page_can_be_typed(page: str, line: str) -> None:
    commands = Commands()
    for topic in TOPICS:
        topic.add_to(commands.add)
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-"):  # hicmae --help, hicmae --version
        with pytest.raises(SystemExit, match="0"):
            commands.parser.parse_args(words)
        return
    options = commands.known[words[0]][1]
    config = load_config(options) if options else None
    arguments, rest = commands.parser.parse_known_args(words if config is None else join_options(config, words))
    if config is None:
        assert not rest or options == ""
    elif words[0] in ("pretrain", "finetune"):
        configs.load(config, configs.resolve(arguments.recipe, words[0]), rest)
    else:
        check_options(config, rest)


@pytest.mark.parametrize(("page", "line"), SCRIPTS)
def test_a_script_of_a_page_is_there(page: str, line: str) -> None:
    scripts = [word for word in shlex.split(line, comments=True) if word.endswith((".py", ".sh"))]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_pages_are_read() -> None:
    assert {"README.md", "docs/distributed.md", "docs/guides/own-data.md", "finetune/README.md"} <= {
        page for page, _ in TYPED
    }


PYTHON = {
    name_of(page): [
        (code, NEEDS.search(before)) for language, code, before in blocks(page) if language == "python" and code
    ]
    for page in PAGES
}
BUILDING = ("README.md", "docs/systems/")  # their models are only built: without values that takes no time
PYTHON = {page: found for page, found in PYTHON.items() if found}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people who follow a page have by then: clips, shards, a pretraining run and a classifier, all small."""
    root = tmp_path_factory.mktemp("reader")
    faces = datasets.make_corpus(
        root / "faces", train_identities=1, test_identities=1, unlabeled=4, size=64, jobs=1, progress=False
    )
    first = sorted((root / "faces/clips/train").glob("*.mp4"))
    (root / "videos").mkdir()
    for number, clip in enumerate(sorted((root / "faces/clips/unlabeled").glob("*.mp4"))):
        shutil.copy(clip, root / "videos" / f"{number}.mp4")
    shutil.copy(first[0], root / "clip.mp4")
    for name, listed in (("mine", faces.unlabeled_csv), ("train", faces.train_csv), ("test", faces.test_csv)):
        how = datasets.ShardConfig(size=64, list=str(listed))
        datasets.write_shards([], root / "data" / name, config=how, progress=False)
    runs: tuple[tuple[Any, Any, str, list[str]], ...] = (
        (pretrain, pretrain.PretrainConfig, "mae_dfer_small", [f"--data.shards={root}/data/mine"]),
        (
            finetune,
            finetune.FinetuneConfig,
            "mae_dfer_small_finetuned",
            [f"--init={root}/runs/mae_dfer_small", f"--data.train={root}/data/train", f"--data.test={root}/data/test"],
        ),
    )
    for package, config, name, options in runs:
        recipe = configs.resolve("mae_dfer_small", package.__name__.split(".")[1])
        options += ["--loop.epochs=1", "--loop.batch_size=4", "--data.workers=0", f"--out={root}/runs/{name}"]
        package.run(configs.load(config, recipe, options), show=False)
    return root


SLOW = ("docs/guides/export.md",)  # writing ONNX takes a quarter of a minute
MARKED = [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in PYTHON]


@pytest.mark.parametrize("page", MARKED)
def test_python_of_a_page_runs(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "page"}
    for number, (code, needs) in enumerate(PYTHON[page]):
        compiled = compile(code, f"{page}, block {number + 1}", "exec")
        if not needs:
            with torch.device("meta") if page.startswith(BUILDING) else nullcontext():
                exec(compiled, space)
    capsys.readouterr()


def test_few_blocks_are_left_out() -> None:
    left = [(page, needs[1]) for page, found in PYTHON.items() for _, needs in found if needs]
    assert len(left) <= 2, left


HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As both GitHub and the site make them."""
    found = HEADING.findall(without_code(page.read_text(encoding="utf-8")))
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", words).lower() for words in found)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip()) for words in plain}


def wrong_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    bad = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            bad.append(link)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert wrong_links(page) == []


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One\n\n## Two, and `three`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#two-and-three) [c](gone.md) [d](there.md#gone) [e](#gone)\n\n"
        "```\n[no](link.md)\n```\n",
        encoding="utf-8",
    )
    assert wrong_links(page) == ["gone.md", "there.md#gone", "#gone"]


def test_every_page_of_the_site_is_in_its_menu() -> None:
    def entries(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from entries(value)

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(entries(yaml.safe_load(text)["nav"]))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert there <= listed
    assert all(name.startswith("repository/") for name in listed - there)


def public(module: ModuleType) -> set[str]:
    """Full names of what a package announces; of a module, the module itself."""
    return {f"{module.__name__}.{name}" for name in module.__all__}


def documented() -> set[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    return set(re.findall(r"^::: ([\w.]+)", text, re.MULTILINE))


def test_the_reference_names_every_public_name() -> None:
    packages = [importlib.import_module(f"hicmae.{name}") for name in hicmae.__all__ if name in hicmae._PACKAGES]
    wanted = public(hicmae) - {package.__name__ for package in packages}
    packages.append(importlib.import_module("hicmae.inference.serving"))
    for package in packages:
        wanted |= public(package)
    assert sorted(wanted - documented()) == [], "docs/reference lacks them"
    assert sorted(documented() - wanted) == [], "docs/reference names what is not public"


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/making"))


@pytest.mark.usefixtures("making")
def test_pictures_are_those_that_are_drawn() -> None:
    pictures = importlib.import_module("pictures")
    drawn = {name: draw().svg() for name, draw in pictures.PICTURES.items()}
    there = {path.name: path.read_text(encoding="utf-8") for path in pictures.HERE.glob("*.svg")}
    assert there == drawn, "draw them anew: python docs/making/pictures.py"


@pytest.mark.usefixtures("making")
def test_tables_of_the_systems_are_those_of_the_cards() -> None:
    tables = importlib.import_module("tables")
    for page in (ROOT / "docs/systems").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, "make them anew: python docs/making/tables.py"
    assert "84,878,343" in (ROOT / "docs/systems/mae-dfer.md").read_text(encoding="utf-8")


def named_options(page: Path) -> set[str]:
    """Keys of recipes in the last column of a page's departures, `key` or `key: value`."""
    rows = page.read_text(encoding="utf-8").partition("## Departures")[2].splitlines()
    last = [row.rstrip("| ").rpartition(" | ")[2] for row in rows if row.startswith("|")]
    return {code.partition(":")[0] for cell in last for code in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/systems/[!i]*.md")), ids=lambda page: page.stem)
def test_options_of_departures_are_keys_of_recipes(page: Path) -> None:
    keys = set(dotted(pretrain.PretrainConfig)) | set(dotted(finetune.FinetuneConfig))
    for name in list_models():
        for stage in ("finetune", "pretrain"):
            keys |= {f"args.{key}" for key in model_arguments(name, stage)}
    found = named_options(page)
    assert found
    assert found <= keys


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//', text), page
    models = (tmp_path / "site/reference/models.html").read_text(encoding="utf-8")
    assert all(f'id="hicmae.models.{name}"' in models for name in hicmae.models.__all__)
