"""Base class of all models: encode histories once, then compute scores and the contribution of each event.

Shapes: B users, L positions, n requested items, N = n_items + 1 item rows (row 0 is padding).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.dataset import Batch, Features, Histories
from attnrec.losses import LossConfig
from attnrec.models.capabilities import OptionalCapabilities
from attnrec.models.encoded_histories import EncodedHistories
from attnrec.models.graph.neighbour_weights import NeighbourWeights

MODELS: dict[str, tuple[type["Model"], type["ModelConfig"]]] = {}
"""Kind -> model class and config class; filled by `attnrec.models.register_model`."""


class ReasonsError(TypeError):
    """Exact contributions were requested from a model whose scores are not sums over the history."""


class ModelConfig(Config):
    """Settings that every model has.

    Attributes:
        kind: name in the registry.
        max_length: the model uses at most so many events of a history, the most recent ones.
    """

    kind: str
    max_length: int = 200

    @classmethod
    def class_of_kind(cls, kind: str | int) -> type[Config] | None:
        """Return the registered config class of a model kind."""
        return MODELS[kind][1] if isinstance(kind, str) and kind in MODELS else None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind in MODELS and not isinstance(self, expected := MODELS[self.kind][1]):
            raise ValueError(f"kind {self.kind!r} has settings of {expected.__name__}, got {type(self).__name__}")
        return self


class TrainedConfig(ModelConfig, LossConfig):
    """Settings of a model that is trained by gradient descent; those of the loss are in the same table."""


def check_max_length(max_length: int, histories: Histories) -> None:
    """Reject an explicitly set `max_length` that is much longer than every history, which is probably a mistake.

    Accepted are values up to twice the longest history and up to the default, because histories may be shorter on
    another day.

    Raises:
        ValueError: with both lengths.
    """
    longest = int(histories.lengths.max(initial=0))
    if max_length > max(2 * longest, ModelConfig.model_fields["max_length"].default):
        raise ValueError(
            f"max_length must be at most twice the longest history, got {max_length} and {longest} events; "
            f"set max_length = {longest}"
        )


class Model(OptionalCapabilities, nn.Module, ABC):
    """Base class of all models.

    A model of another package implements `encode` and `item_bias`, and `loss` (with `trainable = True`) or `observe`
    (with `trainable = False`), and is registered with `attnrec.models.register_model`. It can also implement methods of
    `OptionalCapabilities`, which attribution methods, analyses and explanations use.

    Attributes:
        kind: name in the registry and in the TOML.
        paper: reference.
        needs_order: whether histories must be ordered; a log without times is rejected.
        trainable: whether the model is trained by gradient descent; otherwise `observe` fits it.
        event_names: event types that the model uses, by number; empty if it uses none.
        memory_events: number of events before the last `max_length` that the model also reads (`Batch.memory_items`).
        supports_micro_batches: whether the loss of a batch is the mean of the losses of its micro-batches at little
            extra cost; False if every call of `loss` computes something for the whole catalogue.
        rankable: items that can be recommended, (N,) bool.
    """

    kind: str
    paper: str
    needs_order: bool = False
    trainable: ClassVar[bool] = True
    memory_events: int = 0
    event_names: tuple[str, ...] = ()
    supports_micro_batches: bool = True
    rankable: Tensor

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        self.max_length: int = config.max_length
        rankable = torch.ones(n_items + 1, dtype=torch.bool)
        rankable[0] = False
        self.register_buffer("rankable", rankable)

    @classmethod
    def from_config(
        cls, config: Any, n_items: int, *, features: Features | None = None, fit_features: Features | None = None
    ) -> Self:
        """Build an untrained model; overridden by models that use item features (see `models.build_model`)."""
        del features, fit_features
        return cls(config, n_items)

    @property
    def lr_multipliers(self) -> Mapping[str, float]:
        """Multiples of the learning rate by module or parameter name; 1 for all others."""
        return {}

    @property
    def package_requirements(self) -> list[str]:
        """Packages that this model imports beyond those of every model, such as torch-geometric for its layers."""
        parts = (module for module in self.modules() if module is not self)
        return sorted({name for part in parts for name in getattr(part, "package_requirements", ())})

    def item_parameters(self) -> set[str]:
        """Return the names of the parameters with one row per item; a warm start maps their rows by item id."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            for name in getattr(module, "item_rows", ())
            if module.get_parameter(name) is not None
        }

    @property
    def objective(self) -> str:
        """Training objective in one word, for tables."""
        return "other_items" if self.trainable else "counts"

    @property
    def next_item_objective(self) -> bool:
        """Whether training windows have the next event as target at every position; otherwise they have no targets."""
        return self.needs_order

    @property
    def description(self) -> str:
        """Short name with the main settings, for runs and tables."""
        return self.kind

    def observe(self, histories: Histories) -> None:
        """Compute from the training part what is not learned by gradients: rankable items, counts, graphs."""
        self.rankable = torch.from_numpy(histories.item_counts() > 0).to(self.rankable.device)

    @property
    def has_graph(self) -> bool:
        """Whether `observe` builds a graph."""
        return False

    def graph_sources(self) -> dict[str, Any]:
        """Return the edges and transitions that the observed graph was built from, as keywords of `audit_split`.

        Empty for a model without a graph.
        """
        return {}

    def neighbour_weights(self, items: Tensor) -> dict[str, NeighbourWeights]:
        """Return the attention weights of items (n,) on their graph neighbours, by relation, mean over heads.

        With several layers, those of the first. Relations and layers are summed as vectors, so the weights show where
        attention goes and are not parts of a score.

        Raises:
            TypeError: for a model without a graph.
            ValueError: for a model that has not observed its graph.
        """
        raise TypeError(
            f"neighbour weights need a graph, got {self.description}, which has none; "
            "use gat, random_walk, or a sequence model with graph = 'transitions' or 'items'"
        )

    def refresh(self) -> None:
        """Recompute the tables that scoring reads from the weights; called before evaluation and before saving."""

    def make_targets(self, batch: Batch) -> Batch:
        """Turn windows of the log into the training batch of `loss`; may draw random numbers."""
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean loss over the targets of a batch from `make_targets`, a scalar in nats.

        Raises:
            TypeError: for a model that is not trained by gradient descent.
        """
        raise TypeError(f"{self.kind} is not trained by gradient descent; call observe to fit it")

    @abstractmethod
    def encode(self, batch: Batch) -> EncodedHistories:
        """Encode B histories, for scores and contributions."""

    @abstractmethod
    def item_bias(self) -> Tensor:
        """Return the part of each item's score that does not depend on the user, (N,), in score units."""

    def item_vectors(self) -> Tensor:
        """Return vectors whose cosine is the similarity of two items, (N, D).

        Raises:
            TypeError: for a model without vectors.
        """
        raise TypeError(f"{self.kind} has no item vectors; use a model with item embeddings, such as attnrec")

    def score(self, batch: Batch, items: Tensor | None = None) -> Tensor:
        """Return the scores of all item rows, (B, N), or of the rows `items` (B, n), (B, n)."""
        return self.encode(batch).scores(items)

    def contributions(self, batch: Batch, items: Tensor) -> Tensor:
        """Split each item's score into the contributions of the events.

        Args:
            batch: B users with histories of length L, padded on the right.
            items: row numbers of the n items to explain, (B, n).

        Returns:
            (B, L, n), in score units; 0 at padding. The sum over L plus `item_bias` equals the score.

        Raises:
            ReasonsError: for a model whose scores are not sums over the history.
        """
        return self.encode(batch).contributions(items)


def observed_graphs(model: Model, histories: Histories) -> dict[str, Any]:
    """Let a model observe histories, and return the data that its graph was built from, for `dataset.audit_split`.

    Args:
        model: any; a model without a graph observes nothing here.
        histories: the training part.

    Returns:
        `edges` and `transitions`, None where the graph has none; empty for a model without a graph.
    """
    if not model.has_graph or (model.needs_order and not histories.ordered):  # training raises the error
        return {}
    model.observe(histories)
    return model.graph_sources()
