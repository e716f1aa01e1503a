"""How fast a training step is: ours beside the plain formulation, beside `transformers`, and beside a matrix product.

    python benchmarks/step.py --pairs 5 --out runs/bench/step.json
    python benchmarks/step.py --device cuda --out runs/bench/step-gpu.json

Both have the same weights and the same batch; ours normalises bytes within the step, the plain formulation is given
floats. On a CPU everything is fp32 and eager but for the rows that say bf16 (under autocast). On a GPU ours is compiled
and in bf16, and the plain formulation eager, in fp32 and in bf16. The share of the matrix product's rate counts the
operations that are executed, the backward pass as two forward passes; what is folded or skipped is not counted.

`--only` runs some of the parts, by name: `steps`, `half`, `transformers`, on a GPU `gpu`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import MATRIX, MatrixProduct, Row, compare, row
from benchmarks.plain import adamw as loop_adamw
from benchmarks.systems import STAGES, SYSTEMS, Twins, twins
from hicmae.datasets.transforms import normalise
from hicmae.models import create_model
from hicmae.models.products import Library, library, products_by
from hicmae.models.profile import profile
from hicmae.runtime.log import UserError, say
from hicmae.runtime.optim import OptimConfig, adamw, parameter_groups

__all__ = ["PARTS", "gpu", "half", "main", "steps", "transformers_rows"]

RATIOS = {
    "pretrain": {"mae_dfer_base": 1.15, "svfap_base": 1.10, "hicmae_base": 1.10},
    "finetune": {"mae_dfer_base": 1.20, "svfap_base": 1.05, "hicmae_base": 1.00},
}
FRACTIONS = {("pretrain", name): 0.80 for name in SYSTEMS} | {("finetune", "mae_dfer_base"): 0.88}
GPU_FRACTIONS = {"pretrain": 0.40, "finetune": 0.50}
AGAINST_VIDEOMAE = {160: 1.8, 224: 2.0}

BY_TORCH, ONEDNN = "ours, PyTorch's products", "oneDNN's matrix product"

Step = Callable[[], None]


def step(
    net: nn.Module, loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer | None = None, *, half: bool = False
) -> Step:
    """Forward, backward and, where there is an optimiser, its update; in bf16 under autocast."""
    device = next(net.parameters()).device.type

    def run() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss()
        value.backward()
        if optimiser is not None:
            optimiser.step()

    return run


def steps(pairs: int, batch: int, quick: bool, show: bool) -> Iterator[Row]:
    """Every system in both stages against the plain formulation; for MAE-DFER forward and optimiser too."""
    for stage, of_stage in STAGES.items():
        for name, system in SYSTEMS.items():
            pair = twins(name, stage, batch, quick=quick)
            works = {"ours": step(pair.model, pair.ours), "plain": step(pair.twin, pair.theirs), MATRIX: _matrix(quick)}
            if other := library() == "onednn":
                works |= {BY_TORCH: by_torch(works["ours"]), ONEDNN: _matrix(quick, "onednn")}
            whole = (stage, name) == ("pretrain", "mae_dfer_base")
            if whole:
                works |= _with_optimiser(pair) | {"ours, forward": _forward(pair.ours), "plain, forward": pair.theirs}
            found = compare(works, pairs=pairs, label=f"{system} {of_stage}", show=show)
            took = f"ours {found.spread('ours').value:.2f} s, plain {found.spread('plain').value:.2f} s, batch {batch}"
            target = RATIOS[stage][name]
            ratio = found.ratio("plain", "ours")
            yield row(f"{of_stage} step, forward + backward", system, ratio, target, note=took)
            if whole:
                ratio = found.ratio("plain with optimiser", "ours with optimiser")
                yield row(f"{of_stage} step with optimiser", system, ratio, 1.30)
                yield row(
                    f"{of_stage} forward with targets", system, found.ratio("plain, forward", "ours, forward"), 1.25
                )
            if other:
                measure = f"{of_stage} step, forward + backward, PyTorch's products in both"
                yield row(measure, system, found.ratio("plain", BY_TORCH))
            cost, clips = profile(pair.model, stage, mask=_hidden(quick)), 3.0 * batch
            goal, rate = FRACTIONS.get((stage, name)), f"fraction of the matrix-product rate, {of_stage}"
            executed = clips * cost.executed_flops
            yield row(rate, system, found.fraction("ours", executed), goal, unit="")
            if other:
                yield row(f"{rate}, of oneDNN's", system, found.fraction("ours", executed, ONEDNN), goal, unit="")
                yield row(f"{rate}, PyTorch's in both", system, found.fraction(BY_TORCH, executed), unit="")
            # what it multiplies, the surplus included: this near the limit it runs already
            fraction = found.fraction("plain", clips * cost.flops)
            yield row(rate, f"{system}, plain formulation", fraction, unit="")


def half(pairs: int, batch: int, quick: bool, show: bool) -> Iterator[Row]:
    """MAE-DFER in bf16 on a CPU, against the plain formulation in fp32 and in bf16."""
    flags = set(measuring.hardware()["flags"])
    able = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    note = "" if able else "this processor has no instructions for bf16: no target here"
    for stage, of_stage in STAGES.items():
        pair = twins("mae_dfer_base", stage, batch, quick=quick)
        works = {
            "ours": step(pair.model, pair.ours, half=True),
            "plain bf16": step(pair.twin, pair.theirs, half=True),
            "plain fp32": step(pair.twin, pair.theirs),
        }
        found = compare(works, pairs=pairs, label=f"bf16 {of_stage}", show=show)
        for other, target in (("plain fp32", 2.0), ("plain bf16", 1.0)):
            measure = f"bf16 {of_stage} step vs {other}"
            yield row(measure, "MAE-DFER", found.ratio(other, "ours"), target if able else None, note=note)


def transformers_rows(pairs: int, batch: int, quick: bool, show: bool) -> Iterator[Row]:
    """MAE-DFER against VideoMAE-B as `transformers` computes it: random weights, same clips, forward + backward."""
    for named, target in AGAINST_VIDEOMAE.items():
        works = _finetuning(batch, {160: 32, 224: 64}[named] if quick else named, quick)
        found = compare(works, pairs=pairs, label=f"transformers at {named}", show=show)
        took = f"ours {found.spread('ours').value:.2f} s, transformers {found.spread('theirs').value:.2f} s"
        what, ratio = f"MAE-DFER, 16x{named}", found.ratio("theirs", "ours")
        yield row("fine-tuning step vs transformers' VideoMAE-B", what, ratio, target, note=took)
    pair = twins("mae_dfer_base", "pretrain", batch, quick=quick)
    args = pair.model.args
    theirs = _videomae("VideoMAEForPreTraining", args)
    frames = normalise(_clips(batch, args)).transpose(1, 2)
    hidden = torch.zeros(batch, len(pair.model.encoder.pos), dtype=torch.bool)
    hidden[:, : int(hidden.shape[1] * 0.9)] = True  # which ones makes no difference to its time
    works = {
        "ours": step(pair.model, pair.ours),
        "theirs": step(theirs, lambda: theirs(pixel_values=frames, bool_masked_pos=hidden).loss),
    }
    found = compare(works, pairs=pairs, label="transformers, pretraining", show=show)
    yield row("pretraining step vs transformers' VideoMAE-B", "MAE-DFER, 16x160", found.ratio("theirs", "ours"))


def gpu(pairs: int, batch: int, quick: bool, show: bool) -> Iterator[Row]:
    """Every system on a GPU: ours compiled and in bf16, beside eager plain formulations."""
    for stage, of_stage in STAGES.items():
        for name, system in SYSTEMS.items():
            pair = twins(name, stage, batch, "cuda", quick=quick)
            works: dict[str, Step] = {
                "ours, eager": step(pair.model, pair.ours, half=True),
                "plain bf16": step(pair.twin, pair.theirs, half=True),
                "plain fp32": step(pair.twin, pair.theirs),
                MATRIX: MatrixProduct(torch.bfloat16, "cuda"),
            }
            eager = compare(works, pairs=pairs, clock=measuring.cuda_clock, label=f"{system} {of_stage}", show=show)
            del works["ours, eager"]
            pair.model.compile()  # in place: from here on the loss runs compiled
            works["ours"] = step(pair.model, pair.ours, half=True)
            label = f"{system} {of_stage}, compiled"
            found = compare(works, pairs=pairs, warm_up=3, clock=measuring.cuda_clock, label=label, show=show)
            flops = 3.0 * batch * profile(pair.model, stage, mask=_hidden(quick)).executed_flops
            goal = GPU_FRACTIONS[stage]
            rate = f"fraction of the matrix-product rate, {of_stage}, bf16"
            yield row(f"{rate}, compiled", system, found.fraction("ours", flops), goal, unit="", note=f"batch {batch}")
            yield row(f"{rate}, eager", system, eager.fraction("ours, eager", flops), unit="")
            for other, target in (("plain fp32", 3.0), ("plain bf16", None)):
                measure = f"{of_stage} step, bf16 compiled, vs {other}"
                yield row(measure, system, found.ratio(other, "ours"), target)


PARTS: dict[str, Callable[[int, int, bool, bool], Iterator[Row]]] = {
    "steps": steps,
    "half": half,
    "transformers": transformers_rows,
    "gpu": gpu,
}


def _hidden(quick: bool) -> float:
    """Share of the patches that is hidden, as `twins` hides it."""
    return 0.75 if quick else 0.9


def _matrix(quick: bool, by: Library = "torch") -> MatrixProduct:
    return MatrixProduct(size=256 if quick else None, library=by)


def by_torch(work: Step) -> Step:
    """The same with PyTorch's own choice of library for every product."""

    def run() -> None:
        with products_by("torch"):
            work()

    return run


def _forward(loss: Callable[[], Tensor]) -> Step:
    def run() -> None:
        loss()

    return run


def _with_optimiser(pair: Twins) -> dict[str, Step]:
    """Ours with its own AdamW, the plain formulation with the loop; at rates that leave the weights where they are."""
    config = OptimConfig(lr=1e-9, min_lr=0.0)
    ours = adamw(parameter_groups(pair.model, weight_decay=config.weight_decay), config)
    theirs = loop_adamw(pair.twin.parameters(), lr=1e-9)
    return {
        "ours with optimiser": step(pair.model, pair.ours, ours),
        "plain with optimiser": step(pair.twin, pair.theirs, theirs),
    }


def _finetuning(batch: int, size: int, quick: bool) -> dict[str, Step]:
    """Steps of MAE-DFER and of VideoMAE-B on the same clips of that size."""
    small: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "frames": 8, "patch": (2, 8, 8)} if quick else {}
    torch.manual_seed(0)
    ours = create_model("mae_dfer_base", num_classes=7, size=size, **small).train()
    theirs = _videomae("VideoMAEForVideoClassification", ours.args)
    raw, labels = _clips(batch, ours.args), torch.arange(batch) % 7
    frames = normalise(raw).transpose(1, 2)  # it wants (B, T, 3, H, W)
    return {
        "ours": step(ours, lambda: F.cross_entropy(ours(normalise(raw)), labels)),
        "theirs": step(theirs, lambda: theirs(pixel_values=frames, labels=labels).loss),
    }


def _videomae(kind: str, args: dict[str, Any]) -> nn.Module:
    """VideoMAE-B of `transformers` for inputs of that shape, of a small model's width where ours is small."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "the rows beside transformers need it: pip install transformers (or --only steps half)"
        ) from None
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    small |= {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 32}
    small |= {"decoder_num_attention_heads": 2}
    config = transformers.VideoMAEConfig(
        image_size=args["size"],
        num_frames=args["frames"],
        patch_size=args["patch"][1],
        tubelet_size=args["patch"][0],
        num_labels=7,
        qkv_bias=True,
        **(small if args["dim"] < 64 else {}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).train()
    for name, parameter in model.named_parameters():
        if name.endswith(("q_bias", "v_bias", "query.bias", "value.bias")):
            nn.init.normal_(parameter, std=0.02)  # version 5 leaves published ones at zero: here they take part
    return model


def _clips(batch: int, args: dict[str, Any]) -> Tensor:
    return torch.randint(0, 256, (batch, 3, args["frames"], args["size"], args["size"]), dtype=torch.uint8)


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__)
    parser.add_argument("--batch", type=int, help="clips per step (default 2, on a GPU 64)")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), help="parts to run (default: all of the device)")
    given = parser.parse_args()
    device = measuring.prepare(given)
    on_gpu = device.type == "cuda"
    batch = given.batch or (2 if given.quick or not on_gpu else 64)
    chosen = given.only or (["gpu"] if on_gpu else ["steps", "half", "transformers"])
    if ("gpu" in chosen) != on_gpu:
        raise UserError("the part gpu needs --device cuda, the others run on a CPU")
    rows: list[Row] = []
    for part in chosen:
        for one in PARTS[part](given.pairs, batch, given.quick, True):
            rows.append(one)
            say(f"{one.measure}, {one.what}: {measuring.figure(one.value, one.unit)}")  # a long run tells as it goes
    measuring.write(rows, given.out, device=device, pairs=given.pairs, batch=batch, quick=given.quick)


if __name__ == "__main__":
    measuring.script(main)
