"""The papers' models as settings of one sequence model. A preset is a start: every setting can be changed.

All are trained on the full softmax unless their name stands for another loss, because on the same encoder it is the
better one (Klenitskiy & Vasilev 2023, arXiv:2309.07602): what is compared then is the encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "attnrec",
    "sasrec",
    "gsasrec",
    "bert4rec",
    "hstu",
    "core",
    "narm",
    "gru4rec",
    "nextitnet",
    "linrec",
    "gated_conv",
    "gce_gnn",
]


@dataclass(frozen=True)
class Preset:
    """A model of a paper.

    Attributes:
        paper: where it comes from.
        family: what its encoder is, for tables: "attention", "recurrence", "convolution" or "graph attention".
        settings: what differs from the defaults of `SequenceConfig`.
        differs: what we do otherwise than the paper, in words.
    """

    paper: str
    family: Literal["attention", "recurrence", "convolution", "graph attention"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""


PRESETS: dict[str, Preset] = {
    "attnrec": Preset("this project", "attention"),
    "sasrec": Preset(
        "Kang & McAuley 2018, arXiv:1808.09781",
        "attention",
        {"readout": "last"},
        "softmax for BCE with one negative; networks 4 x dim wide; item biases",
    ),
    "gsasrec": Preset(
        "Petrov & Macdonald 2023, arXiv:2308.07192",
        "attention",
        {"readout": "last", "loss": "gbce", "n_negatives": 256, "negatives_for": "position"},
        "networks 4 x dim wide; item biases",
    ),
    "bert4rec": Preset(
        "Sun et al. 2019, arXiv:1904.06690",
        "attention",
        {"readout": "last", "objective": "masked_items"},
        "pre-norm for post-norm",
    ),
    "hstu": Preset(
        "Zhai et al. 2024, arXiv:2402.17152",
        "attention",
        {"encoder": "hstu", "attention": "hstu", "readout": "last", "scores": "cosine", "temperature": 0.05},
        "full softmax for sampled; no time of the item to be predicted",
    ),
    "core": Preset(
        "Hou et al. 2022, arXiv:2204.11067",
        "attention",
        {"readout": "item_sum", "objective": "last_item"},
        "prefixes are drawn anew each epoch",
    ),
    "narm": Preset(
        "Li et al. 2017, arXiv:1711.04725",
        "recurrence",
        {"encoder": "gru", "readout": "global_local", "objective": "last_item"},
        "prefixes are drawn anew each epoch",
    ),
    "gru4rec": Preset(
        "Hidasi et al. 2016, arXiv:1511.06939",
        "recurrence",
        {"encoder": "gru", "readout": "last"},
        "full softmax for BPR or TOP1",
    ),
    "nextitnet": Preset(
        "Yuan et al. 2019, arXiv:1808.05163", "convolution", {"encoder": "dilated_conv", "readout": "last"}
    ),
    "linrec": Preset(
        "Liu et al. 2023, arXiv:2411.01537",
        "attention",
        {"attention": "linrec", "readout": "last"},
        "norms of the history so far, which the paper's form over all of it would leak",
    ),
    "gated_conv": Preset(
        "Hu et al. 2018, arXiv:1709.01507; Woo et al. 2018, arXiv:1807.06521",
        "convolution",
        {"encoder": "gated_conv", "readout": "last"},
        "gates of image networks, made causal",
    ),
    "gce_gnn": Preset(
        "Wang et al. 2020, arXiv:2106.05081",
        "graph attention",
        {
            "encoder": "session_graph",
            "graph": "transitions",
            "graph_settings": {"directed": False, "reach": 3, "neighbours": 12, "edge_features": True},
            "readout": "global_local",
            "objective": "last_item",
        },
        "attention over the global graph does not look at the session, is GATv2, and a learned share of it is added to "
        "the items that are ranked, too; NARM's readout, where the last item asks and not the mean; item biases; "
        "prefixes are drawn anew each epoch",
    ),
}
"""Kind in the TOML -> preset. A new one is an entry here and its name in `Kind`."""
