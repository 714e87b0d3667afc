"""Published models as settings of the sequence model. A preset gives defaults: every setting can be changed.

All presets use the full softmax unless the model is named after another loss: with the same encoder it gives the better
ranking (Klenitskiy & Vasilev 2023, arXiv:2309.07602), so that a comparison of presets compares encoders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Default settings of a published model.

    Attributes:
        paper: reference.
        family: type of encoder, for tables: "attention", "recurrence", "convolution" or "graph attention".
        settings: settings that differ from the defaults of `SequenceConfig`.
        differs: how the preset differs from the paper, one phrase per difference.
    """

    paper: str
    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""


PRESETS: dict[str, Preset] = {
    "attnrec": Preset("this project", "attention"),
    "sasrec": Preset(
        "Kang & McAuley 2018, arXiv:1808.09781",
        "attention",
        {"readout": "last"},
        "softmax instead of BCE with one negative; feed-forward width 4 x dim; item biases",
    ),
    "gsasrec": Preset(
        "Petrov & Macdonald 2023, arXiv:2308.07192",
        "attention",
        {"readout": "last", "loss": "gbce", "n_negatives": 256, "negatives_per": "position"},
        "feed-forward width 4 x dim; item biases",
    ),
    "bert4rec": Preset(
        "Sun et al. 2019, arXiv:1904.06690",
        "attention",
        {"readout": "last", "objective": "masked_items"},
        "pre-norm instead of post-norm",
    ),
    "hstu": Preset(
        "Zhai et al. 2024, arXiv:2402.17152",
        "attention",
        {"encoder": "hstu", "attention": "hstu", "readout": "last", "scores": "cosine", "temperature": 0.05},
        "full instead of sampled softmax; the time of the predicted event is not an input",
    ),
    "core": Preset(
        "Hou et al. 2022, arXiv:2204.11067",
        "attention",
        {"readout": "item_sum", "objective": "last_item"},
        "prefixes are sampled anew in each epoch",
    ),
    "narm": Preset(
        "Li et al. 2017, arXiv:1711.04725",
        "recurrence",
        {"encoder": "gru", "readout": "global_local", "objective": "last_item"},
        "prefixes are sampled anew in each epoch",
    ),
    "gru4rec": Preset(
        "Hidasi et al. 2016, arXiv:1511.06939",
        "recurrence",
        {"encoder": "gru", "readout": "last"},
        "full softmax instead of BPR or TOP1",
    ),
    "nextitnet": Preset(
        "Yuan et al. 2019, arXiv:1808.05163", "convolution", {"encoder": "dilated_conv", "readout": "last"}
    ),
    "linrec": Preset(
        "Liu et al. 2023, arXiv:2411.01537",
        "attention",
        {"attention": "linrec", "readout": "last"},
        "norms over the past events only; the paper's norms over the whole history would leak the targets",
    ),
    "gated_conv": Preset(
        "Hu et al. 2018, arXiv:1709.01507; Woo et al. 2018, arXiv:1807.06521",
        "convolution",
        {"encoder": "gated_conv", "readout": "last"},
        "channel and spatial gates of image networks, made causal",
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
        "attention over the global graph is GATv2 and does not depend on the session; a learned share of it is also "
        "added to the candidate items; NARM's readout, with the last item instead of the mean as query; item biases; "
        "prefixes are sampled anew in each epoch",
    ),
}
"""Kind -> preset; see `attnrec.models.register_preset`."""
