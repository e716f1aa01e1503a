"""The plain formulation: the systems as the published code goes about them, the baseline of every measurement.

Written from the description of the published code and not with `hicmae.models`: all patches are embedded by a strided
convolution and dropped by boolean masks, attention is spelt out, targets are computed for every patch, AdamW loops over
the parameters. `plain(model)` gives a model of ours its plain twin with the same weights; that the two are equal, in
outputs, losses and gradients, is tested on the numbers recorded from the published systems.

What the published code got wrong is done as the library does it (the form of SVFAP of its paper, tokens of MAE-DFER at
their own places in the decoder), so that what differs is the way of computing alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_layers import LGI, TPSBT, Block, CrossSelfBlock, ViT, layer_norm, sinusoid

__all__ = ["Predicted", "adamw", "audio_targets", "loss_of", "plain", "video_targets"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOVING = ("mae_dfer", "hicmae")
"""Systems whose targets are appearance and motion; the others' are pixels."""


class Predicted(NamedTuple):
    """What a plain autoencoder predicts."""

    video: Tensor | None = None
    """(B, M, 1536)"""
    audio: Tensor | None = None
    """(B, M, 256)"""
    levels: Sequence[tuple[Tensor, Tensor]] = ()
    """Mean (video, audio) features of each contrastive level, (B, D)."""


class Classifier(nn.Module):
    """Encoder, mean over tokens, norm, head."""

    def __init__(self, name: str, args: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = _encoder(name, args, norm=False)
        self.fc_norm, self.head = layer_norm(args["dim"]), nn.Linear(args["dim"], args["num_classes"])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.encoder(x)[0].mean(dim=1)))


class Fusion(nn.Module):
    """Both modalities read each other as the layer before left them."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        depth, common = args["fusion_depth"], (args["dim"], args["heads"], args["mlp_ratio"])
        rates = [args["drop_path"] * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(CrossSelfBlock(*common, rate) for rate in rates)
        self.blocks_audio = nn.ModuleList(CrossSelfBlock(*common, rate) for rate in rates)
        self.norm, self.norm_audio = layer_norm(args["dim"]), layer_norm(args["dim"])

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        for block, block_audio in zip(self.blocks, self.blocks_audio, strict=True):
            video, audio = block(video, audio), block_audio(audio, video)
        return self.norm(video), self.norm_audio(audio)


class AudioVisualClassifier(nn.Module):
    """HiCMAE's fine-tuning form: all levels of both towers stacked, their means weighted; fused means; one head."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        self.levels = range(args["depth"])
        self.video_layer_weights = nn.Parameter(torch.zeros(args["depth"]))
        self.audio_layer_weights = nn.Parameter(torch.zeros(args["depth"]))
        self.encoder, self.encoder_audio = _towers(args)
        self.encoder_fusion = Fusion(args)
        self.fc_norm, self.head = layer_norm(4 * args["dim"]), nn.Linear(4 * args["dim"], args["num_classes"])

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        v = torch.stack(self.encoder(video, None, self.levels)[1], dim=2)  # (B, N, L, C)
        a = torch.stack(self.encoder_audio(audio, None, self.levels)[1], dim=2)
        fused = [tokens.mean(dim=1) for tokens in self.encoder_fusion(v[:, :, -1], a[:, :, -1])]
        weighted = [
            (x.mean(dim=1) * weights.softmax(dim=0)[None, :, None]).sum(dim=1)
            for x, weights in ((v, self.video_layer_weights), (a, self.audio_layer_weights))
        ]
        return self.head(self.fc_norm(torch.cat([*weighted, *fused], dim=-1)))


class Decoder(nn.Module):
    """Blocks over visible and mask tokens, each later one over a level of the encoder too where there are `skips`."""

    pos: Tensor

    def __init__(self, args: dict[str, Any], tokens: int, out: int, skips: bool) -> None:
        super().__init__()
        dim, later = args["decoder_dim"], CrossSelfBlock if skips else Block
        heads, ratio = args["decoder_heads"] or max(dim // 64, 1), args["decoder_mlp_ratio"]
        kinds = [Block, *[later] * (args["decoder_depth"] - 1)]
        self.blocks = nn.ModuleList(kind(dim, heads, ratio) for kind in kinds)
        self.norm, self.head = layer_norm(dim), nn.Linear(dim, out)
        self.register_buffer("pos", sinusoid(tokens, dim), persistent=False)

    def forward(self, x: Tensor, mask_token: Tensor, mask: Tensor, skips: Sequence[Tensor]) -> Tensor:
        b, _, dim = x.shape
        pos = self.pos.to(x.dtype).expand(b, -1, -1).clone().detach()
        seen, unseen = pos[~mask].reshape(b, -1, dim), pos[mask].reshape(b, -1, dim)
        x = torch.cat([x + seen, mask_token + unseen], dim=1)
        for i, block in enumerate(self.blocks):
            x = block(x, skips[-i] + seen) if i and skips else block(x)
        return self.head(self.norm(x[:, -unseen.shape[1] :]))


class Autoencoder(nn.Module):
    """One modality hidden and predicted: (B, 3, T, H, W), boolean (B, N) -> `Predicted`."""

    def __init__(self, name: str, args: dict[str, Any]) -> None:
        super().__init__()
        self.encoder: Any = _encoder(name, args, norm=True)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, args["decoder_dim"]))
        self.encoder_to_decoder = nn.Linear(args["dim"], args["decoder_dim"], bias=False)
        values = 3 * args["patch"][0] * args["patch"][1] * args["patch"][2]
        self.decoder = Decoder(args, self.encoder.pos.shape[1], values, skips=False)

    def forward(self, x: Tensor, mask: Tensor) -> Predicted:
        tokens = self.encoder_to_decoder(self.encoder(x, mask)[0])
        return Predicted(self.decoder(tokens, self.mask_token, mask, ()))


class AudioVisualAutoencoder(nn.Module):
    """HiCMAE: both modalities, fusion, skips to the decoders and levels to be contrasted."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        count = args["decoder_depth"] - 1
        step = (args["depth"] - 1) // count
        self.taps = [args["depth"] - 1 - step * (count - 1 - i) for i in range(count)]
        self.encoder, self.encoder_audio = _towers(args)
        self.encoder_fusion = Fusion(args)
        for end, encoder, patch, channels in (
            ("", self.encoder, args["patch"], 3),
            ("_audio", self.encoder_audio, args["audio_patch"], 1),
        ):
            values = channels * int(torch.tensor(patch).prod())
            setattr(self, f"mask_token{end}", nn.Parameter(torch.zeros(1, 1, args["decoder_dim"])))
            setattr(self, f"encoder_to_decoder{end}", nn.Linear(args["dim"], args["decoder_dim"], bias=False))
            setattr(self, f"decoder{end}", Decoder(args, encoder.pos.shape[1], values, skips=True))

    def forward(self, video: Tensor, audio: Tensor, video_mask: Tensor, audio_mask: Tensor) -> Predicted:
        v, v_levels = self.encoder(video, video_mask, self.taps)
        a, a_levels = self.encoder_audio(audio, audio_mask, self.taps)
        fused_v, fused_a = self.encoder_fusion(v, a)
        levels = [(x.mean(dim=1), y.mean(dim=1)) for x, y in zip(v_levels, a_levels, strict=True)]
        return Predicted(
            self._decode("", fused_v, video_mask, v_levels),
            self._decode("_audio", fused_a, audio_mask, a_levels),
            levels,
        )

    def _decode(self, end: str, tokens: Tensor, mask: Tensor, levels: Sequence[Tensor]) -> Tensor:
        project, decoder = getattr(self, f"encoder_to_decoder{end}"), getattr(self, f"decoder{end}")
        return decoder(project(tokens), getattr(self, f"mask_token{end}"), mask, [project(level) for level in levels])


def plain(model: Any) -> nn.Module:
    """The plain twin of a model of ours (`videomae_*`, `mae_dfer_*`, `svfap_*`, `hicmae_*`): same weights, same mode.

    The weights are copied; what ours has frozen because nothing reads it is left to train, as published.
    Fine-tuning forms take inputs to logits, pretraining forms inputs and boolean masks (True = hidden) to `Predicted`.
    """
    args, pretrains = dict(model.args), model.stage == "pretrain"
    twin: nn.Module
    if model.name.startswith("hicmae"):
        twin = AudioVisualAutoencoder(args) if pretrains else AudioVisualClassifier(args)
    else:
        twin = Autoencoder(model.name, args) if pretrains else Classifier(model.name, args)
    first = next(model.parameters())
    twin.to(first.device, first.dtype)
    for buffer in (b for name, b in twin.named_buffers() if name.endswith("pos")):
        buffer.data = buffer.data.float()  # rounded once, whatever the weights are
    twin.load_state_dict(model.state_dict())
    if pretrains and isinstance(twin, Autoencoder) and isinstance(twin.encoder, LGI):
        twin.encoder.order = model.encoder.order
    return twin.train(model.training)


def video_targets(video: Tensor, patch: Sequence[int] = (2, 16, 16), motion: bool = True) -> Tensor:
    """Targets of every token: (B, 3, T, H, W) normalised -> (B, N, P), standardised by token and channel.

    With `motion` the second of every two frames becomes its difference from the first, on the clip put together again.
    """
    p0, p1, p2 = patch
    b, c, t, h, w = video.shape
    mean, std = (
        torch.as_tensor(v, dtype=video.dtype, device=video.device)[None, :, None, None, None] for v in (MEAN, STD)
    )
    x = video * std + mean
    split, inside = (b, c, t // p0, p0, h // p1, p1, w // p2, p2), (0, 2, 4, 6, 3, 5, 7, 1)
    x = x.reshape(split).permute(inside).reshape(b, -1, p0 * p1 * p2, c)
    x = (x - x.mean(dim=2, keepdim=True)) / (x.var(dim=2, unbiased=True, keepdim=True).sqrt() + 1e-6)
    if motion:
        x = (
            x.reshape(b, t // p0, h // p1, w // p2, p0, p1, p2, c)
            .permute(0, 7, 1, 4, 2, 5, 3, 6)
            .reshape(b, c, t, h, w)
        )
        pairs = x.reshape(b, c, t // 2, 2, h, w)
        x = torch.stack([pairs[:, :, :, 0], pairs[:, :, :, 1] - pairs[:, :, :, 0]], dim=3).reshape(b, c, t, h, w)
        x = x.reshape(split).permute(inside)
    return x.reshape(b, -1, p0 * p1 * p2 * c)


def audio_targets(audio: Tensor, patch: Sequence[int] = (16, 16)) -> Tensor:
    """Targets of every token of a filter bank: (B, 1, F, K) -> (B, N, P), standardised by token."""
    b, _, f, k = audio.shape
    x = audio.reshape(b, f // patch[0], patch[0], k // patch[1], patch[1]).transpose(2, 3)
    x = x.reshape(b, -1, patch[0] * patch[1])
    return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, unbiased=True, keepdim=True).sqrt() + 1e-6)


def loss_of(model: Any, twin: nn.Module, inputs: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """The pretraining loss of the plain twin of `model`: forward, targets of all patches, squared error, contrast."""
    out = twin(*inputs, *masks)
    with torch.no_grad():
        goals = [video_targets(inputs[0], model.args["patch"], model.name.startswith(MOVING))]
        goals += [audio_targets(audio, model.args["audio_patch"]) for audio in inputs[1:]]
    loss = torch.zeros((), device=inputs[0].device, dtype=goals[0].dtype)
    for predicted, goal, mask in zip((out.video, out.audio), goals, masks, strict=False):
        loss = loss + F.mse_loss(predicted, goal[mask].reshape(len(goal), -1, goal.shape[-1]))
    for v, a in out.levels:
        logits = (v / v.norm(dim=1, keepdim=True)) @ (a / a.norm(dim=1, keepdim=True)).T / 0.07
        pair = torch.arange(len(logits), device=logits.device)
        loss = loss + 0.0025 * 0.5 * (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair))
    return loss


def adamw(parameters: Iterable[nn.Parameter], lr: float = 1e-4) -> torch.optim.AdamW:
    """AdamW operation by operation, parameter by parameter."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, foreach=False, fused=False)


def _encoder(name: str, args: dict[str, Any], norm: bool) -> nn.Module:
    kinds: dict[str, Any] = {"videomae": ViT, "mae_dfer": LGI, "svfap": TPSBT}
    kind = next((kind for start, kind in kinds.items() if name.startswith(start)), None)
    if kind is None:
        raise ValueError(f"{name}: the plain formulation knows {', '.join(kinds)} and hicmae")
    return kind(args, _video_shape(args), args["patch"], norm)


def _towers(args: dict[str, Any]) -> tuple[ViT, ViT]:
    if args["encoder"] != "vit" or any(
        args[f"audio_{key}"] is not None for key in ("encoder", "dim", "heads", "depth")
    ):
        raise ValueError("the plain formulation of HiCMAE has two plain towers of one shape")
    return (
        ViT(args, _video_shape(args), args["patch"], norm=True),
        ViT(args, (args["audio_frames"], args["mels"]), args["audio_patch"], norm=True),
    )


def _video_shape(args: dict[str, Any]) -> tuple[int, int, int]:
    size = args["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return args["frames"], height, width
