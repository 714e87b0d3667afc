import numpy as np
import pytest
import torch

from attnrec.models import PopularityConfig, build_model
from attnrec.scoring.ranking import rank_users, top_k

NEVER = float("-inf")


def top(scores: list[float], k: int) -> tuple[list[float], list[int]]:
    values, rows = top_k(torch.tensor([scores]), k)
    return values[0].tolist(), rows[0].tolist()


def test_the_best_come_first():
    assert top([NEVER, 1, 3, 2], 2) == ([3, 2], [2, 3])


def test_among_equals_the_smaller_row_wins():
    assert top([NEVER, 1, 3, 1, 3, 3], 4) == ([3, 3, 3, 1], [2, 4, 5, 1])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_among_equals_at_the_last_place_the_smaller_row_is_kept(k):
    assert top([NEVER, *[7.0] * 50], k) == ([7] * k, list(range(1, k + 1)))


def test_the_same_ties_are_broken_as_a_stable_sort_breaks_them():
    scores = torch.randint(0, 4, (200, 60), generator=torch.Generator().manual_seed(0)).float()
    scores[:, 0] = NEVER
    order = scores.sort(dim=1, descending=True, stable=True)
    values, rows = top_k(scores, 10)
    assert torch.equal(values, order.values[:, :10])
    assert torch.equal(rows, order.indices[:, :10])


def test_places_that_only_minus_infinity_could_fill_hold_row_zero():
    assert top([NEVER, NEVER, 5, NEVER], 3) == ([5, NEVER, NEVER], [2, 0, 0])


def test_places_beyond_the_catalogue_are_not_given():
    assert top([NEVER, 1, 2], 10)[1] == [2, 1, 0]


# --- ranking users


@pytest.fixture
def histories(make_histories):
    """a: 5 events, b: 4, c: 2, d: 1, e only behind what is shown."""
    histories = make_histories({"ann": "abcab", "bob": "ab", "cid": "abdc", "dan": "ae"})
    return histories.up_to(np.array([5, 2, 4, 1]))


@pytest.fixture
def model(histories):
    model = build_model(PopularityConfig(max_length=2), histories.n_items)
    model.observe(histories)
    return model


def ranked(model, histories, users: list[int], **settings) -> dict[int, list[int]]:
    users = np.array(users)
    return {
        int(users[chosen]): items.tolist()
        for part in rank_users(model, histories, users, **settings)
        for chosen, items in zip(part.chosen, part.items, strict=True)
    }


def test_seen_items_are_filtered_also_beyond_the_models_length(model, histories):
    # ann's a b c: the model reads the last two events only
    assert ranked(model, histories, [0, 1, 2, 3], k=4) == {
        0: [4, 0, 0, 0],
        1: [3, 4, 0, 0],
        2: [0, 0, 0, 0],
        3: [2, 3, 4, 0],
    }


def test_without_the_filter_everyone_gets_what_was_ever_bought(model, histories):
    assert ranked(model, histories, [2, 0], k=9, filter_viewed=False) == {0: [1, 2, 3, 4, 0, 0], 2: [1, 2, 3, 4, 0, 0]}


def test_batches_do_not_change_what_is_ranked(model, histories):
    whole = ranked(model, histories, [3, 0, 2, 1], k=4)
    assert ranked(model, histories, [3, 0, 2, 1], k=4, batch_size=1) == whole


def test_what_is_behind_the_view_is_neither_seen_nor_hidden(model, histories):
    # dan's e is not shown: nobody trained on it, so it is not recommended, and his a is filtered
    assert ranked(model, histories, [3], k=5)[3] == [2, 3, 4, 0, 0]
