"""Faces by MTCNN: proposals over an image pyramid, refined twice, with five points each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, roi_align

from hicmae.datasets.faces.detect import Faces
from hicmae.datasets.faces.nets import load_stages

__all__ = ["Mtcnn"]

_CELL = 12  # pixels that P-net looks at
_STEP = 0.709  # of the pyramid: half the area
_LEAST = 20  # pixels; of smaller faces nothing is to be learnt
_MOST = 2000  # proposals per frame and level


class Mtcnn:
    """Detector with the networks of the `mtcnn` wheel (extra `face`), on the CPU or a GPU.

    On the CPU it uses one thread, so that results are the same in any process; several videos at a time keep several
    cores busy.

    Args:
        smallest: height of the smallest face looked for, as a share of the picture's shorter side (at least 20
            pixels). Halving it takes four times as long.
        least: score above which the last network's finding counts as a face; the two before it ask for as much, and
            for 0.1 more.
        retry: the same for another try on frames in which nothing was found, where a face is known to be.
        device: where the networks run.

    Raises:
        UserError: the wheel is missing or another one.
    """

    def __init__(
        self,
        smallest: float = 0.05,
        least: float = 0.6,
        *,
        retry: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.smallest, self.least, self.retry, self.device = smallest, least, retry, torch.device(device)
        self.stages = {name: stage.to(self.device) for name, stage in load_stages().items()}

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Faces]:
        """B frames (H, W, 3) uint8 RGB of one size -> B findings, the highest score first."""
        found = self._found(frames, self.least)
        again = [n for n, faces in enumerate(found) if not len(faces)] if self.retry is not None else []
        if again and self.retry is not None:
            for n, faces in zip(again, self._found([frames[n] for n in again], self.retry), strict=True):
                found[n] = faces
        return found

    @torch.inference_mode()
    def _found(self, frames: Sequence[np.ndarray], least: float) -> list[Faces]:
        if min(frames[0].shape[:2]) < _LEAST:
            nothing = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
            return [Faces(*nothing) for _ in frames]
        # with TF32, one face in 64 of a real clip had its landmarks 5 pixels elsewhere than on a CPU
        with _one_thread(self.device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            levels = [_tensor(level).to(self.device).float().sub_(127.5).div_(128) for level in _halves(frames)]
            owner, boxes = self._proposed(levels, least)
            owner, boxes = self._refined(levels, owner, boxes, least)
            owner, boxes, points, scores = self._described(levels, owner, boxes, least)
        found = []
        for number in range(len(frames)):
            mine = owner == number
            order = scores[mine].argsort(descending=True, stable=True)
            found.append(Faces(*(each[mine][order].cpu().numpy() for each in (boxes, points, scores))))
        return found

    def _proposed(self, levels: list[Tensor], least: float) -> tuple[Tensor, Tensor]:
        """P-net at every scale -> the frame of each proposal (N,), squares (N, 4)."""
        height, width = levels[0].shape[2:]
        scale = _CELL / max(_LEAST, self.smallest * min(height, width))
        owners, boxes, scores = [], [], []
        while min(height, width) * scale >= _CELL:
            size = math.ceil(height * scale), math.ceil(width * scale)
            level = levels[min(len(levels) - 1, max(0, int(-math.log2(scale))))]
            picture = F.interpolate(level, size, mode="bilinear", antialias=True)
            shift, logits = self.stages["pnet"](picture)
            score = logits.softmax(1)[:, 1]  # (B, H', W')
            owner, row, column = (score > least).nonzero(as_tuple=True)
            corner = 2.0 * torch.stack([column, row], 1)
            box = torch.cat([corner, corner + _CELL], 1) + _CELL * shift[owner, :, row, column]
            box *= torch.tensor([width / size[1], height / size[0]] * 2, device=box.device)
            kept = batched_nms(box, score[owner, row, column], owner, 0.5)[: _MOST * len(score)]
            owners.append(owner[kept])
            boxes.append(box[kept])
            scores.append(score[owner, row, column][kept])
            scale *= _STEP
        owner, box, score = torch.cat(owners), torch.cat(boxes), torch.cat(scores)
        kept = batched_nms(box, score, owner, 0.7)
        return owner[kept], _squares(box[kept])

    def _refined(self, levels: list[Tensor], owner: Tensor, boxes: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """R-net: fewer and better squares."""
        shift, logits = self.stages["rnet"](_patches(levels, owner, boxes, 24))
        score = logits.softmax(1)[:, 1]
        good = score > least + 0.1
        owner, boxes, score = owner[good], _shifted(boxes[good], shift[good]), score[good]
        kept = batched_nms(boxes, score, owner, 0.7)
        return owner[kept], _squares(boxes[kept])

    def _described(
        self, levels: list[Tensor], owner: Tensor, boxes: Tensor, least: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """O-net -> frames (N,), boxes (N, 4), points (N, 5, 2), scores (N,), without doubles."""
        shift, places, logits = self.stages["onet"](_patches(levels, owner, boxes, 48))
        score = logits.softmax(1)[:, 1]
        points = places.unflatten(1, (2, 5)).transpose(1, 2)  # (N, 5, 2) within the square
        points = boxes[:, None, :2] + points * (boxes[:, 2:] - boxes[:, :2])[:, None]
        good = score > least
        owner, score, points, boxes = owner[good], score[good], points[good], _shifted(boxes[good], shift[good])
        kept = _apart(owner, boxes, score)
        return owner[kept], boxes[kept], points[kept], score[kept]


def _halves(frames: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The frames and their halves, while they are larger than what any network sees."""
    levels = [list(frames)]
    while min(levels[-1][0].shape[:2]) >= 96:
        levels.append([np.asarray(Image.fromarray(frame).reduce(2)) for frame in levels[-1]])
    return levels


def _tensor(frames: Sequence[np.ndarray]) -> Tensor:
    """B frames (H, W, 3) -> (B, 3, H, W)."""
    return torch.stack([torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))) for frame in frames])


def _patches(levels: list[Tensor], owner: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Squares (N, 4) of the frames `owner` -> (N, 3, size, size), grey outside the frame.

    Each is cut from the level at which it has one to two times as many pixels as it needs: no aliasing, little work.
    """
    patches = levels[0].new_zeros(len(boxes), 3, size, size)
    side = (boxes[:, 2] - boxes[:, 0]).clamp_min(1)
    depth = (side / size).log2().floor().clamp(0, len(levels) - 1)
    for number, level in enumerate(levels):
        mine = (depth == number).nonzero()[:, 0]
        if len(mine):
            places = torch.cat([owner[mine, None].float(), boxes[mine]], 1)
            patches[mine] = roi_align(level, places, size, 0.5**number, sampling_ratio=2, aligned=True)
    return patches


def _shifted(boxes: Tensor, shift: Tensor) -> Tensor:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes + shift * size.repeat(1, 2)


def _squares(boxes: Tensor) -> Tensor:
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], 1)


def _apart(owner: Tensor, boxes: Tensor, score: Tensor) -> Tensor:
    """Indices of the boxes of which no better one in the same frame covers, or lies within, seven tenths."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1)
    iou = box_iou(boxes, boxes)
    shared = iou * (area[:, None] + area) / (1 + iou)
    double = (shared / torch.minimum(area[:, None], area).clamp_min(1e-6) > 0.7) & (owner[:, None] == owner)
    kept: list[int] = []
    for number in score.argsort(descending=True, stable=True).tolist():
        if not double[number, kept].any():
            kept.append(number)
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
