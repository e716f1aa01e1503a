"""A step of ours beside one of VideoMAE-B as the package transformers has it, same input, same number of clips.

    python benchmarks/videomae.py --pairs 3 --out runs/bench/videomae.json

MAE-DFER and VideoMAE-B have about as many parameters (85 and 86 million) and are fine-tuned on the same clips: at 160
pixels, for which MAE-DFER was published, and at 224. For information, VideoMAE-B itself, ours against theirs, also in
pretraining. Weights are random (nothing is downloaded); forward and backward, fp32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Row, compare, row
from hicmae.models import create_model
from hicmae.pretrain.config import MaskConfig, TargetConfig
from hicmae.pretrain.objectives import objective_for
from hicmae.runtime.log import UserError

__all__ = ["main", "measure"]

TARGETS = {160: 1.8, 224: 2.0}
"""How many times as fast MAE-DFER is to be, by frame size."""
SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2}


def measure(pairs: int, batch: int, device: torch.device, *, quick: bool = False, show: bool = True) -> list[Row]:
    """Rows of both sizes."""
    clock, rows = measuring.clock_for(device), []
    for size, target in {32: 1.0}.items() if quick else TARGETS.items():
        video = torch.randn(batch, 3, 16, size, size, device=device)
        theirs, name = _theirs(size, "VideoMAEForVideoClassification", quick, device), f"16 x {size}"
        steps = {
            "transformers": _classify(lambda x, m=theirs: m(pixel_values=x).logits, theirs, video.transpose(1, 2)),
            "MAE-DFER": _ours("mae_dfer_base", size, quick, device, video),
            "VideoMAE": _ours("videomae_base", size, quick, device, video),
        }
        found = compare(steps, pairs=pairs, clock=clock, label=name, show=show)
        note = f"{found.spread('MAE-DFER').value:.2f} against {found.spread('transformers').value:.2f} s, {batch} clips"
        speed = found.ratio("transformers", "MAE-DFER")
        rows.append(row("fine-tuning step, beside transformers' VideoMAE-B", name, speed, target, note=note))
        rows.append(row("the same, our VideoMAE-B", name, found.ratio("transformers", "VideoMAE")))
        del theirs, steps
    size = 32 if quick else 160
    theirs = _theirs(size, "VideoMAEForPreTraining", quick, device)
    steps = {
        "transformers": _hide(theirs, batch, size, device),
        **{name: _pretrain(name, batch, size, quick, device) for name in ("mae_dfer_base", "videomae_base")},
    }
    found = compare(steps, pairs=pairs, clock=clock, label="pretraining", show=show)
    for name, words in (("mae_dfer_base", "MAE-DFER"), ("videomae_base", "our VideoMAE-B")):
        what = f"{words}, 16 x {size}"
        rows.append(row("pretraining step, beside transformers' VideoMAE-B", what, found.ratio("transformers", name)))
    return rows


def _theirs(size: int, kind: str, quick: bool, device: torch.device) -> Any:
    """A model of transformers with random weights."""
    try:
        import transformers
    except ImportError:
        raise UserError("benchmarks/videomae.py needs transformers: pip install 'hicmae[dev]'") from None
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.VideoMAEConfig(image_size=size, num_labels=7, norm_pix_loss=True, **(small if quick else {}))
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).to(device).train()


def _classify(call: Callable[[Tensor], Tensor], model: Any, video: Tensor) -> Callable[[], None]:
    labels = torch.arange(len(video), device=video.device) % 7

    def step() -> None:
        F.cross_entropy(call(video), labels).backward()
        model.zero_grad()

    return step


def _ours(name: str, size: int, quick: bool, device: torch.device, video: Tensor) -> Callable[[], None]:
    model = create_model(name, num_classes=7, size=size, **(SMALL if quick else {})).to(device).train()
    return _classify(model, model, video)


def _hide(model: Any, batch: int, size: int, device: torch.device) -> Callable[[], None]:
    """A pretraining step of theirs, nine tenths of the tokens hidden in tubes."""
    video = torch.randn(batch, 16, 3, size, size, device=device)
    places = (size // 16) ** 2
    tube = torch.arange(places, device=device) >= max(places // 10, 1)
    mask = tube.repeat(8).expand(batch, -1)

    def step() -> None:
        model(video, bool_masked_pos=mask).loss.backward()
        model.zero_grad()

    return step


def _pretrain(name: str, batch: int, size: int, quick: bool, device: torch.device) -> Callable[[], None]:
    model = create_model(name, "pretrain", size=size, **(SMALL if quick else {})).to(device).train()
    target = TargetConfig(difference=2 if name.startswith("mae_dfer") else None)
    objective = objective_for(model, mask=MaskConfig(video=0.5 if quick else 0.9), target=target)
    raw = torch.randint(0, 256, (batch, 3, 16, size, size), dtype=torch.uint8, device=device)
    given = {"video": raw, "number": torch.arange(batch, device=device), "epoch": 0}

    def step() -> None:
        objective(model, given).loss.backward()
        model.zero_grad()

    return step


def main() -> None:
    """The command."""
    parser = measuring.options(__doc__, pairs=3)
    parser.add_argument("--batch", type=int, default=1, help="clips per step")
    given = parser.parse_args()
    device = measuring.prepare(given)
    rows = measure(given.pairs, given.batch, device, quick=given.quick)
    measuring.write(rows, given.out, device=device, pairs=given.pairs, quick=given.quick)


if __name__ == "__main__":
    measuring.script(main)
