"""Tables, intervals and a figure of what `learning.py` found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_jobs import RATES, SHARES

__all__ = ["Interval", "Summary", "Table", "interval", "summarise", "write_report"]

# two-sided 95 % points of Student's t for 1 … 9 degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_CHANCE = {"motion": 1 / 2, "sound": 1 / 2, "agreement": 1 / 2, "pairs": 1 / 4}

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval (Student's t); without ends where there is one seed."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    def told(self, sign: bool = False) -> str:
        """In percent: `61.2 (55.0 … 67.4)`."""
        form = "+.1f" if sign else ".1f"
        ends = "" if self.low is None else f" ({100 * self.low:{form}} … {100 * self.high:{form}})"  # type: ignore[operator]
        return f"{100 * self.mean:{form}}{ends}"

    @property
    def verdict(self) -> str:
        """Whether the interval of a difference holds 0."""
        if self.low is None or self.high is None:
            return "one seed"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Table:
    """One table of a part."""

    name: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: Mapping[str, Any]

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Summary:
    """All tables, and what they cost."""

    tables: tuple[Table, ...]
    cost: Mapping[str, float]
    seeds: int

    def text(self) -> str:
        """Every table under its name."""
        return "\n\n".join(f"{table.name}\n{table.markdown()}" for table in self.tables)


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval of independent values."""
    found = np.asarray(values, np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return Interval(mean, None, None, tuple(found.tolist()))
    t = _T[len(found) - 2] if len(found) - 2 < len(_T) else 1.96
    half = float(t * found.std(ddof=1) / np.sqrt(len(found)))
    return Interval(mean, mean - half, mean + half, tuple(found.tolist()))


def summarise(found: Results, seeds: Sequence[int], parts: Sequence[str]) -> Summary:
    """The tables of some parts from the results of their jobs; seeds that lack a result are left out of its rows."""

    def of(name: str, read: Callable[[Mapping[str, Any]], float] = lambda result: result["uar"]) -> dict[int, float]:
        jobs = {seed: found.get(f"seed-{seed}/{name}") for seed in seeds}
        return {seed: read(result) for seed, result in jobs.items() if result is not None}

    makers = {
        "labels": _labels,
        "motion": _motion,
        "pieces": _pieces,
        "missing": _missing,
        "controls": _controls,
        "contrast": _contrast,
    }
    tables = tuple(table for part in parts for table in makers[part](of))
    cost = {
        "core_minutes": sum(result["cpu"] for result in found.values()) / 60,
        "wall_minutes_of_pieces": sum(result["wall"] for result in found.values()) / 60,
        "pieces": len(found),
    }
    return Summary(tables, cost, len(seeds))


Of = Callable[..., dict[int, float]]


def _pair(of: Of, name: str, other: str, **how: Any) -> tuple[Interval, Interval, Interval] | None:
    """Both sides and their paired difference over the seeds that have both."""
    one, two = of(name, **how), of(other, **how)
    both = sorted(one.keys() & two.keys())
    if not both:
        return None
    left, right = [one[seed] for seed in both], [two[seed] for seed in both]
    return interval(left), interval(right), interval([a - b for a, b in zip(left, right, strict=True)])


def _compared(
    name: str, head: tuple[str, ...], pairs: Mapping[tuple[str, ...], tuple[Interval, Interval, Interval] | None]
) -> Table:
    """A table of pairs of rows and their differences."""
    rows, data = [], {}
    for words, pair in pairs.items():
        if pair is None:
            continue
        one, two, difference = pair
        seeds = str(len(difference.values))
        rows.append((*words, seeds, one.told(), two.told(), difference.told(sign=True), difference.verdict))
        data[" ".join(words)] = {"one": vars(one), "two": vars(two), "difference": vars(difference)}
    return Table(name, (*head[:-4], "seeds", *head[-4:]), tuple(rows), data)


def _labels(of: Of) -> list[Table]:
    pairs = {
        (task, f"{100 * share:g} %", f"{100 * _CHANCE[task]:.0f}"): _pair(
            of, f"{task}-{100 * share:g}-pretrained", f"{task}-{100 * share:g}-scratch"
        )
        for task in ("motion", "sound", "agreement")
        for share in SHARES
    }
    head = ("task", "labels", "chance", "pretrained", "scratch", "difference", "pretraining is")
    return [_compared("labels", head, pairs)]


def _by_share(of: Of, task: str, one: str, other: str) -> dict[tuple[str, ...], Any]:
    """Two ways of doing a task, at each share of the labels that can be learnt from."""
    return {
        (f"{100 * share:g} %",): _pair(of, f"{task}-{100 * share:g}-{one}", f"{task}-{100 * share:g}-{other}")
        for share in SHARES[1:]
    }


def _motion(of: Of) -> list[Table]:
    head = ("labels", "appearance and motion", "pixels alone", "difference", "the motion target is")
    return [_compared("motion", head, _by_share(of, "motion", "target-motion", "target-pixels"))]


def _pieces(of: Of) -> list[Table]:
    names = {"contrast": "no-contrast", "decoder skips": "no-skips", "hierarchical fusion": "last-layer"}
    pairs = {
        (what, *share): pair
        for what, without in names.items()
        for share, pair in _by_share(of, "agreement", "pretrained", without).items()
    }
    return [_compared("pieces", ("piece", "labels", "with", "without", "difference", "with it is"), pairs)]


def _contrast(of: Of) -> list[Table]:
    head = ("labels", "weight 0.1", "weight 0.0025 (published)", "difference", "the greater weight is")
    return [_compared("contrast", head, _by_share(of, "agreement", "strong-contrast", "pretrained"))]


def _missing(of: Of) -> list[Table]:
    kinds = {"missing-video": "frames", "missing-audio": "sound"}
    areas = {
        (f"clips without {what}",): _pair(
            of, "pairs-missing", "pairs-whole", read=lambda result, kind=kind: result["curves"][kind]["area"]
        )
        for kind, what in kinds.items()
    }
    head = ("curve over the share of", "area, trained with gaps", "area, trained on whole clips", "difference", "")
    rows, data = [], {}
    for kind, what in kinds.items():
        for name, words in (("pairs-missing", "with gaps"), ("pairs-whole", "on whole clips")):
            points = [
                interval(list(values.values()))
                for n in range(len(RATES))
                if (values := of(name, read=lambda result, kind=kind, n=n: result["curves"][kind]["uar"][n]))
            ]
            if points:
                rows.append((f"without {what}", words, *(point.told() for point in points)))
                data[f"{kind} {name}"] = [vars(point) for point in points]
    curve_head = ("clips", "trained", *(f"{100 * rate:g} %" for rate in RATES))
    return [
        _compared("areas", (*head[:-1], "training with gaps is"), areas),
        Table("curves", curve_head, tuple(rows), data),
    ]


def _controls(of: Of) -> list[Table]:
    names = {
        "motion-single-frame": ("motion", "a single frame"),
        "motion-audio-alone": ("motion", "the sound"),
        "sound-video-alone": ("sound", "the frames"),
        "agreement-video-alone": ("agreement", "the frames"),
        "agreement-audio-alone": ("agreement", "the sound"),
    }
    rows, data = [], {}
    for name, (task, given) in names.items():
        if values := of(name):
            estimate = interval(list(values.values()))
            rows.append((task, given, f"{100 * _CHANCE[task]:.0f}", estimate.told()))
            data[name] = vars(estimate)
    return [Table("controls", ("task", "the model has", "chance and best possible", "UAR"), tuple(rows), data)]


def write_report(summary: Summary, out: Path, page: Path | None = None) -> None:
    """Write results.json, results.md and figure.png into `out`, and tables and figure into a page that marks them.

    A mark is `<!-- table: NAME -->` … `<!-- end -->`; the figure goes beside the page, as learning.png.
    """
    told = {
        "seeds": summary.seeds,
        "cost": dict(summary.cost),
        "tables": {table.name: dict(table.data) for table in summary.tables},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    cost = f"{summary.cost['pieces']} pieces, {summary.cost['core_minutes']:.0f} minutes of one core"
    (out / "results.md").write_text(f"{summary.text()}\n\n{cost}\n", encoding="utf-8")
    drawn = _figure(summary, out / "figure.png")
    if page is None:
        return
    text = page.read_text(encoding="utf-8")
    for name, made in {**{table.name: table.markdown() for table in summary.tables}, "cost": cost}.items():
        mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    page.write_text(text, encoding="utf-8")
    if drawn:
        page.with_suffix(".png").write_bytes((out / "figure.png").read_bytes())


def _figure(summary: Summary, path: Path) -> bool:
    """Scores over the share of labels, and over the share of clips that lack a modality."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = {table.name: table.data for table in summary.tables}
    labels, curves = tables.get("labels"), tables.get("curves")
    if not labels or not curves:
        return False
    panels = ["motion", "sound", "agreement", "missing-video", "missing-audio"]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 3.2), sharey=True)
    for axis, panel in zip(axes, panels, strict=True):
        chance = _CHANCE.get(panel, _CHANCE["pairs"])
        axis.axhline(100 * chance, color="0.6", linestyle=":", label="chance")
        if panel in _CHANCE:
            found = [value for key, value in labels.items() if key.startswith(panel)]
            lines = {"pretrained": [v["one"] for v in found], "scratch": [v["two"] for v in found]}
            axis.set_xscale("log")
            axis.set_xticks([1, 10, 100], ["1", "10", "100"])
            axis.set_xlabel("labels, %")
            axis.set_title(panel)
            x = [100 * share for share in SHARES]
        else:
            names = {"pairs-missing": "trained with gaps", "pairs-whole": "trained on whole clips"}
            lines = {word: curves[f"{panel} {name}"] for name, word in names.items() if f"{panel} {name}" in curves}
            axis.set_xlabel("clips that lack it, %")
            axis.set_title(f"pairs, no {'frames' if panel == 'missing-video' else 'sound'}")
            x = [100 * rate for rate in RATES]
        for word, points in lines.items():
            mean = 100 * np.array([point["mean"] for point in points])
            ends = [(p["low"] if p["low"] is not None else p["mean"], p["high"] or p["mean"]) for p in points]
            low, high = 100 * np.array(ends).T
            (line,) = axis.plot(x[: len(mean)], mean, marker="o", markersize=4, label=word)
            axis.fill_between(x[: len(mean)], low.clip(0, 100), high.clip(0, 100), color=line.get_color(), alpha=0.18)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right" if panel in _CHANCE else "lower left")
    axes[0].set_ylabel("UAR, %")
    axes[0].set_ylim(0, 103)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
