import numpy as np
import pytest
import torch

from attnrec.models import PopularityConfig, build_model
from attnrec.scoring.ranking import rank_users, top_k

MINUS_INFINITY = float("-inf")


def top_of(scores: list[float], k: int) -> tuple[list[float], list[int]]:
    values, rows = top_k(torch.tensor([scores]), k)
    return values[0].tolist(), rows[0].tolist()


def test_items_are_ordered_by_score():
    assert top_of([MINUS_INFINITY, 1, 3, 2], 2) == ([3, 2], [2, 3])


def test_ties_go_to_the_smaller_item_row():
    assert top_of([MINUS_INFINITY, 1, 3, 1, 3, 3], 4) == ([3, 3, 3, 1], [2, 4, 5, 1])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ties_at_rank_k_keep_the_smaller_item_rows(k):
    assert top_of([MINUS_INFINITY, *[7.0] * 50], k) == ([7] * k, list(range(1, k + 1)))


def test_ties_are_ordered_as_by_a_stable_sort():
    scores = torch.randint(0, 4, (200, 60), generator=torch.Generator().manual_seed(0)).float()
    scores[:, 0] = MINUS_INFINITY
    order = scores.sort(dim=1, descending=True, stable=True)
    values, rows = top_k(scores, 10)
    assert torch.equal(values, order.values[:, :10])
    assert torch.equal(rows, order.indices[:, :10])


def test_ranks_without_a_finite_score_have_item_row_zero():
    assert top_of([MINUS_INFINITY, MINUS_INFINITY, 5, MINUS_INFINITY], 3) == (
        [5, MINUS_INFINITY, MINUS_INFINITY],
        [2, 0, 0],
    )


def test_no_more_ranks_are_returned_than_item_rows():
    assert top_of([MINUS_INFINITY, 1, 2], 10)[1] == [2, 1, 0]


# --- ranking users


@pytest.fixture
def histories(make_histories):
    """Visible events: ann abcab, bob ab, cid abdc, dan a; e occurs only after the visible events."""
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
        int(users[position]): items.tolist()
        for batch in rank_users(model, histories, users, **settings)
        for position, items in zip(batch.positions, batch.items, strict=True)
    }


def test_viewed_items_before_the_window_are_filtered(model, histories):
    # ann's window is the last two events, a b; c is filtered as well
    assert ranked(model, histories, [0, 1, 2, 3], k=4) == {
        0: [4, 0, 0, 0],
        1: [3, 4, 0, 0],
        2: [0, 0, 0, 0],
        3: [2, 3, 4, 0],
    }


def test_without_the_filter_all_items_with_events_are_ranked(model, histories):
    assert ranked(model, histories, [2, 0], k=9, filter_viewed=False) == {0: [1, 2, 3, 4, 0, 0], 2: [1, 2, 3, 4, 0, 0]}


def test_the_batch_size_does_not_change_the_ranking(model, histories):
    expected = ranked(model, histories, [3, 0, 2, 1], k=4)
    assert ranked(model, histories, [3, 0, 2, 1], k=4, batch_size=1) == expected


def test_events_after_the_visible_history_are_not_used(model, histories):
    # dan's e is not visible: it has no training event, so it is not recommended; his a is filtered
    assert ranked(model, histories, [3], k=5)[3] == [2, 3, 4, 0, 0]
