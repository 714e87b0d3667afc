import numpy as np

from attnrec.dataset import user_item_edges


def test_each_pair_is_one_edge_with_its_count(histories_of):
    edges = user_item_edges(histories_of({"ann": "abaa", "bob": "cb"}))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [
        (0, 1, 3),
        (0, 2, 1),
        (1, 2, 1),
        (1, 3, 1),
    ]
    assert len(edges) == 4


def test_what_lies_behind_a_view_is_no_edge(histories_of):
    edges = user_item_edges(histories_of({"ann": "abaa", "bob": "cb"}).up_to(np.array([1, 0])))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 1, 1)]


def test_a_log_of_which_nothing_is_visible_has_no_edges(histories_of):
    assert len(user_item_edges(histories_of({"ann": "ab"}).up_to(np.array([0])))) == 0
