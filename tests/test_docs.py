"""Every command that a page tells people to type is one: its options exist, its recipe loads with them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hicmae import configs
from hicmae.cli import TOPICS
from hicmae.cli.words import Commands
from hicmae.configs.options import check_options, join_options, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("*/README.md")),
]


def lines() -> list[tuple[str, str]]:
    """(page, command) of all code blocks, continued lines joined."""
    found = []
    for page in dict.fromkeys(PAGES):
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            joined = block.replace("\\\n", " ")
            found += [(str(page.relative_to(ROOT)), line.strip()) for line in joined.splitlines() if line.strip()]
    return found


TYPED = [(page, line) for page, line in lines() if re.match(r"(\.venv/bin/)?hicmae ", line)]
SCRIPTS = [(page, line) for page, line in lines() if re.match(r"(python|bash|sbatch) ", line)]


@pytest.mark.parametrize(("page", "line"), TYPED)
def test_a_command_of_a_page_can_be_typed(page: str, line: str) -> None:
    commands = Commands()
    for topic in TOPICS:
        topic.add_to(commands.add)
    words = shlex.split(line, comments=True)[1:]
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
    assert {"README.md", "docs/distributed.md", "finetune/README.md"} <= {page for page, _ in TYPED}
