"""The rows of one run of `make bench` (or `make bench-long`) as tables of docs/performance.md.

    python benchmarks/report.py runs/bench --write docs/performance.md

What stands between `<!-- table: NAME -->` and `<!-- end -->` is replaced where there are rows for it; the words around,
with the reasons of what falls short, are written by hand and stay. NAME is `targets`, `information`, `machine`, or one
of them with `-long` behind it for rows of `runs/bench-long`, say: the end of the folder's name after the first dash.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import figure, script
from hicmae.runtime.log import UserError, say

__all__ = ["fill", "main", "read", "tables"]


def read(folder: Path) -> list[dict[str, Any]]:
    """What the scripts of one run wrote, in the order of their dates.

    Raises:
        UserError: nothing there, a file that is none of theirs, or figures of `--quick`.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            kept["rows"], kept["hardware"], kept["date"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file} was not written by a script of benchmarks/") from None
        if kept.get("quick"):
            raise UserError(f"{file} holds figures of --quick, which mean nothing")
        found.append({**kept, "name": file.stem})
    if not found:
        raise UserError(f"{folder} holds no results: `make bench` writes them")
    return sorted(found, key=lambda kept: kept["date"])


def tables(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Markdown of the tables `targets`, `information` and `machine`."""
    rows = [{**row, "script": kept["name"]} for kept in found for row in kept["rows"]]
    aimed, told = ([row for row in rows if (row["target"] is not None) is wanted] for wanted in (True, False))
    met = sum(bool(row["met"]) for row in aimed)
    head = f"{met} of {len(aimed)} targets met.\n\n" if aimed else "No targets in this run.\n\n"
    return {
        "targets": head + _table(("measure", "of", "measured", "quartiles", "target", ""), map(_aimed, aimed)),
        "information": _table(("measure", "of", "measured", "quartiles", "note"), map(_told, told)),
        "machine": _machine(found),
    }


def _table(names: Sequence[str], rows: Any) -> str:
    lines = [" | ".join(cells) for cells in (names, ["---"] * len(names), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _aimed(row: dict[str, Any]) -> list[str]:
    sign = {"higher": "≥", "lower": "≤"}[row["better"]]
    note = f" ({row['note']})" if row["note"] else ""
    return [
        *(row["measure"], row["what"] + note, figure(row["value"], row["unit"]), _quartiles(row)),
        f"{sign} {figure(row['target'], row['unit'])}",
        "met" if row["met"] else "**not met**",
    ]


def _told(row: dict[str, Any]) -> list[str]:
    return [row["measure"], row["what"], figure(row["value"], row["unit"]), _quartiles(row), row["note"]]


def _quartiles(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{figure(row['low'])}–{figure(row['high'])}"


def _machine(found: Sequence[dict[str, Any]]) -> str:
    """Date, hardware, versions, and the command of every script."""
    last = found[-1]["hardware"]
    kinds = [f"{last['cpu']} ({', '.join(last['flags'])})", f"{last['cores']} cores, {last['threads']} of them used"]
    kinds += [f"{last['memory_gib']:g} GiB"] + ([f"{last['gpu']}, CUDA {last['cuda']}"] if "gpu" in last else [])
    loads = [kept["hardware"]["load"][0] for kept in found if kept["hardware"].get("load")]
    lines = [
        f"* Date: {found[0]['date']} to {found[-1]['date']}",
        f"* Machine: {'; '.join(kinds)}; {last['system']}",
        f"* Versions: Python {last['python']}, torch {last['torch']} ({last['capability']})",
        *([f"* Large fp32 products of ours are computed by {last['products']}"] if "products" in last else []),
        *([f"* Load of the machine at the end of the scripts: {min(loads):g} to {max(loads):g}"] if loads else []),
        "* Commands:",
        "",
        "```bash",
        *(kept["command"] for kept in found),
        "```",
    ]
    return "\n".join(lines)


def fill(page: str, content: dict[str, str], suffix: str = "") -> str:
    """A page with its marked tables replaced.

    Raises:
        UserError: a table that the page has no mark for.
    """
    for name, text in content.items():
        mark = re.compile(rf"(<!-- table: {name}{suffix} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(page):
            raise UserError(f"the page has no mark <!-- table: {name}{suffix} --> … <!-- end -->")
        page = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the JSON files of one run")
    parser.add_argument("--write", type=Path, help="the page whose tables are replaced")
    given = parser.parse_args()
    content = tables(read(given.folder))
    if given.write is None:
        say("\n\n".join(content.values()))
        return
    _, dash, kind = given.folder.resolve().name.partition("-")
    if not given.write.is_file():
        raise UserError(f"{given.write} is not there")
    page = fill(given.write.read_text(encoding="utf-8"), content, dash + kind)
    given.write.write_text(page, encoding="utf-8")
    say(f"{given.write}: {content['targets'].splitlines()[0]}")


if __name__ == "__main__":
    script(main)
