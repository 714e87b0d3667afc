"""The sequence model: items -> states of the history -> the user -> scores (see `presets` for the papers' models).

By default (`attnrec`) causal self-attention under attention pooling, whose scores are exact sums over the history,
trained on the next item at every position with the full softmax.
Shapes: B users, L positions, D channels, N = n_items + 1 item rows.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.attention import AttentionKernel
from attnrec.dataset import Batch, Histories
from attnrec.dataset.modalities import Modalities
from attnrec.losses import base_score
from attnrec.models.base import Model
from attnrec.models.fused_items import FusedItems
from attnrec.models.graph.neighbour_shares import NeighbourShares
from attnrec.models.graph.shares import evaluating
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.sequence.config import SequenceConfig
from attnrec.models.sequence.context import EventContext
from attnrec.models.sequence.memory import CompressedMemory, Seen
from attnrec.models.sequence.objectives import ask_next, last_items, masked_items, places_asked
from attnrec.models.sequence.presets import PRESETS
from attnrec.models.sequence.readouts import Last, build_readout
from attnrec.models.sequence.walk_product import POWERS_PACE, WALK_PACE, WalkProductEncoding, WalkProduct


class SequenceModel(Model):
    """Item encoder x history encoder x readout, trained on an objective."""

    needs_order = True

    table: Tensor
    has_id: Tensor

    def __init__(self, config: SequenceConfig, n_items: int, modalities: Modalities | None = None) -> None:
        super().__init__(config, n_items)
        self.config = config
        self.kind, self.paper = config.kind, PRESETS[config.kind].paper
        readout = build_readout(config)
        cosine = config.scores == "cosine" or (config.scores == "auto" and readout.exact)
        self.item_scorer = ItemScorer(
            n_items,
            config.dim,
            temperature=config.temperature if cosine else None,
            item_bias=config.item_bias,
            base_score=base_score(config, n_items),
        )
        self.fused, self.tabled = None, bool(config.features) or config.graph != "none"
        if self.tabled:  # the finished table is all that scoring needs: a model may be without what made it
            self.register_buffer("table", torch.zeros(n_items + 1, config.dim))
        if config.features:
            self.register_buffer("has_id", torch.zeros(n_items + 1, dtype=torch.bool))
            if modalities is not None:
                self.fused = FusedItems(modalities, dim=config.dim, id_dropout=config.id_dropout)
        self.slices = not self.tabled  # every call makes the whole table
        self.masks = config.objective == "masked_items"
        self.context = EventContext(
            config.dim, hidden=self.masks, time_gaps=config.time_gaps, event_types=config.event_types
        )
        self.memory_events = config.memory_events
        self.older = CompressedMemory(config.dim, block=config.memory_block) if config.memory_events else None
        self.encoder = config.build_encoder()
        self.readout = readout
        self.walk_product = None
        if config.walk != "none":
            self.walk_product = WalkProduct(config.walk_config(), n_items)
        self.graph = config.build_graph()  # last, so that a seed gives all else as it gives it without a graph

    @property
    def exact_reasons(self) -> bool:
        return self.readout.exact and self.walk_product is None

    @property
    def lr_multipliers(self) -> dict[str, float]:
        return {} if self.walk_product is None else {"walk_product.random_walk": WALK_PACE, "walk_product.log_powers": POWERS_PACE}

    @property
    def objective(self) -> str:
        return self.config.objective

    @property
    def next_item_objective(self) -> bool:
        return not self.masks

    @property
    def description(self) -> str:
        config, preset, named = self.config, PRESETS[self.config.kind].settings, ("encoder", "attention", "graph")
        usual = {name: preset.get(name, SequenceConfig.model_fields[name].default) for name in named}
        other = [getattr(config, name) for name in usual if getattr(config, name) != usual[name]]
        other = [f"graph-{name}" if name == config.graph else name for name in other]
        other += [f"walk-{config.walk}"] if config.walk != "none" else []
        return "-".join([config.kind, *other, config.readout, f"d{config.dim}", f"L{config.max_length}"])

    @property
    def has_graph(self) -> bool:
        return self.graph is not None or self.walk_product is not None

    def graphs(self) -> dict[str, Any]:
        made_of = {} if self.graph is None else self.graph.made_of
        if self.walk_product is None:
            return made_of
        # of one kind both are made of the same events by the same functions: one is enough to audit
        of_walk = self.walk_product.random_walk.graphs()
        return {name: made if made_of.get(name) is None else made_of[name] for name, made in of_walk.items()}

    def neighbour_shares(self, items: Tensor) -> dict[str, NeighbourShares]:
        if self.graph is None:
            return super().neighbour_shares(items) if self.walk_product is None else self.walk_product.random_walk.neighbour_shares(items)
        with evaluating(self):
            return self.graph.neighbour_shares(self._own_table(), items)

    def observe(self, histories: Histories) -> None:
        super().observe(histories)
        if self.config.event_types and histories.events is None:
            raise ValueError("event_types = true needs a log with types of events, got none; name interactions.event")
        if self.config.event_types:
            self.event_names = histories.event_names
        self.item_scorer.observe(histories, config=self.config)
        has_history = self.rankable.clone()  # an item without is known by what describes it alone
        if self.config.features:
            if self.fused is None:
                raise ValueError(
                    f"features = {list(self.config.features)} needs the items' features, got none; "
                    "give the experiment a table [items], or fit(items=frame)"
                )
            self.has_id = has_history
            self.rankable = self.rankable | self.fused.described().to(self.rankable.device)
        if self.walk_product is not None:
            self.walk_product.observe(histories)
        if self.graph is not None:
            self.graph.observe(histories, hide_unknown=not self.config.features)
            self.rankable = self.rankable | self.graph.described().to(self.rankable.device)

    def refresh(self) -> None:
        """Make the items' vectors once, into the table that scoring reads; not where what makes them is not there."""
        if self.walk_product is not None:
            self.walk_product.random_walk.refresh()
        if self.fused is None if self.config.features else not self.tabled:
            return
        if self.graph is not None and not self.graph.observed:
            return
        was_training = self.training
        self.eval()
        with torch.no_grad():
            self.table = self._made_table()
        self.train(was_training)

    def _made_table(self) -> Tensor:
        """Item vectors, (N, D): of ids, fused with features, enriched over the graph."""
        return self._own_table() if self.graph is None else self.graph(self._own_table())

    def _own_table(self) -> Tensor:
        """Item vectors before the graph, (N, D)."""
        ids = self.item_scorer.embedding.weight
        return ids if self.fused is None else self.fused(ids, self.has_id)

    def make_targets(self, batch: Batch) -> Batch:
        if self.masks:
            return masked_items(batch, share=self.config.mask_share)
        if self.config.objective == "last_item":
            return last_items(batch, n_prefixes=self.config.n_prefixes)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Of the targets that `make_targets` left in the batch."""
        assert batch.targets is not None, "a training batch has targets"
        table = self._made_table()
        vectors, asked = F.embedding(batch.items, table, padding_idx=0), batch.targets > 0
        states = self.states(vectors, batch, table)
        values = self.readout.values(vectors)
        if self.config.objective == "last_item":
            users = self.readout.at_end(states, values, lengths=batch.lengths).users[asked.any(1)]
        else:
            users = self.readout.everywhere(states, values)[asked]
        encoded = VectorEncoding(self.item_scorer, table.detach(), users.detach(), None, None)
        added = self._kernel_terms(encoded, asked, batch)
        if self.walk_product is None:
            return self.item_scorer.loss(users, batch.targets[asked], table=table, config=self.config) + added
        learned = asked & ~self.walk_product.held(batch)[:, None]
        if learned.any():
            of_asked = learned[asked]
            loss = self.item_scorer.loss(users[of_asked], batch.targets[learned], table=table, config=self.config)
            added = added + loss * of_asked.float().mean()
        return self.walk_product.loss(encoded, batch, asked) + added

    def _kernel_terms(self, encoded: VectorEncoding, asked: Tensor, batch: Batch) -> Tensor | float:
        """What attention kernels add to the loss: penalties, and for those that drew, what came of it."""
        kernels = [module for module in self.encoder.modules() if isinstance(module, AttentionKernel)]
        added = [kernel.penalty() for kernel in kernels]
        if any(kernel.draws for kernel in kernels):
            assert batch.targets is not None, "a training batch has targets"
            losses = _of_histories(encoded, batch.targets[asked], asked.nonzero()[:, 0], n=len(asked))
            added += [kernel.surrogate(losses, real=batch.real) for kernel in kernels]
        return sum(term for term in added if term is not None)

    def encode(self, batch: Batch) -> VectorEncoding | WalkProductEncoding:
        """Encode the histories; users without events become zero vectors, scored by item bias alone."""
        table = self.item_vectors()
        vectors = F.embedding(batch.items, table, padding_idx=0)
        if isinstance(self.readout, Last) or batch.items.numel() <= len(table):
            return self.read_vectors(batch, vectors)
        # each item's value is computed once
        return self.read_vectors(batch, vectors, values=self.readout.values(table)[batch.items])

    def read_vectors(
        self, batch: Batch, vectors: Tensor, *, values: Tensor | None = None
    ) -> VectorEncoding | WalkProductEncoding:
        """Encode histories whose events have the item vectors given, whatever items they are.

        Args:
            batch: B users; all but what their items' vectors are.
            vectors: (B, L, D); gradients flow to them.
            values: what the events are worth to the readout, (B, L, D), where that is known already.
        """
        table, known = self.item_vectors(), batch.lengths > 0
        if self.masks:
            batch, vectors = self._asked(batch, vectors, table)
        if isinstance(self.readout, Last):
            seen = self._seen(vectors, batch, table)
            users = self.encoder.at_end(seen.vectors, **self._told(seen, batch)) * known[:, None]
            return self._mixed(batch, VectorEncoding(self.item_scorer, table, users, None, None, why_none=self._why_none))
        values = self.readout.values(vectors) if values is None else values
        pooled = self.readout.at_end(self.states(vectors, batch, table), values, lengths=batch.lengths)
        why_none, users = self._why_none, pooled.users
        return self._mixed(batch, VectorEncoding(self.item_scorer, table, users, pooled.parts, pooled.weights, why_none))

    def _mixed(self, batch: Batch, encoded: VectorEncoding) -> VectorEncoding | WalkProductEncoding:
        return encoded if self.walk_product is None else self.walk_product.encode(batch, encoded)

    def states(self, vectors: Tensor, batch: Batch, table: Tensor) -> Tensor:
        """States (B, L, D) of events with item vectors (B, L, D), which are rows of the table (N, D)."""
        seen = self._seen(vectors, batch, table)
        states = self.encoder(seen.vectors, **self._told(seen, batch))
        return states if seen.at is None else seen.of_window(states)

    def seen(self, batch: Batch) -> Seen:
        """What the encoder sees when the histories are read."""
        table = self.item_vectors()
        vectors = F.embedding(batch.items, table, padding_idx=0)
        if self.masks:
            batch, vectors = self._asked(batch, vectors, table)
        return self._seen(vectors, batch, table)

    def _seen(self, vectors: Tensor, batch: Batch, table: Tensor) -> Seen:
        """What the encoder sees: the window in its context, behind a memory of what came before it."""
        vectors = self.context(vectors, batch)
        if self.older is None or batch.memory_items is None:
            return Seen(vectors, batch.lengths, batch.times)
        return self.older(vectors, F.embedding(batch.memory_items, table, padding_idx=0), batch)

    def _told(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """What the encoder is told of the events beside their vectors."""
        told = {"lengths": seen.lengths, "times": seen.times}
        return told | {"items": batch.items} if self.encoder.reads_items else told

    def _asked(self, batch: Batch, vectors: Tensor, table: Tensor) -> tuple[Batch, Tensor]:
        """The histories with the hidden event behind them, and their vectors, the hidden one's as of row 0."""
        places = places_asked(batch, max_length=self.max_length)[..., None].expand(-1, -1, vectors.shape[-1])
        vectors = torch.cat([table[:1].expand(len(vectors), 1, -1), vectors], dim=1).gather(1, places)
        return ask_next(batch, max_length=self.max_length), vectors

    def shares(self, batch: Batch) -> list[Tensor | None]:
        seen = self.seen(batch)
        found = self.encoder.shares(seen.vectors, **self._told(seen, batch))
        users, last = torch.arange(len(seen.lengths), device=seen.lengths.device), (seen.lengths - 1).clamp(min=0)
        return [None if shares is None else shares[users, :, last] for shares in found]

    def item_bias(self) -> Tensor:
        return self.item_scorer.biases() if self.walk_product is None else self.walk_product.item_bias(self.item_scorer)

    def item_vectors(self) -> Tensor:
        return self.table if self.tabled else self.item_scorer.embedding.weight

    @property
    def _why_none(self) -> str:
        return (
            f"contributions need a readout that sums over the history, got readout={self.config.readout!r}, whose "
            "state mixes all events; train with readout='pooling'"
        )


@torch.no_grad()
def _of_histories(encoded: VectorEncoding, targets: Tensor, owners: Tensor, *, n: int) -> Tensor:
    """Mean cross-entropy of each of n histories, (n,), whose users at the T positions asked for are in `reading`."""
    losses = torch.cat(
        [
            F.cross_entropy(replace(encoded, users=some).scores()[:, 1:], wanted - 1, reduction="none")
            for some, wanted in zip(encoded.users.split(512), targets.split(512), strict=True)
        ]
    )
    counts = torch.bincount(owners, minlength=n).clamp(min=1)
    return losses.new_zeros(n).index_add_(0, owners, losses) / counts
