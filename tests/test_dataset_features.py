import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnrec.dataset import Features, Vocabulary, load_features


@pytest.fixture
def features(tmp_path) -> Features:
    """Rows: padding, cup, pan, tea; the file knows a hat, which the catalogue does not, and no pan."""
    table = pa.table(
        {
            "item_id": ["tea", "hat", "cup"],
            "kind": pa.array([["drink", "leaf"], ["cloth"], None], pa.list_(pa.string())),
            "price": pa.array([2.5, 30.0, None], pa.float64()),
            "stock": pa.array([7, 1, 4], pa.int64()),
            "title": pa.array(["green tea", "a hat", None], pa.string()),
            "picture": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    return load_features(tmp_path / "items.parquet", Vocabulary(["cup", "pan", "tea"], first=1))


def test_lists_of_text_are_categories_of_several_values(features):
    rows, codes, names = features.categories["kind"]
    assert [(row, names[code]) for row, code in zip(rows, codes, strict=True)] == [(3, "drink"), (3, "leaf")]


def test_numbers_lie_at_their_items_row_and_are_nan_where_missing(features):
    np.testing.assert_array_equal(features.numbers["price"], np.array([np.nan, np.nan, np.nan, 2.5], np.float32))
    np.testing.assert_array_equal(features.numbers["stock"], np.array([np.nan, 4, np.nan, 7], np.float32))


def test_texts_are_empty_where_missing(features):
    assert features.texts["title"].tolist() == ["", "", "", "green tea"]


def test_vectors_are_zeros_where_missing(features):
    assert features.vectors["picture"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]


def test_users_features_start_at_row_zero(tmp_path):
    pq.write_table(pa.table({"user_id": ["bob", "ann"], "age": [30, 40]}), tmp_path / "users.parquet")
    assert load_features(tmp_path / "users.parquet", Vocabulary(["ann", "bob"])).numbers["age"].tolist() == [
        40,
        30,
    ]


def test_columns_without_any_value_are_empty(tmp_path):
    table = pa.table(
        {
            "item_id": ["tea"],
            "kind": pa.array([None], pa.list_(pa.string())),
            "picture": pa.array([None], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    features = load_features(tmp_path / "items.parquet", Vocabulary(["tea"], first=1))
    assert features.categories["kind"][2] == ()
    assert features.vectors["picture"].shape == (2, 0)
