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


def codes(found: Modalities, name: str) -> CategoryCodes:
    column = found.columns[name]
    assert isinstance(column, CategoryCodes)
    return column


def vectors(found: Modalities, name: str) -> FixedVectors:
    column = found.columns[name]
    assert isinstance(column, FixedVectors)
    return column


def test_columns_come_in_the_order_asked_for_with_their_widths():
    found = modalities(shop(), COLUMNS, text_dim=2)
    assert list(found.widths().items()) == [("kind", 2), ("price", 1), ("title", 2), ("picture", 2)]
    assert found.n_rows == 5
    assert list(modalities(shop(), ["picture"]).widths()) == ["picture"]


def test_categories_of_one_item_are_dropped_and_counted():
    kind = codes(modalities(shop(), COLUMNS), "kind")
    assert kind.names == ("kitchen", "blue")
    assert kind.n_dropped == 1  # iron
    pairs = [(row, kind.names[code]) for row, code in zip(kind.rows, kind.codes, strict=True)]
    assert pairs == [(1, "kitchen"), (1, "blue"), (3, "kitchen"), (4, "kitchen"), (4, "blue")]


def test_only_the_most_frequent_categories_are_kept(monkeypatch):
    monkeypatch.setattr("attnrec.dataset.modalities.MOST_CATEGORIES", 1)
    kind = codes(modalities(shop(), ["kind"]), "kind")
    assert (kind.names, kind.n_dropped, kind.rows.tolist()) == (("kitchen",), 2, [1, 3, 4])


def test_numbers_are_standardised_over_the_items_that_have_one():
    price = vectors(modalities(shop(), COLUMNS), "price")
    deviation = ((2**2 + 0 + 2**2) / 3) ** 0.5  # of 1, 3, 5 around 3
    assert price.values[:, 0] == pytest.approx([0, -2 / deviation, 0, 0, 2 / deviation])
    assert price.present.tolist() == [False, True, False, True, True]


def test_equal_numbers_are_all_zero_and_infinite_ones_missing():
    price = vectors(modalities(shop(price=[2.0, 2.0, np.inf, None]), ["price"]), "price")
    assert not price.values.any()
    assert price.present.tolist() == [False, True, True, False, False]


def test_vectors_are_scaled_by_one_number_to_a_mean_square_length_of_one():
    picture = vectors(modalities(shop(), COLUMNS), "picture")
    length = ((3**2 + 4**2 + 1) / 2) ** 0.5
    assert picture.values[[1, 3]] == pytest.approx(np.array([[3, 4], [0, 1]]) / length)
    assert picture.present.tolist() == [False, True, False, True, False]
    assert picture.values.dtype == np.float32


def test_vectors_of_zeros_and_broken_ones_are_missing():
    picture = vectors(modalities(shop(picture=[[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], None]), ["picture"]), "picture")
    assert picture.present.tolist() == [False, True, False, False, False]
    assert np.isfinite(picture.values).all()


def test_texts_become_vectors_missing_where_empty():
    title = vectors(modalities(shop(), COLUMNS), "title")
    assert title.present.tolist() == [False, True, True, False, True]
    assert title.values[1] @ title.values[4] > 0.2  # tea
    assert title.values[1] @ title.values[2] == pytest.approx(0, abs=1e-6)
    own = vectors(modalities(shop(), ["title"], text_encoder=lambda texts: np.eye(3)), "title")
    assert own.values[[1, 2, 4]].tolist() == np.eye(3).tolist()


def test_a_later_catalogue_is_read_as_the_earlier_one_was():
    earlier, later = shop(), shop(item_id=["tub", "jar", "box", "tea"], price=[1.0, None, 7.0, 5.0])
    alone, like = modalities(earlier, COLUMNS), modalities(later, COLUMNS, like=earlier)
    assert like.widths() == alone.widths()  # rows of later: padding, box, jar, tea, tub
    price = vectors(like, "price").values[:, 0]
    assert price[[4, 3]] == pytest.approx(vectors(alone, "price").values[[1, 4], 0])
    assert price[1] == pytest.approx(2 * price[3])  # 7 is twice as far from 3 as 5
    for name in ("title", "picture"):
        assert vectors(like, name).values[[4, 2, 1, 3]] == pytest.approx(vectors(alone, name).values[1:], abs=1e-6)
    assert codes(like, "kind").names == ("kitchen", "blue")


def test_a_later_catalogue_may_lack_values_and_know_other_categories():
    later = shop(kind=[["gold"], ["gold", "blue"], None, None], title=["", "", "", "tea"])
    later.vectors["picture"] = np.zeros((5, 0), np.float32)  # a column of a file without any value
    found = modalities(later, COLUMNS, like=shop())
    assert (codes(found, "kind").rows.tolist(), codes(found, "kind").codes.tolist()) == ([2], [1])
    assert vectors(found, "picture").values.shape == (5, 2)
    assert not vectors(found, "picture").present.any()


@pytest.mark.parametrize(
    ("changes", "columns", "words"),
    [
        ({}, ["colour"], "must be a column of the items, got 'colour'; there are kind, picture, price, title"),
        ({}, [], "at least one column of the items, got none; there are kind"),
        ({"kind": pd.Categorical([None] * 4, categories=["a"])}, ["kind"], "some item, got none at all in 'kind'"),
        ({"kind": [["a"], ["b"], None, None]}, ["kind"], "shared by at least 2 items .* got none such in 'kind'"),
        ({"price": [np.nan] * 4}, ["title", "price"], "some item, got none at all in 'price'"),
        ({"title": ["", " ", None, ""]}, ["title"], "some item, got none at all in 'title'"),
        ({"picture": [[0.0], None, None, None]}, ["picture"], "some item, got none at all in 'picture'"),
    ],
)
def test_a_column_that_says_nothing_is_refused(changes, columns, words):
    with pytest.raises(ValueError, match=words):
        modalities(shop(**changes), columns)


def test_without_columns_there_are_none_to_name():
    features = features_from_frame(pd.DataFrame({"item_id": ["tea"]}), Vocabulary(["tea"], first=1))
    with pytest.raises(ValueError, match="got 'title'; the items have no columns"):
        modalities(features, ["title"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"picture": [[1.0]] * 4}, "as wide as in the earlier catalogue, 2, got 1 in 'picture'"),
        ({"price": ["1", "2", "3", "4"]}, "got 'price' as text after number"),
    ],
)
def test_a_later_catalogue_of_another_form_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        modalities(shop(**changes), COLUMNS, like=shop())
