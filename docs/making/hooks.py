"""The site also holds pages that lie elsewhere in the repository; links to them, and to files beside them, stay right.

A page links to `../finetune/README.md` as anybody does who reads the repository; the site has it as
`repository/finetune.md`. Other files of the repository, as recipes, are copied to the same relative place.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "CHANGELOG.md": "repository/changelog.md",
    "finetune/README.md": "repository/finetune.md",
    "datasets/README.md": "repository/datasets.md",
    "models/README.md": "repository/models.md",
}
"""Page of the repository -> its place in the site."""

SHIM = "https://unpkg.com/iframe-worker/shim"

LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository."""
    for source, place in PAGES.items():
        if place != "index.md":
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, place, content=_moved(text, source, place, files, config)))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ lead to the copies; the repository's pages were seen to before."""
    place = page.file.src_uri
    return (
        text if place in PAGES.values() and place != "index.md" else _moved(text, f"docs/{place}", place, files, config)
    )


def on_post_build(config: Any) -> None:
    """The theme would fetch from elsewhere what lets pages search from the disk; `worker.js` does it here."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        worker = relpath("worker.js", page.relative_to(site).parent.as_posix())
        page.write_text(text.replace(SHIM, worker), encoding="utf-8")


def _moved(text: str, source: str, place: str, files: Files, config: Any) -> str:
    """`text` of the file `source` of the repository, as the page `place` of the site."""

    def target(match: re.Match[str]) -> str:
        linked = normpath(str(PurePosixPath(source).parent / match[1]))
        if linked.startswith("docs/"):
            there = linked.removeprefix("docs/")
        elif linked in PAGES:
            there = PAGES[linked]
        elif (ROOT / linked).is_file():
            there = f"repository/{linked}"
            if files.get_file_from_path(there) is None:
                files.append(File.generated(config, there, abs_src_path=str(ROOT / linked)))
        else:
            return match[0]
        return relpath(there, str(PurePosixPath(place).parent)) + (match[2] or "")

    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(target, part) for part in parts)
