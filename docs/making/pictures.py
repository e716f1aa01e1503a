"""The pictures of the systems' pages: `python docs/making/pictures.py` writes them into docs/pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from drawing import Drawing

HERE = Path(__file__).resolve().parents[1] / "pictures"
SEEN = {(1, 0), (4, 1), (0, 3), (3, 3), (2, 4)}  # some visible patches of a small picture of the token grid


def icon() -> Drawing:
    """Patches of which a few are seen."""
    d = Drawing(64, 64, "hicmae")
    d.tokens(6, 6, 4, 4, 13, visible={(1, 0), (2, 1), (0, 2), (3, 3)})
    return d


def autoencoder(d: Drawing, top: float, encoder: list[str], target: list[str]) -> None:
    """The way of pretraining, shared by all: hide, encode what is seen, decode what is hidden."""
    d.frame(10, top, 860, 168, "Pretraining: no labels")
    d.tokens(28, top + 52, 5, 5, 15)
    d.words(66, top + 147, "8 × 10 × 10", soft=True)
    d.arrow((110, top + 88), (138, top + 88))
    d.words(124, top + 78, "hide", soft=True, size=12.5)
    d.tokens(145, top + 52, 5, 5, 15, visible=SEEN)
    d.words(183, top + 147, "the same places", soft=True)
    d.words(183, top + 162, "in every frame", soft=True)
    d.arrow((228, top + 88), (256, top + 88))
    d.box(258, top + 48, 190, 80, encoder, "video")
    d.words(353, top + 147, "sees visible patches only", soft=True)
    d.arrow((448, top + 88), (486, top + 88))
    d.box(488, top + 48, 170, 80, ["Decoder", "4 blocks, 384 wide", "mask tokens added"], "decoder")
    d.arrow((658, top + 88), (696, top + 88))
    d.box(698, top + 48, 158, 80, target, "loss")


def finetuning(d: Drawing, top: float, encoder: list[str], read: list[str]) -> None:
    """The way of fine-tuning of one encoder."""
    d.frame(10, top, 860, 124, "Fine-tuning: labels")
    d.tokens(28, top + 36, 5, 5, 15)
    d.arrow((110, top + 74), (256, top + 74))
    d.words(183, top + 66, "all 800 patches", soft=True)
    d.box(258, top + 36, 190, 76, encoder, "video")
    d.arrow((448, top + 74), (486, top + 74))
    d.box(488, top + 36, 170, 76, read)
    d.arrow((658, top + 74), (696, top + 74))
    d.box(698, top + 36, 158, 76, ["Linear head", "classes or numbers"])


def videomae() -> Drawing:
    """Joint attention."""
    d = Drawing(880, 486, "VideoMAE: plain attention over all patches, pretrained by reconstructing hidden ones")
    autoencoder(d, 10, ["ViT encoder", "12 blocks, 768 wide"], ["Pixels", "of hidden patches,", "standardised"])
    finetuning(d, 190, ["The same encoder", "12 blocks, 768 wide"], ["Mean over patches", "then LayerNorm"])
    d.frame(10, 326, 860, 150, "One block")
    d.box(30, 362, 150, 60, ["Patches", "N × 768"], "video")
    d.arrow((180, 392), (230, 392))
    d.box(232, 362, 240, 60, ["Attention", "every patch reads every patch"])
    d.arrow((472, 392), (522, 392))
    d.box(524, 362, 150, 60, ["MLP", "768, 3072, 768"])
    d.arrow((674, 392), (724, 392))
    d.box(726, 362, 126, 60, ["Patches", "N × 768"], "video")
    d.words(440, 454, "each part reads its normalised input and is added to it; attention costs N² · 768", soft=True)
    return d


def mae_dfer() -> Drawing:
    """Local-global interaction."""
    d = Drawing(880, 730, "MAE-DFER: local-global interaction between regions by way of messengers")
    autoencoder(
        d, 10, ["LGI-Former", "16 blocks, 512 wide"], ["Frame + change", "to the next frame,", "of hidden patches"]
    )
    finetuning(d, 190, ["The same LGI-Former", "16 blocks, 512 wide"], ["Mean over the", "8 messengers"])
    d.frame(10, 326, 860, 394, "One block: 8 regions of 100 patches (2 × 5 × 10), each with a messenger (violet)")
    for step, (title, *lines) in enumerate(
        [
            ("1  Inside a region", "messenger and patches", "read each other"),
            ("2  Between regions", "messengers read", "messengers"),
            ("3  Back to patches", "every patch reads", "all messengers"),
        ]
    ):
        left = 28 + step * 284
        d.words(left + 130, 376, title, bold=True, size=15)
        for i, line in enumerate(lines):
            d.words(left + 130, 396 + 18 * i, line, soft=True)
        places = [(left + 22 + 134 * (region % 2), 438 + 116 * (region // 2)) for region in range(4)]
        for x, y in places:
            d.box(x - 8, y - 8, 100, 80, [])
            d.tokens(x + 26, y, 4, 4, 14)
            d.tokens(x, y + 22, 1, 1, 20, "messenger")
        if step == 0:
            for x, y in places:
                d.arrow((x + 46, y + 62), (x + 10, y + 62), (x + 10, y + 45), kind="messenger")
                d.arrow((x + 10, y + 20), (x + 10, y + 5), (x + 24, y + 5), kind="messenger")
        elif step == 1:
            middle = [(x + 10, y + 32) for x, y in places]
            for one, other in ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)):
                (x0, y0), (x1, y1) = middle[one], middle[other]
                u, v = (12 * ((b > a) - (b < a)) for a, b in ((x0, x1), (y0, y1)))
                d.arrow((x0 + u, y0 + v), (x1 - u, y1 - v), kind="messenger", both=True)
        else:
            (x0, y0), (x1, y1), (_, y2), _ = places  # what the patches of the region at the upper right read
            d.arrow((x0 + 22, y0 + 32), (x1 + 24, y1 + 24), kind="messenger")
            d.arrow((x1 + 10, y1 + 20), (x1 + 10, y1 + 6), (x1 + 24, y1 + 6), kind="messenger")
            d.arrow((x0 + 22, y2 + 30), (x1 + 24, y1 + 48), kind="messenger")
            d.arrow((x1 + 12, y2 + 20), (x1 + 38, y1 + 60), kind="messenger")
    d.words(440, 662, "4  then an MLP on all of them; drawn: 4 of the 8 regions, 16 of 100 patches each", soft=True)
    d.words(440, 684, "of step 3 what the region at the upper right reads is drawn", soft=True)
    d.words(440, 706, "attention costs 8 × 101², 8² and 800 × 8 pairs instead of 800²", soft=True)
    return d


def svfap() -> Drawing:
    """Temporal pyramid, spatial bottleneck."""
    d = Drawing(880, 760, "SVFAP: a temporal pyramid of stages that work on a few bottleneck tokens per frame")
    autoencoder(d, 10, ["TPSBT", "12 + 6 + 3 blocks", "512 wide"], ["Pixels", "of hidden patches,", "standardised"])
    finetuning(d, 190, ["The same TPSBT", "12 + 6 + 3 blocks"], ["Mean over the", "last stage's tokens"])
    d.frame(10, 326, 860, 230, "Stages: time steps are halved, places stay")
    columns = [
        (30, 8, "Stage 1", "12 blocks", "8 × 100 patches"),
        (340, 4, "Stage 2", "6 blocks", "4 × 100 patches"),
        (620, 2, "Stage 3", "3 blocks", "2 × 100 patches"),
    ]
    for x, steps, name, blocks, size in columns:
        for step in range(steps):
            d.tokens(x + step * 24, 372 + step * 5, 4, 4, 9)
        wide = (steps - 1) * 24 + 36
        d.words(x + wide / 2, 470, name, bold=True, size=15)
        d.words(x + wide / 2, 489, blocks, soft=True)
        d.words(x + wide / 2, 507, size, soft=True)
    d.arrow((250, 410), (330, 410))
    d.words(290, 400, "Conv1d, 2:1", soft=True)
    d.arrow((470, 410), (610, 410))
    d.words(540, 400, "Conv1d, 2:1", soft=True)
    d.words(
        440, 541, "pretraining: each stage repeated in time (× 1, × 2, × 4), all three added, then LayerNorm", soft=True
    )
    d.frame(10, 568, 860, 182, "Inside stages 2 and 3")
    d.box(28, 616, 140, 66, ["All tokens u", "T × 100"], "video")
    d.arrow((168, 649), (204, 649))
    d.box(206, 606, 170, 86, ["Bottleneck", "8 weighted means", "per frame"], "messenger")
    d.arrow((376, 649), (412, 649))
    d.box(414, 606, 190, 86, ["Cross-self blocks", "bottleneck reads u,", "then itself"], "messenger")
    d.arrow((604, 649), (640, 649))
    d.box(642, 606, 212, 86, ["Last block, reversed", "u reads the bottleneck:", "T × 100 again"], "video")
    d.arrow((98, 682), (98, 716), (748, 716), (748, 692), kind="video")
    d.arrow((509, 716), (509, 692), kind="video")
    d.words(300, 737, "u", bold=True)
    return d


def hicmae() -> Drawing:
    """Two towers."""
    d = Drawing(880, 800, "HiCMAE: two towers, contrast at three levels, fusion, decoders with skips")
    d.frame(10, 10, 860, 490, "Pretraining: no labels")
    for y, kind, name, shown, hidden in (
        (66, "video", "Video tower", ("8 × 10 × 10 patches", "90 % hidden"), "Frame + change"),
        (340, "audio", "Audio tower", ("16 × 8 of a log-mel", "80 % hidden"), "Log-mel patches"),
    ):
        d.tokens(46, y + 2, 5, 5, 15, kind, SEEN if kind == "video" else {(0, 1), (2, 0), (3, 2), (1, 4), (4, 3)})
        for i, line in enumerate(shown):
            d.words(83, y + 95 + 16 * i, line, soft=True, size=12.5)
        d.arrow((126, y + 40), (158, y + 40), kind=kind)
        d.box(160, y, 190, 90, [name, "10 blocks, 512 wide"], kind)
        d.arrow((350, y + 45), (452, y + 45), kind=kind)
        d.words(401, y + 36, "layer 10", soft=True, size=12.5)
        d.arrow((580, y + 45), (608, y + 45), kind=kind)
        d.box(610, y, 124, 90, ["Decoder", "4 blocks", "384 wide"], "decoder")
        d.arrow((734, y + 45), (758, y + 45))
        d.box(760, y + 5, 102, 80, [*hidden.split(" ", 1), "squared error"], "loss")
    d.box(454, 86, 126, 324, ["Fusion", "2 layers", "each modality", "reads the other,", "both at once"], "both")
    for i, level in enumerate((4, 7, 10)):
        x = 194 + i * 61
        d.arrow((x, 156), (x, 212), kind="video")
        d.arrow((x, 340), (x, 284), kind="audio")
        d.box(x - 26, 214, 52, 68, [f"{level}"], "loss")
    for i, line in enumerate(
        ("contrast: which", "sound belongs to", "which face, by the", "token means of", "layers 4, 7, 10")
    ):
        d.words(152, 221 + 17 * i, line, soft=True, size=12.5, anchor="end")
    d.arrow((330, 66), (330, 46), (672, 46), (672, 64), kind="video", dashed=True)
    d.arrow((330, 430), (330, 456), (672, 456), (672, 432), kind="audio", dashed=True)
    skips = "skips: layers 10, 7, 4 into decoder blocks 2, 3, 4"
    d.words(501, 38, skips, soft=True, size=12.5)
    d.words(501, 474, skips, soft=True, size=12.5)
    d.frame(10, 512, 860, 278, "Fine-tuning: labels")
    for y, kind, name, mix, mean in (
        (556, "video", "Video tower", 16, 62),
        (680, "audio", "Audio tower", 68, 22),
    ):
        d.box(30, y, 178, 84, [name, "10 blocks, 512 wide"], kind)
        d.arrow((208, y + mean), (300, y + mean), kind=kind)
        d.arrow((208, y + mix), (448, y + mix), kind=kind, dashed=True)
        d.words(214, y + mix - 6, "all 10 layers", soft=True, size=12.5, anchor="start")
        d.box(450, y + mix - 24, 176, 46, ["Learnt layer mix", "softmax of 10 weights"], kind)
        d.arrow((430, y + mean), (448, y + mean), kind=kind)
        d.box(450, y + mean - 19, 176, 38, ["Token mean"], kind)
        for line in (mix, mean):
            d.arrow((626, y + line), (668, y + line), kind=kind)
    d.box(302, 590, 128, 140, ["Fusion", "2 layers"], "both")
    d.box(670, 546, 92, 232, ["Join", "4 × 512", "LayerNorm"])
    d.arrow((762, 663), (784, 663))
    d.box(786, 623, 74, 80, ["Linear", "head"])
    return d


PICTURES: dict[str, Callable[[], Drawing]] = {
    "icon.svg": icon,
    "videomae.svg": videomae,
    "mae-dfer.svg": mae_dfer,
    "svfap.svg": svfap,
    "hicmae.svg": hicmae,
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (HERE / name).write_text(draw().svg(), encoding="utf-8")
