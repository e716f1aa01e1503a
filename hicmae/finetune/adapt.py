"""Ways to adapt a pretrained model: all of it, a probe on what it gives, adapters, or some of its towers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hicmae.configs.errors import ConfigError
from hicmae.models.adapters import add_adapters
from hicmae.models.base import Model
from hicmae.models.mae import SUFFIX
from hicmae.models.readout import Readout

__all__ = ["AdaptConfig", "adapt", "told"]


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """What of a model learns."""

    kind: Literal["full", "linear", "attentive", "lora"] = "full"
    """`full`: everything. The others keep the weights of encoders and fusion. `linear`: a linear layer on their
    features, standardised (He et al. 2022); `attentive`: a learnt query that reads their tokens, and a linear layer;
    `lora`: low-rank adapters in their layers, and the head. Layer weights (args.layers: weighted) and vectors for
    what is missing (args.missing) always learn."""
    freeze: list[str] = field(default_factory=list)
    """`full`: towers of an audio-visual model, video or audio, that keep their weights."""
    rank: int = 8
    """`lora`: rank of an adapter."""
    alpha: float = 16.0
    """`lora`: an adapter is weighted by alpha / rank."""
    targets: Literal["attention", "all"] = "attention"
    """`lora`: adapters in the projections of the attentions, or in all linear layers, those of the MLPs too."""
    adversary: str = ""
    """Features are to tell nothing of this column of the shards, as a column of speakers, or `group` for the groups: a
    second head learns to recognise them, and the features learn the opposite."""
    adversary_loss: Literal["confusion", "reversal"] = "confusion"
    """The opposite. `reversal`: the head's gradient, reversed (Ganin and Lempitsky 2015). `confusion`: that the head
    finds all equally likely (Tzeng et al. 2015), which has a fixed point; a reversed gradient has none, and overshot on
    generated data: the head fell below chance, and a fresh one recognised more than without."""
    adversary_weight: float = 1.0
    """Of the opposite beside the task."""
    adversary_ramp: bool = True
    """The weight grows from 0 in the first epoch as 2 / (1 + exp(-10 p)) - 1, p being the share of the epochs done."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.freeze if name not in SUFFIX]
        if unknown or len(set(self.freeze)) < len(self.freeze):
            raise ValueError(f"adapt.freeze holds towers, video or audio, each once, not {self.freeze}")
        idle = {"freeze": self.kind != "full", "adversary": self.kind == "linear"}
        idle |= dict.fromkeys(("rank", "alpha", "targets"), self.kind != "lora")
        for key, does_nothing in idle.items():
            if does_nothing and getattr(self, key) != getattr(AdaptConfig, key, []):
                raise ValueError(f"adapt.{key} does nothing where adapt.kind is {self.kind}: leave it out")
        for key in ("adversary_loss", "adversary_weight", "adversary_ramp"):
            if not self.adversary and getattr(self, key) != getattr(AdaptConfig, key):
                raise ValueError(f"adapt.{key} does nothing without adapt.adversary: leave it out")
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"adapt.rank and adapt.alpha must be positive, not {self.rank} and {self.alpha:g}")
        if self.adversary_weight < 0:
            raise ValueError(f"adapt.adversary_weight must be at least 0, not {self.adversary_weight:g}")

    @property
    def readout(self) -> Readout:
        """The model's argument."""
        return {"linear": "standard", "attentive": "attentive"}.get(self.kind, "mean")  # type: ignore[return-value]


def adapt(model: Model, config: AdaptConfig) -> Model:
    """Freeze what is to keep its weights, and add adapters; changes `model` and returns it.

    Frozen parts stay in evaluation mode (`Model.frozen`), but with adapters, whose stochastic depth is theirs. Layers
    of layer-wise learning rates are those of the parameters that learn: freezing shifts none, and an adapter's is that
    of the block it sits in.

    Raises:
        ConfigError: there is no such tower, or nothing would be left to fuse.
        UserError: a package is missing.
    """
    bodies = [name for name, _ in model.named_children() if name.startswith("encoder")]  # towers and their fusion
    if config.kind == "lora":
        add_adapters(model, bodies, rank=config.rank, alpha=config.alpha, everywhere=config.targets == "all")
        return model
    towers = getattr(model, "modalities", ("video",))
    if config.freeze and (len(towers) < 2 or not set(config.freeze) <= set(towers)):
        raise ConfigError(
            f"adapt.freeze: {model.name} has one tower only, for {towers[0]}; adapt.kind: linear keeps its weights"
        )
    frozen = [f"encoder{SUFFIX[name]}" for name in config.freeze] if config.kind == "full" else bodies
    if config.kind == "linear":
        frozen.append("fc_norm")  # what it would learn, the linear layer after it can
    for part in frozen:
        model.get_submodule(part).requires_grad_(False)
    model.frozen = tuple(frozen)
    return model


def told(model: Model, config: AdaptConfig, fresh: bool) -> str:
    """What learns, in words; "" where all does."""
    if config.kind == "full" and not config.freeze:
        return ""
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    warning = "; nothing was loaded, so what is kept is random (init)" * fresh
    return f", of which {count:,} learn ({config.kind}{warning})"
