"""A fine-tuned model as a file that runs without this library: ONNX, torch.export, and ONNX in 8-bit integers.

Nothing is written about a file that was not tried: it is loaded again and compared with the model it came from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hicmae.configs.errors import UserError
from hicmae.datasets.jobs import write_text, writing
from hicmae.finetune.inputs import Modality
from hicmae.inference.export_example import example_of
from hicmae.inference.export_graph import Deployed
from hicmae.inference.export_inputs import Given, clips, generated, prepared
from hicmae.inference.loading import opened
from hicmae.inference.processor import Processor
from hicmae.runtime.checkpoint import sha256
from hicmae.runtime.log import say

__all__ = ["BATCHES", "TOLERANCE", "Exported", "Format", "export_model"]

Format = Literal["onnx", "torch", "both"]
BATCHES = (1, 2, 5)
"""Sizes at which a file is compared with the model."""
TOLERANCE = 1e-4
"""By how much an output of a file may differ from the model's."""
_BITS = {"onnx": "model.onnx", "torch": "model.pt2", "int8": "model-int8.onnx"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written and how it compares; `str()` tells it, `export.json` keeps it."""

    out: Path
    files: dict[str, Path]
    differences: dict[str, dict[str, float]]
    """Format -> batch size -> greatest difference of any output from the eager model's."""
    int8: dict[str, Any] = field(default_factory=dict)
    """Agreement of 8-bit integers with the same file in floats."""
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.out}"]
        for kind, path in self.files.items():
            size = path.stat().st_size / 1e6
            lines.append(f"  {path.name:16} {size:8.1f} MB, made in {self.seconds.get(kind, 0):.0f} s")
            if told := self.differences.get(kind):
                batches = ", ".join(f"{value:.1e} (batch {size})" for size, value in told.items())
                lines.append(f"    differs from the eager model by at most {batches}")
        if self.int8:
            lines.append(
                f"    same class as in floats for {self.int8['agreement']:.1%} of {self.int8['windows']} windows "
                f"({self.int8['of']}); outputs differ by at most {self.int8['max_difference']:.3f}"
                if self.int8["agreement"] is not None
                else f"    outputs differ from those in floats by at most {self.int8['max_difference']:.3f} "
                f"for {self.int8['windows']} windows ({self.int8['of']})"
            )
        lines.append("  example.py runs it with numpy, av and onnxruntime alone; export.json says what goes in and out")
        return "\n".join(lines)


def export_model(
    model: Any,
    out: str | Path,
    *,
    format: Format = "onnx",
    int8: bool = False,
    modality: Modality | None = None,
    data: Sequence[str | Path] | None = None,
    windows: int = 64,
    device: str = "cpu",
) -> Exported:
    """Write a fine-tuned model with what prepares its input, check it against the model, and write how to use it.

    Inside the graph: resizing from the stored to the model's size, normalisation, the log-mel filter bank, the model,
    and what makes probabilities (and numbers as valence) of its outputs; any number of windows at a time. Outside, and
    told in `export.json` and `processor.json`: decoding, thinning to `max_fps`, choosing frames, finding and cropping
    faces, resampling sound to 16 kHz. A clip without sound needs an export with `modality="video"`.

    Args:
        model: what `load_model` or `from_pretrained` gives, or any source that they take; fine-tuned.
        out: folder of the files.
        format: `onnx` (model.onnx), `torch` (model.pt2, a `torch.export` program), or `both`.
        int8: also model-int8.onnx, its matrix products in 8-bit integers, and what that costs in agreement.
        modality: `video` or `audio`: an audio-visual model given that alone.
        data: videos or folders that agreement is measured on; generated talking faces when absent.
        windows: how many windows at most.
        device: where a checkpoint's model is put.

    Raises:
        UserError: the model has no head, something is not installed, `out` cannot be written, or a file does not do
            what the model does.
    """
    if format not in ("onnx", "torch", "both"):
        raise UserError(f"format {format!r}: it is one of onnx, torch, both")
    if int8 and format == "torch":
        raise UserError("int8 is made of the ONNX file: say format onnx or both")
    net, meta = opened(model, "finetune", device=device)
    if net.stage == "pretrain":
        raise UserError("a pretraining model has no outputs to export; fine-tune it first (hicmae finetune --help)")
    if not getattr(net, "num_classes", 0):
        raise UserError("the model was made with num_classes=0: it has no head to export")
    if format != "torch":
        _runtime()
    processor = _processor(net, meta)
    training = net.training
    deployed = Deployed(net, meta, processor, modality).eval()
    folder = Path(out)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return _export(deployed, meta, processor, folder, format, int8, data, windows)
    finally:
        net.train(training)


def _processor(net: Any, meta: dict[str, Any]) -> Processor:
    beside = Path(meta.get("file", "")).with_name("processor.json") if meta.get("file") else None
    return Processor.load(beside) if beside is not None and beside.is_file() else Processor.of(net, meta)


def _export(
    deployed: Deployed,
    meta: dict[str, Any],
    processor: Processor,
    folder: Path,
    format: Format,
    int8: bool,
    data: Sequence[str | Path] | None,
    windows: int,
) -> Exported:
    seconds: dict[str, float] = {}
    files: dict[str, Path] = {}
    differences: dict[str, dict[str, float]] = {}
    agreement: dict[str, Any] = {}
    given: Given = ()
    if int8:  # first, because data may not be there
        given = generated(deployed, windows, seed=1) if not data else clips(deployed, processor, data, windows)
    trial = generated(deployed, max(BATCHES))
    say("tracing the model")
    with _timed(seconds, "trace"):
        program = _traced(deployed, tuple(x[:2] for x in trial))
    if format != "onnx":
        with _timed(seconds, "torch"):
            files["torch"] = folder / _BITS["torch"]
            torch.export.save(program, files["torch"])
            with _quiet():
                again: Any = torch.export.load(files["torch"]).module()
            differences["torch"] = _compare(lambda given: again(*given), deployed, processor, trial, files["torch"])
    if format != "torch":
        say("writing ONNX")
        with _timed(seconds, "onnx"):
            files["onnx"] = folder / _BITS["onnx"]
            _write_onnx(program, deployed, files["onnx"])
            run = _runner(files["onnx"])
            differences["onnx"] = _compare(run, deployed, processor, trial, files["onnx"])
        if int8:
            say("writing 8-bit integers")
            with _timed(seconds, "int8"):
                files["int8"] = folder / _BITS["int8"]
                _quantise(files["onnx"], files["int8"])
                of = ", ".join(map(str, data)) if data else "generated talking faces, for want of --data"
                agreement = {**_agreement(run, _runner(files["int8"]), deployed, given), "of": of}
        write_text(folder / "example.py", example_of(deployed, processor))
    processor.save(folder / "processor.json")
    exported = Exported(
        out=folder,
        files=files,
        differences=differences,
        int8=agreement,
        seconds={k: round(v, 1) for k, v in seconds.items()},
    )
    told = _description(deployed, meta, processor, exported)
    write_text(folder / "export.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return exported


def _traced(deployed: Deployed, given: Given) -> Any:
    dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},) * len(given)
    with torch.no_grad(), _quiet():
        return torch.export.export(deployed, given, dynamic_shapes=(dynamic,), strict=False)


def _write_onnx(program: Any, deployed: Deployed, path: Path) -> None:
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(deployed.inputs),
            output_names=list(deployed.names),
            opset_version=20,
        )
        assert made is not None
        made.save(path, external_data=False)


def _quantise(source: Path, target: Path) -> None:
    """Weights of matrix products in float32 as 8-bit integers, one scale per column; what prepares input stays."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    graph = model.graph
    del graph.value_info[:]  # shapes of weights, some of which the quantiser transposes: it finds them by itself
    weights = {each.name: each.data_type for each in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    chosen = [
        node.name
        for node in products
        if weights.get(node.input[1]) == onnx.TensorProto.FLOAT and "weights" not in node.input[1]
    ]
    with _quiet():
        quantize_dynamic(
            model, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True, nodes_to_quantize=chosen
        )


def _runner(path: Path) -> Callable[[Given], list[Tensor]]:
    """Calls the graph of a file on the CPU."""
    ort = _runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(given: Given) -> list[Tensor]:
        found = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
        return [torch.from_numpy(np.asarray(x)) for x in found]

    return run


def _compare(
    run: Callable[[Given], Sequence[Tensor]], deployed: Deployed, processor: Processor, given: Given, path: Path
) -> dict[str, float]:
    """Batch size -> greatest difference of any output from that of the library's own preparation and eager model.

    Raises:
        UserError: one is greater than `TOLERANCE`, features in relation to the greatest of them.
    """
    found = {}
    with torch.inference_mode():
        for batch in BATCHES:
            rows = tuple(x[:batch] for x in given)
            worst = 0.0
            for name, here, there in zip(deployed.names, run(rows), prepared(deployed, processor, rows), strict=True):
                scale = max(1.0, float(there.abs().max())) if name == "features" else 1.0
                worst = max(worst, float((here - there).abs().max()) / scale)
            found[str(batch)] = worst
    if not max(found.values()) <= TOLERANCE:
        raise UserError(
            f"{path}: differs from the model it was made of by {max(found.values()):.1e}, more than {TOLERANCE:g}; "
            "do not use it, and report this with the versions of torch, onnx and onnxruntime"
        )
    return found


def _agreement(
    floats: Callable[[Given], list[Tensor]], integers: Callable[[Given], list[Tensor]], deployed: Deployed, given: Given
) -> dict[str, Any]:
    """How often both give the same class, and by how much outputs differ at most, window by window."""
    count = len(given[0])
    pairs = [[run(tuple(x[i : i + 1] for x in given)) for run in (floats, integers)] for i in range(count)]
    told = [name for name in deployed.names if name != "features"]
    worst = max(float((a[k] - b[k]).abs().max()) for a, b in pairs for k in range(len(told)))
    mean = float(np.mean([float((a[k] - b[k]).abs().mean()) for a, b in pairs for k in range(len(told))]))
    same = None
    if told[0] == "probabilities" and deployed.outputs.exclusive:
        same = sum(int(a[0].argmax()) == int(b[0].argmax()) for a, b in pairs) / count
    return {"windows": count, "agreement": same, "max_difference": worst, "mean_difference": mean}


def _description(deployed: Deployed, meta: dict[str, Any], processor: Processor, done: Exported) -> dict[str, Any]:
    how, names = processor.how, tuple(meta.get("labels") or ())
    classes = getattr(deployed.model, "num_classes", 0) - deployed.outputs.numbers
    labels = list(names[:classes]) or [f"class {i}" for i in range(classes)]
    meaning = {
        "frames": "RGB bytes of square crops, one window of frames per row, as `processor` describes them",
        "sound": "16 kHz mono in [-1, 1], filled up with zeros at its end",
        "samples": "how many samples of each row of `sound` count, at least 400",
    }
    inside = (["resizing to the model's size", "normalisation"] if deployed.sight is not None else []) + (
        ["log-mel filter bank (in double precision)"] if deployed.hearing is not None else []
    )
    outside = ["decoding"]
    if deployed.sight is not None:
        crop = {"mtcnn": "finding and cropping faces", "none": "cropping (clips are expected to be cropped)"}
        outside += [f"leaving out frames above {how.max_fps} per second", f"taking every {how.stride}th frame"]
        outside += [
            crop.get(how.faces, "cutting out the centre square"),
            f"scaling it to {how.stored} x {how.stored} pixels",
        ]
    if deployed.hearing is not None:
        outside += ["resampling sound to 16 kHz mono", "cutting out the window's stretch of it"]
        outside += ["clips without sound: export with modality video for them"] if deployed.sight is not None else []
    from hicmae import __version__  # the package's own root, which imports nothing

    versions = {"hicmae": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if "onnx" in done.files:
        import onnx

        versions |= {"onnx": onnx.__version__, "onnxruntime": _runtime().__version__}
    return {
        "model": meta.get("name") or deployed.model.name,
        "inputs": [
            {"name": name, "type": kind, "shape": ["batch", *shape], "meaning": meaning[name]}
            for name, (kind, shape) in deployed.inputs.items()
        ],
        "outputs": list(deployed.names),
        "labels": labels,
        "values": list(names[classes:]),
        "inside": [*inside, "model", "probabilities" if labels else "values"],
        "outside": outside,
        "window": {"frames": how.frames, "stride": how.stride, "stored": how.stored, "max_fps": how.max_fps},
        "files": {
            kind: {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for kind, path in done.files.items()
        },
        "differences": done.differences,
        "tolerance": TOLERANCE,
        "int8": done.int8,
        "seconds": done.seconds,
        "versions": versions,
    }


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'export needs {error.name}: pip install "hicmae[export]"') from None
    return onnxruntime


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[name] = time.monotonic() - begin


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxruntime say to their own developers."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
