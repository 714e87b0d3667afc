"""Parts of faithfulness: orders under ties, Kendall's tau, stability, and the permutation test of attention."""

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
from attnrec.faithfulness.orders import LEVELS, TIES, Given, drawn, levels, places
from attnrec.faithfulness.top_items import Explained
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "max_length": 8, "pooling_heads": 2}
WEIGHED = {
    "attnrec": SMALL,
    "attnrec_mixed": SMALL | {"kind": "attnrec", "pooling_projection": True},
    "attnrec_older": SMALL | {"kind": "attnrec", "memory_events": 4, "memory_block": 2},
    "core": SMALL,
    "gat": {"dim": 16, "max_length": 8, "pooling_heads": 2, "heads": 2},
}


@pytest.fixture(scope="module")
def log(make_histories):
    return make_histories({"ann": "abcdef", "bob": "ghijkl", "cid": "acegik", "dan": "abgh", "eve": "ll", "fay": "bdf"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """With large random weights."""

    def make(name: str, settings: dict | None = None):
        settings = dict(WEIGHED.get(name, SMALL) if settings is None else settings)
        model = build_model(model_config(settings.pop("kind", name), settings), 12)
        return with_random_weights(model, log)

    return make


def explained_of(model, batch) -> Explained:
    """Item 12 for everyone, all items but padding as competitors."""
    n = len(batch.items)
    return Explained(np.arange(n), batch, torch.full((n,), 12), model.rankable.expand(n, -1))


def rows(*lists) -> torch.Tensor:
    return torch.tensor([*lists])


# --- orders


def test_the_largest_is_the_first_and_padding_the_last():
    found, chance = rows([3, -5, 7, 0, 0], [1, 2, 0, 0, 0]), torch.zeros(2, 5).double()
    real = rows([1, 1, 1, 1, 0], [1, 1, 0, 0, 0]).bool()
    assert places(found, chance, real=real)[0].tolist() == [1, 3, 0, 2, 4]
    assert places(found, chance, real=real)[1, :2].tolist() == [1, 0]


def test_chance_orders_equals_and_nothing_else():
    found, chance = rows([5, 5, 9, 5]), rows([0.9, 0.1, 0.5, 0.3])
    assert places(found, chance, real=rows([1, 1, 1, 1]).bool()).tolist() == [[3, 1, 0, 2]]


def test_equals_come_first_equally_often(make_batch):
    batch, items = make_batch(*[[1, 2, 3]] * 900), torch.full((900,), 4)
    chance = torch.cat([drawn(batch.slice(0, 1), items[:1], seed=seed, purpose=TIES) for seed in range(900)])
    first = places(torch.zeros(900, 3).long(), chance, real=batch.real).argmin(1)
    assert first.bincount().tolist() == pytest.approx([300] * 3, abs=50)


def test_draws_follow_the_seed_the_history_the_item_and_the_purpose(make_batch):
    batch, items = make_batch([1, 2, 3], [3, 2, 1], [1, 2, 3], length=6), torch.tensor([4, 4, 5])
    found = drawn(batch, items, seed=1, purpose=TIES)
    assert torch.equal(drawn(make_batch([1, 2, 3]), items[:1], seed=1, purpose=TIES)[0], found[0, :3])
    assert (found[:, 3:] == 0).all()
    others = [found[1], found[2], *(drawn(batch, items, seed=s, purpose=p)[0] for s, p in ((2, TIES), (1, TIES + 1)))]
    assert not any(torch.equal(found[0], other) for other in others)


def test_values_that_differ_by_rounding_are_one_level(monkeypatch, make_batch, model_of):
    values = torch.tensor([[2.0, 2.0 + 1e-6, -1.0, 1.999], [0.0, 0.0, 0.0, 0.0]])
    monkeypatch.setitem(METHODS, "given", Method(lambda *_, seed: values[..., None], source="this test"))
    batch = make_batch([1, 2, 3, 4], [1])
    found = levels(model_of("attnrec"), batch, torch.tensor([5, 5]), method="given", given=Given())
    assert found.tolist() == [[LEVELS, LEVELS, -LEVELS / 2, 0.9995 * LEVELS], [0] * 4]


# --- Kendall's tau


def test_tau_is_that_of_scipy_ties_and_all():
    random = np.random.default_rng(1)
    one, other = (torch.from_numpy(random.integers(0, top, (40, 12))) for top in (6, 30))
    lengths = torch.from_numpy(random.integers(4, 13, 40))
    found = kendall_tau(one, other, real=torch.arange(12) < lengths[:, None])
    assert found.dtype == torch.float64
    expected = [kendalltau(x[:n], y[:n]).statistic for x, y, n in zip(one, other, lengths, strict=True)]
    assert found.tolist() == pytest.approx(expected)


def test_tau_of_orders_by_hand():
    # of three pairs two are alike; where one side ties the first two, 2 of sqrt(2 * 3)
    found = kendall_tau(rows([1, 2, 3], [1, 1, 3]), rows([2, 1, 3], [1, 2, 3]), real=torch.ones(2, 3).bool())
    assert found.tolist() == pytest.approx([(2 - 1) / 3, 2 / 6**0.5])


def test_a_side_without_order_has_no_tau():
    found = kendall_tau(rows([1, 1, 9], [1, 2, 9], [1, 9, 9]), rows([1, 2, 9], [3, 3, 9], [1, 9, 9]), real=rows(
        [1, 1, 0], [1, 1, 0], [1, 0, 0]).bool())  # fmt: skip
    assert found.isnan().all()


# --- stability


@pytest.fixture
def users_of():
    """Histories of n users, each with so many of 40 items, drawn; `item` for all where it is given."""

    def make(n_users: int, n_events: int, item: int | None = None):
        random = np.random.default_rng(2)
        drawn_items = [
            random.choice(40, n_events, replace=False) if item is None else [item] * n_events for _ in range(n_users)
        ]
        frame = [(user, i, t) for user, items in enumerate(drawn_items) for t, i in enumerate(items)]
        frame += [("all", i, i) for i in range(40)]
        return histories_from_frame(pd.DataFrame(frame, columns=["user_id", "item_id", "datetime"]))

    return make


def stability_of(histories, method: str, n_users: int) -> pd.Series:
    model = build_model(model_config("popularity", {}), 40)
    model.observe(histories)
    return measure(model, histories, np.arange(n_users), methods=[method]).per_user["stability"]


@pytest.fixture
def turning(monkeypatch):
    """A method: the first event is the first reason of six events, and the last one is of fewer."""
    asked = []

    def turn(model, batch, items, *, seed):
        asked.append(batch.items[batch.lengths < 6])
        ahead = torch.arange(batch.items.shape[1], 0, -1)[None] * batch.real
        return torch.where(batch.lengths[:, None] == 6, ahead, -ahead)[..., None].float()

    monkeypatch.setitem(METHODS, "turning", Method(turn, source="this test"))
    return asked


@pytest.mark.parametrize("item", [None, 7])
def test_overlap_of_reasons_that_turn_round(item, users_of, turning):
    # five events are left: the first three in the order before, the last three in the order after, one of five is both
    found = stability_of(users_of(20, 6, item), "turning", 20)
    assert found.tolist() == pytest.approx([1 / 5] * 20)


def test_the_first_reason_is_never_taken_out_and_every_other_is(users_of, turning):
    histories = users_of(60, 6)
    stability_of(histories, "turning", 60)
    left = next(batch for batch in turning if len(batch))[:, :5]
    gone = {}
    for shorter in torch.cat([batch[:, :5] for batch in turning if len(batch)]).tolist():
        (user,) = (u for u in range(60) if set(shorter) <= {*histories.items_of(u).tolist()})
        (place,) = (at for at, i in enumerate(histories.items_of(user).tolist()) if i not in shorter)
        gone[user] = place
    assert left.shape[1] == 5
    assert len(gone) == 60
    assert set(gone.values()) == {1, 2, 3, 4, 5}


def test_reasons_of_events_by_themselves_are_stable(users_of):
    assert stability_of(users_of(20, 8), "recency", 20).tolist() == [1.0] * 20


def test_reasons_by_chance_overlap_by_chance(users_of):
    # 3 of 10 twice: x are in both with the hypergeometric chance, and 6 - x in either
    chance = [comb(3, x) * comb(7, 3 - x) / comb(10, 3) for x in range(4)]
    expected = sum(share * x / (6 - x) for x, share in enumerate(chance))
    assert stability_of(users_of(400, 11), "random", 400).mean() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("n_events", "known"), [(2, False), (4, False), (5, True)])
def test_short_histories_have_no_stability(n_events, known, users_of):
    assert stability_of(users_of(3, n_events), "random", 3).notna().tolist() == [known] * 3


# --- the permutation test


def even(model):
    """All attention to all events alike."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pooling.query" in name or name.endswith("readout.energy.weight") or name.startswith("pooling.energy.2"):
                parameter.zero_()
    return model


@pytest.mark.parametrize("name", WEIGHED)
def test_even_attention_may_be_dealt_out_anew(name, model_of, make_batch):
    model = even(model_of(name))
    found = permutation_test(model, explained_of(model, make_batch([1, 2, 3, 4], [5, 6])))
    assert found is not None
    assert found[0].tolist() == pytest.approx([1 / 4, 1 / 2])
    assert found[1].tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["attnrec", "attnrec_mixed"])
def test_two_events_that_change_their_weights(name, model_of, make_batch):
    # by hand: each head's share of the one goes to the other, the heads are joined, then mixed where they are
    model, batch = model_of(name), make_batch([1, 2])
    explained, readout = explained_of(model, batch), model.readout
    with torch.no_grad():
        vectors = model.item_vectors()[batch.items]
        values = readout.values(vectors)[0].view(2, 2, 8)  # events, heads, channels
        shares = readout.weights(model.states(vectors, batch, model.item_vectors()), lengths=batch.lengths)[0]
        swapped = torch.cat([shares[h, 1] * values[0, h] + shares[h, 0] * values[1, h] for h in range(2)])
        encoded = model.encode(batch)
        before = encoded.scores()[0, 1:].softmax(0)
        encoded.users[0] = readout.pooling.project_out(swapped)
        expected = (encoded.scores()[0, 1:].softmax(0) - before).abs().sum().item() / 2
    assert expected > 0.01
    found = [permutation_test(model, explained, seed=seed, n_permutations=1)[1].item() for seed in range(8)]
    assert {round(value, 5) for value in found} == {0.0, round(expected, 5)}
    # of a hundred about half are swaps: the median is that of the more frequent, or between them
    for seed in range(5):
        median = permutation_test(model, explained, seed=seed)[1].item()
        assert min(abs(median - share * expected) for share in (0, 1 / 2, 1)) < 1e-5


@pytest.mark.parametrize("name", WEIGHED)
def test_attention_to_one_item_over_and_over_may_go_anywhere(name, model_of, make_batch):
    # values look at the item alone, so whatever the weights are, the user is the same
    model = model_of(name)
    found = permutation_test(model, explained_of(model, make_batch([3, 3, 3, 3])))
    assert found is not None
    assert found[1].item() == pytest.approx(0, abs=1e-6)


def test_the_median_of_all_permutations(model_of, make_batch):
    model = model_of("attnrec")
    explained = explained_of(model, make_batch([1, 2, 3, 4, 5], [6, 7, 8]))
    largest, median = permutation_test(model, explained, seed=1)
    assert torch.equal(largest, model.encode(explained.batch).weights.amax(1))
    again = permutation_test(model, explained, seed=1)[1]
    assert torch.equal(again, median)
    assert not torch.equal(permutation_test(model, explained, seed=2)[1], median)
    alone = permutation_test(model, explained_of(model, make_batch([6, 7, 8])), seed=1)[1]
    torch.testing.assert_close(alone, median[1:], rtol=1e-4, atol=1e-6)


def test_only_what_can_be_recommended_counts(model_of, make_batch):
    model, batch = model_of("attnrec"), make_batch([1, 2, 3, 4])
    only = torch.arange(13)[None] == 12
    found = permutation_test(model, Explained(np.arange(1), batch, torch.tensor([12]), only))
    assert found is not None
    assert found[1].item() == 0, "one item has all of the probability, whatever the weights"


def test_models_without_weighed_values_have_no_permutations(model_of, make_batch):
    for name, settings in {"sasrec": SMALL, "narm": SMALL, "item_knn": {}}.items():
        model = model_of(name, settings)
        assert permutation_test(model, explained_of(model, make_batch([1, 2]))) is None


def test_the_share_of_users_whose_attention_says_little(model_of, log):
    model = model_of("attnrec")
    measured = measure(model, log, np.arange(6), methods=["recency"])
    distances = measured.permutation["median_distance"]
    assert measured.permutation["user_id"].tolist() == ["ann", "bob", "cid", "dan", "eve", "fay"]
    assert measured.permutation["n_events"].tolist() == [6, 6, 6, 4, 2, 3]
    assert distances[4] == pytest.approx(0, abs=1e-6), "eve did one item twice"
    assert measured.interchangeable_share == (distances < 0.05).mean()
    assert 0 < measured.interchangeable_share < 1
    none = measure(model_of("sasrec"), log, np.arange(6), methods=["recency"])
    assert none.permutation.empty
    assert np.isnan(none.interchangeable_share)
