"""Mapping between the raw ids of a log and the row numbers of arrays."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attnrec.schema import ITEM

Rows = NDArray[np.int64]


class Vocabulary:
    """Unique raw ids and their row numbers.

    Item rows start at 1 (`Vocabulary(ids, first=1)`), because row 0 is padding. User rows start at 0. An unknown id is
    encoded as `first` - 1: the padding row for items, -1 for users.

    Args:
        ids: unique raw ids, all strings or all integers, in row order.
        first: row number of the first id.
    """

    def __init__(self, ids: Iterable[Any], *, first: int = 0) -> None:
        self.index = pd.Index(ids)
        self.first = first
        assert self.index.is_unique, "ids of a vocabulary must be unique"

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, raw_id: object) -> bool:
        return self._cast(raw_id) in self.index

    @property
    def ids(self) -> NDArray[Any]:
        """All raw ids in row order, (n_ids,)."""
        return self.index.to_numpy()

    def encode(self, ids: Iterable[Any]) -> Rows:
        """Return the row numbers of `ids`; `first` - 1 for unknown ids."""
        return self.index.get_indexer(pd.Index([self._cast(raw_id) for raw_id in ids])) + self.first

    def encode_column(self, column: pd.Series) -> Rows:
        """Return the row numbers of a column whose ids have the dtype of the vocabulary; faster than `encode`."""
        return self.index.get_indexer(pd.Index(column)) + self.first

    def rows_for(self, other: "Vocabulary") -> Rows:
        """Map item rows of `other` to rows of this vocabulary, (len(other) + 1,); 0 for padding and unknown ids."""
        rows = np.zeros(len(other) + other.first, dtype=np.int64)
        same_type = self.index.dtype == other.index.dtype
        rows[other.first :] = self.encode_column(pd.Series(other.ids)) if same_type else self.encode(other.ids)
        return rows

    def row(self, raw_id: object) -> int:
        """Return the row number of one id.

        Raises:
            KeyError: if the id is unknown.
        """
        if raw_id not in self:
            raise KeyError(raw_id)
        return int(self.index.get_loc(self._cast(raw_id))) + self.first  # type: ignore[arg-type]

    def decode(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return the raw ids of `rows`, in the same shape; every row must belong to an id."""
        return self.ids[np.asarray(rows) - self.first]

    def to_arrow(self, rows: NDArray[np.integer[Any]]) -> pa.Array:
        """Return the ids of `rows` (n,) as an Arrow string array, ten times as fast as `decode`; used for files."""
        return self._arrow_strings.take(pa.array(rows - self.first))

    @cached_property
    def _arrow_strings(self) -> pa.Array:
        return pa.array(self.ids.astype(str), pa.string())

    def save(self, path: Path) -> None:
        """Write the ids to a Parquet file with one column, in row order."""
        pq.write_table(pa.table({ITEM if self.first else "user_id": pa.array(self.ids)}), path)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a saved vocabulary; rows start at 1 if the column is named item_id, else at 0."""
        table = pq.read_table(path)
        name = table.column_names[0]
        return cls(table.column(0).to_pandas(), first=int(name == ITEM))

    def _cast(self, raw_id: object) -> object:
        if pd.api.types.is_integer_dtype(self.index.dtype):
            text = str(raw_id)
            return int(text) if text.removeprefix("-").isdecimal() else None
        return str(raw_id)
