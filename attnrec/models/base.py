"""The contract of every model: read a history once, then score and split the scores by event.

Shapes: B users, L positions, n items asked for, N = n_items + 1 item rows (row 0 is padding).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.dataset import Batch, Histories
from attnrec.losses import LossConfig
from attnrec.models.graph.neighbour_shares import NeighbourShares


class ReasonsError(TypeError):
    """The model has no exact contributions."""


class ModelConfig(Config):
    """Settings every model has, beside its own `kind`: the events it reads at most."""

    max_length: int = 200


class TrainedConfig(ModelConfig, LossConfig):
    """Settings of a model that learns by gradient steps: what it is trained on stands in the same table."""


def check_window(max_length: int, histories: Histories) -> None:
    """Refuse a window that somebody asked for and that this log cannot fill, so that a slip is told before training.

    Up to twice the longest history, and up to the default, is let through: a generous limit costs nothing there and
    must not fail on a day with shorter histories.

    Raises:
        ValueError: naming both lengths.
    """
    longest = int(histories.lengths.max(initial=0))
    if max_length > max(2 * longest, ModelConfig.model_fields["max_length"].default):
        raise ValueError(
            f"max_length must not be more than twice the longest history, got {max_length} and {longest} events; "
            f"set max_length = {longest}"
        )


class EncodedHistories(Protocol):
    """B histories, read once by a model."""

    @property
    def weights(self) -> Tensor | None:
        """Share of attention each event got, mean over heads, (B, L); None where a model has none."""
        ...

    def scores(self, items: Tensor | None = None) -> Tensor:
        """Scores of all item rows (B, N), or of the rows in `items` (B, n)."""
        ...

    def contributions(self, items: Tensor) -> Tensor:
        """What each event added to the scores of `items` (B, n): (B, L, n), 0 at padding."""
        ...


class Model(nn.Module, ABC):
    """Base of all models.

    Attributes:
        kind: name in the registry and in the TOML.
        paper: where it comes from.
        needs_order: refuses unordered sets.
        learns: trained by gradient steps; otherwise `observe` is all there is.
        event_names: the types of events that it reads, by number; empty where it reads none.
        memory_events: how many events before the last `max_length` it wants to see, compressed.
        slices: whether a batch's loss is the mean over windows that may be computed apart; not where each
            call of `loss` does work for the whole catalogue.
    """

    kind: str
    paper: str
    needs_order: bool = False
    learns: ClassVar[bool] = True
    memory_events: int = 0
    event_names: tuple[str, ...] = ()
    slices: bool = True
    rankable: Tensor

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        self.max_length: int = config.max_length
        rankable = torch.ones(n_items + 1, dtype=torch.bool)
        rankable[0] = False
        self.register_buffer("rankable", rankable)

    @property
    def lr_multipliers(self) -> Mapping[str, float]:
        """Parts, by name, that learn at so many times the learning rate; all others at 1."""
        return {}

    @property
    def exact_reasons(self) -> bool:
        """Whether `contributions` exists: scores are sums over the history."""
        return True

    def item_parameters(self) -> set[str]:
        """Names of the parameters that have a row per item, which follow the items into another catalogue."""
        return {
            f"{place}.{name}"
            for place, module in self.named_modules()
            for name in getattr(module, "item_rows", ())
            if module.get_parameter(name) is not None
        }

    @property
    def objective(self) -> str:
        """What it is trained to do, in a word, for tables."""
        return "other_items" if self.learns else "counts"

    @property
    def next_item_objective(self) -> bool:
        """Whether training windows ask every event but a user's first for; otherwise they hold every event once."""
        return self.needs_order

    @property
    def description(self) -> str:
        """A short name that says what the model is, for runs and tables."""
        return self.kind

    def observe(self, histories: Histories) -> None:
        """Take from the training part what is not learned by gradients: which items exist, counts, edges."""
        self.rankable = torch.from_numpy(histories.item_counts() > 0).to(self.rankable.device)

    @property
    def has_graph(self) -> bool:
        """Whether `observe` makes a graph."""
        return False

    def graphs(self) -> dict[str, Any]:
        """What it made a graph of when it observed, by the keywords of `dataset.audit_split`; nothing without one."""
        return {}

    def neighbour_shares(self, items: Tensor) -> dict[str, NeighbourShares]:
        """Attention of items (n,) to their neighbours in the graph, by the name of the relation; mean over heads.

        Of a graph of several layers the first one's. What items heard is added up over relations, and with vectors for
        values, so these shares say where attention goes and not what a score is made of.

        Raises:
            TypeError: for a model without a graph.
            ValueError: for one that has not observed its graph.
        """
        raise TypeError(
            f"shares of neighbours need a graph, got {self.description}, which has none; "
            "take gat, random_walk, or a sequence model with graph = 'transitions' or 'items'"
        )

    def refresh(self) -> None:
        """Bring what scoring reads up to date with the weights; called before evaluation and saving."""

    def make_targets(self, batch: Batch) -> Batch:
        """The batch that `loss` is computed on, made of windows as they are cut from the log; may draw."""
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the targets of a training batch that went through `make_targets`, a scalar in nats.

        Raises:
            TypeError: for a model that is not trained by gradients.
        """
        raise TypeError(f"{self.kind} is not trained by gradient steps; `observe` fits it")

    @abstractmethod
    def encode(self, batch: Batch) -> EncodedHistories:
        """Read B histories once, for scores and contributions."""

    def shares(self, batch: Batch) -> list[Tensor | None]:
        """Attention of each layer from where the user is read, (B, H, L); None where its weights are no shares."""
        del batch
        return []

    @abstractmethod
    def item_bias(self) -> Tensor:
        """What the model knows of each item apart from the user, (N,), in score units."""

    def item_vectors(self) -> Tensor:
        """Vectors whose cosines say which items are alike, (N, D).

        Raises:
            TypeError: for a model without vectors.
        """
        raise TypeError(f"{self.kind} has no item vectors; use a model that learns them, such as attnrec")

    def score(self, batch: Batch, items: Tensor | None = None) -> Tensor:
        """Scores of all item rows (B, N), or of the rows in `items` (B, n)."""
        return self.encode(batch).scores(items)

    def contributions(self, batch: Batch, items: Tensor) -> Tensor:
        """Split each item's score into what every history entry added to it.

        Args:
            batch: B users with histories of length L, padded on the right.
            items: row numbers of the n items to explain, (B, n).

        Returns:
            (B, L, n), in score units. Padding adds 0. Summed over L it equals the score, less
            what the model knows of the item apart from this user (see `item_bias`).

        Raises:
            ReasonsError: for a model whose scores are not sums over the history.
        """
        return self.encode(batch).contributions(items)
