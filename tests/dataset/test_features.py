import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attnrec.dataset import Features, Vocabulary, features_from_frame, load_features, save_features

CATALOGUE = Vocabulary(["cup", "pan", "tea"], first=1)


@pytest.fixture
def features(tmp_path) -> Features:
    """Rows: padding, cup, pan, tea. The file has a hat, which is not in the catalogue, and no pan."""
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
    return load_features(tmp_path / "items.parquet", CATALOGUE)


def test_lists_of_strings_are_multi_valued_categories(features):
    rows, codes, names = features.categories["kind"]
    assert [(row, names[code]) for row, code in zip(rows, codes, strict=True)] == [(3, "drink"), (3, "leaf")]


def test_numbers_are_at_the_items_row_and_nan_if_missing(features):
    np.testing.assert_array_equal(features.numbers["price"], np.array([np.nan, np.nan, np.nan, 2.5], np.float32))
    np.testing.assert_array_equal(features.numbers["stock"], np.array([np.nan, 4, np.nan, 7], np.float32))


def test_missing_texts_are_empty_strings(features):
    assert features.texts["title"].tolist() == ["", "", "", "green tea"]


def test_missing_vectors_are_zeros(features):
    assert features.vectors["picture"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]


def test_user_features_start_at_row_zero(tmp_path):
    pq.write_table(pa.table({"user_id": ["bob", "ann"], "age": [30, 40]}), tmp_path / "users.parquet")
    assert load_features(tmp_path / "users.parquet", Vocabulary(["ann", "bob"])).numbers["age"].tolist() == [
        40,
        30,
    ]


def test_columns_without_values_are_empty(tmp_path):
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


def assert_equal(one: Features, other: Features) -> None:
    assert one.n_rows == other.n_rows
    for kind in ("categories", "numbers", "texts", "vectors"):
        actual, expected = getattr(one, kind), getattr(other, kind)
        assert actual.keys() == expected.keys()
        for name in actual:
            arrays = (actual[name], expected[name]) if kind == "categories" else ([actual[name]], [expected[name]])
            for actual_array, expected_array in zip(*arrays, strict=True):
                np.testing.assert_array_equal(actual_array, expected_array)


def test_a_frame_gives_the_same_features_as_a_file(features):
    frame = pd.DataFrame(
        {
            "kind": [["drink", "leaf"], ["cloth"], None],
            "price": [2.5, 30.0, None],
            "item_id": ["tea", "hat", "cup"],
            "stock": [7, 1, 4],
            "title": ["green tea", "a hat", None],
            "picture": [np.array([1.0, 2.0]), [3.0, 4.0], None],
        }
    )
    assert_equal(features_from_frame(frame, CATALOGUE), features)


def test_pandas_categoricals_are_categories_and_booleans_are_numbers():
    frame = pd.DataFrame({"item_id": ["pan", "tea"], "size": pd.Categorical(["big", None]), "new": [True, False]})
    features = features_from_frame(frame, CATALOGUE)
    rows, codes, names = features.categories["size"]
    assert (rows.tolist(), codes.tolist(), names) == ([2], [0], ("big",))
    np.testing.assert_array_equal(features.numbers["new"], np.array([np.nan, np.nan, 1, 0], np.float32))


def test_save_and_load_round_trip(features, tmp_path):
    save_features(features, CATALOGUE, tmp_path / "saved.parquet")
    assert_equal(load_features(tmp_path / "saved.parquet", CATALOGUE), features)


def test_user_features_and_empty_columns_round_trip(tmp_path):
    users = Vocabulary(["ann", "bob"])
    table = pa.table({"user_id": ["bob"], "kind": pa.array([None], pa.list_(pa.string())), "age": [30]})
    pq.write_table(table, tmp_path / "users.parquet")
    features = load_features(tmp_path / "users.parquet", users)
    save_features(features, users, tmp_path / "saved.parquet")
    assert_equal(load_features(tmp_path / "saved.parquet", users), features)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["tea"]}, r"need a column item_id, got \['id'\]"),
        (
            {"item_id": ["tea", "tea"], "price": [1, 2]},
            "item_id must be unique in features, got 'tea' more than once; keep",
        ),
        ({"item_id": ["hat"], "price": [1]}, r"at least one item_id of the log, got none \(first: 'hat'\); check"),
        ({"item_id": ["tea", "cup"], "price": [1, "two"]}, "must have values of one type"),
        ({"item_id": ["tea", "cup"], "picture": [[1.0], [1.0, 2.0]]}, "the same width, got 1 and 2 in 'picture'; make"),
        (
            {"item_id": ["tea"], "since": [pd.Timestamp(0)]},
            "must be a number, .* got type timestamp.* in column 'since'; convert",
        ),
    ],
)
def test_invalid_frames_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        features_from_frame(pd.DataFrame(columns), CATALOGUE)
