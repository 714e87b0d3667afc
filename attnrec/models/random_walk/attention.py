"""The two attentions of a walk: over the history, where it starts, and over an item's neighbours, where it goes.

Shapes: B users, L positions, T positions asked, R rows that attend, E edges, N item rows, D channels, H heads,
F edge features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnrec.attention.graph import GATv2, GraphShape, Segments
from attnrec.attention.graph.layer import GraphSettings
from attnrec.layers import Linear

FACTS, HIDDEN, DISTANCES = 3, 16, 16  # what is known of an event beside its item; of the network; of buckets


class Step(nn.Module):
    """Energies of each row's neighbours, of which its shares are a softmax: GATv2, and a prior linear in the edges.

    At the start it is the filter: shares are in proportion to the weights of the edges.
    """

    def __init__(self, dim: int, *, heads: int, channels: int, n_features: int) -> None:
        super().__init__()
        self.attention = GATv2(GraphShape(dim, dim, heads, channels, edge_dim=n_features), GraphSettings())
        self.attention.bias = None  # of an output that is not made
        self.prior = Linear(n_features, heads, bias=False)
        with torch.no_grad():
            self.attention.attention.mul_(0.1)
            self.prior.weight.zero_()
            self.prior.weight[:, 0] = 1.0

    def forward(self, vectors: Tensor, asking: Tensor, graph: Segments) -> Tensor:
        """Item vectors (N, D), the rows that attend (R,) and their edges -> energies (E, H)."""
        assert graph.edges is not None, "a walk knows its edges"
        values = self.attention.project_source(vectors)
        return self.attention.energies(vectors, vectors[asking], values, graph) + self.prior(graph.edges)


class Start(nn.Module):
    """Where a walk starts: energies of events, from the item, how popular it is and how strong its edges are.

    Where order counts, also from how far back an event is, and from how the last event's item looks at its own; where
    it does not, from how long the history is. With an order there is one more head, of walks that end where they
    start, and with a window of W events they start at one of the last W.
    """

    def __init__(self, dim: int, *, heads: int, ordered: bool, window: int | None = None) -> None:
        super().__init__()
        self.ordered, self.window = ordered, window
        self.heads = heads + ordered
        self.hidden, self.energy = Linear(FACTS + dim, HIDDEN), Linear(HIDDEN, self.heads)
        with torch.no_grad():
            self.energy.weight.mul_(0.1)
            self.energy.bias.zero_()
        if ordered:
            self.query, self.key = Linear(dim, self.heads * dim), Linear(dim, self.heads * dim)
            self.distance = nn.Parameter(-torch.arange(float(DISTANCES))[:, None].repeat(1, self.heads) / 2)

    def forward(self, vectors: Tensor, facts: Tensor, real: Tensor, places: Tensor) -> Tensor:
        """Energies of the events as seen from positions of the history, -inf for what does not count there.

        Args:
            vectors: of the events' items, (B, L, D).
            facts: of their items, see `Walks`, (B, L, 2).
            real: events that count, (B, L) bool.
            places: positions, (B, T); where order counts, they see what came up to them, and elsewhere everything.

        Returns:
            (B, T, L, H + 1), those of walks that stay last; without an order (B, 1, L, H): all positions see the same.
        """
        longer = torch.zeros_like(facts[..., 0])
        if not self.ordered:
            longer += real.sum(1, keepdim=True).clamp(min=1).log()
        facts = torch.cat([facts, longer[..., None]], dim=-1) / 3 - 1
        own = self.energy(F.leaky_relu(self.hidden(torch.cat([facts, vectors], dim=-1)), 0.2))[:, None]
        seen = real[:, None]
        if self.ordered:
            back = places[..., None] - torch.arange(vectors.shape[1], device=vectors.device)
            own = own + self._looks(vectors, places) + self.distance[_bucket(back)]
            seen = seen & (back >= 0)
            if self.window is not None:
                seen = seen & (back < self.window)
        return own.masked_fill(~seen[..., None], float("-inf"))

    def _looks(self, vectors: Tensor, places: Tensor) -> Tensor:
        asking = vectors.gather(1, places[..., None].expand(-1, -1, vectors.shape[-1]))
        q, k = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(asking), self.key(vectors)))
        return torch.einsum("bthd,blhd->btlh", q, k) / vectors.shape[-1] ** 0.5


def _bucket(back: Tensor) -> Tensor:
    """Events back -> bucket: 0, 2, 3, 4, 4, 5, ..., two to each doubling."""
    return (2 * (back.clamp(min=0) + 1).float().log2()).long().clamp(max=DISTANCES - 1)
