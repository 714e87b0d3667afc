"""Settings of sequence models, whichever preset they start from."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from attnrec.encoders import ENCODERS, AttentionSettings, Encoder, build_encoder
from attnrec.models.base import TrainedConfig
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.graph.settings import ItemGraphSettings
from attnrec.models.random_walk.config import RandomWalkConfig
from attnrec.models.sequence.presets import PRESETS, Kind

ATTENDING = ("self_attention", "hstu")
ATTENTION_KEYS = tuple(AttentionSettings.model_fields)


class SequenceConfig(TrainedConfig):
    """Settings of a sequence model; what is not said is as the preset `kind` has it, then as here.

    Attributes:
        kind: the preset.
        encoder: what makes states of the history, a name in `attnrec.encoders.ENCODERS`.
        layers, heads, expansion, attention, attention_settings, positions: of encoders that attend (see `AttentionSettings`).
        encoder_settings: of the others.
        time_gaps: whether events know how long after the one before they came.
        event_types: whether events know what they are (view, cart, purchase), where the log says so.
        readout: what makes the user of the states: "pooling" and "item_sum" are exact sums over the history, "last"
            and "global_local" are not.
        pooling_heads: of "pooling".
        pooling_projection: whether a matrix mixes what they pooled.
        objective: "next_item" at every position; "last_item" of sampled prefixes; "masked_items" from both sides.
        n_prefixes: of each window in a step, for "last_item".
        mask_share: of the events, for "masked_items".
        memory_events: before the last `max_length`, that the encoder sees compressed, `memory_block` of them as one
            vector (see `attention.compressed`); they shape states and weights and never add to a score themselves.
        features: columns of the items' table that describe an item beside its id; items without history are then scored
            through them.
        text_encoder, text_dim: how texts among them become vectors (see `dataset.text`): "tfidf" of this width, or the
            folder of a sentence-transformers model.
        id_dropout: share of the ids hidden in each step, so that features learn to stand alone.
        graph: whether items hear of their neighbours in a graph of the training part before anything else happens:
            "transitions", what is done after what; "items", what the same users had; or "none".
        graph_settings: of the graph (see `ItemGraphSettings`), such as {"layers": 2, "neighbours": 10}.
        walk: whether a walk over a graph has a say beside the encoder (see `models.random_walk`), over "transitions" or
            "items" that the same users had; the chances of both are multiplied. "none": it has not.
        random_walk_settings: of the walk, such as {"reach": 3, "neighbours": 50}.
        dim, max_length, dropout: as everywhere.
        scores: "cosine" at `temperature`, "dot" products, or "auto": cosines for readouts that are exact sums.
        item_bias: whether items have a learned bias.
    """

    kind: Kind = "attnrec"
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
    walk: Literal["none", "transitions", "items"] = "none"
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
            return values  # pydantic says what is wrong with it
        preset = dict(PRESETS[values.get("kind", "attnrec")].settings)
        if values.get("graph", preset.get("graph")) != preset.get("graph"):
            preset.pop("graph_settings", None)  # they are of the graph that is not wanted
        return preset | values

    @model_validator(mode="after")
    def _check(self) -> "SequenceConfig":
        if self.readout == "pooling" and self.dim % self.pooling_heads:
            raise ValueError(f"dim must be a multiple of pooling_heads, got {self.dim} and {self.pooling_heads}")
        if self.objective == "masked_items" and (self.encoder not in ATTENDING or self.readout != "last"):
            raise ValueError(
                "objective = 'masked_items' needs an encoder that attends both ways and readout = 'last', got "
                f"encoder = {self.encoder!r} and readout = {self.readout!r}; set objective = 'next_item'"
            )
        window = self.attention_settings.get("window", 0)
        if isinstance(window, int) and window > self.max_length:
            raise ValueError(
                f"the attention's window must fit into max_length, got {window} and {self.max_length}; change one"
            )
        if self.graph == "none" and self.graph_settings:
            raise ValueError(
                f"graph_settings need a graph, got {self.graph_settings} with graph = 'none'; set graph = 'transitions'"
            )
        self._check_walk()
        self._check_encoder_settings()
        with torch.device("meta"):  # says what is wrong before anything starts
            self.build_encoder()
            self.build_graph()
        return self

    def _check_walk(self) -> None:
        if self.random_walk == "none" and self.random_walk_settings:
            raise ValueError(
                f"random_walk_settings need a walk, got {self.random_walk_settings} with random_walk = 'none'; set random_walk = 'transitions'"
            )
        if self.random_walk == "none":
            return
        if self.objective == "masked_items":
            raise ValueError("a walk says what comes next, got objective = 'masked_items'; set objective = 'next_item'")
        if ours := {"kind", "relation", "ordered", "max_length"} & self.random_walk_settings.keys():
            raise ValueError(f"random_walk_settings must leave {', '.join(sorted(ours))} to the model; set walk or max_length")
        if self.attention_settings.get("estimator") == "reinforce":
            raise ValueError("estimator = 'reinforce' and a walk cannot be had together; set random_walk = 'none'")
        self.walk_config()

    def walk_config(self) -> RandomWalkConfig:
        """Settings of the walk, for which the order of events counts whatever it goes over."""
        given = {"relation": self.walk, "max_length": self.max_length, "ordered": True}
        return RandomWalkConfig.from_dict(given | self.random_walk_settings)

    def _check_encoder_settings(self) -> None:
        if self.memory_events and self.encoder in ENCODERS and ENCODERS[self.encoder].reads_items:
            raise ValueError(
                f"memory_events are vectors without items, got {self.memory_events} with encoder = {self.encoder!r}, "
                "which reads items; set memory_events = 0"
            )
        if self.encoder in ATTENDING and self.encoder_settings:
            raise ValueError(
                f"encoder_settings are for encoders without attention, got {self.encoder_settings} with "
                f"encoder = {self.encoder!r}; set {', '.join(ATTENTION_KEYS)} in [model] itself"
            )
        if self.encoder in ENCODERS and self.encoder not in ATTENDING:
            for name in ATTENTION_KEYS:
                if getattr(self, name) != SequenceConfig.model_fields[name].get_default(call_default_factory=True):
                    raise ValueError(
                        f"{name} is a setting of encoders that attend, got {name} = {getattr(self, name)!r} with "
                        f"encoder = {self.encoder!r}; set encoder_settings, or encoder = 'self_attention'"
                    )

    def build_graph(self) -> ItemGraphEncoder | None:
        """A new module that enriches items as these settings ask for; None where they ask for none."""
        if self.graph == "none":
            return None
        settings = ItemGraphSettings.from_dict(self.graph_settings)
        return ItemGraphEncoder(settings, self.dim, relations=(self.graph,))

    def build_encoder(self) -> Encoder:
        """A new history encoder as these settings ask for."""
        own = {name: getattr(self, name) for name in ATTENTION_KEYS}
        return build_encoder(
            self.encoder,
            dim=self.dim,
            max_length=self.max_length + -(-self.memory_events // self.memory_block),
            dropout=self.dropout,
            causal=self.objective == "next_item",
            settings=own if self.encoder in ATTENDING else self.encoder_settings,
        )
