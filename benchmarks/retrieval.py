"""Does the sound of a clip find its video? Retrieval by what HiCMAE contrasts, on faces nobody trained on.

    python benchmarks/retrieval.py CHECKPOINT --out runs/retrieval            # generated talking faces
    python benchmarks/retrieval.py CHECKPOINT --data VIDEOS --out runs/retrieval

Of every clip one window is encoded without a mask by both towers. Its features are those that pretraining contrasts:
token means at each contrastive level, through the projections where there are any. How alike a sound and a video are
is the mean over the levels of the cosine between them; recall@k is the share of sounds whose own video is among the k
most alike of N. Beside it stand chance, k / N, and what the same network gives before it learns anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hicmae.configs.errors import UserError
from hicmae.datasets.listing import find_videos
from hicmae.datasets.media import MediaError
from hicmae.datasets.synthetic import make_corpus
from hicmae.inference import Processor, load_model
from hicmae.models.factory import create_model
from hicmae.models.hicmae import HiCMAEPretraining
from hicmae.runtime.log import progress

__all__ = ["Result", "draw", "interval", "likeness", "main", "measure", "recall"]

KS = (1, 5)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What retrieval gives."""

    clips: int
    recall: dict[int, float]
    """k -> share of sounds that find their video."""
    untrained: dict[int, float]
    """The same of fresh weights."""
    likeness: NDArray[np.float64]
    """(N, N), sounds by videos."""

    @property
    def chance(self) -> dict[int, float]:
        """k -> share that guessing gives."""
        return {k: min(1.0, k / self.clips) for k in KS}

    def __str__(self) -> str:
        lines = [f"{self.clips} clips", f"{'':6}{'recall':>8}  {'95 % interval':^18}{'chance':>8}{'untrained':>11}"]
        for k, value in self.recall.items():
            low, high = interval(value, self.clips)
            told = f"{low:.1%} … {high:.1%}"
            lines.append(f"at {k:<3}{value:8.1%}  {told:^18}{self.chance[k]:8.1%}{self.untrained[k]:11.1%}")
        best = max(self.recall, key=lambda k: self.recall[k] - self.chance[k])
        if interval(self.recall[best], self.clips)[0] <= self.chance[best]:
            lines.append("no better than chance, as far as so many clips tell")
        return "\n".join(lines)


def recall(alike: NDArray[np.float64], k: int) -> float:
    """Share of rows of (N, N) in which fewer than k others are as great as the one on the diagonal."""
    others = (alike >= np.diag(alike)[:, None]).sum(1) - 1
    return float((others < k).mean())


def interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of independent trials (Wilson)."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


@torch.inference_mode()
def likeness(model: HiCMAEPretraining, windows: Sequence[Any], size: int = 16) -> NDArray[np.float64]:
    """Mean cosine over contrastive levels of sounds and videos, (N, N)."""
    parts: list[list[torch.Tensor]] = []
    for at in range(0, len(windows), size):
        video = torch.cat([window.video for window in windows[at : at + size]])
        audio = torch.cat([window.audio for window in windows[at : at + size]])
        seen = model._pooled("video", model.encoder(video, None, model.taps["video"]))
        heard = model._pooled("audio", model.encoder_audio(audio, None, model.taps["audio"]))
        parts.append([F.normalize(x.double(), dim=-1) for x in (*heard, *seen)])
    every = [torch.cat(rows) for rows in zip(*parts, strict=True)]
    count = len(every) // 2
    return torch.stack([every[i] @ every[count + i].T for i in range(count)]).mean(0).numpy()


def measure(source: str | Path, data: Sequence[str | Path] | None, clips: int, *, show: bool = True) -> Result:
    """Retrieval by the pretrained model of `source` among the first window of so many clips.

    Raises:
        UserError: it is no audio-visual pretraining checkpoint, or there are fewer than two clips with sound.
    """
    model, meta = load_model(source, stage="pretrain", device="cpu")
    if not isinstance(model, HiCMAEPretraining):
        raise UserError(f"{source}: {model.name} has no contrast; name a pretraining checkpoint of hicmae_*")
    processor = Processor.of(model, meta)
    with tempfile.TemporaryDirectory() as folder:
        if not data:
            size = processor.how.stored + processor.how.stored % 2
            made = make_corpus(  # a seed that no recipe uses
                folder, train_identities=1, test_identities=1, unlabeled=clips, size=max(32, size), seed=20_261, jobs=1
            )
            data = [made.root / "clips" / "unlabeled"]
        windows = []
        for item in progress(list(islice(find_videos(data)[0], clips)), desc="clips", unit="clip", show=show):
            try:
                window = next(processor(item.path), None)
            except MediaError:
                continue
            if window is not None and window.video is not None and window.audio is not None:
                windows.append(window)
    if len(windows) < 2:
        raise UserError("retrieval needs at least two clips with sound")
    torch.manual_seed(0)
    fresh: Any = create_model(model.name, stage="pretrain", **model.args).eval()
    alike, before = likeness(model, windows), likeness(fresh, windows)
    return Result(
        clips=len(windows),
        recall={k: recall(alike, k) for k in KS},
        untrained={k: recall(before, k) for k in KS},
        likeness=alike,
    )


def draw(result: Result, out: Path) -> Path:
    """Likeness of all pairs, and recall beside chance, as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    alike = result.likeness - result.likeness.mean(1, keepdims=True)
    image = left.imshow(alike, cmap="RdBu_r", vmin=-np.abs(alike).max(), vmax=np.abs(alike).max())
    left.set(
        xlabel="video", ylabel="sound", title="likeness, less its mean per sound\n(own videos lie on the diagonal)"
    )
    figure.colorbar(image, ax=left, shrink=0.8)
    kinds = {"pretrained": result.recall, "untrained": result.untrained, "chance": result.chance}
    for i, (name, values) in enumerate(kinds.items()):
        bars = right.bar(np.arange(len(KS)) + 0.27 * (i - 1), [100 * values[k] for k in KS], 0.25, label=name)
        right.bar_label(bars, fmt="%.0f", fontsize=8)
    right.set_xticks(range(len(KS)), [f"recall@{k}" for k in KS])
    right.set(ylabel="% of sounds", title=f"own video among {result.clips}")
    right.legend(frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
    return out


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="run folder or weights file of audio-visual pretraining (hicmae_*)")
    parser.add_argument("--data", nargs="+", help="videos or folders (default: generated talking faces)")
    parser.add_argument("--clips", type=int, default=64, help="how many (%(default)s)")
    parser.add_argument("--out", default="runs/retrieval", help="folder of retrieval.png and .json (%(default)s)")
    arguments = parser.parse_args()
    try:
        result = measure(arguments.checkpoint, arguments.data, arguments.clips)
    except UserError as error:
        sys.exit(f"error: {error}")
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    told = {"clips": result.clips, "recall": result.recall, "chance": result.chance, "untrained": result.untrained}
    (out / "retrieval.json").write_text(json.dumps(told, indent=1) + "\n")
    sys.stdout.write(f"{result}\n{draw(result, out / 'retrieval.png')}\n")


if __name__ == "__main__":
    main()
