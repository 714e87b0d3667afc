"""LightGCN (He et al. 2020, arXiv:2002.02126) from PyTorch Geometric: a vector per user and item, trained with BPR.

An epoch contains every (user, item) pair once, in random order, each with a negative item that the user does not have.
Each step propagates over the whole graph, as in the authors' code. The normalised adjacency is symmetric, so the
gradient of a propagation is a propagation of the gradient. Using this gives the same result as PyG in less time. One
core, Gowalla, a step of 2,048 pairs: edge list 2,960 ms, sparse tensor (PyG transposes it for each gradient) 620 ms,
this module 230 ms.
Shapes: U users, N = n_items + 1 item rows, V = U + N nodes (users first), D channels, B pairs per step.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gowalla import METRICS, ranked_metrics
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.nn import LGConv, LightGCN

from attnrec.config import Config
from attnrec.dataset import Edges, Histories, Holdout, user_item_edges


class LightGCNConfig(Config):
    """Settings; the defaults are those of the paper for Gowalla.

    Attributes:
        dim, layers: width of the vectors, number of layers.
        regularization: weight of the squared norm of the vectors of a step, averaged over its pairs.
        learning_rate: learning rate of Adam.
        batch_size: pairs per step.
        initial_std: standard deviation of the initial vectors, as in the authors' PyTorch code; None is PyG's Xavier
            initialisation.
        epochs: maximum number.
        max_minutes: no epoch starts after this CPU time of training.
        check_minutes: CPU time of training between validations, which follow an epoch; the last epoch is validated.
        seed: seed of vectors, order and negatives.
    """

    dim: int = Field(default=64, gt=0)
    layers: int = Field(default=3, gt=0)
    regularization: float = Field(default=1e-4, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=2048, gt=0)
    initial_std: float | None = Field(default=0.1, gt=0)
    epochs: int = Field(default=1000, gt=0)
    max_minutes: float | None = Field(default=None, gt=0)
    check_minutes: float = Field(default=1.0, ge=0)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Vectors:
    """Propagated vectors of users (U, D) and items (N, D) after `epoch` epochs."""

    users: Tensor
    items: Tensor
    epoch: int

    def score(self, users: NDArray[np.int64]) -> Tensor:
        """Return dot products with all item rows, (B,) -> (B, N)."""
        return self.users[torch.from_numpy(users)] @ self.items.mT


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of training.

    Attributes:
        vectors: vectors of the best validated epoch; without validation, of the last.
        epochs: number of trained epochs.
        seconds: CPU time of training.
        pairs_per_second: in training.
        step_milliseconds: median CPU time of a step.
        curve: seconds and Recall@20 at each validation.
    """

    vectors: Vectors
    epochs: int
    seconds: float
    pairs_per_second: float
    step_milliseconds: float
    curve: tuple[tuple[float, float], ...]


def train(
    histories: Histories,
    config: LightGCNConfig | None = None,
    *,
    validation: Holdout | None = None,
    on_check: Callable[[float, float], None] | None = None,
) -> Trained:
    """Train on the visible events in any order; the time of validation is not counted.

    Args:
        histories: the training part.
        config: settings.
        validation: holdout that chooses the epoch; None keeps the last.
        on_check: called after each validation with the seconds of training and Recall@20.

    Raises:
        ValueError: if no user has an item and lacks another.
    """
    run = _Run(histories, config or LightGCNConfig())
    curve: list[tuple[float, float]] = []
    kept, best, checked = None, -1.0, 0.0
    while not run.over:
        run.train_epoch()
        if validation is None or not (run.over or run.seconds - checked >= 60 * run.config.check_minutes):
            continue
        vectors, checked = run.vectors(), run.seconds
        recall = ranked_metrics(vectors.score, histories, validation)[METRICS[0]]
        curve.append((run.seconds, recall))
        if recall > best:
            kept, best = vectors, recall
        if on_check is not None:
            on_check(run.seconds, recall)
    speed = run.epochs * len(run.pairs) / run.seconds, 1000 * float(np.median(run.step_seconds))
    return Trained(kept or run.vectors(), run.epochs, run.seconds, *speed, tuple(curve))


class _Run:
    """Model, graph, optimizer and clock of a training run."""

    def __init__(self, histories: Histories, config: LightGCNConfig) -> None:
        edges = user_item_edges(histories)
        self.config, self.n_users = config, histories.n_users
        self.pairs = Pairs(edges)
        self.random = np.random.default_rng(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = light_gcn(self.n_users + histories.n_items + 1, config)
        self.adjacency = normalized_adjacency(edges)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)
        self.epochs, self.step_seconds = 0, list[float]()

    @property
    def seconds(self) -> float:
        return sum(self.step_seconds)

    @property
    def over(self) -> bool:
        limit = self.config.max_minutes
        return self.epochs >= self.config.epochs or (limit is not None and self.seconds >= 60 * limit)

    def train_epoch(self) -> None:
        started = time.process_time()
        for users, positives, negatives in self.pairs.epoch(self.random, self.config.batch_size):
            self._step(torch.from_numpy(users), *(torch.from_numpy(x) + self.n_users for x in (positives, negatives)))
            now = time.process_time()
            self.step_seconds.append(now - started)
            started = now
        self.epochs += 1

    def _step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> None:
        edges = torch.stack([users.repeat(2), torch.cat([positives, negatives])])
        scores = self.model(self.adjacency, edges)
        loss = self.model.recommendation_loss(
            *scores.chunk(2), node_id=torch.cat([users, positives, negatives]), lambda_reg=self.config.regularization
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def vectors(self) -> Vectors:
        with torch.no_grad():
            nodes = self.model.get_embedding(self.adjacency)
        return Vectors(nodes[: self.n_users], nodes[self.n_users :], self.epochs)


class Pairs:
    """The (user, item) pairs of a log, with sampled negative items.

    Args:
        edges: each pair once; users who have every item are left out.

    Raises:
        ValueError: when no pair is left.
    """

    def __init__(self, edges: Edges) -> None:
        lacks_item = np.bincount(edges.users, minlength=edges.n_users)[edges.users] < edges.n_items
        if not lacks_item.any():
            raise ValueError("BPR needs a user who has an item and lacks another, got none; train on another log")
        self.users, self.items, self.n_items = edges.users[lacks_item], edges.items[lacks_item], edges.n_items
        self.positive_keys = np.sort(self._keys(self.users, self.items))

    def __len__(self) -> int:
        return len(self.users)

    def epoch(self, random: np.random.Generator, batch_size: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
        """Yield users, their items and negative items, (B,) each; every pair once in random order."""
        order = random.permutation(len(self))
        for chosen in np.split(order, np.arange(batch_size, len(self), batch_size)):
            users = self.users[chosen]
            yield users, self.items[chosen], self._negatives(users, random)

    def _negatives(self, users: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """Sample items uniformly; resample those that the user has."""
        items = random.integers(1, self.n_items + 1, len(users))
        pending = np.arange(len(users))
        while len(pending):
            keys = self._keys(users[pending], items[pending])
            positions = np.searchsorted(self.positive_keys, keys).clip(max=len(self) - 1)
            pending = pending[self.positive_keys[positions] == keys]
            items[pending] = random.integers(1, self.n_items + 1, len(pending))
        return items

    def _keys(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
        return users * (self.n_items + 1) + items


def light_gcn(n_nodes: int, config: LightGCNConfig) -> LightGCN:
    """Return PyG's model with propagations whose gradient uses the symmetry of the adjacency."""
    model = LightGCN(n_nodes, config.dim, config.layers)
    model.convs = nn.ModuleList([SymmetricLGConv() for _ in range(config.layers)])
    if config.initial_std is not None:
        nn.init.normal_(model.embedding.weight, std=config.initial_std)
    return model


class SymmetricLGConv(LGConv):
    """LGConv for a normalised, symmetric, sparse adjacency (V, V)."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: None = None) -> Tensor:
        return _Propagate.apply(x, edge_index)


class _Propagate(torch.autograd.Function):
    """A @ x for a constant symmetric A (V, V) and x (V, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adjacency: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return torch.sparse.mm(adjacency, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.sparse.mm(ctx.adjacency, grad.contiguous()), None


def normalized_adjacency(edges: Edges) -> Tensor:
    """Return D^-1/2 A D^-1/2 of the user-item graph in both directions as CSR, (V, V); users first, then item rows."""
    n_nodes = edges.n_users + edges.n_items + 1
    users, items = torch.from_numpy(edges.users), torch.from_numpy(edges.items) + edges.n_users
    sources, targets = torch.cat([users, items]), torch.cat([items, users])
    degrees = targets.bincount(minlength=n_nodes)
    weights = (degrees[sources] * degrees[targets]).float().rsqrt()
    order = (targets * n_nodes + sources).argsort()
    starts = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # torch warns that CSR is in beta
        # 32-bit indices: torch then uses MKL for the product
        return torch.sparse_csr_tensor(
            starts.int(), sources[order].int(), weights[order], (n_nodes, n_nodes), check_invariants=False
        )
