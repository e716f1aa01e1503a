"""The README of a published folder: front matter that the Hugging Face Hub reads, and words that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hicmae.models.base import Model
from hicmae.zoo.catalogue import Card

__all__ = ["hub_page"]

_KNOWN = re.compile(r"(apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-[234]\.0|bsd-[23]-clause|gpl-[23]\.0|openrail)")
"""Licences that the Hub has a name for; another one is told as `other` with its words."""


def hub_page(about: Card, model: Model, meta: Mapping[str, Any], authors: str, licence: str) -> str:
    """`README.md` in the format of the Hub's model cards.

    Args:
        about: our card of the published files.
        model: whose form and name are told.
        meta: what its checkpoint says.
        authors: in words; may be empty.
        licence: of the weights; empty where it is not stated.
    """
    task = _task(about, model, meta)
    return f"---\n{_front(about, model, licence, task).to_yaml()}\n---\n\n{_words(about, model, meta, authors)}"


def _task(about: Card, model: Model, meta: Mapping[str, Any]) -> str | None:
    """The Hub's name of what the model does, where it has one."""
    if model.stage != "finetune" or not meta.get("labels"):
        return None
    return "audio-classification" if model.name.endswith("_audio") else "video-classification"


def _front(about: Card, model: Model, licence: str, task: str | None) -> ModelCardData:
    known = licence.lower() if _KNOWN.fullmatch(licence.lower()) else "other"
    tags = ["hicmae", "emotion-recognition", about.system.split()[0].rstrip(","), model.stage]
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=re.sub(r"[^a-z0-9_-]+", "-", result.dataset.lower()).strip("-") or "test",
            dataset_name=result.dataset,
            metric_type=name.lower(),
            metric_name=name,
            metric_value=value,
        )
        for result in about.results
        for name, value in result.metrics.items()
    ]
    values: dict[str, Any] = {
        "license": known,
        **({} if known != "other" else {"license_name": _slug(licence), "license_link": "LICENSE"}),
        "library_name": "hicmae",
        "tags": list(dict.fromkeys(tags)),
        **({"pipeline_tag": task} if task else {}),
    }
    if results:
        return ModelCardData(model_name=about.name, eval_results=results, **values)
    return ModelCardData(**values)


def _slug(licence: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")[:60] or "not-stated"


def _words(about: Card, model: Model, meta: Mapping[str, Any], authors: str) -> str:
    labels = meta.get("labels") or ()
    lines = [f"# {about.name}", "", f"{about.summary}.", ""]
    lines += [f"By {authors}.", ""] if authors else []
    lines += [
        "## What it may be used for",
        "",
        f"* **Intended use.** {about.intended_use}",
        f"* **Out of scope.** {about.out_of_scope}",
        f"* **What the outputs mean.** {about.labels_mean}",
        f"* **Groups it was measured on.** {about.groups}",
        f"* **Data and consent.** {about.consent}",
        f"* **Licence of the weights.** {about.weights_licence}",
        "",
        "## How to use it",
        "",
        "```python",
        "import hicmae",
        "",
        'model, processor, meta = hicmae.from_pretrained("FOLDER or OWNER/NAME")',
        *(
            [
                'print(hicmae.predict("clip.mp4", "FOLDER or OWNER/NAME"))',
                "",
                'for window in processor("clip.mp4"):  # or window by window',
                f"    outputs = model({_arguments(model)})  # (1, {len(labels) or 'classes'}), in the order below",
            ]
            if model.stage == "finetune"
            else ['encoder = hicmae.create_model(meta["name"], num_classes=7)  # with the arguments in config.json']
        ),
        "```",
        "",
        "timm builds it too, once the library is imported:",
        "",
        "```python",
        "import timm, hicmae.models",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or "hf-hub:OWNER/NAME"',
        "```",
        "",
        "`model.safetensors` holds plain tensors; `config.json` says from which arguments the model is built, "
        "`processor.json` how clips become input (crop, rate, normalisation, filter bank).",
        "",
    ]
    if labels:
        lines += ["## Outputs", "", *(f"{number}. {label}" for number, label in enumerate(labels)), ""]
    if about.results:
        lines += ["## Results", "", "| data | input | labels | result | protocol |", "|---|---|---|---|---|"]
        for result in about.results:
            figures = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.items())
            lines.append(f"| {result.dataset} | {result.input} | {result.target} | {figures} | {result.protocol} |")
        lines += ["", "`results.json` has them by class, with their intervals.", ""]
    paper = about.paper
    lines += [
        "## Where the system is from",
        "",
        f"{paper.title}. {paper.venue}, [arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}); published code: "
        f"{about.repository}. The results there are not this file's.",
    ]
    return "\n".join(lines) + "\n"


def _arguments(model: Model) -> str:
    takes = getattr(model, "modalities", ("video",))
    return ", ".join(f"window.{name}" for name in takes)
