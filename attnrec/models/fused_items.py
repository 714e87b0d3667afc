"""Item vectors from ids and features together, so that an item without history has a vector too.

Some ids are hidden in each training step, so that features learn to stand alone (DropoutNet, Volkovs et al. 2017).
What describes the items is fixed and comes with them; only its projections are learned and saved.
Shapes: N = n_items + 1 item rows (row 0 is padding), M feature columns, D channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attnrec.attention.fusion import ModalityFusion
from attnrec.attention.kernel import Attended
from attnrec.dataset.modalities import CategoryCodes, FixedVectors, Modalities
from attnrec.layers import Dropout, Linear

SMALL = 0.02  # as the catalogue's id vectors


class FusedItems(nn.Module):
    """The table of item vectors, by attention of each item over its id and its features.

    None of its parameters has a row per item.

    Args:
        modalities: of the catalogue.
        dim: D, a multiple of `heads`.
        heads: of the fusion.
        id_dropout: share of the ids hidden in each training step, of the items that have a feature.
        dropout: of the features' vectors.

    Attributes:
        names: "id", then the columns.
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
        """Compare other items' columns with those of this model.

        Raises:
            ValueError: for other columns, another order, or a column of another width.
        """
        if list(widths) != list(self.widths):
            raise ValueError(f"items must have the model's columns {list(self.widths)}, got {list(widths)}; give these")
        for name, width in self.widths.items():
            if widths[name] != width:
                raise ValueError(
                    f"a modality must be as wide as the model's, {width}, got {widths[name]} in {name!r}; "
                    "make it as it was made for training"
                )

    def described(self) -> Tensor:
        """Whether an item has any feature, (N,) bool."""
        return torch.stack([column.get_buffer("present") for column in self.columns], dim=1).any(1)

    def forward(self, ids: Tensor, has_id: Tensor) -> Tensor:
        """The fused table.

        Args:
            ids: id vectors, (N, D).
            has_id: whether an item's id vector means anything, (N,) bool; False for items without history.

        Returns:
            (N, D); zeros at row 0, and for an item that has neither id nor features.
        """
        return self._attend(ids, has_id).output

    def weights(self, ids: Tensor, has_id: Tensor) -> Tensor:
        """What share each of `names` has in each item, (N, 1 + M), with no id hidden; for looking at."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            weights = self._attend(ids, has_id).weights
        self.train(was_training)
        assert weights is not None, "fusion always has weights"
        return weights

    def _attend(self, ids: Tensor, has_id: Tensor) -> Attended:
        present = torch.stack([has_id, *(column.get_buffer("present") for column in self.columns)], dim=1)
        if self.training and self.id_dropout:
            hidden = torch.rand(len(ids), device=ids.device) < self.id_dropout
            present[:, 0] &= ~(hidden & present[:, 1:].any(1))
        present[0] = False
        vectors = torch.stack([ids, *(self.dropout(column()) for column in self.columns)], dim=1)
        return self.fusion(vectors, present=present)


class CategoryVectors(nn.Module):
    """The mean of the vectors of an item's categories."""

    codes: Tensor
    offsets: Tensor

    def __init__(self, column: CategoryCodes, dim: int, *, n_rows: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(column.width, dim, mode="mean", include_last_offset=True)
        nn.init.normal_(self.embedding.weight, std=SMALL)
        counts = torch.bincount(torch.from_numpy(column.rows), minlength=n_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.register_buffer("codes", torch.from_numpy(column.codes), persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("present", counts > 0, persistent=False)

    def forward(self) -> Tensor:
        """(N, D), zeros for an item without categories."""
        return self.embedding(self.codes, self.offsets)


class ProjectedVectors(nn.Module):
    """A learned projection of fixed vectors."""

    values: Tensor

    def __init__(self, column: FixedVectors, dim: int) -> None:
        super().__init__()
        self.projection = Linear(column.width, dim)
        nn.init.normal_(self.projection.weight, std=SMALL)
        # not 0: the fusion's norm leaves nothing but the sign of a number times a vector
        nn.init.normal_(self.projection.bias, std=SMALL)
        self.register_buffer("values", torch.from_numpy(column.values), persistent=False)
        self.register_buffer("present", torch.from_numpy(column.present), persistent=False)

    def forward(self) -> Tensor:
        """(N, D)."""
        return self.projection(self.values)
