"""The two attention layers of a random walk: over the history (start) and over an item's neighbours (step).

Shapes: B users, L positions, T target positions, R query rows, E edges, N item rows, D channels, H heads,
F edge features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.graph import GATv2, GraphShape, SortedEdges
from attnrec.attention.graph.layer import GraphSettings
from attnrec.layers import Linear

N_STATISTICS, HIDDEN, N_DISTANCES = 3, 16, 16  # item and history statistics, hidden width, distance buckets


class StepAttention(nn.Module):
    """Logits of each item's neighbours, whose softmax is the step probability: GATv2 plus a linear edge term.

    At initialisation the step probabilities are proportional to the edge weights, as in RP3-beta.
    """

    def __init__(self, dim: int, *, heads: int, channels: int, n_features: int) -> None:
        super().__init__()
        self.attention = GATv2(GraphShape(dim, dim, heads, channels, edge_dim=n_features), GraphSettings())
        self.attention.bias = None  # the layer's output is not used, only its logits
        self.prior = Linear(n_features, heads, bias=False)
        with torch.no_grad():
            self.attention.attention.mul_(0.1)
            self.prior.weight.zero_()
            self.prior.weight[:, 0] = 1.0

    def forward(self, vectors: Tensor, queries: Tensor, graph: SortedEdges) -> Tensor:
        """Compute the logits (E, H) of the edges of query rows (R,), from item vectors (N, D)."""
        assert graph.edge_features is not None, "the graph of a random walk has edge features"
        values = self.attention.project_source(vectors)
        return self.attention.logits(vectors, vectors[queries], values, graph) + self.prior(graph.edge_features)


class StartAttention(nn.Module):
    """Logits of the events at which a walk can start, from the item vector and statistics of the item.

    With an order they also depend on the distance from the target position and on attention between the last item and
    the event's item; without an order, on the length of the history. With an order there is one additional head, whose
    walks stay at the item where they start, and with a window of W events walks start at one of the last W events.
    """

    def __init__(self, dim: int, *, heads: int, ordered: bool, window: int | None = None) -> None:
        super().__init__()
        self.ordered, self.window = ordered, window
        self.heads = heads + ordered
        self.hidden, self.logit = Linear(N_STATISTICS + dim, HIDDEN), Linear(HIDDEN, self.heads)
        with torch.no_grad():
            self.logit.weight.mul_(0.1)
            self.logit.bias.zero_()
        if ordered:
            self.query, self.key = Linear(dim, self.heads * dim), Linear(dim, self.heads * dim)
            self.distance = nn.Parameter(-torch.arange(float(N_DISTANCES))[:, None].repeat(1, self.heads) / 2)

    def forward(self, vectors: Tensor, statistics: Tensor, real: Tensor, positions: Tensor) -> Tensor:
        """Compute the logits of events for some positions of the history; -inf for events that cannot be starts.

        Args:
            vectors: item vectors of the events, (B, L, D).
            statistics: statistics of their items, see `loss.TargetSteps`, (B, L, 2).
            real: events that count, (B, L) bool.
            positions: target positions, (B, T). With an order walks start at or before them, otherwise at any event.

        Returns:
            (B, T, L, H + 1), the last head for walks that stay; without an order (B, 1, L, H), as all positions have
            the same logits.
        """
        log_length = torch.zeros_like(statistics[..., 0])
        if not self.ordered:
            log_length += real.sum(1, keepdim=True).clamp(min=1).log()
        statistics = torch.cat([statistics, log_length[..., None]], dim=-1) / 3 - 1
        logits = self.logit(F.leaky_relu(self.hidden(torch.cat([statistics, vectors], dim=-1)), 0.2))[:, None]
        allowed = real[:, None]
        if self.ordered:
            distances = positions[..., None] - torch.arange(vectors.shape[1], device=vectors.device)
            logits = logits + self._query_key_logits(vectors, positions) + self.distance[_bucket(distances)]
            allowed = allowed & (distances >= 0)
            if self.window is not None:
                allowed = allowed & (distances < self.window)
        return logits.masked_fill(~allowed[..., None], float("-inf"))

    def _query_key_logits(self, vectors: Tensor, positions: Tensor) -> Tensor:
        queries = vectors.gather(1, positions[..., None].expand(-1, -1, vectors.shape[-1]))
        q, k = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(queries), self.key(vectors)))
        return torch.einsum("bthd,blhd->btlh", q, k) / vectors.shape[-1] ** 0.5


def _bucket(distances: Tensor) -> Tensor:
    """Distance in events -> bucket: 0, 2, 3, 4, 4, 5, ..., two buckets per doubling."""
    return (2 * (distances.clamp(min=0) + 1).float().log2()).long().clamp(max=N_DISTANCES - 1)
