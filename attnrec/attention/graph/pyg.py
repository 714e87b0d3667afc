"""torch-geometric's own GATConv, GATv2Conv and TransformerConv behind the interface of `GraphLayer`.

torch_geometric is imported when such a layer is built, not with this module.
Shapes: S sources, N targets, E edges, F edge features, H heads, C channels per head.
"""

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from attnrec.attention.graph.edges import SortedEdges
from attnrec.attention.graph.layer import GraphLayer, GraphSettings, GraphShape


class PyGLayer(GraphLayer):
    """A torch-geometric layer `conv`, without its automatic self-loops."""

    package_requirements = ("torch-geometric",)

    def __init__(self, shape: GraphShape, settings: GraphSettings | None = None) -> None:
        super().__init__(shape, settings)
        with warnings.catch_warnings():  # torch-geometric uses deprecated parts of torch.jit and typing
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch_geometric.nn

            self.conv = self.build(torch_geometric.nn)

    @abstractmethod
    def build(self, layers: Any) -> nn.Module:
        """Build the layer from the module torch_geometric.nn."""

    def common_arguments(self) -> dict[str, Any]:
        """Return the constructor arguments that all three layers have."""
        settings = self.settings
        return {
            "out_channels": self.shape.channels,
            "heads": self.shape.heads,
            "concat": settings.concat,
            "dropout": settings.dropout,
            "edge_dim": self.shape.edge_dim or None,
            "bias": settings.bias,
        }

    def attend(
        self, x_source: Tensor, x_target: Tensor, graph: SortedEdges, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See `GraphLayer`. In training with dropout the weights cost a second call."""
        edge_index = torch.stack([graph.sources, graph.targets])
        features = None if graph.edge_features is None else graph.edge_features.to(x_source.dtype)
        arguments = ((x_source, x_target), edge_index, features)
        if not need_weights:
            return self.conv(*arguments), None
        if not (self.training and self.settings.dropout):
            output, (_, weights) = self.conv(*arguments, return_attention_weights=True)
            return output, weights
        output = self.conv(*arguments)
        self.conv.eval()  # torch-geometric returns the weights after dropout
        _, (_, weights) = self.conv(*arguments, return_attention_weights=True)
        self.conv.train()
        return output, weights


class PyGGAT(PyGLayer):
    """torch_geometric.nn.GATConv."""

    paper = "Velickovic et al. 2018, arXiv:1710.10903"

    def build(self, layers: Any) -> nn.Module:
        """See `PyGLayer`. GATConv shares its projection if it gets one width."""
        shape, settings = self.shape, self.settings
        return layers.GATConv(
            shape.source_dim if settings.share_weights else (shape.source_dim, shape.target_dim),
            negative_slope=settings.negative_slope,
            residual=settings.residual,
            add_self_loops=False,
            **self.common_arguments(),
        )


class PyGGATv2(PyGLayer):
    """torch_geometric.nn.GATv2Conv."""

    paper = "Brody, Alon & Yahav 2022, arXiv:2105.14491"

    def build(self, layers: Any) -> nn.Module:
        """See `PyGLayer`."""
        settings = self.settings
        return layers.GATv2Conv(
            (self.shape.source_dim, self.shape.target_dim),
            negative_slope=settings.negative_slope,
            residual=settings.residual,
            share_weights=settings.share_weights,
            add_self_loops=False,
            **self.common_arguments(),
        )


class PyGTransformer(PyGLayer):
    """torch_geometric.nn.TransformerConv: scaled dot-product attention over edges.

    Edge features are added to keys and values. `bias` is that of the projections, so a target without edges gets the
    residual alone; the residual has a bias too.
    """

    paper = "Shi et al. 2021, arXiv:2009.03509"
    can_share_weights = False

    def build(self, layers: Any) -> nn.Module:
        """See `PyGLayer`.

        Raises:
            ValueError: for `share_weights` or a `negative_slope`, which TransformerConv does not have.
        """
        shape, settings = self.shape, self.settings
        for name in ("share_weights", "negative_slope"):
            value = getattr(settings, name)
            if value != GraphSettings.model_fields[name].default:
                raise ValueError(
                    f"{name} is not a setting of pyg_transformer, got {name} = {value!r}; "
                    "leave it out, or set layer = 'pyg_gatv2'"
                )
        conv = layers.TransformerConv(
            (shape.source_dim, shape.target_dim), root_weight=settings.residual, **self.common_arguments()
        )
        if not settings.residual:
            conv.lin_skip = None  # torch-geometric would keep a projection that nothing trains
        return conv
