"""What cards say, as text: a list, one model in full, the table of `models/README.md`, and costs side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any, Literal

from hicmae.configs import names
from hicmae.datasets import fingerprint
from hicmae.zoo.catalogue import Card, Cost, Result, card, cards, own_cards

__all__ = ["comparison", "information", "listing", "readme"]

_OWN = """## Files of your own

```
hicmae zoo convert FILE.pth zoo/faces.safetensors       # a published file, got by hand; its card: zoo/faces.yaml
hicmae zoo publish RUN --out faces --about about.yaml   # a run -> a folder for the Hub, for timm, for from_pretrained
hicmae zoo verify faces                                 # size and sha256 of what is here
hicmae zoo bundle faces zoo/faces.yaml --out zoo.tar    # for machines without a network
hicmae zoo download --from zoo.tar                      # there; the names are known from then on
```

Each card says which files there are and where; a folder of cards is found by its names once `HICMAE_CARDS` names it:

```yaml
weights:
  what: fine-tuned on our clips
  obtained: true
  files:
    - name: faces.pth             # a .pth file is converted on arrival, its decoder kept
      form: finetune
      size: 339876543             # bytes; not one more is written
      sha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
      mirrors:                    # tried in this order; a download that was cut off is continued
        - hf://lab/faces@v1/faces.pth
        - https://lab.example/faces.pth
        - ../shared/faces.pth     # from the card's folder
      labels: [angry, happy, sad]
```

`hicmae.from_pretrained`, `hicmae predict --checkpoint` and the like take a run, a weights file, a `.pth` file, a
published folder, a card or its name, and `OWNER/NAME` of the Hugging Face Hub. Files are kept, verified, in
`~/.cache/hicmae` (or `HICMAE_CACHE`), shared by all processes; `HICMAE_OFFLINE=1` forbids the network, and what is
missing is told at once with the path to put it. timm builds what was published, too:
`timm.create_model("local-dir:faces", pretrained=True)` after `import hicmae.models`, in both forms.""".splitlines()
_SHAPE: dict[str, Any] = {"dim": 512, "depth": 16, "heads": 8}
"""LGI-Former's, for the row that shows what its attention alone is worth."""


def listing() -> str:
    """All cards, one line each: name, size, cost and result on DFEW; then those of your own."""
    rows = [("name", "system", "parameters", "MACs", "DFEW UAR / WAR", "published at")]
    own = own_cards()
    for about in [*cards(), *(card(name) for name in own if name not in names("models"))]:
        where = about.weights.published or "-"
        cost = about.cost("finetune")
        size = (f"{cost.parameters / 1e6:.1f} M", _giga(cost.giga_macs)) if cost else ("-", "-")
        rows.append((about.name, about.system, *size, _dfew(about), where.removeprefix("https://github.com/")))
    return _aligned(rows, right={2, 3, 4})


def information(name: str) -> str:
    """A card in full, as text of at most 100 columns."""
    about = card(name)
    lines = [f"{about.name}: {about.system}", *_wrapped(about.summary), ""]
    lines += _wrapped(f"paper: {about.paper.title}. {about.paper.venue}, arXiv:{about.paper.arxiv}")
    lines += _wrapped(f"code: {about.repository}, licence {about.code_licence}")
    lines += _wrapped(f"weights: {about.weights.published or 'no published file'}; {about.weights.what}")
    lines += _wrapped(f"licence of the weights: {about.weights_licence}")
    if not about.weights.files:
        lines.append("sha256: unknown, as no file has been obtained by this project")
    for file in about.weights.files:
        size = "size unknown" if file.size is None else f"{file.size / 1e6:,.1f} MB"
        lines += _wrapped(f"file: {file.name}, {file.form}, {size}{f', {file.what}' if file.what else ''}")
        lines += _wrapped(f"labels: {', '.join(file.labels)}", "  ") if file.labels else []
        lines.append(f"  sha256: {file.sha256 or 'unknown, so that it cannot be downloaded'}")
        lines += [f"  mirror: {mirror}" for mirror in file.mirrors]
    if about.converted:
        lines.append(f"made from: {about.converted.source}, sha256 {about.converted.source_sha256}")
        for title, words in (("labels", about.converted.labels), ("assumed", about.converted.assumed)):
            lines += _wrapped(f"{title}: {', '.join(words)}") if words else []
    lines += [""] if about.costs else []
    for cost in about.costs:
        lines += _wrapped(f"{cost.form}: {cost.parameters:,} parameters, {_giga(cost.giga_macs)} MACs, counted")
        published = f"published: {_stated(cost)} [{cost.source}]" if cost.source else ""
        lines += [line for text in (published, cost.note) if text for line in _wrapped(text, "  ")]
    if about.results:
        own = about.weights.obtained and not about.weights.published
        lines += ["", "results" if own else "published results (none measured by this library)"]
        rows = [("data set", "input", "labels", "result")]
        for result in about.results:
            rows.append((result.dataset, result.input, result.target, _values(result)))
        details = [f"{result.protocol} [{result.source}]" for result in about.results]
        notes = [f"; {result.note}" if result.note else "" for result in about.results]
        head, *table = _aligned(rows).splitlines()
        lines.append(head)
        for row, detail, note in zip(table, details, notes, strict=True):
            lines += [*_wrapped(row), *_wrapped(detail + note, "    ")]
    lines.append("")
    for title, items in (("known", about.preprocessing.known), ("unknown", about.preprocessing.unknown)):
        for item in items:
            lines += _wrapped(f"preprocessing, {title}: {item}")
    if about.preprocessing.fingerprint:
        measured = ", ".join(
            f"{words} {values}" for words, values in fingerprint.rows(it=about.preprocessing.fingerprint)[1]
        )
        lines += _wrapped(f"its data measure, median (5 to 95 %): {measured}")
    said = {"intended use": about.intended_use, "out of scope": about.out_of_scope, "labels": about.labels_mean}
    said |= {"groups evaluated": about.groups, "consent": about.consent}
    lines += ["", *(line for title, words in said.items() for line in _wrapped(f"{title}: {words}"))]
    if about.note:
        lines += ["", *_wrapped(f"note: {about.note}")]
    return "\n".join(lines)


def comparison(names: Sequence[str] = (), stage: Literal["finetune", "pretrain"] = "finetune") -> str:
    """Costs counted here beside published ones, for one clip, as a table of at most 100 columns.

    Plain attention at the shape of LGI-Former always stands below MAE-DFER: without that row the whole saving looks
    as if it came from the attention.

    Args:
        names: registered models; all with a card if empty.
        stage: `finetune` or `pretrain`.

    Raises:
        ValueError: no such model.
    """
    from hicmae.models.profile import profile  # imports torch

    known = {about.name: about for about in cards()}
    rows: list[tuple[str, ...]] = [("model", "parameters", "MACs", "executed", "FLOPs", "published", "DFEW UAR / WAR")]
    for name in names or known:
        about = known.get(name)
        published = _stated(about.cost(stage)) if about else "-"
        rows.append((name, *_counts(profile(name, stage)), published, _dfew(about)))
        if name == "mae_dfer_base":
            rows.append(("  plain ViT, 512 x 16", *_counts(profile("videomae_base", stage, **_SHAPE)), "-", "-"))
    words = {"finetune": "Fine-tuning", "pretrain": "Pretraining"}[stage]
    notes = [
        f"{words} forms, one clip. MACs: multiply-accumulates of the published computation; executed: what this "
        "library computes of it, with the same results; FLOPs: two per multiply-accumulate, matrix products only.",
        "Published: parameters / MACs as printed (papers call MACs FLOPs), and five-fold results after pretraining on "
        "VoxCeleb2; sources: hicmae zoo info NAME. None of the results was measured by this library.",
    ]
    if any(name.endswith(("_video", "_audio")) for name in names or known):
        notes.append("Published costs of single towers are without a head.")
    text = [_aligned(rows, right=set(range(1, 7))), ""]
    return "\n".join([*text, *(line for note in notes for line in _wrapped(note))])


def readme() -> str:
    """`models/README.md`, made from the cards."""
    found = cards()
    lines = [
        "<!-- Made from the cards by hicmae.zoo.readme(); change the cards, not this file. -->",
        "# Models",
        "",
        "One card per published system and size: what it is, what it costs, what was published about it and under "
        "which terms, how its input was made. `hicmae zoo info NAME` prints one; `hicmae zoo convert IN OUT` makes a "
        "published file (or a run of yours) one safetensors file with a card of its own, `hicmae zoo download NAME` "
        "fetches and verifies what a card names, `hicmae zoo publish RUN --out DIR` makes a folder for the Hugging "
        "Face Hub.",
        "",
        "**No weights are here.** Published files lie where the table says; this project has obtained none of them, so "
        "their sha256 are unknown and they are not downloaded: get one by hand, then convert it. **No accuracy below "
        "was measured by this library.**",
        "",
        "| name | system | parameters | MACs (published) | code | weights | published file |",
        "|---|---|---:|---:|---|---|---|",
    ]
    for about in found:
        cost = about.cost("finetune")
        size, macs = (f"{cost.parameters:,}", _giga(cost.giga_macs)) if cost else ("-", "-")
        macs += f" ({cost.published_macs})" if cost and cost.published_macs else ""
        where = f"[repository]({about.weights.published})" if about.weights.published else "none known"
        terms = about.weights_licence.split(" (")[0]
        code = about.code_licence.split(" (")[0]
        lines.append(f"| `{about.name}` | {about.system} | {size} | {macs} | {code} | {terms} | {where} |")
    lines += [
        "",
        "Counts are of the fine-tuning forms, for one clip of 16 frames of 160 x 160 (and 256 x 128 filter-bank "
        "values); single towers are without a head. MACs are multiply-accumulates; papers call them FLOPs.",
        "",
        "## Published results",
        "",
        "Numbers of other protocols are not comparable. *Labels* says what the classes mean: what an actor was asked "
        "to show (acted), what raters saw (perceived), or what the person reported (felt). No output of these models "
        "is what a person feels.",
        "",
        "| data set | model | input | result | protocol | labels | source |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [(result, about) for about in found for result in about.results]
    places = list(dict.fromkeys(result.dataset for result, _ in rows))
    for result, about in sorted(rows, key=lambda row: places.index(row[0].dataset)):
        cells = (result.dataset, f"`{about.name}`", result.input, _values(result), result.protocol, result.target)
        lines.append(f"| {' | '.join(cells)} | {result.source}{f'; {result.note}' if result.note else ''} |")
    lines += ["", *_OWN]
    lines += ["", "## Papers", ""]
    for paper, where in {about.paper: about.repository for about in found}.items():
        lines.append(
            f"* {paper.title}. {paper.venue}, [arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}), {where}"
        )
    return "\n".join(lines) + "\n"


def _counts(cost: Any) -> tuple[str, ...]:
    """Columns of a profile."""
    return f"{cost.params:,}", *(f"{n / 1e9:.2f} G" for n in (cost.macs, cost.executed_macs, cost.flops))


def _stated(cost: Cost | None) -> str:
    """Published parameters and MACs."""
    if cost is None or not (cost.published_parameters or cost.published_macs):
        return "-"
    return f"{cost.published_parameters or '-'} / {cost.published_macs or '-'}"


def _dfew(about: Card | None) -> str:
    """UAR / WAR on DFEW with the input that the model takes."""
    result = about.result("DFEW", about.input) if about else None
    return "{UAR:.2f} / {WAR:.2f}".format(**result.metrics) if result else "-"


def _values(result: Result) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in result.metrics.items())


def _giga(macs: float | None) -> str:
    return "-" if macs is None else f"{macs:.2f} G"


def _aligned(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> str:
    """Rows as columns two blanks apart; those in `right` end together."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    lines = (
        "  ".join(side(*cell) for side, cell in zip(sides, zip(row, widths, strict=True), strict=True)) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent or "  ", break_long_words=False)
