"""Sequence model: item vectors -> encoder states -> user vector -> scores; `presets` lists the published models.

The default preset `attnrec` is causal self-attention with attention pooling over single events, whose scores are exact
sums over the history, trained to predict the next item at every position with the full softmax.
Shapes: B users, L positions, D channels, N = n_items + 1 item rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnrec.dataset import Batch, Features, Histories
from attnrec.dataset.modalities import Modalities, modalities
from attnrec.losses import base_score
from attnrec.models.attention_weights import AttentionLayers, ReadoutWeights
from attnrec.models.base import Model
from attnrec.models.feature_fusion import ItemFeatureFusion
from attnrec.models.graph.edge_weights import evaluating
from attnrec.models.graph.neighbour_weights import NeighbourWeights
from attnrec.models.head_weights import Head
from attnrec.models.item_scores import ItemScorer, VectorEncoding
from attnrec.models.sequence import interpretation
from attnrec.models.sequence.config import SequenceConfig
from attnrec.models.sequence.context import EventContext
from attnrec.models.sequence.loss import sequence_loss
from attnrec.models.sequence.memory import CompressedMemory, EncoderInputs
from attnrec.models.sequence.objectives import append_masked_event, appended_event_numbers, mask_items, sample_prefixes
from attnrec.models.sequence.presets import PRESETS
from attnrec.models.sequence.readouts import Last, UserVectors, build_readout
from attnrec.models.sequence.walk_product import LR_MULTIPLIERS, WalkProduct, WalkProductEncoding


class SequenceModel(Model):
    """Item vectors, history encoder and readout, trained on an objective (see `SequenceConfig`)."""

    needs_order = True

    table: Tensor
    has_id: Tensor

    def __init__(self, config: SequenceConfig, n_items: int, modalities: Modalities | None = None) -> None:
        super().__init__(config, n_items)
        self.config = config
        self.kind = config.kind
        if config.kind in PRESETS:
            self.paper = PRESETS[config.kind].paper
        readout = build_readout(config)
        cosine = config.scores == "cosine" or (config.scores == "auto" and readout.exact)
        self.item_scorer = ItemScorer(
            n_items,
            config.dim,
            temperature=config.temperature if cosine else None,
            item_bias=config.item_bias,
            base_score=base_score(config, n_items),
        )
        self.feature_fusion, self.has_table = None, bool(config.features) or config.graph != "none"
        if self.has_table:  # scoring needs only the finished table: a loaded model may lack features and graph
            self.register_buffer("table", torch.zeros(n_items + 1, config.dim))
        if config.features:
            self.register_buffer("has_id", torch.zeros(n_items + 1, dtype=torch.bool))
            if modalities is not None:
                self.feature_fusion = ItemFeatureFusion(modalities, dim=config.dim, id_dropout=config.id_dropout)
        self.supports_micro_batches = not self.has_table  # each call of loss computes the table of all items
        self.masks_items = config.objective == "masked_items"
        self.context = EventContext(
            config.dim, masked=self.masks_items, time_gaps=config.time_gaps, event_types=config.event_types
        )
        self.memory_events = config.memory_events
        self.memory = CompressedMemory(config.dim, block=config.memory_block) if config.memory_events else None
        self.encoder = config.build_encoder()
        self.readout = readout
        self.walk_product = None
        if config.random_walk != "none":
            self.walk_product = WalkProduct(config.random_walk_config(), n_items)
        self.graph = config.build_graph()  # last: a seed gives the other weights the same values as without a graph

    @classmethod
    def from_config(
        cls, config: Any, n_items: int, *, features: Features | None = None, fit_features: Features | None = None
    ) -> "SequenceModel":
        columns = None
        if config.features and features is not None:
            encoder = {"text_encoder": config.text_encoder, "text_dim": config.text_dim}
            columns = modalities(features, config.features, **encoder, fit_features=fit_features)
        model = cls(config, n_items, columns)
        if features is not None and model.graph is not None:
            model.graph.set_attributes(features)
        return model

    @property
    def exact_reasons(self) -> bool:
        return self.readout.exact and self.walk_product is None

    @property
    def lr_multipliers(self) -> dict[str, float]:
        return {} if self.walk_product is None else LR_MULTIPLIERS

    @property
    def objective(self) -> str:
        return self.config.objective

    @property
    def next_item_objective(self) -> bool:
        return not self.masks_items

    @property
    def description(self) -> str:
        return self.config.description

    @property
    def has_graph(self) -> bool:
        return self.graph is not None or self.walk_product is not None

    def graph_sources(self) -> dict[str, Any]:
        sources = {} if self.graph is None else self.graph.sources
        if self.walk_product is None:
            return sources
        # sources of one kind are made of the same events by the same functions: it is enough to audit one of them
        walk_sources = self.walk_product.random_walk.graph_sources()
        return {name: made if sources.get(name) is None else sources[name] for name, made in walk_sources.items()}

    def neighbour_weights(self, items: Tensor) -> dict[str, NeighbourWeights]:
        if self.graph is not None:
            with evaluating(self):
                return self.graph.neighbour_weights(self._table_before_graph(), items)
        walk = None if self.walk_product is None else self.walk_product.random_walk
        return super().neighbour_weights(items) if walk is None else walk.neighbour_weights(items)

    def observe(self, histories: Histories) -> None:
        super().observe(histories)
        if self.config.event_types and histories.events is None:
            raise ValueError(
                "event_types = true needs a log with event types, got a log without; set interactions.event"
            )
        if self.config.event_types:
            self.event_names = histories.event_names
        self.item_scorer.observe(histories, config=self.config)
        if self.config.features:
            if self.feature_fusion is None:
                raise ValueError(
                    f"features = {list(self.config.features)} needs item features, got none; "
                    "add a table [items] to the experiment, or call fit(items=frame)"
                )
            self.has_id = self.rankable.clone()  # items without training events have no trained id vector
            self.rankable = self.rankable | self.feature_fusion.has_features().to(self.rankable.device)
        if self.walk_product is not None:
            self.walk_product.observe(histories)
        if self.graph is not None:
            self.graph.observe(histories, hide_untrained=not self.config.features)
            self.rankable = self.rankable | self.graph.has_attributes().to(self.rankable.device)

    def refresh(self) -> None:
        """Compute the item table that scoring reads; a model loaded without features or graph keeps its own."""
        if self.walk_product is not None:
            self.walk_product.random_walk.refresh()
        if self.feature_fusion is None if self.config.features else not self.has_table:
            return
        if self.graph is not None and not self.graph.observed:
            return
        was_training = self.training
        self.eval()
        with torch.no_grad():
            self.table = self.item_table()
        self.train(was_training)

    def item_table(self) -> Tensor:
        """Item vectors (N, D) from ids, features and graph."""
        return self._table_before_graph() if self.graph is None else self.graph(self._table_before_graph())

    def _table_before_graph(self) -> Tensor:
        """Item vectors (N, D) from ids and features."""
        ids = self.item_scorer.embedding.weight
        return ids if self.feature_fusion is None else self.feature_fusion(ids, self.has_id)

    def make_targets(self, batch: Batch) -> Batch:
        if self.masks_items:
            return mask_items(batch, share=self.config.mask_share)
        if self.config.objective == "last_item":
            return sample_prefixes(batch, n_prefixes=self.config.n_prefixes)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        return sequence_loss(self, batch)

    def encode(self, batch: Batch) -> VectorEncoding | WalkProductEncoding:
        """See `Model.encode`; users without events get zero vectors, so their scores are the item biases."""
        table = self.item_vectors()
        vectors = F.embedding(batch.items, table, padding_idx=0)
        if isinstance(self.readout, Last) or batch.items.numel() <= len(table):
            return self.encode_vectors(batch, vectors)
        # fewer items than events: compute the value of each item once
        return self.encode_vectors(batch, vectors, values=self.readout.values(table)[batch.items])

    def encode_vectors(
        self, batch: Batch, vectors: Tensor, *, values: Tensor | None = None
    ) -> VectorEncoding | WalkProductEncoding:
        """Encode histories whose events have the given item vectors, instead of those of `batch.items`.

        Args:
            batch: B users.
            vectors: item vectors of the events, (B, L, D); gradients flow to them.
            values: `readout.values(vectors)`, if it is already computed, (B, L, D).
        """
        table, not_empty = self.item_vectors(), batch.lengths > 0
        if self.masks_items:
            batch, vectors = self._with_masked_event(batch, vectors, table)
        if isinstance(self.readout, Last):
            inputs = self._encoder_inputs(vectors, batch, table)
            users = self.encoder.at_last_position(inputs.vectors, **self.encoder_arguments(inputs, batch))
            user_vectors = UserVectors(users * not_empty[:, None])
        else:
            values = self.readout.values(vectors) if values is None else values
            states = self.states(vectors, batch, table)
            user_vectors = self.readout.at_last_position(states, values, lengths=batch.lengths)
        users, parts, weights = user_vectors.users, user_vectors.parts, user_vectors.weights
        encoded = VectorEncoding(self.item_scorer, table, users, parts, weights, not_additive=self._not_additive)
        return encoded if self.walk_product is None else self.walk_product.encode(batch, encoded)

    def states(self, vectors: Tensor, batch: Batch, table: Tensor) -> Tensor:
        """Return encoder states (B, L, D) of events with item vectors (B, L, D), which are rows of the table (N, D)."""
        inputs = self._encoder_inputs(vectors, batch, table)
        states = self.encoder(inputs.vectors, **self.encoder_arguments(inputs, batch))
        return states if inputs.window_positions is None else inputs.select_window(states)

    def encoder_inputs(self, batch: Batch) -> EncoderInputs:
        """Return the input sequence that `encode` gives to the encoder."""
        table = self.item_vectors()
        vectors = F.embedding(batch.items, table, padding_idx=0)
        if self.masks_items:
            batch, vectors = self._with_masked_event(batch, vectors, table)
        return self._encoder_inputs(vectors, batch, table)

    def _encoder_inputs(self, vectors: Tensor, batch: Batch, table: Tensor) -> EncoderInputs:
        """Add context to the window's vectors, and prepend the memory if there is one."""
        vectors = self.context(vectors, batch)
        if self.memory is None or batch.memory_items is None:
            return EncoderInputs(vectors, batch.lengths, batch.times)
        return self.memory(vectors, F.embedding(batch.memory_items, table, padding_idx=0), batch)

    def encoder_arguments(self, inputs: EncoderInputs, batch: Batch) -> dict[str, Tensor]:
        """Return the encoder's keyword arguments for these inputs."""
        arguments = {"lengths": inputs.lengths, "times": inputs.times}
        return arguments | {"items": batch.items} if self.encoder.needs_items else arguments

    def _with_masked_event(self, batch: Batch, vectors: Tensor, table: Tensor) -> tuple[Batch, Tensor]:
        """Append a masked event to the histories, and its vector, row 0 of the table, to `vectors`."""
        numbers = appended_event_numbers(batch, max_length=self.max_length)[..., None].expand(-1, -1, vectors.shape[-1])
        vectors = torch.cat([table[:1].expand(len(vectors), 1, -1), vectors], dim=1).gather(1, numbers)
        return append_masked_event(batch, max_length=self.max_length), vectors

    def attention_layers(self, batch: Batch) -> AttentionLayers | None:
        return interpretation.attention_layers(self, batch)

    def readout_weights(self, batch: Batch) -> ReadoutWeights | None:
        return interpretation.readout_weights(self, batch)

    def attended_values(self, batch: Batch) -> Tensor | None:
        return super().attended_values(batch) if self.exact_reasons else interpretation.last_layer_values(self, batch)

    def head_weights(self) -> dict[Head, list[Tensor]]:
        return interpretation.head_weights(self)

    def item_bias(self) -> Tensor:
        return self.item_scorer.biases() if self.walk_product is None else self.walk_product.item_bias(self.item_scorer)

    def item_vectors(self) -> Tensor:
        return self.table if self.has_table else self.item_scorer.embedding.weight

    @property
    def _not_additive(self) -> str:
        return (
            f"contributions need a readout that is a sum over the history, got readout = {self.config.readout!r}, "
            "whose user vector mixes all events; train with readout = 'pooling'"
        )
