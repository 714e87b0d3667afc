"""Item vectors from ids and item features, so that items without training events have vectors too.

In each training step some ids are masked, so that features alone are sufficient (DropoutNet, Volkovs et al. 2017).
Feature values are fixed inputs; only their projections are learned and saved.
Shapes: N = n_items + 1 item rows (row 0 is padding), M feature columns, D channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attnrec.attention.fusion import ModalityFusion
from attnrec.attention.kernel import AttentionOutput
from attnrec.dataset.modalities import CategoryCodes, FixedVectors, Modalities
from attnrec.layers import Dropout, Linear

INIT_STD = 0.02  # as the id embeddings of `ItemScorer`


class ItemFeatureFusion(nn.Module):
    """Computes the table of item vectors by attention of each item over its id and its features.

    No parameter has one row per item.

    Args:
        modalities: feature columns of the catalogue.
        dim: D, a multiple of `heads`.
        heads: number of attention heads.
        id_dropout: share of the ids that are masked in each training step, among items with a feature.
        dropout: dropout rate of the feature vectors.

    Attributes:
        names: "id", then the feature columns.
        widths: column -> width, see `Modalities.widths`.
    """

    def __init__(
        self, modalities: Modalities, *, dim: int, heads: int = 4, id_dropout: float = 0.1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.names = ("id", *modalities.columns)
        self.widths = modalities.widths()
        self.id_dropout = id_dropout
        self.columns = nn.ModuleList(
            CategoryVectors(column, dim, n_rows=modalities.n_rows)
            if isinstance(column, CategoryCodes)
            else ProjectedVectors(column, dim)
            for column in modalities.columns.values()
        )
        self.dropout = Dropout(dropout)
        self.fusion = ModalityFusion(dim, len(self.names), heads=heads)

    def check(self, widths: Mapping[str, int]) -> None:
        """Check that the feature columns of other items match those of this model.

        Raises:
            ValueError: for different columns, a different order, or a different width.
        """
        if list(widths) != list(self.widths):
            raise ValueError(
                f"items must have the feature columns of the model, {list(self.widths)}, got {list(widths)}; "
                "provide the same columns in the same order"
            )
        for name, width in self.widths.items():
            if widths[name] != width:
                raise ValueError(
                    f"column {name!r} must have the width it had in training, {width}, got {widths[name]}; "
                    "encode it as for training"
                )

    def has_features(self) -> Tensor:
        """Return whether an item has any feature, (N,) bool."""
        return torch.stack([column.get_buffer("present") for column in self.columns], dim=1).any(1)

    def forward(self, ids: Tensor, has_id: Tensor) -> Tensor:
        """Compute the table of item vectors.

        Args:
            ids: id embeddings, (N, D).
            has_id: whether an item's id embedding is trained, (N,) bool; False for items without training events.

        Returns:
            (N, D); zeros in row 0, and for items with neither id nor features.
        """
        return self._attend(ids, has_id).output

    def weights(self, ids: Tensor, has_id: Tensor) -> Tensor:
        """Return the attention weights of each item on `names`, (N, 1 + M), without masked ids; for inspection."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            weights = self._attend(ids, has_id).weights
        self.train(was_training)
        assert weights is not None, "fusion always returns weights"
        return weights

    def _attend(self, ids: Tensor, has_id: Tensor) -> AttentionOutput:
        present = torch.stack([has_id, *(column.get_buffer("present") for column in self.columns)], dim=1)
        if self.training and self.id_dropout:
            masked = torch.rand(len(ids), device=ids.device) < self.id_dropout
            present[:, 0] &= ~(masked & present[:, 1:].any(1))
        present[0] = False
        vectors = torch.stack([ids, *(self.dropout(column()) for column in self.columns)], dim=1)
        return self.fusion(vectors, present=present)


class CategoryVectors(nn.Module):
    """Mean embedding of an item's categories."""

    codes: Tensor
    offsets: Tensor

    def __init__(self, column: CategoryCodes, dim: int, *, n_rows: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(column.width, dim, mode="mean", include_last_offset=True)
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        counts = torch.bincount(torch.from_numpy(column.rows), minlength=n_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.register_buffer("codes", torch.from_numpy(column.codes), persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("present", counts > 0, persistent=False)

    def forward(self) -> Tensor:
        """Return the vectors of all items, (N, D); zeros for items without categories."""
        return self.embedding(self.codes, self.offsets)


class ProjectedVectors(nn.Module):
    """Learned projection of fixed feature vectors."""

    values: Tensor

    def __init__(self, column: FixedVectors, dim: int) -> None:
        super().__init__()
        self.projection = Linear(column.width, dim)
        nn.init.normal_(self.projection.weight, std=INIT_STD)
        # not 0: of a single number times a vector, the norm in the fusion would keep only the sign
        nn.init.normal_(self.projection.bias, std=INIT_STD)
        self.register_buffer("values", torch.from_numpy(column.values), persistent=False)
        self.register_buffer("present", torch.from_numpy(column.present), persistent=False)

    def forward(self) -> Tensor:
        """Return the projected vectors of all items, (N, D)."""
        return self.projection(self.values)
