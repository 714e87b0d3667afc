"""Faithfulness: deletion, insertion and what is read off them, on a model whose scores are sums done by hand."""

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
from attnrec.faithfulness import top_items as explained
from attnrec.faithfulness.curves import PERCENT, n_moved
from attnrec.faithfulness.top_items import Explained
from attnrec.models import Model, build_model, model_config

SMALL = {"dim": 16, "max_length": 8, "layers": 1, "pooling_heads": 2}
KINDS = {
    "attnrec": SMALL,
    "attnrec_older": SMALL | {"kind": "attnrec", "memory_events": 4, "memory_block": 2, "max_length": 5},
    "attnrec_mixed": SMALL | {"kind": "attnrec", "pooling_projection": True},
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
    """Score of item i = sum over events of what `table` says that an event's item adds to i, + bias."""

    kind, paper, learns = "sums", "none", False

    def __init__(self, table: torch.Tensor, bias: torch.Tensor, max_length: int = 20) -> None:
        super().__init__(SimpleNamespace(max_length=max_length), len(bias) - 1)
        self.table, self.bias, self.n_read = table, bias, 0

    def encode(self, batch):
        self.n_read += len(batch.items)
        added = self.table[batch.items] * batch.real[..., None]
        return SimpleNamespace(
            weights=None,
            scores=lambda items=None: self._of(added.sum(1) + self.bias, items),
            contributions=lambda items: added.gather(2, items[:, None].expand(-1, added.shape[1], -1)),
        )

    def item_bias(self):
        return self.bias

    @staticmethod
    def _of(scores, items):
        return scores if items is None else scores.gather(1, items)


def sums(n_items: int, added: dict[tuple[int, int], float], bias: dict[int, float], **settings) -> Sums:
    table, biases = torch.zeros(n_items + 1, n_items + 1), torch.zeros(n_items + 1)
    for (event, item), value in added.items():
        table[event, item] = value
    for item, value in bias.items():
        biases[item] = value
    return Sums(table, biases, **settings)


def of(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    return frame[frame["method"] == method].reset_index(drop=True)


def one(measured, method: str = "contribution") -> pd.Series:
    (row,) = (row for _, row in of(measured.per_user, method).iterrows())
    return row


def as_method(monkeypatch, name: str, function, **settings) -> None:
    monkeypatch.setitem(METHODS, name, Method(function, source="this test", **settings))


# --- a world by hand: ann did c, a, d, b (rows 3, 1, 4, 2); e, f and g (5, 6, 7) can be recommended


@pytest.fixture
def ann(make_histories):
    return make_histories({"ann": "cadb", "bob": "abcdefg"})


@pytest.fixture
def tower():
    """To e the events add 4 (a), 3 (b), 2 (c) and 1 (d); f has 5.5 and g 2.5 without any; a would be above all."""
    return sums(7, {(1, 5): 4, (2, 5): 3, (3, 5): 2, (4, 5): 1}, {6: 5.5, 7: 2.5, 1: 100})


def p(score: float) -> float:
    """The probability of e."""
    return exp(score) / (exp(score) + exp(5.5) + exp(2.5))


@pytest.fixture
def towered(tower, ann):
    return measure(tower, ann, np.array([0]), methods=["contribution", "recency"], ks=(1, 2), n_bins=4)


def test_the_item_explained_is_the_first_that_was_not_seen(towered):
    row = one(towered)
    assert row[["user_id", "item_id", "n_events", "method"]].tolist() == ["ann", "e", 4, "contribution"]


def test_curves_follow_the_score_as_events_go(towered):
    # largest first out 10, 6, 3, 1, 0; smallest first out 10, 9, 7, 4, 0; in from the largest 0, 4, 7, 9, 10
    curves = of(towered.curves, "contribution")
    scores = {"deletion": [10, 6, 3, 1, 0], "reverse_deletion": [10, 9, 7, 4, 0], "insertion": [0, 4, 7, 9, 10]}
    ranks = {"deletion": [1, 1, 2, 3, 3], "reverse_deletion": [1, 1, 1, 2, 3], "insertion": [3, 2, 1, 1, 1]}
    for name, values in scores.items():
        rows = curves[curves["curve"] == name]
        assert rows["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert rows["score_change"].tolist() == [value - 10 for value in values]
        assert rows["probability"].tolist() == pytest.approx([p(value) for value in values], rel=1e-5)
        assert rows["rank"].tolist() == ranks[name]
        assert rows["in_top_2"].tolist() == [rank <= 2 for rank in ranks[name]]


def test_steps_at_which_the_item_is_still_among_the_first(towered):
    row = one(towered)
    assert row[["pos_at_1", "pos_at_2", "neg_at_1", "neg_at_2"]].tolist() == [1 / 4, 2 / 4, 2 / 4, 3 / 4]


def test_areas_under_the_probability(towered):
    row = one(towered)
    assert row["deletion"] == pytest.approx((p(10) / 2 + p(6) + p(3) + p(1) + p(0) / 2) / 4, rel=1e-5)
    assert row["insertion"] == pytest.approx((p(0) / 2 + p(4) + p(7) + p(9) + p(10) / 2) / 4, rel=1e-5)


def test_what_the_first_events_are_needed_for_and_what_they_do_alone(towered):
    # 1, 5, 10 and 20 % of four events are one, 50 % are two
    row = one(towered)
    assert row["comprehensiveness"] == pytest.approx(p(10) - (4 * p(6) + p(3)) / 5, rel=1e-5)
    assert row["sufficiency"] == pytest.approx(p(10) - (4 * p(4) + p(7)) / 5, rel=1e-5)


def test_a_worse_order_measures_worse(towered):
    # the last event first: b, d, a, c leave 10, 7, 6, 2, 0; smallest first c, a, d, b leave 10, 8, 4, 3, 0
    row = one(towered, "recency")
    assert row[["pos_at_1", "pos_at_2", "neg_at_1", "neg_at_2"]].tolist() == [2 / 4, 2 / 4, 1 / 4, 3 / 4]
    assert row["comprehensiveness"] == pytest.approx(p(10) - (4 * p(7) + p(6)) / 5, rel=1e-5)
    assert row["sufficiency"] == pytest.approx(p(10) - (4 * p(3) + p(4)) / 5, rel=1e-5)


def test_attributions_are_compared_with_leave_one_out(towered):
    # leave-one-out of c, a, d, b: 2, 4, 1, 3; recency 1, 2, 3, 4: pairs ca + cd - cb + ad - ab - db +
    assert one(towered)["tau"] == 1
    assert one(towered, "recency")["tau"] == (3 - 3) / 6


def test_without_the_filter_what_was_seen_competes(tower, ann):
    measured = measure(tower, ann, np.array([0]), methods=["contribution"], filter_viewed=False, n_bins=4)
    assert one(measured)["item_id"] == "a"
    assert one(measured)["pos_at_1"] == 1, "nothing adds to it, nothing takes from it"


def test_an_event_that_is_there_twice_is_two_events(make_histories):
    # 2 + 2 + 1 against 1.5: without both of a, 1 is left, with one of them 3
    model = sums(4, {(1, 3): 2, (2, 3): 1}, {4: 1.5})
    histories = make_histories({"ann": "aba", "bob": "abcd"})
    measured = measure(model, histories, np.array([0]), methods=["contribution"], ks=(1,), n_bins=3)
    assert one(measured)["n_events"] == 3
    assert of(measured.curves, "contribution")["score_change"][:4].tolist() == [0, -2, -4, -5]
    assert one(measured)["pos_at_1"] == 1 / 3


def test_an_item_that_equals_others_is_not_below_them(make_histories):
    model = sums(4, {(1, 3): 1}, {})
    measured = measure(model, make_histories({"ann": "ab", "bob": "abcd"}), np.array([0]), methods=["contribution"])
    assert of(measured.curves, "contribution")["rank"].tolist() == [1] * 33


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [0] + [1] * 10), (3, [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]), (20, [*range(0, 21, 2)]), (25, None)],
)
def test_steps_of_a_short_history_take_at_least_their_share(n, expected):
    found = n_moved(torch.tensor([n]), range(11), 10)[0].tolist()
    assert found == (expected or [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25])


def test_bins_of_a_percentage_hold_one_event_at_least():
    found = n_moved(torch.tensor([2, 100, 150]), PERCENT, 100).tolist()
    assert found == [[1, 1, 1, 1, 1], [1, 5, 10, 20, 50], [2, 8, 15, 30, 75]]


# --- orders and controls


def test_an_attribution_turned_round_swaps_largest_and_smallest_first(tower, ann, monkeypatch):
    as_method(monkeypatch, "turned", lambda *given, seed: -METHODS["contribution"].function(*given))
    measured = measure(tower, ann, np.array([0]), methods=["contribution", "turned"], ks=(1, 2), n_bins=4)
    ahead, turned = one(measured), one(measured, "turned")
    for k in (1, 2):
        assert (turned[f"pos_at_{k}"], turned[f"neg_at_{k}"]) == (ahead[f"neg_at_{k}"], ahead[f"pos_at_{k}"])
    assert turned["tau"] == -1


@pytest.fixture(scope="module")
def crowd():
    """600 users of five events each; what one of thirty items adds to any other is drawn."""
    random = np.random.default_rng(0)
    rows = [(user, item, t) for user in range(600) for t, item in enumerate(random.choice(30, 5, replace=False))]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    table = torch.from_numpy(random.normal(size=(31, 31))).float()
    return Sums(table, torch.zeros(31)), histories


def test_an_attribution_that_says_nothing_is_as_good_as_chance(crowd, monkeypatch):
    as_method(monkeypatch, "nothing", lambda model, batch, items, seed: batch.real[..., None] * torch.ones(1, 1))
    methods = ["contribution", "nothing", "random"]
    measured = measure(*crowd, np.arange(600), methods=methods, n_bins=5)
    nothing, random = (of(measured.per_user, name) for name in methods[1:])
    for name in measured.metrics:
        differences = nothing[name] - random[name]
        assert name == "tau" or abs(differences.mean()) <= 3.5 * differences.std() / 600**0.5, name
    assert not np.allclose(nothing["pos_at_5"], random["pos_at_5"]), "draws of their own"
    assert nothing["tau"].isna().all()


def test_the_terms_of_a_sum_are_better_reasons_than_any_control(crowd):
    summary = measure(*crowd, np.arange(600), methods=["contribution", "random", "recency", "popularity"]).summary()
    own, controls = summary.iloc[0], summary.iloc[1:]
    for name in ("pos_at_1", "pos_at_5", "deletion", "sufficiency"):
        assert (own[name] < controls[name] - 0.02).all(), name
    for name in ("neg_at_1", "neg_at_5", "insertion", "comprehensiveness", "tau"):
        assert (own[name] > controls[name] + 0.02).all(), name


def test_where_scores_are_plain_sums_effects_and_contributions_are_one_order(checkerboard):
    model = build_model(model_config("item_knn", {"shrinkage": 0.0}), 12)
    model.observe(checkerboard.histories)
    measured = measure(
        model, checkerboard.histories, checkerboard.users, methods=["contribution", "leave_one_out", "random"]
    )
    own, effect = of(measured.per_user, "contribution"), of(measured.per_user, "leave_one_out")
    known = own["tau"].notna()  # five events that all add the same have no order
    assert known.equals(effect["tau"].notna())
    assert own["tau"][known].tolist() == pytest.approx([1] * known.sum())
    assert effect.drop(columns="method").equals(own.drop(columns="method"))


# --- every kind of model


@pytest.fixture(scope="module")
def log(make_histories):
    worlds = {"ann": "abcdef", "bob": "ghijkl", "cid": "acegikbdfh", "dan": "abgh", "eve": "ll", "fay": "bdf"}
    return make_histories(worlds | {"gus": "aaab", "hal": "c", "ida": "lkjihgfed"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """A model with large random weights, or counts of the log: nothing is small by training."""

    def make(name: str, **settings):
        settings = KINDS[name] | settings
        model = build_model(model_config(settings.pop("kind", name), settings), 12)
        return with_random_weights(model, log)

    return make


ALL = np.arange(9)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_measured(name, model_of, log):
    model = model_of(name)
    measured = measure(model, log, ALL, n_permutations=2)
    able = [method for method in DEFAULT_METHODS if METHODS[method].works_for(model)]
    assert measured.methods == able
    assert [*measured.skipped_methods] == [method for method in DEFAULT_METHODS if method not in able]
    assert of(measured.per_user, "random")["user_id"].tolist() == [
        "ann",
        "bob",
        "cid",
        "dan",
        "eve",
        "fay",
        "gus",
        "ida",
    ]
    assert measured.skipped_users == {"fewer than 2 events": 1, "nothing to recommend": 0}
    values = measured.per_user[measured.metrics].drop(columns=["tau", "stability"])
    assert np.isfinite(values).all(axis=None)
    assert values.drop(columns=["comprehensiveness", "sufficiency"]).stack().between(0, 1).all()
    ends = measured.curves[measured.curves["share"].isin([0, 1])]
    same = ["probability", "score_change", "rank", "in_top_1", "in_top_5", "in_top_10"]
    for (curve, share), rows in ends.groupby(["curve", "share"]):
        assert np.ptp(rows[same].to_numpy(), axis=0).tolist() == [0] * 6, "full and empty are the same for all methods"
        if (curve == "insertion") == (share == 1):
            assert rows[["score_change", "rank", "in_top_1"]].iloc[0].tolist() == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("name", ["attnrec", "attnrec_older", "item_knn", "sasrec"])
def test_users_are_measured_alike_together_and_alone(name, model_of, log, monkeypatch):
    model, given = model_of(name), {"n_permutations": 2, "counts": torch.arange(13)}
    together = measure(model, log, ALL, **given)
    monkeypatch.setattr(explained, "BATCH_SIZE", 1)
    monkeypatch.setattr(outcomes, "POSITIONS", 1)
    alone = measure(model, log, ALL, **given)
    backwards = measure(model, log, ALL[::-1].copy(), **given)
    for table in ("per_user", "permutation", "curves"):
        one_by_one, all_at_once = getattr(alone, table), getattr(together, table)
        pd.testing.assert_frame_equal(one_by_one, all_at_once, rtol=1e-3, atol=1e-4)
    expected = together.per_user[::-1].set_index(["method", "user_id"]).sort_index()
    found = backwards.per_user.set_index(["method", "user_id"]).sort_index()
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_and_another_does_not(model_of, log):
    model, methods = model_of("attnrec"), ["contribution", "random", "shapley", "popularity"]
    first, again, other = (measure(model, log, ALL, methods=methods, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.per_user, again.per_user, check_exact=True)
    pd.testing.assert_frame_equal(first.permutation, again.permutation, check_exact=True)
    for method in ("random", "shapley"):
        assert not of(first.per_user, method).equals(of(other.per_user, method))
    curves = ["pos_at_1", "deletion", "insertion"]
    assert of(first.per_user, "contribution")[curves].equals(of(other.per_user, "contribution")[curves])
    assert not first.permutation.equals(other.permutation)


def test_events_out_of_the_window_are_no_reasons_but_stay_seen(tower, make_histories):
    # the window is d, b: the last two; a, c are neither taken out nor recommended
    tower.max_length = 2
    measured = measure(tower, make_histories({"ann": "cadb", "bob": "abcdefg"}), np.array([0]), methods=["contribution"])
    row = one(measured)
    assert row[["item_id", "n_events"]].tolist() == ["f", 2]
    assert of(measured.curves, "contribution")["rank"].max() == 1


# --- what is scored, and how often


def explained_of(model, histories, item: int) -> Explained:
    batch = last_events(histories, np.array([0]), max_length=20)
    return Explained(np.array([0]), batch, torch.tensor([item]), model.rankable[None])


def test_each_shortened_history_is_scored_once(tower, ann):
    removed = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    found = outcomes.outcomes_without(tower, explained_of(tower, ann, 5), removed[None])
    assert tower.n_read == 3
    assert found.scores.tolist() == [[10, 8, 10, 0, 8]]
    assert found.ranks.tolist() == [[2, 2, 2, 4, 2]]  # a is above; at 0 also f and g, not b, c and d, its equals


def test_methods_share_what_they_have_in_common(tower, ann, monkeypatch):
    as_method(monkeypatch, "twin", METHODS["contribution"].function)
    n_read = []
    for methods in (["contribution"], ["contribution", "twin"], ["contribution", "random"]):
        tower.n_read = 0
        measure(tower, ann, np.array([0]), methods=methods, n_bins=4)
        n_read.append(tower.n_read)
    assert n_read[1] - n_read[0] == 2, "its contributions, read once with the full and once with the shorter history"
    assert 0 < n_read[2] - n_read[0] <= 6, "three sets of the largest and three of the smallest, but for those there"


def test_chunks_change_nothing(model_of, log, monkeypatch):
    model = model_of("attnrec")
    whole = measure(model, log, ALL, methods=["contribution", "random"]).per_user
    monkeypatch.setattr(outcomes, "SCORES", 13 * 3)
    pd.testing.assert_frame_equal(
        measure(model, log, ALL, methods=["contribution", "random"]).per_user, whole, rtol=1e-3
    )


# --- what cannot be measured


def test_users_who_cannot_be_measured_are_counted(tower, make_histories):
    histories = make_histories({"ann": "cadb", "bob": "abcdefg", "cid": "a", "dan": "ab"})
    seen = histories.up_to(np.array([4, 7, 1, 0]))
    measured = measure(tower, seen, np.arange(4), methods=["contribution"], counts=torch.zeros(8))
    assert measured.per_user["user_id"].tolist() == ["ann"]
    assert measured.skipped_users == {"fewer than 2 events": 2, "nothing to recommend": 1}
    with pytest.raises(ValueError, match="got 2 with fewer than 2 events and 1 with nothing to recommend; take others"):
        measure(tower, seen, np.array([1, 2, 3]), methods=["contribution"])
    tower.max_length = 1
    with pytest.raises(ValueError, match="got 4 with fewer than 2 events"):
        measure(tower, seen, np.arange(4), methods=["contribution"])
    with pytest.raises(ValueError, match="got 0 with fewer"):
        measure(tower, seen, np.zeros(0, dtype=np.int64), methods=["contribution"])


def test_progress_is_told(model_of, log, monkeypatch):
    monkeypatch.setattr(explained, "BATCH_SIZE", 3)
    told = []
    measure(model_of("item_knn"), log, ALL, methods=["recency"], on_batch=told.append)
    assert told == [3, 3, 2]


def test_bad_questions_are_refused(tower, ann):
    users = np.array([0])
    with pytest.raises(ValueError, match=r"must be of contribution, .*got \['magic'\]"):
        measure(tower, ann, users, methods=["contribution", "magic"])
    with pytest.raises(ValueError, match=r"needs a method that sums can do, got .*weight"):
        measure(tower, ann, users, methods=["weight", "value_norm"])
    for bad in ({"ks": ()}, {"ks": (0,)}, {"n_bins": 0}, {"n_permutations": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            measure(tower, ann, users, **bad)
    for rows in ([0, 0], [0, 2], [-1]):
        with pytest.raises(ValueError, match="users must be rows from 0 to 1, each once"):
            measure(tower, ann, np.array(rows))
    with pytest.raises(ValueError, match=r"item rows, \(8,\), got \(7,\)"):
        measure(tower, ann, users, counts=torch.zeros(7))


def test_popularity_counts_the_log_where_no_counts_are_given(tower, ann):
    # all of a, b, c, d occur twice: an order by chance; with counts, d is the most popular
    counts = torch.tensor([0, 1, 2, 3, 9, 0, 0, 0])
    row = one(measure(tower, ann, np.array([0]), methods=["popularity"], counts=counts, n_bins=4), "popularity")
    assert row["tau"] == pytest.approx(-1)
    assert np.isnan(one(measure(tower, ann, np.array([0]), methods=["popularity"]), "popularity")["tau"])


def test_a_method_is_asked_once_however_often_it_is_named(tower, ann):
    measured = measure(tower, ann, np.array([0]), methods=["recency", "random", "recency"])
    assert measured.methods == ["recency", "random"]
    assert replace(measured, skipped_methods={}).methods == measured.methods
