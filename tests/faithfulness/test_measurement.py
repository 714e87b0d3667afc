"""Faithfulness metrics of deletion and insertion, for a model whose scores are sums with known terms."""

from dataclasses import replace
from math import exp
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.attribution import METHODS
from attnrec.attribution.method import Method
from attnrec.dataset import histories_from_frame, last_events
from attnrec.faithfulness import DEFAULT_METHODS, measure, outcomes
from attnrec.faithfulness import top_items as top_items_module
from attnrec.faithfulness.curves import PERCENTAGES, n_moved
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import Model, build_model, model_config

SMALL = {"dim": 16, "max_length": 8, "layers": 1, "pooling_heads": 2}
KINDS = {
    "attnrec": SMALL,
    "attnrec_with_memory": SMALL | {"kind": "attnrec", "memory_events": 4, "memory_block": 2, "max_length": 5},
    "attnrec_with_projection": SMALL | {"kind": "attnrec", "pooling_projection": True},
    "core": SMALL,
    "sasrec": SMALL,
    "bert4rec": SMALL,
    "gru4rec": {"dim": 16, "max_length": 8},
    "gat": {"dim": 16, "max_length": 8, "pooling_heads": 2, "heads": 2},
    "item_knn": {"max_length": 8, "shrinkage": 0.0},
    "ease": {"max_length": 8, "regularization": 1.0},
    "popularity": {"max_length": 8},
}


class Sums(Model):
    """Score of item i = sum over events of table[item of the event, i] + bias of i."""

    kind, paper, trainable = "sums", "none", False

    def __init__(self, table: torch.Tensor, bias: torch.Tensor, max_length: int = 20) -> None:
        super().__init__(SimpleNamespace(max_length=max_length), len(bias) - 1)
        self.table, self.bias, self.n_encoded = table, bias, 0

    def encode(self, batch):
        self.n_encoded += len(batch.items)
        terms = self.table[batch.items] * batch.real[..., None]
        return SimpleNamespace(
            weights=None,
            scores=lambda items=None: self._select(terms.sum(1) + self.bias, items),
            contributions=lambda items: terms.gather(2, items[:, None].expand(-1, terms.shape[1], -1)),
        )

    def item_bias(self):
        return self.bias

    @staticmethod
    def _select(scores, items):
        return scores if items is None else scores.gather(1, items)


def sums(n_items: int, terms: dict[tuple[int, int], float], bias: dict[int, float], **settings) -> Sums:
    table, biases = torch.zeros(n_items + 1, n_items + 1), torch.zeros(n_items + 1)
    for (event, item), value in terms.items():
        table[event, item] = value
    for item, value in bias.items():
        biases[item] = value
    return Sums(table, biases, **settings)


def rows_of(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    return frame[frame["method"] == method].reset_index(drop=True)


def single_row(measured, method: str = "contribution") -> pd.Series:
    (row,) = (row for _, row in rows_of(measured.per_user, method).iterrows())
    return row


def register_method(monkeypatch, name: str, function, **settings) -> None:
    monkeypatch.setitem(METHODS, name, Method(function, source="this test", **settings))


# --- known values: ann has the events c, a, d, b (rows 3, 1, 4, 2); e, f and g (5, 6, 7) can be recommended


@pytest.fixture
def ann(make_histories):
    return make_histories({"ann": "cadb", "bob": "abcdefg"})


@pytest.fixture
def sum_model():
    """The terms of e are 4 (a), 3 (b), 2 (c) and 1 (d); the bias of f is 5.5, of g 2.5, of a (already seen) 100."""
    return sums(7, {(1, 5): 4, (2, 5): 3, (3, 5): 2, (4, 5): 1}, {6: 5.5, 7: 2.5, 1: 100})


def p(score: float) -> float:
    """The probability of e."""
    return exp(score) / (exp(score) + exp(5.5) + exp(2.5))


@pytest.fixture
def sum_measured(sum_model, ann):
    return measure(sum_model, ann, np.array([0]), methods=["contribution", "recency"], ks=(1, 2), n_bins=4)


def test_the_explained_item_is_the_best_unseen_item(sum_measured):
    row = single_row(sum_measured)
    assert row[["user_id", "item_id", "n_events", "method"]].tolist() == ["ann", "e", 4, "contribution"]


def test_curves_of_deletion_and_insertion(sum_measured):
    # remove largest first: 10, 6, 3, 1, 0; remove smallest first: 10, 9, 7, 4, 0; add largest first: 0, 4, 7, 9, 10
    curves = rows_of(sum_measured.curves, "contribution")
    scores = {"deletion": [10, 6, 3, 1, 0], "reverse_deletion": [10, 9, 7, 4, 0], "insertion": [0, 4, 7, 9, 10]}
    ranks = {"deletion": [1, 1, 2, 3, 3], "reverse_deletion": [1, 1, 1, 2, 3], "insertion": [3, 2, 1, 1, 1]}
    for name, values in scores.items():
        rows = curves[curves["curve"] == name]
        assert rows["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert rows["score_change"].tolist() == [value - 10 for value in values]
        assert rows["probability"].tolist() == pytest.approx([p(value) for value in values], rel=1e-5)
        assert rows["rank"].tolist() == ranks[name]
        assert rows["in_top_2"].tolist() == [rank <= 2 for rank in ranks[name]]


def test_pos_and_neg_are_the_shares_of_steps_with_the_item_in_the_top_k(sum_measured):
    row = single_row(sum_measured)
    assert row[["pos_at_1", "pos_at_2", "neg_at_1", "neg_at_2"]].tolist() == [1 / 4, 2 / 4, 2 / 4, 3 / 4]


def test_deletion_and_insertion_are_areas_under_the_probability(sum_measured):
    row = single_row(sum_measured)
    assert row["deletion"] == pytest.approx((p(10) / 2 + p(6) + p(3) + p(1) + p(0) / 2) / 4, rel=1e-5)
    assert row["insertion"] == pytest.approx((p(0) / 2 + p(4) + p(7) + p(9) + p(10) / 2) / 4, rel=1e-5)


def test_comprehensiveness_and_sufficiency(sum_measured):
    # 1, 5, 10 and 20 % of four events are one, 50 % are two
    row = single_row(sum_measured)
    assert row["comprehensiveness"] == pytest.approx(p(10) - (4 * p(6) + p(3)) / 5, rel=1e-5)
    assert row["sufficiency"] == pytest.approx(p(10) - (4 * p(4) + p(7)) / 5, rel=1e-5)


def test_metrics_of_the_recency_order(sum_measured):
    # last event first, b, d, a, c: scores 10, 7, 6, 2, 0; smallest first, c, a, d, b: 10, 8, 4, 3, 0
    row = single_row(sum_measured, "recency")
    assert row[["pos_at_1", "pos_at_2", "neg_at_1", "neg_at_2"]].tolist() == [2 / 4, 2 / 4, 1 / 4, 3 / 4]
    assert row["comprehensiveness"] == pytest.approx(p(10) - (4 * p(7) + p(6)) / 5, rel=1e-5)
    assert row["sufficiency"] == pytest.approx(p(10) - (4 * p(3) + p(4)) / 5, rel=1e-5)


def test_tau_is_the_rank_correlation_with_leave_one_out(sum_measured):
    # leave-one-out of c, a, d, b: 2, 4, 1, 3; recency 1, 2, 3, 4: pairs ca + cd - cb + ad - ab - db +
    assert single_row(sum_measured)["tau"] == 1
    assert single_row(sum_measured, "recency")["tau"] == (3 - 3) / 6


def test_without_filter_viewed_items_can_be_explained(sum_model, ann):
    measured = measure(sum_model, ann, np.array([0]), methods=["contribution"], filter_viewed=False, n_bins=4)
    assert single_row(measured)["item_id"] == "a"
    assert single_row(measured)["pos_at_1"] == 1, "no event changes its score"


def test_two_events_of_one_item_are_removed_separately(make_histories):
    # 2 + 2 + 1 against 1.5: 1 without both events of a, 3 without one of them
    model = sums(4, {(1, 3): 2, (2, 3): 1}, {4: 1.5})
    histories = make_histories({"ann": "aba", "bob": "abcd"})
    measured = measure(model, histories, np.array([0]), methods=["contribution"], ks=(1,), n_bins=3)
    assert single_row(measured)["n_events"] == 3
    assert rows_of(measured.curves, "contribution")["score_change"][:4].tolist() == [0, -2, -4, -5]
    assert single_row(measured)["pos_at_1"] == 1 / 3


def test_items_with_equal_scores_share_the_best_rank(make_histories):
    model = sums(4, {(1, 3): 1}, {})
    measured = measure(model, make_histories({"ann": "ab", "bob": "abcd"}), np.array([0]), methods=["contribution"])
    assert rows_of(measured.curves, "contribution")["rank"].tolist() == [1] * 33


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [0] + [1] * 10), (3, [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]), (20, [*range(0, 21, 2)]), (25, None)],
)
def test_steps_of_a_short_history_round_up(n, expected):
    result = n_moved(torch.tensor([n]), range(11), 10)[0].tolist()
    assert result == (expected or [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25])


def test_percentage_bins_have_at_least_one_event():
    result = n_moved(torch.tensor([2, 100, 150]), PERCENTAGES, 100).tolist()
    assert result == [[1, 1, 1, 1, 1], [1, 5, 10, 20, 50], [2, 8, 15, 30, 75]]


# --- orders and controls


def test_a_negated_attribution_swaps_pos_and_neg(sum_model, ann, monkeypatch):
    register_method(monkeypatch, "negated", lambda *args, seed: -METHODS["contribution"].function(*args))
    measured = measure(sum_model, ann, np.array([0]), methods=["contribution", "negated"], ks=(1, 2), n_bins=4)
    contribution, negated = single_row(measured), single_row(measured, "negated")
    for k in (1, 2):
        assert (negated[f"pos_at_{k}"], negated[f"neg_at_{k}"]) == (
            contribution[f"neg_at_{k}"],
            contribution[f"pos_at_{k}"],
        )
    assert negated["tau"] == -1


@pytest.fixture(scope="module")
def random_sum_model():
    """600 users with five events each; the terms between thirty items are random."""
    random = np.random.default_rng(0)
    rows = [(user, item, t) for user in range(600) for t, item in enumerate(random.choice(30, 5, replace=False))]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    table = torch.from_numpy(random.normal(size=(31, 31))).float()
    return Sums(table, torch.zeros(31)), histories


def test_a_constant_attribution_is_as_good_as_random(random_sum_model, monkeypatch):
    register_method(monkeypatch, "constant", lambda model, batch, items, seed: batch.real[..., None] * torch.ones(1, 1))
    methods = ["contribution", "constant", "random"]
    measured = measure(*random_sum_model, np.arange(600), methods=methods, n_bins=5)
    constant, random = (rows_of(measured.per_user, name) for name in methods[1:])
    for name in measured.metrics:
        differences = constant[name] - random[name]
        assert name == "tau" or abs(differences.mean()) <= 3.5 * differences.std() / 600**0.5, name
    assert not np.allclose(constant["pos_at_5"], random["pos_at_5"]), "ties use independent random numbers"
    assert constant["tau"].isna().all()


def test_contributions_of_a_sum_outperform_every_control(random_sum_model):
    summary = measure(
        *random_sum_model, np.arange(600), methods=["contribution", "random", "recency", "popularity"]
    ).summary()
    contribution, controls = summary.iloc[0], summary.iloc[1:]
    for name in ("pos_at_1", "pos_at_5", "deletion", "sufficiency"):
        assert (contribution[name] < controls[name] - 0.02).all(), name
    for name in ("neg_at_1", "neg_at_5", "insertion", "comprehensiveness", "tau"):
        assert (contribution[name] > controls[name] + 0.02).all(), name


def test_for_plain_sums_leave_one_out_and_contributions_have_the_same_order(checkerboard):
    model = build_model(model_config("item_knn", {"shrinkage": 0.0}), 12)
    model.observe(checkerboard.histories)
    measured = measure(
        model, checkerboard.histories, checkerboard.users, methods=["contribution", "leave_one_out", "random"]
    )
    contribution, effect = rows_of(measured.per_user, "contribution"), rows_of(measured.per_user, "leave_one_out")
    defined = contribution["tau"].notna()  # tau is undefined where all five events have equal values
    assert defined.equals(effect["tau"].notna())
    assert contribution["tau"][defined].tolist() == pytest.approx([1] * defined.sum())
    assert effect.drop(columns="method").equals(contribution.drop(columns="method"))


# --- every kind of model


@pytest.fixture(scope="module")
def log(make_histories):
    users = {"ann": "abcdef", "bob": "ghijkl", "cid": "acegikbdfh", "dan": "abgh", "eve": "ll", "fay": "bdf"}
    return make_histories(users | {"gus": "aaab", "hal": "c", "ida": "lkjihgfed"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """Return a model with large random weights, or counts of the log, so that no value is small by chance."""

    def make(name: str, **settings):
        settings = KINDS[name] | settings
        model = build_model(model_config(settings.pop("kind", name), settings), 12)
        return with_random_weights(model, log)

    return make


ALL_USERS = np.arange(9)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_can_be_measured(name, model_of, log):
    model = model_of(name)
    measured = measure(model, log, ALL_USERS, n_permutations=2)
    supported = [method for method in DEFAULT_METHODS if METHODS[method].works_for(model)]
    assert measured.methods == supported
    assert [*measured.skipped_methods] == [method for method in DEFAULT_METHODS if method not in supported]
    assert rows_of(measured.per_user, "random")["user_id"].tolist() == [
        "ann",
        "bob",
        "cid",
        "dan",
        "eve",
        "fay",
        "gus",
        "ida",
    ]
    assert measured.skipped_users == {"fewer than 2 events": 1, "no recommendable item": 0}
    values = measured.per_user[measured.metrics].drop(columns=["tau", "stability"])
    assert np.isfinite(values).all(axis=None)
    assert values.drop(columns=["comprehensiveness", "sufficiency"]).stack().between(0, 1).all()
    ends = measured.curves[measured.curves["share"].isin([0, 1])]
    same = ["probability", "score_change", "rank", "in_top_1", "in_top_5", "in_top_10"]
    for (curve, share), rows in ends.groupby(["curve", "share"]):
        assert np.ptp(rows[same].to_numpy(), axis=0).tolist() == [0] * 6, (
            "the full and the empty history are the same for all methods"
        )
        if (curve == "insertion") == (share == 1):
            assert rows[["score_change", "rank", "in_top_1"]].iloc[0].tolist() == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("name", ["attnrec", "attnrec_with_memory", "item_knn", "sasrec"])
def test_results_do_not_depend_on_the_batch(name, model_of, log, monkeypatch):
    model, options = model_of(name), {"n_permutations": 2, "counts": torch.arange(13)}
    together = measure(model, log, ALL_USERS, **options)
    monkeypatch.setattr(top_items_module, "BATCH_SIZE", 1)
    monkeypatch.setattr(outcomes, "MAX_POSITIONS", 1)
    alone = measure(model, log, ALL_USERS, **options)
    backwards = measure(model, log, ALL_USERS[::-1].copy(), **options)
    for table in ("per_user", "permutation", "curves"):
        pd.testing.assert_frame_equal(getattr(alone, table), getattr(together, table), rtol=1e-3, atol=1e-4)
    expected = together.per_user[::-1].set_index(["method", "user_id"]).sort_index()
    result = backwards.per_user.set_index(["method", "user_id"]).sort_index()
    pd.testing.assert_frame_equal(result, expected, rtol=1e-3, atol=1e-4)


def test_results_are_reproducible_with_the_seed(model_of, log):
    model, methods = model_of("attnrec"), ["contribution", "random", "shapley", "popularity"]
    first, again, other = (measure(model, log, ALL_USERS, methods=methods, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.per_user, again.per_user, check_exact=True)
    pd.testing.assert_frame_equal(first.permutation, again.permutation, check_exact=True)
    for method in ("random", "shapley"):
        assert not rows_of(first.per_user, method).equals(rows_of(other.per_user, method))
    curves = ["pos_at_1", "deletion", "insertion"]
    assert rows_of(first.per_user, "contribution")[curves].equals(rows_of(other.per_user, "contribution")[curves])
    assert not first.permutation.equals(other.permutation)


def test_events_before_the_window_are_not_removed_and_not_recommended(sum_model, make_histories):
    # the window is d, b; a and c are neither removed nor recommended
    sum_model.max_length = 2
    measured = measure(
        sum_model, make_histories({"ann": "cadb", "bob": "abcdefg"}), np.array([0]), methods=["contribution"]
    )
    row = single_row(measured)
    assert row[["item_id", "n_events"]].tolist() == ["f", 2]
    assert rows_of(measured.curves, "contribution")["rank"].max() == 1


# --- how often histories are scored


def top_items_of(model, histories, item: int) -> TopItems:
    batch = last_events(histories, np.array([0]), max_length=20)
    return TopItems(np.array([0]), batch, torch.tensor([item]), model.rankable[None])


def test_identical_shortened_histories_are_scored_once(sum_model, ann):
    removed = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    result = outcomes.outcomes_without(sum_model, top_items_of(sum_model, ann, 5), removed[None])
    assert sum_model.n_encoded == 3
    assert result.scores.tolist() == [[10, 8, 10, 0, 8]]
    # a has a higher score; for the empty history also f and g, but not b, c and d, which have the same score
    assert result.ranks.tolist() == [[2, 2, 2, 4, 2]]


def test_methods_share_the_scores_of_identical_shortened_histories(sum_model, ann, monkeypatch):
    register_method(monkeypatch, "twin", METHODS["contribution"].function)
    n_encoded = []
    for methods in (["contribution"], ["contribution", "twin"], ["contribution", "random"]):
        sum_model.n_encoded = 0
        measure(sum_model, ann, np.array([0]), methods=methods, n_bins=4)
        n_encoded.append(sum_model.n_encoded)
    assert n_encoded[1] - n_encoded[0] == 2, "contributions of the full and of the shortened history"
    assert 0 < n_encoded[2] - n_encoded[0] <= 6, "at most three sets of largest and three of smallest events are new"


def test_results_do_not_depend_on_the_chunk_size(model_of, log, monkeypatch):
    model = model_of("attnrec")
    whole = measure(model, log, ALL_USERS, methods=["contribution", "random"]).per_user
    monkeypatch.setattr(outcomes, "MAX_SCORES", 13 * 3)
    pd.testing.assert_frame_equal(
        measure(model, log, ALL_USERS, methods=["contribution", "random"]).per_user, whole, rtol=1e-3
    )


# --- errors


def test_skipped_users_are_counted_by_reason(sum_model, make_histories):
    histories = make_histories({"ann": "cadb", "bob": "abcdefg", "cid": "a", "dan": "ab"})
    view = histories.up_to(np.array([4, 7, 1, 0]))
    measured = measure(sum_model, view, np.arange(4), methods=["contribution"], counts=torch.zeros(8))
    assert measured.per_user["user_id"].tolist() == ["ann"]
    assert measured.skipped_users == {"fewer than 2 events": 2, "no recommendable item": 1}
    with pytest.raises(
        ValueError, match="got 2 with fewer than 2 events and 1 with no recommendable item; choose other"
    ):
        measure(sum_model, view, np.array([1, 2, 3]), methods=["contribution"])
    sum_model.max_length = 1
    with pytest.raises(ValueError, match="got 4 with fewer than 2 events"):
        measure(sum_model, view, np.arange(4), methods=["contribution"])
    with pytest.raises(ValueError, match="got 0 with fewer"):
        measure(sum_model, view, np.zeros(0, dtype=np.int64), methods=["contribution"])


def test_on_batch_is_called_with_the_number_of_users(model_of, log, monkeypatch):
    monkeypatch.setattr(top_items_module, "BATCH_SIZE", 3)
    batches = []
    measure(model_of("item_knn"), log, ALL_USERS, methods=["recency"], on_batch=batches.append)
    assert batches == [3, 3, 2]


def test_invalid_arguments_raise_an_error(sum_model, ann):
    users = np.array([0])
    with pytest.raises(ValueError, match=r"must be from contribution, .*got \['magic'\]"):
        measure(sum_model, ann, users, methods=["contribution", "magic"])
    with pytest.raises(ValueError, match=r"needs a method that sums supports, got .*weight"):
        measure(sum_model, ann, users, methods=["weight", "value_norm"])
    for bad in ({"ks": ()}, {"ks": (0,)}, {"n_bins": 0}, {"n_permutations": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            measure(sum_model, ann, users, **bad)
    for rows in ([0, 0], [0, 2], [-1]):
        with pytest.raises(ValueError, match="users must be rows from 0 to 1 without duplicates"):
            measure(sum_model, ann, np.array(rows))
    with pytest.raises(ValueError, match=r"item row of the model, \(8,\), got \(7,\)"):
        measure(sum_model, ann, users, counts=torch.zeros(7))


def test_popularity_counts_the_log_by_default(sum_model, ann):
    # a, b, c, d occur twice each, so all are ties; with the given counts, d is the most popular
    counts = torch.tensor([0, 1, 2, 3, 9, 0, 0, 0])
    row = single_row(
        measure(sum_model, ann, np.array([0]), methods=["popularity"], counts=counts, n_bins=4), "popularity"
    )
    assert row["tau"] == pytest.approx(-1)
    assert np.isnan(single_row(measure(sum_model, ann, np.array([0]), methods=["popularity"]), "popularity")["tau"])


def test_duplicate_methods_are_measured_once(sum_model, ann):
    measured = measure(sum_model, ann, np.array([0]), methods=["recency", "random", "recency"])
    assert measured.methods == ["recency", "random"]
    assert replace(measured, skipped_methods={}).methods == measured.methods
