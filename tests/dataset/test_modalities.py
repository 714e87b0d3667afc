import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Features, Vocabulary, features_from_frame
from attnrec.dataset.modalities import CategoryCodes, FixedVectors, Modalities, modalities

COLUMNS = ["kind", "price", "title", "picture"]


def shop(**changes) -> Features:
    """Rows: padding, cup, hat, pan, tea."""
    columns = {
        "item_id": ["cup", "hat", "pan", "tea"],
        "kind": [["kitchen", "blue"], None, ["kitchen", "iron", "kitchen"], ["blue", "kitchen"]],
        "price": [1.0, None, 3.0, 5.0],
        "title": ["tea cup", "hat", None, "green tea"],
        "picture": [[3.0, 4.0], None, [0.0, 1.0], None],
    }
    frame = pd.DataFrame(columns | changes)
    return features_from_frame(frame, Vocabulary(sorted(frame["item_id"]), first=1))


def codes(inputs: Modalities, name: str) -> CategoryCodes:
    column = inputs.columns[name]
    assert isinstance(column, CategoryCodes)
    return column


def vectors(inputs: Modalities, name: str) -> FixedVectors:
    column = inputs.columns[name]
    assert isinstance(column, FixedVectors)
    return column


def test_columns_keep_the_requested_order():
    inputs = modalities(shop(), COLUMNS, text_dim=2)
    assert list(inputs.widths().items()) == [("kind", 2), ("price", 1), ("title", 2), ("picture", 2)]
    assert inputs.n_rows == 5
    assert list(modalities(shop(), ["picture"]).widths()) == ["picture"]


def test_categories_of_one_item_are_dropped_and_counted():
    kind = codes(modalities(shop(), COLUMNS), "kind")
    assert kind.names == ("kitchen", "blue")
    assert kind.n_dropped == 1  # iron
    pairs = [(row, kind.names[code]) for row, code in zip(kind.rows, kind.codes, strict=True)]
    assert pairs == [(1, "kitchen"), (1, "blue"), (3, "kitchen"), (4, "kitchen"), (4, "blue")]


def test_only_the_most_frequent_categories_are_kept(monkeypatch):
    monkeypatch.setattr("attnrec.dataset.modalities.MAX_CATEGORIES", 1)
    kind = codes(modalities(shop(), ["kind"]), "kind")
    assert (kind.names, kind.n_dropped, kind.rows.tolist()) == (("kitchen",), 2, [1, 3, 4])


def test_numbers_are_standardised_over_items_with_a_value():
    price = vectors(modalities(shop(), COLUMNS), "price")
    deviation = ((2**2 + 0 + 2**2) / 3) ** 0.5  # of 1, 3, 5 around 3
    assert price.values[:, 0] == pytest.approx([0, -2 / deviation, 0, 0, 2 / deviation])
    assert price.present.tolist() == [False, True, False, True, True]


def test_equal_numbers_become_zero_and_infinite_numbers_are_missing():
    price = vectors(modalities(shop(price=[2.0, 2.0, np.inf, None]), ["price"]), "price")
    assert not price.values.any()
    assert price.present.tolist() == [False, True, True, False, False]


def test_vectors_are_scaled_to_a_mean_square_length_of_one():
    picture = vectors(modalities(shop(), COLUMNS), "picture")
    length = ((3**2 + 4**2 + 1) / 2) ** 0.5
    assert picture.values[[1, 3]] == pytest.approx(np.array([[3, 4], [0, 1]]) / length)
    assert picture.present.tolist() == [False, True, False, True, False]
    assert picture.values.dtype == np.float32


def test_zero_and_non_finite_vectors_are_missing():
    picture = vectors(modalities(shop(picture=[[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], None]), ["picture"]), "picture")
    assert picture.present.tolist() == [False, True, False, False, False]
    assert np.isfinite(picture.values).all()


def test_texts_become_vectors_and_empty_texts_are_missing():
    title = vectors(modalities(shop(), COLUMNS), "title")
    assert title.present.tolist() == [False, True, True, False, True]
    assert title.values[1] @ title.values[4] > 0.2  # tea
    assert title.values[1] @ title.values[2] == pytest.approx(0, abs=1e-6)
    custom = vectors(modalities(shop(), ["title"], text_encoder=lambda texts: np.eye(3)), "title")
    assert custom.values[[1, 2, 4]].tolist() == np.eye(3).tolist()


def test_a_later_catalogue_uses_the_fitted_scales_and_categories():
    earlier, later = shop(), shop(item_id=["tub", "jar", "box", "tea"], price=[1.0, None, 7.0, 5.0])
    fitted, transformed = modalities(earlier, COLUMNS), modalities(later, COLUMNS, fit_features=earlier)
    assert transformed.widths() == fitted.widths()  # rows of later: padding, box, jar, tea, tub
    price = vectors(transformed, "price").values[:, 0]
    assert price[[4, 3]] == pytest.approx(vectors(fitted, "price").values[[1, 4], 0])
    assert price[1] == pytest.approx(2 * price[3])  # 7 is twice as far from 3 as 5
    for name in ("title", "picture"):
        assert vectors(transformed, name).values[[4, 2, 1, 3]] == pytest.approx(
            vectors(fitted, name).values[1:], abs=1e-6
        )
    assert codes(transformed, "kind").names == ("kitchen", "blue")


def test_a_later_catalogue_may_have_missing_values_and_new_categories():
    later = shop(kind=[["gold"], ["gold", "blue"], None, None], title=["", "", "", "tea"])
    later.vectors["picture"] = np.zeros((5, 0), np.float32)  # a file column without values
    inputs = modalities(later, COLUMNS, fit_features=shop())
    assert (codes(inputs, "kind").rows.tolist(), codes(inputs, "kind").codes.tolist()) == ([2], [1])
    assert vectors(inputs, "picture").values.shape == (5, 2)
    assert not vectors(inputs, "picture").present.any()


@pytest.mark.parametrize(
    ("changes", "columns", "message"),
    [
        ({}, ["colour"], "must be an item column, got 'colour'; available columns: kind, picture, price, title"),
        ({}, [], "at least one item column, got none; available columns: kind"),
        ({"kind": pd.Categorical([None] * 4, categories=["a"])}, ["kind"], "at least one item, got none in 'kind'"),
        ({"kind": [["a"], ["b"], None, None]}, ["kind"], "a category of at least 2 items, got none in 'kind'"),
        ({"price": [np.nan] * 4}, ["title", "price"], "at least one item, got none in 'price'"),
        ({"title": ["", " ", None, ""]}, ["title"], "at least one item, got none in 'title'"),
        ({"picture": [[0.0], None, None, None]}, ["picture"], "at least one item, got none in 'picture'"),
    ],
)
def test_missing_and_empty_columns_are_refused(changes, columns, message):
    with pytest.raises(ValueError, match=message):
        modalities(shop(**changes), columns)


def test_the_error_for_items_without_columns_says_so():
    features = features_from_frame(pd.DataFrame({"item_id": ["tea"]}), Vocabulary(["tea"], first=1))
    with pytest.raises(ValueError, match="got 'title'; the items have no feature columns"):
        modalities(features, ["title"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": [[1.0]] * 4}, "same width as in the fitted features, 2, got 1 in 'picture'; compute"),
        ({"price": ["1", "2", "3", "4"]}, "got text for 'price' instead of number; convert"),
    ],
)
def test_a_later_catalogue_with_another_kind_or_width_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        modalities(shop(**changes), COLUMNS, fit_features=shop())
