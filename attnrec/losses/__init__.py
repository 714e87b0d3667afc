"""Losses over a catalogue, on flat positions; one registry, one set of settings for every trained model.

Shapes: T positions with a target, N items (padding left out), D channels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from attnrec.config import Config, registered
from attnrec.losses.full_softmax import full_softmax
from attnrec.losses.negatives import Negatives, sample_by_popularity, sample_uniformly
from attnrec.losses.sampled import bce, bpr, gbce, positive_weight, sampled_softmax

OF_DRAWS = ("n_negatives", "negatives", "negatives_per")
"""Fields of `LossConfig` for every loss that draws."""


@dataclass(frozen=True)
class Loss:
    """A loss of the registry.

    Attributes:
        function: (users, items, bias, targets, **settings) -> scalar; also `negatives`, where it draws any.
        n_negatives: drawn when the settings name no number; 0 for a loss over the whole catalogue.
        settings: its own keywords -> fields of `LossConfig`.
    """

    function: Callable[..., Tensor]
    n_negatives: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)

    def takes(self, name: str) -> bool:
        """Whether a field of `LossConfig` means anything to it."""
        return name in self.settings.values() or (self.n_negatives > 0 and name in OF_DRAWS)


LOSSES = {
    "softmax": Loss(full_softmax, settings={"label_smoothing": "label_smoothing"}),
    "sampled_softmax": Loss(sampled_softmax, n_negatives=256),
    "gbce": Loss(gbce, n_negatives=256, settings={"t": "gbce_t"}),
    "bce": Loss(bce, n_negatives=256),
    "bpr": Loss(bpr, n_negatives=256),
}
"""Name in the TOML -> loss. A new loss is one function, one line here and its name in `LossConfig`."""


class LossConfig(Config):
    """What a model is trained on.

    Attributes:
        loss: "softmax" over all items, or a loss of the target against drawn negatives.
        n_negatives: what each position is compared with; None is the loss's own number in `LOSSES`.
        negatives: how they are drawn: "uniform", or by "popularity" in the training part.
        negatives_per: "step" draws them once for all its positions, "position" for each on its own, as papers do.
        label_smoothing: share of the softmax's target spread over all items.
        gbce_t: calibration of gbce, 0 (as bce) to 1 (sigmoids are probabilities).

    Shared negatives must be many. On a fifth of ML-1M's users (SASRec, readout last, dim 32, 12 epochs, one seed)
    gbce came to NDCG@10 .025, .093 and .124 with 64, 256 and 1024 of them, sampled_softmax to .095 and .123 with
    256 and 1024, bce with 1 to .011; the full softmax to .142. With negatives of each position's own gbce came to
    .131 with 64, bce to .067 with 1.
    """

    loss: str = "softmax"
    n_negatives: int | None = Field(default=None, gt=0)
    negatives: Literal["uniform", "popularity"] = "uniform"
    negatives_per: Literal["step", "position"] = "step"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gbce_t: float = Field(default=0.75, ge=0, le=1)

    @property
    def n_sampled(self) -> int:
        """Negatives that a position is compared with; 0 for a loss over the whole catalogue."""
        return self.n_negatives or LOSSES[self.loss].n_negatives

    # not _check: a model's own validator of that name would replace it
    @model_validator(mode="after")
    def _check_loss(self) -> "LossConfig":
        loss = registered(LOSSES, self.loss, setting="loss")
        for name, setting in LossConfig.model_fields.items():
            value = getattr(self, name)
            if name != "loss" and value != setting.default and not loss.takes(name):
                takers = [other for other in LOSSES if LOSSES[other].takes(name)]
                raise ValueError(
                    f"{name} is a setting of {', '.join(takers)}, got {name} = {value!r} with loss = {self.loss!r}; "
                    f"set loss = {takers[0]!r} or leave {name} out"
                )
        return self


def catalogue_loss(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, config: LossConfig, counts: Tensor | None
) -> Tensor:
    """The loss that `config` asks for, mean over positions.

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).
        config: which loss, with its settings.
        counts: events of each item in training, (N,); needed for negatives by popularity only.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: when negatives by popularity are asked for without counts.
    """
    loss = LOSSES[config.loss]
    settings = {keyword: getattr(config, name) for keyword, name in loss.settings.items()}
    if config.n_sampled:
        settings["negatives"] = _draw(items, targets, config, counts)
    return loss.function(users, items, bias, targets, **settings)


def base_score(config: LossConfig, n_items: int) -> float:
    """The score, one for all items, at which a model that knows nothing pays least.

    It is log(beta / K) for bce and gbce, which ask of each item alone whether it comes next; an item bias that
    starts there spares training the way down from 0 (as Lin et al. 2017, arXiv:1708.02002, section 4.1). The other
    losses see only differences between scores: 0.
    """
    if config.loss not in ("bce", "gbce"):
        return 0.0
    t = config.gbce_t if config.loss == "gbce" else 0.0
    return math.log(positive_weight(config.n_sampled, n_items, t=t) / config.n_sampled)


def _draw(items: Tensor, targets: Tensor, config: LossConfig, counts: Tensor | None) -> Negatives:
    n_positions = len(targets) if config.negatives_per == "position" else None
    if config.negatives == "uniform":
        return sample_uniformly(len(items), config.n_sampled, n_positions=n_positions, device=items.device)
    if counts is None:
        raise ValueError(
            "negatives by popularity need the items' counts in training, got none; "
            "let the model observe the training histories first, or set negatives = 'uniform'"
        )
    return sample_by_popularity(counts, config.n_sampled, n_positions=n_positions)


__all__ = [
    "LOSSES",
    "Loss",
    "LossConfig",
    "Negatives",
    "base_score",
    "bce",
    "bpr",
    "catalogue_loss",
    "sample_by_popularity",
    "sample_uniformly",
    "full_softmax",
    "gbce",
    "sampled_softmax",
]
