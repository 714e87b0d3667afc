"""A walk of attention over the graph of items, whose chance to end at an item is the item's score.

P(i | user) = sum over events j and heads h of start_h(j | history) * step_h(i | j) + background * popularity(i): one
attention chooses an event of the history, another, over the graph, one of its item's neighbours; where order counts
there is one more head, whose walks end at the item where they start. All of these are shares, so each summand is a
probability, and what an event adds to a score is exact. Random walks on the same graph with fixed shares (RP3-beta:
Paudel et al. 2017, doi:10.1145/2955101) are among the best linear filters; here GATv2 (Brody, Alon & Yahav 2022,
arXiv:2105.14491) starts from such a filter and learns by the likelihood of what users had, each asked on a graph
without them. Scores are chances times the number of items: how much likelier than an item drawn blindly.
Shapes: B users, L positions, T positions asked, S stretches of E events (see `stretches`), R rows of all graphs that
attend, N = n_items + 1 item rows, K neighbours, H heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

from attnrec.attention.graph.segment_softmax import segment_softmax
from attnrec.dataset import Batch, Histories
from attnrec.layers import Dropout
from attnrec.models.base import Model
from attnrec.models.distinct_items import last_occurrences
from attnrec.models.graph.neighbour_shares import NeighbourShares
from attnrec.models.graph.shares import evaluating
from attnrec.models.random_walk.attention import Start, Step
from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.random_walk.features import Seen, facts_of, shares_of, spread
from attnrec.models.random_walk.loss import Walks, other_items_loss
from attnrec.models.random_walk.neighbourhoods import Places, columns_of, fold_of, build_neighbour_tables
from attnrec.models.random_walk.encoding import WalkEncoding, look_up
from attnrec.models.random_walk.windows import Stretch, in_stretches, up_to, whole

BACKGROUND = 0.03
"""Of popularity at the start."""

SMALLEST = 1e-12
"""A chance is at least that, so that it has a logarithm."""

ROWS = 8192
"""Items whose shares are made at a time for scoring."""


class RandomWalk(Model):
    """Score = sum over the history of the chance to start at the event and step to the item, and popularity."""

    kind = "random_walk"
    paper = "this project; Brody et al. 2022, arXiv:2105.14491; Paudel et al. 2017, doi:10.1145/2955101"
    neighbours: Tensor
    steps: Tensor
    facts: Tensor
    popularity: Tensor

    def __init__(self, config: RandomWalkConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.config = config
        self.needs_order = config.next_item
        n_rows, k = n_items + 1, min(config.neighbours, n_items)
        self.embedding = nn.Embedding(n_rows, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.item_rows = ("embedding.weight",)
        self.dropout = Dropout(config.dropout)
        self.start = Start(config.dim, heads=config.heads, ordered=config.next_item, window=config.window)
        self.step = Step(
            config.dim,
            heads=config.heads,
            channels=config.channels,
            n_features=len(columns_of(config)) + 3,
        )
        self.background = nn.Parameter(torch.tensor(BACKGROUND).log())
        self.register_buffer("neighbours", torch.full((n_rows, k), n_rows, dtype=torch.int32))
        self.register_buffer("steps", torch.zeros(n_rows, k, config.heads))
        self.register_buffer("facts", torch.zeros(n_rows, 2))
        self.register_buffer("popularity", torch.zeros(n_rows))
        self.places: Places | None = None
        self.observed: Histories | None = None

    @property
    def has_graph(self) -> bool:
        return True

    @property
    def objective(self) -> str:
        return "next_item" if self.config.next_item else "other_items"

    @property
    def description(self) -> str:
        config = self.config
        hops = ["2hops"] if config.hops == 2 else []
        return "-".join(["random_walk", config.relation, *hops, f"k{config.neighbours}", f"d{config.dim}"])

    def observe(self, histories: Histories) -> None:
        """Make the graph, and for training one without each fold of the users; what scoring reads follows it."""
        if self.places is not None and self.observed is histories:  # asked for its graphs before it is trained
            return
        super().observe(histories)
        self.observed = histories
        self.places = build_neighbour_tables(histories, self.config)
        places = self._places_here()
        self.neighbours, self.popularity = places.neighbours[0], places.popularity[0]
        self.refresh()

    def graphs(self) -> dict[str, Any]:
        return {} if self.places is None else self.places.made_of

    def neighbour_shares(self, items: Tensor) -> dict[str, NeighbourShares]:
        """See `base.Model`. With one head these are the steps that scores are made of, with several their mean."""
        found = self.neighbours[items]
        real = found <= self.n_items  # neighbours stand first
        k = int(real.sum(1).max()) if len(items) else 0
        neighbours, shares = found.long() * real, self.steps[items].mean(2) * real
        return {self.config.relation: NeighbourShares(neighbours[:, :k], shares[:, :k])}

    def refresh(self) -> None:
        """Make the shares of every item's neighbours, once, into the table that scoring reads."""
        if self.places is None:
            return
        places = self._places_here()
        with torch.no_grad():
            for rows in torch.arange(self.n_items + 1, device=self.facts.device).split(ROWS):
                graph = places.segments(rows)
                energies = self.step(self.embedding.weight, rows, graph)
                shares = segment_softmax(energies, graph)
                self.steps[rows] = spread(shares, graph.offsets.diff(), self.neighbours.shape[1])
                self.facts[rows] = facts_of(places.degrees[0, rows], energies, graph)

    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log chance of each event, from those before it, or from all others where there is no order."""
        if self.config.next_item:
            assert batch.targets is not None, "a training batch has targets"
            asked = batch.targets > 0
            return -(self.probabilities(batch, batch.targets).log() * asked).sum() / asked.sum().clamp(min=1)
        with self._in_float32():
            asked = whole(batch, last_occurrences(batch.items), batch.items)
            walks = self._walks(asked)
            energies = self.start(walks.vectors, walks.facts, walks.real, asked.places)[:, 0]
            mass = self.background.exp()
            return other_items_loss(energies, walks, mass * walks.popularity, mass=mass)

    def probabilities(self, batch: Batch, wanted: Tensor) -> Tensor:
        """Chance of an item at each position of the histories, from what came up to it.

        Args:
            batch: histories whose order counts; with `users`, each on a graph without that user.
            wanted: the items, (B, L).

        Returns:
            (B, L), above 0; over all items they sum to 1, where every item of the history has a neighbour.
        """
        width, window = wanted.shape[1], self.config.window
        with self._in_float32():
            if window is None or width <= 2 * window:
                return self._chances(whole(batch, batch.real, wanted))
            return self._chances(in_stretches(batch, wanted, window)).view(len(wanted), -1)[:, :width]

    def probabilities_at(self, batch: Batch, places: Tensor, wanted: Tensor) -> Tensor:
        """The same at one position of each history, (B,), of one item, (B,)."""
        with self._in_float32():
            return self._chances(up_to(batch, places, wanted, self.config.window))[:, 0]

    def _chances(self, asked: Stretch) -> Tensor:
        walks = self._walks(asked)
        starts = self.start(walks.vectors, walks.facts, walks.real, asked.places)
        shares = shares_of(starts)
        moving, staying = shares[..., : self.config.heads], shares[..., self.config.heads :].sum(3)
        chances = torch.einsum("btlh,blth->bt", moving, walks.steps)
        chances = chances + (staying * (asked.items[:, None] == asked.wanted[..., None])).sum(2)
        return ((chances + self.background.exp() * walks.popularity) / self.mass()).clamp(min=SMALLEST)

    def all_probabilities(self, batch: Batch, places: Tensor) -> Tensor:
        """Chances of all items at one position of each history, (B,): (B, N), without gradients or dropout."""
        with evaluating(self), self._in_float32():
            asked = up_to(batch, places, torch.zeros_like(places), self.config.window)
            seen = self._seen(asked)
            starts = shares_of(self.start(seen.vectors, seen.facts, asked.real, asked.places)[:, 0])
            steps = spread(seen.shares, seen.graph.offsets.diff(), seen.neighbours.shape[1])[seen.row_of_event]
            nothing = torch.zeros_like(self.popularity)
            encoded = WalkEncoding(asked.items, starts, seen.neighbours[seen.row_of_event], steps, nothing)
            background = self.background.exp() * self._places_here().popularity[seen.world]
            return (encoded.scores() + background) / self.mass()

    def _in_float32(self) -> torch.autocast:
        """Chances are spread over many orders of magnitude: bfloat16 has too few digits."""
        return torch.autocast(self.facts.device.type, enabled=False)

    def _walks(self, asked: Stretch) -> Walks:
        """What is known of the events and of their steps to the items that are asked for."""
        seen, real = self._seen(asked), asked.real
        at, found = look_up(seen.neighbours[seen.row_of_event], asked.wanted)
        at = (seen.graph.offsets[seen.row_of_event][..., None] + at).clamp(max=max(0, len(seen.shares) - 1))
        steps = seen.shares[at] if len(seen.shares) else seen.shares.new_zeros(*at.shape, self.config.heads)
        return Walks(
            vectors=seen.vectors,
            facts=seen.facts,
            popularity=self._places_here().popularity[seen.world[:, None], asked.wanted],
            real=real,
            leads=(seen.graph.offsets.diff() > 0)[seen.row_of_event] & real,
            steps=steps * (found & real[..., None])[..., None],
        )

    def _seen(self, asked: Stretch) -> Seen:
        """Events of each user on a graph without that user, where users are known."""
        places, items, real = self._places_here(), asked.items, asked.real
        world = torch.zeros_like(items[:, 0])
        if asked.users is not None:
            world = 1 + fold_of(asked.users, self.config.folds)
        rows = (world[:, None] * places.n_rows + items)[real]
        asking, row_of = rows.unique(return_inverse=True)
        graph, vectors = places.segments(asking), self.dropout(self.embedding.weight)
        energies = self.step(vectors, asking % places.n_rows, graph)
        facts = facts_of(places.degrees.flatten()[asking], energies, graph)[row_of]
        return Seen(
            world=world,
            vectors=vectors[items],
            facts=facts.new_zeros(*real.shape, 2).masked_scatter(real[..., None], facts),
            row_of_event=torch.zeros_like(items).masked_scatter(real, row_of),
            neighbours=places.neighbours.flatten(0, 1)[asking],
            graph=graph,
            shares=segment_softmax(energies, graph),
        )

    def _places_here(self) -> Places:
        """The graphs, moved once to where the weights are."""
        assert self.places is not None, "a walk observes its graph before it trains"
        device = self.embedding.weight.device
        if self.places.neighbours.device != device:
            self.places = self.places.to(device)
        return self.places

    def encode(self, batch: Batch) -> WalkEncoding:
        """Choose where the walks start; users without events stay where popularity leads."""
        real, last = self._counted(batch), (batch.lengths - 1).clamp(min=0)[:, None]
        neighbours, steps, facts = (table[batch.items] for table in (self.neighbours, self.steps, self.facts))
        energies = self.start(self.embedding.weight[batch.items], facts, real, last)[:, 0]
        return WalkEncoding(batch.items, shares_of(energies) * self.n_items, neighbours, steps, self.item_bias())

    def mass(self) -> Tensor:
        """What the chances of all items sum to, where every event leads somewhere, a scalar."""
        return 1 + self.background.exp()

    def item_bias(self) -> Tensor:
        return self.background.exp() * self.popularity * self.n_items

    def _counted(self, batch: Batch) -> Tensor:
        """Events that count: all of a sequence, each item of a set once, (B, L) bool."""
        return batch.real if self.config.next_item else last_occurrences(batch.items)
