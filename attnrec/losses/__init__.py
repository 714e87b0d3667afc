"""Losses over the item catalogue, on flattened positions; one registry and one config for all trained models.

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

SAMPLING_FIELDS = ("n_negatives", "negatives", "negatives_per")
"""Fields of `LossConfig` of every sampled loss."""


@dataclass(frozen=True)
class Loss:
    """An entry of the registry.

    Attributes:
        function: (users, items, bias, targets, **settings) -> scalar; a sampled loss also takes `negatives`.
        n_negatives: default number of negatives; 0 for a loss over the whole catalogue.
        settings: keyword of the function -> field of `LossConfig`.
    """

    function: Callable[..., Tensor]
    n_negatives: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)

    def has_setting(self, name: str) -> bool:
        """Return whether a field of `LossConfig` applies to this loss."""
        return name in self.settings.values() or (self.n_negatives > 0 and name in SAMPLING_FIELDS)


LOSSES = {
    "softmax": Loss(full_softmax, settings={"label_smoothing": "label_smoothing"}),
    "sampled_softmax": Loss(sampled_softmax, n_negatives=256),
    "gbce": Loss(gbce, n_negatives=256, settings={"t": "gbce_t"}),
    "bce": Loss(bce, n_negatives=256),
    "bpr": Loss(bpr, n_negatives=256),
}
"""Name in the TOML -> loss. To add a loss, write one function and add one line here."""


class LossConfig(Config):
    """Settings of the training loss.

    Attributes:
        loss: "softmax" over all items, or a loss of the target against sampled negatives.
        n_negatives: number of negatives per position; None for the default of the loss in `LOSSES`.
        negatives: sampling distribution: "uniform", or "popularity" in the training data.
        negatives_per: "step" samples once for all positions of a step, "position" separately for each, as in the
            papers.
        label_smoothing: probability mass of the softmax target spread over all items.
        gbce_t: calibration of gbce, 0 (bce) to 1 (sigmoids are probabilities).

    Negatives shared by a step must be many. On a fifth of the users of ML-1M (SASRec, readout last, dim 32, 12 epochs,
    one seed) gbce reached ndcg@10 .025, .093 and .124 with 64, 256 and 1024 negatives, sampled_softmax .095 and .123
    with 256 and 1024, bce .011 with 1; the full softmax .142. With negatives per position gbce reached .131 with 64,
    bce .067 with 1.
    """

    loss: str = "softmax"
    n_negatives: int | None = Field(default=None, gt=0)
    negatives: Literal["uniform", "popularity"] = "uniform"
    negatives_per: Literal["step", "position"] = "step"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gbce_t: float = Field(default=0.75, ge=0, le=1)

    @property
    def n_sampled(self) -> int:
        """Number of negatives per position; 0 for a loss over the whole catalogue."""
        return self.n_negatives or LOSSES[self.loss].n_negatives

    # not _check: a validator of this name in a model config would replace it
    @model_validator(mode="after")
    def _check_loss(self) -> "LossConfig":
        loss = registered(LOSSES, self.loss, setting="loss")
        for name, setting in LossConfig.model_fields.items():
            value = getattr(self, name)
            if name != "loss" and value != setting.default and not loss.has_setting(name):
                supported = [other for other in LOSSES if LOSSES[other].has_setting(name)]
                raise ValueError(
                    f"{name} is a setting of {', '.join(supported)}, got {name} = {value!r} with loss = {self.loss!r}; "
                    f"set loss = {supported[0]!r} or leave {name} out"
                )
        return self


def catalogue_loss(
    users: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, config: LossConfig, counts: Tensor | None
) -> Tensor:
    """Compute the loss selected by `config`, mean over positions.

    Args:
        users: (T, D).
        items: (N, D), row i is item row i + 1.
        bias: (N,) or None.
        targets: item rows from 1, (T,).
        config: settings of the loss.
        counts: number of training events of each item, (N,); required for negatives by popularity only.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: for negatives by popularity without counts.
    """
    loss = LOSSES[config.loss]
    settings = {keyword: getattr(config, name) for keyword, name in loss.settings.items()}
    if config.n_sampled:
        settings["negatives"] = _sample(items, targets, config, counts)
    return loss.function(users, items, bias, targets, **settings)


def base_score(config: LossConfig, n_items: int) -> float:
    """Return the constant score with the lowest loss, as initial item bias.

    It is log(beta / K) for bce and gbce, which classify each item separately; an item bias with this initial
    value starts training at the base rate (Lin et al. 2017, arXiv:1708.02002, section 4.1). The other losses
    depend only on differences between scores, so it is 0.
    """
    if config.loss not in ("bce", "gbce"):
        return 0.0
    t = config.gbce_t if config.loss == "gbce" else 0.0
    return math.log(positive_weight(config.n_sampled, n_items, t=t) / config.n_sampled)


def _sample(items: Tensor, targets: Tensor, config: LossConfig, counts: Tensor | None) -> Negatives:
    n_positions = len(targets) if config.negatives_per == "position" else None
    if config.negatives == "uniform":
        return sample_uniformly(len(items), config.n_sampled, n_positions=n_positions, device=items.device)
    if counts is None:
        raise ValueError(
            "negatives = 'popularity' needs the counts of the items in training, got None; "
            "call model.observe(histories) first, or set negatives = 'uniform'"
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
