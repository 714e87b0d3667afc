"""Parts of the faithfulness measurement: orders with ties, Kendall's tau, stability, permutation test of attention."""

from math import comb

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from attnrec.attribution import METHODS
from attnrec.attribution.method import Method
from attnrec.dataset import histories_from_frame
from attnrec.faithfulness import kendall_tau, measure, permutation_test
from attnrec.faithfulness.orders import LEVELS, TIES, MethodOptions, attribution_levels, random_numbers, rank_events
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "max_length": 8, "pooling_heads": 2}
WITH_READOUT_WEIGHTS = {
    "attnrec": SMALL,
    "attnrec_with_projection": SMALL | {"kind": "attnrec", "pooling_projection": True},
    "attnrec_with_memory": SMALL | {"kind": "attnrec", "memory_events": 4, "memory_block": 2},
    "core": SMALL,
    "gat": {"dim": 16, "max_length": 8, "pooling_heads": 2, "heads": 2},
}


@pytest.fixture(scope="module")
def log(make_histories):
    return make_histories({"ann": "abcdef", "bob": "ghijkl", "cid": "acegik", "dan": "abgh", "eve": "ll", "fay": "bdf"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """Return a model with large random weights."""

    def make(name: str, settings: dict | None = None):
        settings = dict(WITH_READOUT_WEIGHTS.get(name, SMALL) if settings is None else settings)
        model = build_model(model_config(settings.pop("kind", name), settings), 12)
        return with_random_weights(model, log)

    return make


def top_items_of(model, batch) -> TopItems:
    """Explain item 12 for every user; all items except padding are recommendable."""
    n = len(batch.items)
    return TopItems(np.arange(n), batch, torch.full((n,), 12), model.rankable.expand(n, -1))


def rows(*lists) -> torch.Tensor:
    return torch.tensor([*lists])


# --- orders


def test_events_are_ranked_from_the_largest_with_padding_last():
    levels, tie_breakers = rows([3, -5, 7, 0, 0], [1, 2, 0, 0, 0]), torch.zeros(2, 5).double()
    real = rows([1, 1, 1, 1, 0], [1, 1, 0, 0, 0]).bool()
    assert rank_events(levels, tie_breakers, real=real)[0].tolist() == [1, 3, 0, 2, 4]
    assert rank_events(levels, tie_breakers, real=real)[1, :2].tolist() == [1, 0]


def test_tie_breakers_order_ties_only():
    levels, tie_breakers = rows([5, 5, 9, 5]), rows([0.9, 0.1, 0.5, 0.3])
    assert rank_events(levels, tie_breakers, real=rows([1, 1, 1, 1]).bool()).tolist() == [[3, 1, 0, 2]]


def test_ties_are_broken_uniformly_at_random(make_batch):
    batch, items = make_batch(*[[1, 2, 3]] * 900), torch.full((900,), 4)
    tie_breakers = torch.cat(
        [random_numbers(batch.slice(0, 1), items[:1], seed=seed, purpose=TIES) for seed in range(900)]
    )
    first = rank_events(torch.zeros(900, 3).long(), tie_breakers, real=batch.real).argmin(1)
    assert first.bincount().tolist() == pytest.approx([300] * 3, abs=50)


def test_random_numbers_depend_on_seed_history_item_and_purpose(make_batch):
    batch, items = make_batch([1, 2, 3], [3, 2, 1], [1, 2, 3], length=6), torch.tensor([4, 4, 5])
    result = random_numbers(batch, items, seed=1, purpose=TIES)
    assert torch.equal(random_numbers(make_batch([1, 2, 3]), items[:1], seed=1, purpose=TIES)[0], result[0, :3])
    assert (result[:, 3:] == 0).all()
    others = [
        result[1],
        result[2],
        *(random_numbers(batch, items, seed=s, purpose=p)[0] for s, p in ((2, TIES), (1, TIES + 1))),
    ]
    assert not any(torch.equal(result[0], other) for other in others)


def test_values_that_differ_by_rounding_errors_are_ties(monkeypatch, make_batch, model_of):
    values = torch.tensor([[2.0, 2.0 + 1e-6, -1.0, 1.999], [0.0, 0.0, 0.0, 0.0]])
    monkeypatch.setitem(METHODS, "fixed", Method(lambda *_, seed: values[..., None], source="this test"))
    batch = make_batch([1, 2, 3, 4], [1])
    result = attribution_levels(
        model_of("attnrec"), batch, torch.tensor([5, 5]), method="fixed", options=MethodOptions()
    )
    assert result.tolist() == [[LEVELS, LEVELS, -LEVELS / 2, 0.9995 * LEVELS], [0] * 4]


# --- Kendall's tau


def test_tau_equals_scipy_with_ties():
    random = np.random.default_rng(1)
    first, second = (torch.from_numpy(random.integers(0, top, (40, 12))) for top in (6, 30))
    lengths = torch.from_numpy(random.integers(4, 13, 40))
    result = kendall_tau(first, second, real=torch.arange(12) < lengths[:, None])
    assert result.dtype == torch.float64
    expected = [kendalltau(x[:n], y[:n]).statistic for x, y, n in zip(first, second, lengths, strict=True)]
    assert result.tolist() == pytest.approx(expected)


def test_tau_of_short_orders():
    # two of three pairs are concordant; with a tie of the first two on one side: 2 / sqrt(2 * 3)
    result = kendall_tau(rows([1, 2, 3], [1, 1, 3]), rows([2, 1, 3], [1, 2, 3]), real=torch.ones(2, 3).bool())
    assert result.tolist() == pytest.approx([(2 - 1) / 3, 2 / 6**0.5])


def test_tau_is_nan_if_all_values_of_a_side_are_tied():
    result = kendall_tau(rows([1, 1, 9], [1, 2, 9], [1, 9, 9]), rows([1, 2, 9], [3, 3, 9], [1, 9, 9]), real=rows(
        [1, 1, 0], [1, 1, 0], [1, 0, 0]).bool())  # fmt: skip
    assert result.isnan().all()


# --- stability


@pytest.fixture
def users_of():
    """Return histories of n users with random items out of 40, or with one repeated `item`."""

    def make(n_users: int, n_events: int, item: int | None = None):
        random = np.random.default_rng(2)
        histories = [
            random.choice(40, n_events, replace=False) if item is None else [item] * n_events for _ in range(n_users)
        ]
        frame = [(user, i, t) for user, items in enumerate(histories) for t, i in enumerate(items)]
        frame += [("all", i, i) for i in range(40)]
        return histories_from_frame(pd.DataFrame(frame, columns=["user_id", "item_id", "datetime"]))

    return make


def stability_of(histories, method: str, n_users: int) -> pd.Series:
    model = build_model(model_config("popularity", {}), 40)
    model.observe(histories)
    return measure(model, histories, np.arange(n_users), methods=[method]).per_user["stability"]


@pytest.fixture
def reversing(monkeypatch):
    """Register a method that ranks the first event highest for six events, and the last one for fewer."""
    shorter_histories = []

    def reverse(model, batch, items, *, seed):
        shorter_histories.append(batch.items[batch.lengths < 6])
        descending = torch.arange(batch.items.shape[1], 0, -1)[None] * batch.real
        return torch.where(batch.lengths[:, None] == 6, descending, -descending)[..., None].float()

    monkeypatch.setitem(METHODS, "reversing", Method(reverse, source="this test"))
    return shorter_histories


@pytest.mark.parametrize("item", [None, 7])
def test_stability_of_a_method_that_reverses_its_order(item, users_of, reversing):
    # of the five remaining events, three are in the top 3 before and three after; one is in both
    result = stability_of(users_of(20, 6, item), "reversing", 20)
    assert result.tolist() == pytest.approx([1 / 5] * 20)


def test_every_event_except_the_first_ranked_can_be_removed(users_of, reversing):
    histories = users_of(60, 6)
    stability_of(histories, "reversing", 60)
    remaining = next(batch for batch in reversing if len(batch))[:, :5]
    removed = {}
    for shorter in torch.cat([batch[:, :5] for batch in reversing if len(batch)]).tolist():
        (user,) = (u for u in range(60) if set(shorter) <= {*histories.items_of(u).tolist()})
        (position,) = (at for at, i in enumerate(histories.items_of(user).tolist()) if i not in shorter)
        removed[user] = position
    assert remaining.shape[1] == 5
    assert len(removed) == 60
    assert set(removed.values()) == {1, 2, 3, 4, 5}


def test_a_method_that_does_not_depend_on_other_events_is_stable(users_of):
    assert stability_of(users_of(20, 8), "recency", 20).tolist() == [1.0] * 20


def test_stability_of_random_orders(users_of):
    # two random sets of 3 out of 10: the intersection x is hypergeometric, the union is 6 - x
    probabilities = [comb(3, x) * comb(7, 3 - x) / comb(10, 3) for x in range(4)]
    expected = sum(p * x / (6 - x) for x, p in enumerate(probabilities))
    assert stability_of(users_of(400, 11), "random", 400).mean() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("n_events", "defined"), [(2, False), (4, False), (5, True)])
def test_stability_of_short_histories_is_nan(n_events, defined, users_of):
    assert stability_of(users_of(3, n_events), "random", 3).notna().tolist() == [defined] * 3


# --- the permutation test


def with_uniform_attention(model):
    """Set the attention weights of the readout to be uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pooling.query" in name or name.endswith("readout.logits.weight") or name.startswith("pooling.logits.2"):
                parameter.zero_()
    return model


@pytest.mark.parametrize("name", WITH_READOUT_WEIGHTS)
def test_uniform_attention_is_interchangeable(name, model_of, make_batch):
    model = with_uniform_attention(model_of(name))
    result = permutation_test(model, top_items_of(model, make_batch([1, 2, 3, 4], [5, 6])))
    assert result is not None
    assert result[0].tolist() == pytest.approx([1 / 4, 1 / 2])
    assert result[1].tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["attnrec", "attnrec_with_projection"])
def test_distance_of_swapped_weights_of_two_events(name, model_of, make_batch):
    # the weights of each head are swapped, the heads are concatenated, then projected where the model has a projection
    model, batch = model_of(name), make_batch([1, 2])
    top_items, readout = top_items_of(model, batch), model.readout
    with torch.no_grad():
        vectors = model.item_vectors()[batch.items]
        values = readout.values(vectors)[0].view(2, 2, 8)  # events, heads, channels
        weights = readout.weights(model.states(vectors, batch, model.item_vectors()), lengths=batch.lengths)[0]
        swapped = torch.cat([weights[h, 1] * values[0, h] + weights[h, 0] * values[1, h] for h in range(2)])
        encoded = model.encode(batch)
        before = encoded.scores()[0, 1:].softmax(0)
        encoded.users[0] = readout.pooling.project_out(swapped)
        expected = (encoded.scores()[0, 1:].softmax(0) - before).abs().sum().item() / 2
    assert expected > 0.01
    result = [permutation_test(model, top_items, seed=seed, n_permutations=1)[1].item() for seed in range(8)]
    assert {round(value, 5) for value in result} == {0.0, round(expected, 5)}
    # about half of a hundred permutations are swaps: the median is that of the more frequent ones, or the mean of both
    for seed in range(5):
        median = permutation_test(model, top_items, seed=seed)[1].item()
        assert min(abs(median - factor * expected) for factor in (0, 1 / 2, 1)) < 1e-5


@pytest.mark.parametrize("name", WITH_READOUT_WEIGHTS)
def test_attention_to_one_repeated_item_is_interchangeable(name, model_of, make_batch):
    # values depend on the item alone, so the user vector does not depend on the weights
    model = model_of(name)
    result = permutation_test(model, top_items_of(model, make_batch([3, 3, 3, 3])))
    assert result is not None
    assert result[1].item() == pytest.approx(0, abs=1e-6)


def test_largest_weight_and_median_distance_are_reproducible(model_of, make_batch):
    model = model_of("attnrec")
    top_items = top_items_of(model, make_batch([1, 2, 3, 4, 5], [6, 7, 8]))
    largest, median = permutation_test(model, top_items, seed=1)
    assert torch.equal(largest, model.encode(top_items.batch).weights.amax(1))
    again = permutation_test(model, top_items, seed=1)[1]
    assert torch.equal(again, median)
    assert not torch.equal(permutation_test(model, top_items, seed=2)[1], median)
    alone = permutation_test(model, top_items_of(model, make_batch([6, 7, 8])), seed=1)[1]
    torch.testing.assert_close(alone, median[1:], rtol=1e-4, atol=1e-6)


def test_distance_is_over_recommendable_items(model_of, make_batch):
    model, batch = model_of("attnrec"), make_batch([1, 2, 3, 4])
    only = torch.arange(13)[None] == 12
    result = permutation_test(model, TopItems(np.arange(1), batch, torch.tensor([12]), only))
    assert result is not None
    assert result[1].item() == 0, "a single recommendable item has probability 1 for all weights"


def test_models_without_readout_weights_have_no_permutation_test(model_of, make_batch):
    for name, settings in {"sasrec": SMALL, "narm": SMALL, "item_knn": {}}.items():
        model = model_of(name, settings)
        assert permutation_test(model, top_items_of(model, make_batch([1, 2]))) is None


def test_interchangeable_share_of_users(model_of, log):
    model = model_of("attnrec")
    measured = measure(model, log, np.arange(6), methods=["recency"])
    distances = measured.permutation["median_distance"]
    assert measured.permutation["user_id"].tolist() == ["ann", "bob", "cid", "dan", "eve", "fay"]
    assert measured.permutation["n_events"].tolist() == [6, 6, 6, 4, 2, 3]
    assert distances[4] == pytest.approx(0, abs=1e-6), "both events of eve are of one item"
    assert measured.interchangeable_share == (distances < 0.05).mean()
    assert 0 < measured.interchangeable_share < 1
    none = measure(model_of("sasrec"), log, np.arange(6), methods=["recency"])
    assert none.permutation.empty
    assert np.isnan(none.interchangeable_share)
