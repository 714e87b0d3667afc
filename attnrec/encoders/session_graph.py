"""The history as a graph of its distinct items: the session layer of GCE-GNN (Wang et al. 2020, arXiv:2106.05081).

An item has edges to itself and to the items directly before or after it (session graphs: SR-GNN, Wu et al. 2019,
arXiv:1811.00855). e = leaky_relu(a' (h_i * h_j)), with a vector `a` for each of four edge types: self-loop, from the
item before, from the item after, and both; the weights are a softmax of e over the edges of an item. The state of an
event is the vector of its item after the layers, plus an embedding of the position counted from the end.
Shapes: B users, L positions, D channels. The node of an item is at the position of its first event.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attnrec.config import Config
from attnrec.encoders.encoder import Encoder, real_positions, without_padding

NONE, SELF, BEFORE, AFTER, BOTH = range(5)


class SessionGraphSettings(Config):
    """Settings of `SessionGraph`. `negative_slope`: slope of the leaky ReLU below 0."""

    layers: int = Field(default=1, ge=1)
    negative_slope: float = Field(default=0.2, ge=0)


class SessionGraph(Encoder):
    """Attention over the graph of one history. It uses the whole history, so it needs objective = "last_item"."""

    paper = "Wang et al. 2020, arXiv:2106.05081"
    Settings = SessionGraphSettings
    needs_items = True

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        dropout: float,
        causal: bool = True,
        settings: SessionGraphSettings | None = None,
    ) -> None:
        settings = settings or SessionGraphSettings()
        if causal:
            raise ValueError(
                "session_graph can't be causal, because an item's neighbours may come later, got causal=True; "
                "set objective = 'last_item'"
            )
        super().__init__(dim, max_length=max_length, dropout=dropout, causal=causal, settings=settings)
        self.slope = settings.negative_slope
        bound = dim**-0.5
        self.type_vectors = nn.Parameter(torch.empty(settings.layers, BOTH, dim).uniform_(-bound, bound))
        self.embedding = nn.Embedding(max_length, dim)  # of positions counted from the last event
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None, items: Tensor | None = None
    ) -> Tensor:
        """See `encoder.Encoder`; `times` are ignored.

        Args:
            vectors, lengths, times: see `encoder.Encoder`.
            items: item rows of the events, (B, L); the vector of an item is the mean over its events. None treats each
                event as a different item.
        """
        positions = first_positions(items, vectors, lengths)
        types = edge_types(positions, lengths)
        nodes = self._nodes(self.dropout(vectors), positions, lengths)
        for type_vectors in self.type_vectors:
            nodes = self._weights(nodes, types, type_vectors) @ nodes
        states = nodes.gather(1, positions[..., None].expand_as(vectors))
        from_end = (lengths[:, None] - 1 - torch.arange(vectors.shape[1], device=lengths.device)).clamp(min=0)
        return without_padding(states + self.embedding(from_end), lengths)

    def attention_weights(
        self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None, items: Tensor | None = None
    ) -> list[Tensor | None]:
        """See `encoder.Encoder`. One head; the weight of an item is divided equally among its events."""
        positions = first_positions(items, vectors, lengths)
        types = edge_types(positions, lengths)
        nodes, layers = self._nodes(vectors, positions, lengths), []
        event_means = self._event_means(positions, lengths)  # (B, item, event)
        for type_vectors in self.type_vectors:
            weights = self._weights(nodes, types, type_vectors)
            nodes = weights @ nodes
            rows = (weights @ event_means).gather(1, positions[..., None].expand_as(weights))
            layers.append(without_padding(rows, lengths)[:, None])
        return layers

    def _nodes(self, vectors: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        """Return the item vectors at the positions of their first events, zeros elsewhere, (B, L, D)."""
        return self._event_means(positions, lengths) @ without_padding(vectors, lengths)

    def _event_means(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """Return the matrix that averages the events of each item, (B, L items, L events)."""
        nodes = torch.arange(positions.shape[1], device=positions.device)
        is_event = ((positions[:, None] == nodes[:, None]) & real_positions(positions, lengths)[:, None]).to(
            self.type_vectors.dtype
        )
        return is_event / is_event.sum(-1, keepdim=True).clamp(min=1)

    def _weights(self, nodes: Tensor, types: Tensor, type_vectors: Tensor) -> Tensor:
        """Return the attention weights between items, (B, L, L); zeros in a row without an item."""
        logits = torch.einsum("bid,td,bjd->btij", nodes, type_vectors, nodes)
        chosen = logits.gather(1, (types - 1).clamp(min=0)[:, None]).squeeze(1)
        connected = types > NONE
        chosen = F.leaky_relu(chosen, self.slope).masked_fill(~connected, torch.finfo(chosen.dtype).min)
        return chosen.softmax(-1) * connected


def first_positions(items: Tensor | None, vectors: Tensor, lengths: Tensor) -> Tensor:
    """Return the position of the first event with the same item, (B, L); at padding the position itself."""
    at = torch.arange(vectors.shape[1], device=vectors.device)
    if items is None:
        return at.expand(vectors.shape[:2])
    real = real_positions(vectors, lengths)
    same = (items[:, :, None] == items[:, None]) & real[:, :, None] & real[:, None]
    return torch.where(real, same.to(torch.uint8).argmax(-1), at)


def edge_types(positions: Tensor, lengths: Tensor) -> Tensor:
    """Return the type of the edge to the item at each position from each other item, (B, L to, L from).

    NONE; SELF; BEFORE if the other item is directly before it; AFTER if it is directly after it; BOTH.
    """
    n_users, n_positions = positions.shape
    followed = torch.zeros(n_users, n_positions, n_positions, dtype=torch.bool, device=positions.device)
    users, events = (real_positions(positions, lengths)[:, 1:]).nonzero(as_tuple=True)
    followed[users, positions[users, events + 1], positions[users, events]] = True
    types = BEFORE * followed + AFTER * followed.mT
    types = types.masked_fill(followed & followed.mT, BOTH)
    real = real_positions(positions, lengths)
    is_item = real & (positions == torch.arange(n_positions, device=positions.device))
    return types.masked_fill(torch.diag_embed(is_item), SELF)
