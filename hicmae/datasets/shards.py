"""From videos to webdataset shards and their index, by one machine or by many, in pieces that a killed run picks up.

Shard n is a function of the configuration and of files n * per_shard … (n + 1) * per_shard - 1 of the sorted list,
down to its bytes. Part I of N writes the shards with n mod N = I - 1; whoever merges proves that all are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from hicmae.configs.errors import UserError
from hicmae.datasets.conversion import are_shards, stored
from hicmae.datasets.index import Index, build
from hicmae.datasets.jobs import Job, digest, recorded, run_jobs, write_text, writing
from hicmae.datasets.listing import Item, find_videos, is_list, keys_of, read_list
from hicmae.datasets.sidecars import FORMAT, Sidecar, read_json, read_sidecar
from hicmae.datasets.strips import ShardConfig
from hicmae.runtime.log import progress as progress_bar

__all__ = ["Engine", "Index", "Part", "ShardConfig", "merge_shards", "write_part", "write_shards"]

Engine = Literal["processes", "ray"]
Inputs = Sequence[str | Path] | Sequence[Item]


def write_shards(
    inputs: Inputs,
    out: str | Path,
    *,
    config: ShardConfig | None = None,
    progress: bool = True,
    workers: int = 0,
    engine: Engine = "processes",
) -> Index:
    """Write the videos among `inputs` as webdataset tars into `out`, and an index of them.

    The same call continues a run that was killed, and changes nothing where all is done. A video that cannot be used
    is left out and listed in the index with its reason.

    Args:
        inputs: video files and folders, or items (as a card finds them), or one list; with `config.list` at most the
            folder that its paths start from. Or one folder of shards, to be converted to `config.format`.
        progress: show a bar with rate and ETA.
        workers: processes that each write one shard at a time; 0 works in this one.
        engine: `ray` hands the shards to a Ray cluster whose nodes all see inputs and output.

    Raises:
        UserError: an input or the list is wrong, no video can be used, `out` holds shards made otherwise, or cannot
            be written (a full disk, say).
    """
    plan = _Plan.of(inputs, Path(out), config or ShardConfig())
    with writing(plan.out):
        plan.claim()
        _work(plan.jobs(), "shard", progress, workers, engine)
        return _finish(plan)


def write_part(
    inputs: Inputs,
    out: str | Path,
    part: int,
    parts: int,
    *,
    config: ShardConfig | None = None,
    progress: bool = True,
    workers: int = 0,
    engine: Engine = "processes",
) -> Part:
    """Write part `part` (from 1) of `parts`: on any machine, in any order, as often as one likes.

    The same call continues a part that was killed. No index is written; `merge_shards` does that once all parts are
    done. The shards are those of `write_shards`, whose arguments and errors these are.

    Raises:
        ValueError: there is no such part.
    """
    if not 1 <= part <= parts:
        raise ValueError(f"part must be I/N with 1 <= I <= N, not {part}/{parts}")
    plan = _Plan.of(inputs, Path(out), config or ShardConfig())
    with writing(plan.out):
        plan.claim()
        (plan.out / f"parts-{parts}").touch()  # so that merging can say which part a missing shard belongs to
        heads = _work(plan.jobs(part, parts), f"shard {part}/{parts}", progress, workers, engine)
    samples, skipped = (sum(head[name] for head in heads) for name in ("samples", "skipped"))
    return Part(plan.out, part, parts, len(heads), samples, skipped, plan.shards)


def merge_shards(inputs: Inputs, out: str | Path, *, config: ShardConfig | None = None, progress: bool = True) -> Index:
    """Prove that the parts in `out` are complete, and write their index.

    Every shard must be there, made from these very files with these settings, of the size its description says; every
    file of the list must be in it or among what it skipped, once; no other shard may lie beside them.

    Raises:
        UserError: something is missing, double or foreign; it is named, with the parts that make what is missing.
    """
    plan = _Plan.of(inputs, Path(out), config or ShardConfig())
    if read_json(plan.out / "config.json") is None:
        raise UserError(f"{plan.out} holds no parts to be merged; make them with --part")
    with writing(plan.out):
        plan.claim()
        jobs = progress_bar(plan.jobs(), total=plan.shards, desc="merge", unit="shard", show=progress)
        missing = [job.number for job in jobs if job.finished() is None]
        if missing:
            raise UserError(_missing(plan, missing))
        return _finish(plan)


@dataclass(frozen=True)
class Part:
    """What a part consists of once it is done."""

    out: Path
    part: int
    parts: int
    shards: int
    samples: int
    skipped: int
    """Videos that could not be used; each is named in the `.jsonl` of its shard."""
    total: int
    """Shards of all parts."""

    def describe(self) -> str:
        """What was made and what comes next."""
        done = f"{self.out}: part {self.part} of {self.parts} is done: {self.shards} of {self.total} shards"
        skipped = f", {self.skipped} video{'s' * (self.skipped != 1)} skipped" if self.skipped else ""
        return f"{done}, {self.samples} samples{skipped}\nonce all parts are done, give the command with --merge"


# -- what is to be done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The whole work, the same on every machine."""

    out: Path
    config: ShardConfig
    items: list[Item]
    keys: list[str]
    classes: list[str]
    others: int
    origin: dict[str, Any] | None = None
    """What `index.json` says of the shards that these are converted from."""

    @classmethod
    def of(cls, inputs: Inputs, out: Path, config: ShardConfig) -> _Plan:
        if are_shards(inputs):
            items, config, origin = stored(inputs[0], config)  # type: ignore[arg-type]
            return cls(out, config, items, [item.source for item in items], origin["classes"], origin["others"], origin)
        items, others = _items(inputs, config)
        classes = _classes(items, config)
        items = [_named_label(item, classes, config) for item in items]
        return cls(out, config, items, keys_of(item.source for item in items), classes, others)

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as files state them; of a conversion those of the videos' shards, and which these were."""
        own = recorded(self.config)
        if self.origin is None:
            return own
        before = dict(self.origin["config"])
        whole = {"format": before.pop("format", "jpeg"), "shards": digest(self.origin["shards"])}
        changed = {name: own[name] for name in ("format", "quality", "per_shard") if name in own}
        return {**before, **changed, "converted_from": whole}

    @property
    def shards(self) -> int:
        return -(-len(self.items) // self.config.per_shard)

    def jobs(self, part: int = 1, parts: int = 1) -> Iterator[Job]:
        """The jobs of a part; files are looked at as they come up."""
        for number in range(part - 1, self.shards, parts):
            span = slice(number * self.config.per_shard, (number + 1) * self.config.per_shard)
            yield Job.of(self.out, number, self.items[span], self.keys[span], self.config)

    def claim(self) -> None:
        """Note in `out` what it is for, or refuse to mix two sets of shards in it; of many at once, the first wins."""
        self.out.mkdir(parents=True, exist_ok=True)
        listed = [[item.source, item.label, item.group, item.extra] for item in self.items]
        new = self.recorded
        mine = {"version": FORMAT, "config": new, "list": digest(listed), "shards": self.shards}
        mine |= {"videos": len(self.items)}
        remedy = "choose another --out, or delete that folder"
        path = self.out / "config.json"
        if not path.exists():
            if any(self.out.glob("shard-*.*")):
                raise UserError(f"{self.out} holds shards that were not made by this version; {remedy}")
            write_text(path, json.dumps(mine, indent=1) + "\n", first=True)
        theirs = read_json(path)
        if not isinstance(theirs, dict) or not isinstance(old := theirs.get("config", {}), dict):
            raise UserError(f"{path} is damaged; {remedy}")
        changed = [f"{name} is {new.get(name)}, was {old.get(name)}" for name in new if new.get(name) != old.get(name)]
        if changed or theirs.get("version") != FORMAT:
            what = "; ".join(changed) or "version"
            raise UserError(f"{self.out} holds shards made with other settings ({what}); {remedy}")
        if theirs != mine:
            raise UserError(
                f"{self.out} holds shards made from another list of videos ({theirs.get('videos')} of them, now "
                f"{len(self.items)}, or other names or labels); {remedy}"
            )


def _items(inputs: Inputs, config: ShardConfig) -> tuple[list[Item], int]:
    items = [item for item in inputs if isinstance(item, Item)]
    if items:
        return items, 0
    root = [item for item in inputs if not isinstance(item, Item)]
    listed = config.list
    if listed is None and len(root) == 1 and is_list(root[0]):
        listed, root = str(root[0]), []
    if listed is None:
        return find_videos(root, labels=config.labels, images=config.images)
    if len(root) > 1 or (root and not Path(root[0]).is_dir()):
        raise UserError(
            f"with a list, name one folder that its paths start from, or none; not {', '.join(map(str, root))}"
        )
    items, problems = read_list(listed, root[0] if root else None)
    if problems:
        more = f"\n… and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError("the list cannot be used:\n" + "\n".join(str(problem) for problem in problems[:10]) + more)
    return items, 0


def _classes(items: Sequence[Item], config: ShardConfig) -> list[str]:
    if config.classes is not None:
        return list(config.classes)
    names = {item.label for item in items if item.label is not None}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _named_label(item: Item, classes: Sequence[str], config: ShardConfig) -> Item:
    label = item.label
    if label is None or label in classes:
        return item
    if label.isdecimal() and int(label) < len(classes):
        return dataclasses.replace(item, label=classes[int(label)])
    close = get_close_matches(label, classes, n=1)
    hint = f"did you mean {close[0]}?" if close else "correct the label or add the class"
    raise UserError(f"{item.source} has the label {label}, which is none of the classes {', '.join(classes)}; {hint}")


# -- doing and finishing it --------------------------------------------------------------------------------------------


def _work(jobs: Iterable[Job], name: str, progress: bool, workers: int, engine: Engine) -> list[dict[str, Any]]:
    """Write what is not there yet; returns the heads of all."""
    found = [(job, job.finished()) for job in jobs]
    heads = [head for _, head in found if head is not None]
    total, behind = (sum(len(job.items) for job, head in found if head or every) for every in (True, False))
    with progress_bar(total=total, initial=behind, desc=name, unit="video", show=progress) as bar:
        return heads + run_jobs([job for job, head in found if head is None], bar, workers=workers, engine=engine)


def _finish(plan: _Plan) -> Index:
    """Write the index, once all shards are there and nothing is missing or double."""
    entries: list[dict[str, Any]] = []

    def parts() -> Iterator[Sidecar]:
        for number in range(plan.shards):
            span = slice(number * plan.config.per_shard, (number + 1) * plan.config.per_shard)
            part = read_sidecar(plan.out / f"shard-{number:06d}.jsonl")
            _prove(part, [item.source for item in plan.items[span]])
            entries.append(_entry(part))
            yield part

    preprocessing = plan.config.preprocessing() if plan.origin is None else plan.origin["preprocessing"]
    summary = {"version": FORMAT, "classes": plan.classes, "preprocessing": preprocessing}
    summary["protocol"] = plan.config.protocol
    index = build(plan.out, parts(), {**summary, "others": plan.others})
    if not len(index):
        raise UserError(_nothing(index))
    _prove_folder(plan, index)
    totals = {"samples": len(index), "seconds": round(float(index.seconds.sum()), 3), "sound": int(index.sound.sum())}
    totals |= {"videos": len(plan.items), "skipped": len(index.skipped)}
    content = {**summary, "others": plan.others, "config": plan.recorded, "totals": totals}
    content |= {"skipped": index.reasons(), "fingerprint": index.fingerprint, "shards": entries}
    write_text(plan.out / "index.json", json.dumps(content, indent=1) + "\n")
    for left_over in [*plan.out.glob("*.tmp"), *plan.out.glob("parts-*")]:  # of runs that were killed, and of parts
        with contextlib.suppress(FileNotFoundError):
            left_over.unlink()
    return index


def _prove(part: Sidecar, sources: list[str]) -> None:
    """Each file of a shard is in it or skipped, once; its samples lie one after another."""
    told = Counter([*dict.fromkeys(row["source"] for row in part.samples), *(row["path"] for row in part.skipped)])
    wrong = [f"{source} is told of {told[source]} times" for source in sources if told[source] != 1]
    wrong += [f"{source} does not belong there" for source in told.keys() - set(sources)]
    at = 0
    for row in part.samples:
        wrong += [] if row["offset"] == at else [f"{row['key']} does not follow the sample before it"]
        at = row["offset"] + row["size"]
    if wrong:
        raise UserError(f"{part.path} is not right ({wrong[0]}); delete {part.path.stem}.* and shard again")


def _prove_folder(plan: _Plan, index: Index) -> None:
    """No shard of another run lies there, and no two samples bear the same key."""
    known = {f"shard-{number:06d}" for number in range(plan.shards)}
    foreign = sorted(path.name for path in plan.out.glob("shard-*") if path.name.split(".")[0] not in known)
    if foreign:
        raise UserError(f"{plan.out} holds {foreign[0]}, which is none of its {plan.shards} shards; move it away")
    if len(set(index.keys)) < len(index):
        key, count = Counter(index.keys).most_common(1)[0]
        raise UserError(f"{plan.out} holds the key {key} {count} times; delete its shards and shard again")


def _missing(plan: _Plan, numbers: list[int]) -> str:
    marks = [int(path.name[6:]) for path in plan.out.glob("parts-*") if path.name[6:].isdecimal()]
    parts = max(marks, default=1)
    by_part = Counter(number % parts + 1 for number in numbers)
    commands = ", ".join(f"--part {part}/{parts} ({count} of them)" for part, count in sorted(by_part.items())[:10])
    commands += f" and {len(by_part) - 10} parts more" if len(by_part) > 10 else ""
    names = ", ".join(f"shard-{number:06d}" for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    remedy = f"with {commands}" if parts > 1 else "without --merge"
    return (
        f"{plan.out} lacks {len(numbers)} of {plan.shards} shards, or they were made from other files: {names}{more}; "
        f"give the command again {remedy}"
    )


def _entry(part: Sidecar) -> dict[str, Any]:
    seconds = round(sum(row["seconds"] for row in part.samples), 3)
    head = {name: part.head[name] for name in ("bytes", "sha256", "samples", "skipped")}
    return {"name": part.path.with_suffix(".tar").name, **head, "seconds": seconds}


def _nothing(index: Index) -> str:
    skipped = index.skipped
    if not skipped:
        return f"there is no video among the inputs ({index.others} other files); name mp4, mov, mkv, webm or avi files"
    lines = [f"{skip.source} {skip.reason}; {skip.remedy}" for skip in skipped[:10]]
    more = [f"… and {len(skipped) - 10} more"] if len(skipped) > 10 else []
    return "\n".join([f"none of the {len(skipped)} videos can be used:", *lines, *more])
