"""Settings of the sequence model."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from attnrec.config import registered
from attnrec.encoders import ENCODERS, AttentionSettings, Encoder, build_encoder
from attnrec.models.base import TrainedConfig
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.graph.settings import ItemGraphSettings
from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.sequence.presets import PRESETS

ATTENTION_KEYS = tuple(AttentionSettings.model_fields)


class SequenceConfig(TrainedConfig):
    """Settings of a sequence model; a missing setting has the value of the preset `kind`, or else the default.

    Attributes:
        kind: the preset, a key of `PRESETS`.
        encoder: the history encoder, a key of `attnrec.encoders.ENCODERS`.
        layers, heads, expansion, attention, attention_settings, positions: settings of encoders with attention kernels
            (see `AttentionSettings`).
        encoder_settings: settings of all other encoders.
        time_gaps: whether the encoder gets the time since the previous event.
        event_types: whether the encoder gets the event type (view, cart, purchase), if the log has one.
        readout: how the user vector is computed from the encoder states. With "pooling" and "item_sum" it is an exact
            sum over the history; with "last" and "global_local" it is not.
        pooling_heads: heads of the readout "pooling".
        pooling_projection: whether the readout "pooling" multiplies its result by a learned matrix.
        objective: "next_item" at every position, "last_item" of sampled prefixes, or bidirectional "masked_items".
        n_prefixes: prefixes per training window for "last_item".
        mask_share: share of the events that are masked for "masked_items".
        memory_events: events before the last `max_length` that the encoder also reads, compressed to one vector per
            `memory_block` events (see `attention.compressed`). They affect states and attention weights, and have no
            contribution of their own.
        features: columns of the items table that describe an item in addition to its id; items without training
            events are scored by them.
        text_encoder, text_dim: encoding of text columns (see `dataset.text`): "tfidf" of this width, or the folder of
            a sentence-transformers model.
        id_dropout: share of the item ids that are hidden in each training step, so that features alone suffice.
        graph: graph attention that enriches the item vectors before the encoder, over "transitions" (consecutive
            events) or "items" (items with common users) of the training part; or "none".
        graph_settings: settings of the graph (see `ItemGraphSettings`), such as {"layers": 2, "neighbours": 10}.
        random_walk: multiply the model's probabilities by those of a random walk (see `models.random_walk`) over
            "transitions" or "items"; or "none".
        random_walk_settings: settings of the random walk (see `RandomWalkConfig`), such as {"reach": 3}.
        dim: width of item and user vectors.
        max_length: the encoder reads the last `max_length` events.
        dropout: dropout rate of embeddings, attention and feed-forward layers.
        scores: "cosine" divided by `temperature`, "dot", or "auto": cosine for readouts that are exact sums.
        temperature: divisor of cosine scores.
        item_bias: whether each item has a learned bias.
    """

    kind: str = "attnrec"
    encoder: str = "self_attention"
    encoder_settings: dict[str, Any] = Field(default_factory=dict)
    layers: int = Field(default=2, ge=0)
    heads: int = Field(default=2, gt=0)
    expansion: int = Field(default=4, gt=0)
    attention: str = "scaled_dot"
    attention_settings: dict[str, Any] = Field(default_factory=dict)
    positions: Literal["learned", "rotary", "relative", "none"] = "learned"
    time_gaps: bool = False
    event_types: bool = False
    memory_events: int = Field(default=0, ge=0)
    memory_block: int = Field(default=100, gt=0)
    readout: Literal["pooling", "last", "item_sum", "global_local"] = "pooling"
    pooling_heads: int = Field(default=4, gt=0)
    pooling_projection: bool = False
    objective: Literal["next_item", "last_item", "masked_items"] = "next_item"
    n_prefixes: int = Field(default=4, gt=0)
    mask_share: float = Field(default=0.2, gt=0, lt=1)
    features: tuple[str, ...] = ()
    text_encoder: str = "tfidf"
    text_dim: int = Field(default=128, gt=0)
    id_dropout: float = Field(default=0.1, ge=0, lt=1)
    graph: Literal["none", "transitions", "items"] = "none"
    graph_settings: dict[str, Any] = Field(default_factory=dict)
    random_walk: Literal["none", "transitions", "items"] = "none"
    random_walk_settings: dict[str, Any] = Field(default_factory=dict)
    dim: int = Field(default=64, gt=0)
    max_length: int = Field(default=200, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    scores: Literal["auto", "cosine", "dot"] = "auto"
    temperature: float = Field(default=0.07, gt=0)
    item_bias: bool = True

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind", "attnrec") not in PRESETS:
            return values  # rejected later, with an error message
        preset = dict(PRESETS[values.get("kind", "attnrec")].settings)
        if values.get("graph", preset.get("graph")) != preset.get("graph"):
            preset.pop("graph_settings", None)  # they belong to the preset's graph
        return preset | values

    @model_validator(mode="after")
    def _check(self) -> "SequenceConfig":
        if type(self) is SequenceConfig and self.kind not in PRESETS:
            raise ValueError(f"kind must be one of {', '.join(PRESETS)}, got {self.kind!r}")
        if self.readout == "pooling" and self.dim % self.pooling_heads:
            raise ValueError(
                f"pooling_heads must divide dim, got pooling_heads={self.pooling_heads} and dim={self.dim}; change one"
            )
        self._check_encoder()
        if self.graph == "none" and self.graph_settings:
            raise ValueError(
                f"graph_settings need a graph, got {self.graph_settings} with graph = 'none'; set graph = 'transitions'"
            )
        self._check_random_walk()
        with torch.device("meta"):  # raises for invalid settings, before any data is read
            self.build_encoder()
            self.build_graph()
        return self

    def _check_random_walk(self) -> None:
        if self.random_walk == "none" and self.random_walk_settings:
            raise ValueError(
                f"random_walk_settings need a random walk, got {self.random_walk_settings} with random_walk = 'none'; "
                "set random_walk = 'transitions'"
            )
        if self.random_walk == "none":
            return
        if self.objective == "masked_items":
            raise ValueError(
                "a random walk predicts the next item, got objective = 'masked_items'; set objective = 'next_item'"
            )
        if fixed := {"kind", "relation", "ordered", "max_length"} & self.random_walk_settings.keys():
            raise ValueError(
                f"random_walk_settings must not contain {', '.join(sorted(fixed))}, which follow from random_walk and "
                f"max_length; got {self.random_walk_settings}"
            )
        if self.attention_settings.get("estimator") == "reinforce":
            raise ValueError(
                "estimator = 'reinforce' cannot be combined with a random walk, got "
                f"random_walk = {self.random_walk!r}; set random_walk = 'none'"
            )
        self.random_walk_config()

    def random_walk_config(self) -> RandomWalkConfig:
        """Return the settings of the random walk, which here always respects the order of events."""
        derived = {"relation": self.random_walk, "max_length": self.max_length, "ordered": True}
        return RandomWalkConfig.from_dict(derived | self.random_walk_settings)

    @property
    def _has_attention_keys(self) -> bool:
        """Whether the encoder takes the settings `ATTENTION_KEYS`."""
        return issubclass(ENCODERS[self.encoder].Settings, AttentionSettings)

    def _check_encoder(self) -> None:
        encoder = registered(ENCODERS, self.encoder, setting="encoder")
        if self.objective == "masked_items" and (not self._has_attention_keys or self.readout != "last"):
            raise ValueError(
                "objective = 'masked_items' needs a bidirectional encoder, such as 'self_attention', and "
                f"readout = 'last', got encoder = {self.encoder!r} and readout = {self.readout!r}; "
                "set objective = 'next_item'"
            )
        window = self.attention_settings.get("window", 0)
        if isinstance(window, int) and window > self.max_length:
            raise ValueError(
                f"attention_settings.window must be at most max_length, got {window} and {self.max_length}; change one"
            )
        if self.memory_events and encoder.needs_items:
            raise ValueError(
                f"memory_events need an encoder of vectors, got encoder = {self.encoder!r}, which reads item ids, and "
                f"memory_events = {self.memory_events}; set memory_events = 0"
            )
        if self._has_attention_keys and self.encoder_settings:
            raise ValueError(
                f"encoder_settings are for encoders without attention kernels, got {self.encoder_settings} with "
                f"encoder = {self.encoder!r}; set {', '.join(ATTENTION_KEYS)} instead"
            )
        for name in () if self._has_attention_keys else ATTENTION_KEYS:
            if getattr(self, name) != SequenceConfig.model_fields[name].get_default(call_default_factory=True):
                raise ValueError(
                    f"{name} is a setting of encoders with attention kernels, got {name} = {getattr(self, name)!r} "
                    f"with encoder = {self.encoder!r}; use encoder_settings, or set encoder = 'self_attention'"
                )

    @property
    def description(self) -> str:
        """Kind, settings of the model that differ from the preset, and sizes, for runs and tables."""
        preset = PRESETS.get(self.kind)
        defaults = {name: SequenceConfig.model_fields[name].default for name in ("encoder", "attention", "graph")}
        defaults |= {} if preset is None else {name: preset.settings.get(name, defaults[name]) for name in defaults}
        changed = {name: value for name in defaults if (value := getattr(self, name)) != defaults[name]}
        parts = [f"graph-{value}" if name == "graph" else value for name, value in changed.items()]
        parts += [f"walk-{self.random_walk}"] if self.random_walk != "none" else []
        return "-".join([self.kind, *parts, self.readout, f"d{self.dim}", f"L{self.max_length}"])

    def build_graph(self) -> ItemGraphEncoder | None:
        """Build the module that enriches item vectors over the graph; None for graph = "none"."""
        if self.graph == "none":
            return None
        settings = ItemGraphSettings.from_dict(self.graph_settings)
        return ItemGraphEncoder(settings, self.dim, relations=(self.graph,))

    def build_encoder(self) -> Encoder:
        """Build the history encoder."""
        attention = {name: getattr(self, name) for name in ATTENTION_KEYS}
        return build_encoder(
            self.encoder,
            dim=self.dim,
            max_length=self.max_length + -(-self.memory_events // self.memory_block),
            dropout=self.dropout,
            causal=self.objective == "next_item",
            settings=attention if self._has_attention_keys else self.encoder_settings,
        )
