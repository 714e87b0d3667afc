"""Attribution: one contract for all methods, then each on a world where the answer can be done by hand."""

from dataclasses import replace
from itertools import combinations
from math import exp, factorial

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from attnrec.attribution import METHODS, attribute, remove_events, removal, score_without_events, weigh
from attnrec.attribution.gradients import integrated_gradients
from attnrec.attribution.lime import _samples, closeness, lime
from attnrec.attribution.shapley import shapley
from attnrec.dataset import Batch
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8}
N_ITEMS = 12
SETTINGS = {
    "attnrec": SMALL,
    "attnrec_known": SMALL | {"kind": "attnrec", "time_gaps": True, "event_types": True, "positions": "rotary"},
    "attnrec_older": SMALL | {"kind": "attnrec", "memory_events": 6, "memory_block": 2},
    "sasrec": SMALL,
    "sasrec_memory": SMALL | {"kind": "sasrec", "attention": "memory", "memory_events": 6, "memory_block": 2},
    "bert4rec": SMALL,
    "hstu": SMALL,
    "core": SMALL,
    "narm": SMALL,
    "gru4rec": SMALL,
    "gat": {"dim": 16, "pooling_heads": 2, "heads": 2, "max_length": 8},
    "item_knn": {"max_length": 8, "shrinkage": 0.0},
    "ease": {"max_length": 8, "regularization": 1.0},
    "v_sknn": {"max_length": 8},
    "popularity": {"max_length": 8},
}
COUNTED = {"item_knn", "ease", "v_sknn", "popularity"}
ANYTHING = {"leave_one_out", "shapley", "lime", "random", "recency", "popularity"}
GRADIENTS = {"gradient_x_input", "integrated_gradients"}
COUNTS = torch.arange(N_ITEMS + 1) * 10


@pytest.fixture(scope="module")
def log(make_histories):
    return make_histories({"ann": "abcdef", "bob": "ghijkl", "cid": "acegik", "dan": "abgh", "eve": "ll", "fay": "bdf"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """A model with large random weights, or counts of the log: nothing is small by training."""

    def make(name: str, **settings):
        settings = SETTINGS.get(name, SMALL) | settings
        model = build_model(model_config(settings.pop("kind", name), settings), N_ITEMS)
        return with_random_weights(model, replace(log, events=torch.zeros(len(log.items), dtype=torch.uint8).numpy()))

    return make


@pytest.fixture
def full_batch_of(make_batch):
    """A batch with all columns; each event's time, type and weight follow from its item and its place."""

    def make(*rows: list[int], length: int = 1) -> Batch:
        batch = make_batch(*rows, length=length)
        places = torch.arange(batch.items.shape[1]) + 1
        older = torch.tensor([[3, 1, 2, 0]]).expand(len(rows), -1)
        return replace(
            batch,
            times=(batch.items * 1000 + places * 100_000) * batch.real,
            events=(batch.items % 3 + 1) * batch.real,
            weights=(batch.items / 2 + places) * batch.real,
            memory_items=older,
            memory_lengths=(older > 0).sum(1),
        )

    return make


HISTORIES = [[1, 3, 5, 5], [2], [], [7, 6, 5, 4, 3, 2, 1, 9], [4, 4, 4], [0, 3]]
"""Some, one event, none, as many as are read, a single item over and over, an item that is not in the catalogue."""
ITEMS = torch.tensor([[2, 7, 12], [1, 2, 3], [1, 2, 3], [11, 7, 1], [4, 5, 6], [3, 8, 9]])


def even(model):
    """All attention to all that it may see alike: queries are zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "project_in" in name:
                parameter[: len(parameter) // 3] = 0
            if "pooling.query" in name or name.endswith("readout.energy.weight"):
                parameter.zero_()
    return model


def zero_scores(model, batch, items):
    """What the model gives to vectors of zeros in the places of the history's."""
    with torch.no_grad():
        return model.read_vectors(batch, torch.zeros(*batch.items.shape, 16)).scores(items)


# --- the contract of every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_keeps_the_contract(name, method, model_of, full_batch_of):
    model = model_of(name)
    if not METHODS[method].works_for(model):
        pytest.skip("which methods work for which models is a test of its own")
    batch = full_batch_of(*HISTORIES, length=8)
    found = attribute(model, batch, ITEMS, method=method, seed=3, counts=COUNTS)
    assert found.shape == (6, 8, 3)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.isfinite().all()
    assert (found[~batch.real] == 0).all()
    assert torch.equal(attribute(model, batch, ITEMS, method=method, seed=3, counts=COUNTS), found)
    for user in (0, 2, 5):  # alone, without padding, asked for one item
        history = HISTORIES[user]
        one = attribute(model, full_batch_of(history), ITEMS[user : user + 1, :1], method=method, seed=3, counts=COUNTS)
        torch.testing.assert_close(one[0, :, 0], found[user, : one.shape[1], 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_methods_work_where_the_model_has_what_they_need(name, model_of):
    attends = {"attention_rollout", "value_norm"}
    own = {"contribution"} if name in COUNTED else {"contribution", "renormalized", "weight", "value_norm"}
    if name in ("sasrec", "sasrec_memory", "bert4rec", "hstu", "gru4rec", "narm"):
        own = {"narm": {"weight"}, "hstu": set(), "gru4rec": set()}.get(name, attends)
    elif name not in COUNTED and name != "gat":
        own |= attends
    vectors = set() if name in COUNTED else GRADIENTS | {"item_cosine"}
    assert {method for method in METHODS if METHODS[method].works_for(model_of(name))} == ANYTHING | vectors | own


def test_a_method_that_does_not_exist_or_does_not_work_is_refused(model_of, make_batch):
    batch, items = make_batch([1, 2]), torch.tensor([[3]])
    with pytest.raises(ValueError, match=r"must be one of contribution, weight, .*popularity, got 'magic'"):
        attribute(model_of("attnrec"), batch, items, method="magic")
    with pytest.raises(ValueError, match=r"needs scores that are sums .*, got sasrec-last-d16-L8; take one of leave_"):
        attribute(model_of("sasrec"), batch, items, method="contribution")


def test_one_method_is_how_the_score_was_made_and_four_are_controls():
    assert [name for name, method in METHODS.items() if method.exact] == ["contribution"]
    controls = [name for name, method in METHODS.items() if method.control]
    assert controls == ["random", "recency", "item_cosine", "popularity"]
    assert all(method.source for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(method, model_of, make_batch):
    # called in inference mode and on a model in training mode; no gradient, no draw, no hook stays
    model, batch, items = model_of("attnrec", dropout=0.5), make_batch([1, 3, 5], [2]), torch.tensor([[4], [6]])
    outside = attribute(model, batch, items, method=method, counts=COUNTS)
    state = torch.get_rng_state()
    with torch.inference_mode():
        made_inside = make_batch([1, 3, 5], [2])
        inside = attribute(model.train(), made_inside, torch.tensor([[4], [6]]), method=method, counts=COUNTS)
        torch.testing.assert_close(inside, outside)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- removal


def test_what_is_left_closes_up_with_all_its_columns(full_batch_of):
    batch = full_batch_of([7, 8, 9], [5], [4, 6])
    batch = replace(batch, targets=torch.tensor([[8, 9, 1], [2, 0, 0], [6, 3, 0]]))
    gone = torch.tensor([[False, True, False], [True, False, False], [False, False, True]])
    left = remove_events(batch, gone)
    assert left.items.tolist() == [[7, 9, 0], [0, 0, 0], [4, 6, 0]]
    assert left.lengths.tolist() == [2, 0, 2]
    assert left.times.tolist() == [[107_000, 309_000, 0], [0, 0, 0], [104_000, 206_000, 0]]
    assert left.events.tolist() == [[2, 1, 0], [0, 0, 0], [2, 1, 0]]
    assert left.weights.tolist() == [[4.5, 7.5, 0], [0, 0, 0], [3, 5, 0]]
    assert left.targets.tolist() == [[8, 1, 0], [0, 0, 0], [6, 3, 0]]
    assert left.memory_items.tolist() == batch.memory_items.tolist()
    assert left.memory_lengths.tolist() == [3, 3, 3]


def test_taking_out_nothing_or_everything(full_batch_of):
    batch = full_batch_of([7, 8, 9], [], [4, 0])  # item row 0 is an event, too, where the length says so
    nothing, everything = torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    same, empty = remove_events(batch, nothing), remove_events(batch, everything)
    for name in ("items", "lengths", "times", "events", "weights"):
        assert torch.equal(getattr(same, name), getattr(batch, name))
        assert not getattr(empty, name).any()


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_of_shortened_histories_are_those_of_such_histories(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of([1, 3, 5, 7], [2, 4])
    rows, items = torch.tensor([0, 1, 0, 0]), torch.tensor([[2, 9], [3, 8]])
    removed = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]]).bool()
    found = score_without_events(model, batch, items, rows=rows, removed=removed)
    assert found.shape == (4, 2)
    for row, gone, scores in zip(rows.tolist(), removed, found, strict=True):
        kept = batch.real[row] & ~gone
        n, columns = int(kept.sum()), {}
        for column in ("items", "times", "events", "weights"):
            columns[column] = F.pad(getattr(batch, column)[row][kept], (0, 4 - n))[None]
        alone = replace(
            batch,
            lengths=torch.tensor([n]),
            memory_items=batch.memory_items[:1],
            memory_lengths=batch.memory_lengths[:1],
            **columns,
        )
        with torch.no_grad():
            torch.testing.assert_close(model.score(alone, items[row][None])[0], scores, rtol=1e-4, atol=1e-4)


def test_removals_are_scored_in_chunks_of_bounded_size(model_of, make_batch, monkeypatch):
    model, batch, items = model_of("sasrec"), make_batch([1, 2, 3, 4, 5], [6, 7], [8]), torch.ones(3, 1).long()
    at_once = attribute(model, batch, items, method="leave_one_out")
    sizes, score = [], type(model).score
    monkeypatch.setattr(removal, "POSITIONS", 11)
    monkeypatch.setattr(type(model), "score", lambda self, b, i: sizes.append(b.items.numel()) or score(self, b, i))
    torch.testing.assert_close(attribute(model, batch, items, method="leave_one_out"), at_once)
    assert len(sizes) == 1 + 4, "the full histories, then 8 shortened ones two by two"
    assert max(sizes[1:]) <= 11


# --- contribution, effect, Shapley values and LIME where they must agree, and where they must not


@pytest.mark.parametrize("method", ["leave_one_out", "shapley"])
def test_where_scores_are_plain_sums_the_effect_of_an_event_is_its_contribution(method, model_of, make_batch):
    model, batch = model_of("item_knn"), make_batch([1, 3, 5, 5, 2, 4], [7], [])
    items = torch.tensor([[6, 7, 2], [8, 9, 1], [1, 2, 3]])
    exact = attribute(model, batch, items, method="contribution")
    assert exact[0].count_nonzero() >= 5
    torch.testing.assert_close(attribute(model, batch, items, method=method), exact)


def test_lime_without_penalty_finds_the_terms_of_a_plain_sum(model_of, make_batch):
    model, batch = model_of("item_knn"), make_batch([1, 3, 5, 5, 2, 4], [1, 2])
    items = torch.tensor([[6, 7, 2], [8, 9, 1]])
    exact = attribute(model, batch, items, method="contribution")
    torch.testing.assert_close(lime(model, batch, items, ridge=1e-9), exact, rtol=1e-4, atol=1e-5)


def test_an_item_that_came_twice_has_no_effect_once_and_half_of_the_value_each_time(model_of, make_batch):
    # EASE counts an item where it stands last: without that event the earlier one takes its place
    model, batch, items = model_of("ease"), make_batch([1, 3, 1]), torch.tensor([[5]])
    added = attribute(model, batch, items, method="contribution")[0, :, 0].tolist()
    assert added[0] == 0 != added[2]
    effects = attribute(model, batch, items, method="leave_one_out")[0, :, 0].tolist()
    assert effects == pytest.approx([0, added[1], 0], abs=1e-6)
    values = attribute(model, batch, items, method="shapley")[0, :, 0].tolist()
    assert values == pytest.approx([added[2] / 2, added[1], added[2] / 2])


@pytest.mark.parametrize("name", ["attnrec", "gat", "core"])
def test_contributions_of_pooling_sum_to_the_score_less_the_bias(name, model_of, make_batch):
    model, batch = model_of(name), make_batch(*HISTORIES)
    with torch.no_grad():
        expected = model.score(batch, ITEMS) - model.item_bias()[ITEMS]
    found = attribute(model, batch, ITEMS, method="contribution").sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(attribute(model, batch, ITEMS, method="leave_one_out").sum(1), expected, atol=0.1)


@pytest.mark.parametrize("name", ["attnrec_known", "bert4rec", "gru4rec"])
def test_the_effect_is_the_score_less_that_of_the_history_without_the_event(name, model_of, full_batch_of):
    model, items = model_of(name), torch.tensor([[6, 7]])
    whole = full_batch_of([1, 3, 5])
    shorter = replace(
        full_batch_of([1, 5]),
        **{column: getattr(whole, column)[:, [0, 2]] for column in ("items", "times", "events", "weights")},
    )
    with torch.no_grad():
        expected = model.score(whole, items) - model.score(shorter, items)
        alone = model.score(full_batch_of([4]), items) - model.item_bias()[items]
    found = attribute(model, whole, items, method="leave_one_out")
    torch.testing.assert_close(found[:, 1], expected, rtol=1e-4, atol=1e-5)
    single = attribute(model, full_batch_of([4]), items, method="leave_one_out")
    torch.testing.assert_close(single[:, 0], alone, rtol=1e-4, atol=1e-5)


# --- attention dealt out anew


def test_where_attention_sees_single_events_dealing_it_out_anew_is_leaving_the_event_out(model_of, make_batch):
    # GAT's shares are a softmax over what the events say one by one: without one of them the others' only grow
    model, batch = model_of("gat"), make_batch([1, 3, 5, 5, 2, 4], [7], [], [2, 9])
    items = torch.tensor([[6, 7, 2], [8, 9, 1], [1, 2, 3], [4, 5, 6]])
    exact = attribute(model, batch, items, method="leave_one_out")
    assert exact.count_nonzero() > 20
    torch.testing.assert_close(attribute(model, batch, items, method="renormalized"), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"pooling_projection": True}, {"scores": "dot"}])
def test_dealing_attention_out_anew_leaves_values_and_the_shares_of_others_in_proportion(settings, model_of, make_batch):
    model, batch, items = model_of("attnrec", **settings), make_batch([1, 3, 5]), torch.tensor([[6, 7]])
    with torch.no_grad():
        weighed = weigh(model, batch)
        shares = weighed.weights.clone()
        shares[:, :, 1] = 0
        shares /= shares.sum(-1, keepdim=True)
        users = torch.stack([weighed.parts(weighed.weights).sum(1), weighed.parts(shares).sum(1)])[:, 0]
        vectors = model.item_scorer.scaled(model.item_vectors()[items[0]])
        scores = users * model.item_scorer.user_scale(users) @ vectors.mT
    found = attribute(model, batch, items, method="renormalized")[0, 1]
    torch.testing.assert_close(found, scores[0] - scores[1], rtol=1e-4, atol=1e-5)


def test_without_its_only_event_a_history_has_the_bias_alone(model_of, make_batch):
    model, items = model_of("attnrec"), torch.tensor([[6, 7]])
    with torch.no_grad():
        expected = model.score(make_batch([3]), items) - model.item_bias()[items]
    found = attribute(model, make_batch([3]), items, method="renormalized")
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)


# --- Shapley values


def test_of_few_events_the_shapley_value_is_exact(model_of, make_batch):
    model, history, items = model_of("attnrec"), [1, 3, 5, 7], torch.tensor([[6, 8]])

    def worth(places) -> torch.Tensor:
        with torch.no_grad():
            return model.score(make_batch([history[place] for place in sorted(places)]), items)[0]

    expected = torch.zeros(4, 2)
    for event in range(4):
        others = [place for place in range(4) if place != event]
        for size in range(4):
            share = factorial(size) * factorial(3 - size) / factorial(4)
            for there in combinations(others, size):
                expected[event] += share * (worth({*there, event}) - worth(there))
    found = attribute(model, make_batch(history), items, method="shapley", seed=1)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(attribute(model, make_batch(history), items, method="shapley", seed=2)[0], found)


@pytest.mark.parametrize("name", ["sasrec", "attnrec", "v_sknn", "bert4rec"])
@pytest.mark.parametrize("n_permutations", [1, 3])
def test_every_order_alone_gives_out_the_whole_score(name, n_permutations, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES)
    with torch.no_grad():
        expected = model.score(batch, ITEMS) - model.score(full_batch_of(*[[]] * 6), ITEMS)
    found = shapley(model, batch, ITEMS, n_permutations=n_permutations)
    torch.testing.assert_close(found.sum(1), expected, rtol=1e-4, atol=1e-4)


def test_an_order_is_a_walk_of_growing_histories(model_of, make_batch):
    # one order of five events: each gain is the difference of two coalitions that differ by one event
    model, history, items = model_of("attnrec"), [1, 3, 5, 7, 9], torch.tensor([[6]])
    found = shapley(model, make_batch(history), items, seed=4, n_permutations=1)[0, :, 0]
    kept = torch.cat([torch.tensor(list(combinations([False, True] * 5, 5))).unique(dim=0)])
    scores = score_without_events(model, make_batch(history), items, rows=torch.zeros(32).long(), removed=~kept)[:, 0]
    worth = {tuple(row.tolist()): score for row, score in zip(kept, scores, strict=True)}
    there, left = [False] * 5, set(range(5))
    for _ in range(5):
        gains = {event: worth[(*there[:event], True, *there[event + 1 :])] - worth[tuple(there)] for event in left}
        (joined,) = [event for event, gain in gains.items() if torch.isclose(gain, found[event], atol=1e-5)]
        there[joined] = True
        left.remove(joined)
    assert all(there)


def test_more_orders_come_closer_to_the_shapley_value(model_of, make_batch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5, 7, 9]), torch.tensor([[6, 8, 10]])
    exact = shapley(model, batch, items, n_permutations=120)
    errors = [(shapley(model, batch, items, n_permutations=n) - exact).abs().mean() for n in (1, 8, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_draws_follow_the_seed_and_the_history(model_of, make_batch):
    model, batch = model_of("attnrec"), make_batch([1, 3, 5, 7, 9], [2, 4, 6, 8, 10], [1, 3, 5, 7, 9])
    items = torch.tensor([[6, 8]] * 3)
    for method in ("shapley", "lime", "random"):
        one, two = (attribute(model, batch, items, method=method, seed=seed) for seed in (1, 2))
        assert not torch.allclose(one, two)
        assert torch.allclose(one[0], one[2], atol=1e-4), "the same history"


# --- LIME


def test_lime_is_a_weighted_ridge_regression(model_of, make_batch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5, 7, 9], [2, 4]), torch.tensor([[6, 8], [1, 3]])
    found = attribute(model, batch, items, method="lime", seed=1)
    kept = _samples(batch, 256, seed=1)
    weights = closeness(kept, batch)
    for user, length in enumerate([5, 2]):
        rows = torch.full((256,), user)
        scores = score_without_events(model, batch, items, rows=rows, removed=~kept[user])
        line = Ridge(alpha=1.0).fit(kept[user, :, :length], scores, sample_weight=weights[user].numpy())
        torch.testing.assert_close(found[user, :length], torch.tensor(line.coef_.T).float(), rtol=1e-4, atol=1e-4)


def test_samples_of_lime_keep_all_first_and_count_by_their_cosine(make_batch):
    batch = make_batch([1, 2, 3, 4], [5], [])
    kept = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    # the cosine of one event of four to all four is 1/2
    assert closeness(kept[None], batch.slice(0, 1))[0].tolist() == pytest.approx(
        [1, exp(-((0.5 / 0.25) ** 2)), exp(-16)]
    )
    samples = _samples(batch, 400, seed=0)
    assert samples[:, 0].tolist() == batch.real.tolist()
    assert not samples[0, 1:].all(1).any()
    sizes = torch.bincount(samples[0, 1:].sum(1), minlength=5) / 399
    assert sizes.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0], abs=0.07)


# --- gradients


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in COUNTED])
def test_reading_from_vectors_is_reading_the_items_that_have_them(name, model_of, full_batch_of):
    model = model_of(name)
    for batch in (full_batch_of(*HISTORIES), full_batch_of([3, 1])):  # more events than items, and fewer
        others = replace(batch, items=batch.items * 5 % 13)
        for items in (batch.items, others.items):
            with torch.no_grad():
                found = model.read_vectors(batch, model.item_vectors()[items])
                expected = model.encode(replace(batch, items=items))
            torch.testing.assert_close(found.users, expected.users)
            if expected.parts is not None:
                torch.testing.assert_close(found.parts, expected.parts)


def test_in_a_linear_model_gradients_and_contributions_are_one(model_of, make_batch):
    # the user is the mean of the item vectors, scores are dot products
    model = even(model_of("core", encoder="none", scores="dot"))
    batch, items = make_batch([1, 3, 5], [2]), torch.tensor([[4, 6], [7, 8]])
    vectors = model.item_vectors().detach()
    by_hand = torch.stack([vectors[[1, 3, 5]] @ vectors[[4, 6]].mT / 3, vectors[[2, 0, 0]] @ vectors[[7, 8]].mT])
    by_hand[1, 1:] = 0
    for method in ("contribution", "gradient_x_input", "integrated_gradients"):
        found = attribute(model, batch, items, method=method)
        torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["attnrec", "sasrec", "bert4rec", "gru4rec", "gat", "attnrec_older"])
def test_gradient_times_input_is_what_a_small_step_along_the_vector_does(name, model_of, full_batch_of):
    model, items, step = model_of(name).double(), torch.tensor([[6, 7]]), 1e-6
    batch = full_batch_of([1, 3, 5])
    vectors = model.item_vectors()[batch.items].detach()
    found = attribute(model, batch, items, method="gradient_x_input")
    for place in range(3):
        ahead, behind = (vectors.index_fill(1, torch.tensor(place), 0) for _ in range(2))
        ahead[:, place], behind[:, place] = vectors[:, place] * (1 + step), vectors[:, place] * (1 - step)
        with torch.no_grad():
            slope = model.read_vectors(batch, ahead).scores(items) - model.read_vectors(batch, behind).scores(items)
        torch.testing.assert_close(found[0, place], slope[0] / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attnrec", "attnrec_known", "attnrec_older", "sasrec", "bert4rec", "gru4rec", "gat"])
def test_integrated_gradients_sum_to_what_the_history_adds_to_zero_vectors(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES[:5])
    items = ITEMS[:5]
    found = attribute(model, batch, items, method="integrated_gradients").sum(1)
    with torch.no_grad():
        expected = model.score(batch, items) - zero_scores(model, batch, items)
    assert expected.abs().max() > 0.2
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.02)


def test_even_steps_would_miss_most_of_what_norms_see(model_of, make_batch, monkeypatch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5]), torch.tensor([[6, 7]])
    with torch.no_grad():
        expected = model.score(batch, items) - zero_scores(model, batch, items)
    errors = {}
    for power in (1, 3):
        monkeypatch.setattr("attnrec.attribution.gradients.POWER", power)
        errors[power] = (integrated_gradients(model, batch, items).sum(1) - expected).abs().max().item()
    assert errors[3] < 0.02
    assert errors[1] > 0.2 * expected.abs().max()


def test_cosines_of_a_plain_sum_have_no_slope_towards_zero(model_of, make_batch):
    # Euler: a score that does not change with the length of the user vector; as said in the docstrings
    model = even(model_of("core", encoder="none"))
    batch, items = make_batch([1, 3, 5]), torch.tensor([[4, 6]])
    for method in GRADIENTS:
        found = attribute(model, batch, items, method=method)
        assert found.abs().max() > 0.1
        assert found.sum(1).abs().max() < 1e-3


# --- attention


def test_rollout_of_even_attention_through_two_layers(model_of, make_batch):
    # a layer with its residual: the first event keeps itself, the second takes 1/4 from the first
    batch, items = make_batch([1, 2], [3], []), torch.tensor([[4, 5]] * 3)
    last = attribute(even(model_of("sasrec", layers=2)), batch, items, method="attention_rollout")
    assert last[:, :, 0].tolist() == [pytest.approx([1 / 4 + 3 / 4 / 4, 9 / 16]), pytest.approx([1, 0]), [0, 0]]
    assert torch.equal(last[..., 0], last[..., 1])
    # half of the readout's weight on each state
    pooled = attribute(even(model_of("attnrec", layers=1)), batch, items, method="attention_rollout")
    assert pooled[:, :, 0].tolist() == [pytest.approx([1 / 2 + 1 / 8, 3 / 8]), pytest.approx([1, 0]), [0, 0]]


@pytest.mark.parametrize("attention", ["scaled_dot", "memory"])
def test_rollout_goes_from_the_last_layer_to_the_first_and_loses_nothing(attention, model_of, make_batch):
    # the memory's slots take their share of attention, so what is left is brought to sum to 1 first
    model, batch = model_of("sasrec", layers=2, attention=attention), make_batch([1, 2, 3])
    found = attribute(model, batch, torch.tensor([[5]]), method="attention_rollout")[0, :, 0]
    with torch.no_grad():
        shares = [each[0].mean(0) for each in model.encoder.shares(model.item_scorer(batch.items), lengths=batch.lengths)]
    first, second = ((each + torch.eye(3)) / (1 + each.sum(1, keepdim=True)) for each in shares)
    torch.testing.assert_close(found, (second @ first)[2])
    assert not torch.allclose(found, (first @ second)[2], atol=1e-3)
    assert found.sum().item() == pytest.approx(1)


def test_rollout_leaves_out_what_went_to_the_hidden_event(model_of, make_batch):
    model = even(model_of("bert4rec", layers=1, max_length=3))
    found = attribute(model, make_batch([1, 2], [5, 6, 7]), torch.tensor([[4]] * 2), method="attention_rollout")
    # the hidden event sees 3: two events and itself; where three events fill the window the oldest made room
    assert found[:, :, 0].tolist() == [pytest.approx([1 / 6, 1 / 6, 0]), pytest.approx([0, 1 / 6, 1 / 6])]


@pytest.mark.parametrize(("kind", "expected"), [("sasrec", [1 / 6, 2 / 3]), ("attnrec", [3 / 8 + 1 / 12, 1 / 3])])
def test_rollout_leaves_out_what_went_to_older_events(kind, expected, model_of, make_batch):
    # one vector of memory: the first event sees 2, the second 3
    model = even(model_of(kind, layers=1, memory_events=2, memory_block=2))
    batch = replace(make_batch([1, 2]), memory_items=torch.tensor([[7, 8]]), memory_lengths=torch.tensor([2]))
    found = attribute(model, batch, torch.tensor([[4]]), method="attention_rollout")
    assert found[0, :, 0].tolist() == pytest.approx(expected)


def test_the_readouts_weights_are_shares_and_the_same_for_every_item(model_of, make_batch):
    batch, items = make_batch([1, 2, 3], [4]), torch.tensor([[5, 6]] * 2)
    assert attribute(even(model_of("attnrec")), batch, items, method="weight")[:, :, 1].tolist() == [
        pytest.approx([1 / 3] * 3),
        [1, 0, 0],
    ]
    found = attribute(model_of("attnrec"), batch, items, method="weight")
    assert found[0, :, 0].std() > 0.01
    assert found.sum(1).flatten().tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("name", ["attnrec", "core"])
def test_norms_of_what_even_pooling_takes(name, model_of, make_batch):
    model, batch = even(model_of(name)), make_batch([1, 2, 3], [4])
    found = attribute(model, batch, torch.tensor([[5, 6]] * 2), method="value_norm")
    with torch.no_grad():
        norms = model.readout.values(model.item_vectors()).norm(dim=-1)
    assert found[0, :, 1].tolist() == pytest.approx((norms[1:4] / 3).tolist())
    assert found[1, :, 0].tolist() == pytest.approx([norms[4].item(), 0, 0])


def test_norms_of_what_the_last_layer_takes_under_even_attention(model_of, make_batch):
    model, batch = even(model_of("sasrec", layers=1, positions="none")), make_batch([1, 2, 3], [4])
    found = attribute(model, batch, torch.tensor([[5]] * 2), method="value_norm")[..., 0]
    block = model.encoder.blocks[0]
    with torch.no_grad():
        values = block.attention.project_in(block.norm_attention(model.item_vectors()))[:, 32:]
        norms = (values @ block.attention.project_out.weight.mT).norm(dim=-1)
    assert found[0].tolist() == pytest.approx((norms[1:4] / 3).tolist())
    assert found[1].tolist() == pytest.approx([norms[4].item(), 0, 0])


def test_norms_are_of_the_layer_next_to_the_readout(model_of, make_batch):
    # a last layer that adds nothing takes nothing, whatever the first one did
    model, batch, items = model_of("sasrec", layers=2), make_batch([1, 2, 3]), torch.tensor([[5]])
    with torch.no_grad():
        model.encoder.blocks[0].attention.project_out.weight.zero_()
        assert (attribute(model, batch, items, method="value_norm") > 0).all()
        model.encoder.blocks[1].attention.project_out.weight.zero_()
        assert not attribute(model, batch, items, method="value_norm").any()


# --- controls


def test_later_events_are_larger(model_of, make_batch):
    found = attribute(model_of("popularity"), make_batch([1, 2, 3], [4], []), torch.tensor([[5]] * 3), method="recency")
    assert found[..., 0].tolist() == [pytest.approx([1 / 3, 2 / 3, 1]), [1, 0, 0], [0, 0, 0]]


def test_alike_items_are_larger(model_of, make_batch):
    model = model_of("attnrec")
    with torch.no_grad():
        model.item_scorer.embedding.weight[[1, 2, 3]] = torch.eye(16)[:3] * torch.tensor([[2.0], [3.0], [4.0]])
        model.item_scorer.embedding.weight[4] = torch.eye(16)[0] - torch.eye(16)[1]
        model.item_scorer.embedding.weight[0] = 0
    found = attribute(model, make_batch([1, 2, 4, 0], [3]), torch.tensor([[1, 4]] * 2), method="item_cosine")
    half = 0.5**0.5
    assert found[0].flatten().tolist() == pytest.approx([1, half, 0, -half, half, 1, 0, 0])
    assert not found[1].any()


def test_events_of_popular_items_are_larger(model_of, make_batch):
    batch, items = make_batch([1, 12], [2, 2]), torch.tensor([[5, 6]] * 2)
    found = attribute(model_of("sasrec"), batch, items, method="popularity", counts=COUNTS)
    assert found[..., 1].tolist() == [[10, 120], [20, 20]]
    with pytest.raises(ValueError, match=r"needs the events of each item row in training, \(13,\), got none"):
        attribute(model_of("sasrec"), batch, items, method="popularity")
    with pytest.raises(ValueError, match=r"got shape \(12,\)"):
        attribute(model_of("sasrec"), batch, items, method="popularity", counts=COUNTS[1:])


def test_the_random_control_has_no_favourite_place(model_of, make_batch):
    # the same length, other items: each place is the largest about as often
    rows = [[a, b, c] for a in range(1, 13) for b in range(1, 13) for c in range(1, 4)]
    found = attribute(model_of("popularity"), make_batch(*rows), torch.tensor([[5, 6]] * len(rows)), method="random")
    firsts = torch.bincount(found[..., 0].argmax(1), minlength=3) / len(rows)
    assert firsts.tolist() == pytest.approx([1 / 3] * 3, abs=0.08)
    assert 0 < found.min() < 0.05
    assert 0.95 < found.max() < 1
    assert torch.corrcoef(found.flatten(0, 1).mT)[0, 1].abs() < 0.1, "items draw for themselves"


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_found_on_cuda_equals_the_cpu(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES)
    working = [method for method in METHODS if METHODS[method].works_for(model)]
    on_cpu = {method: attribute(model, batch, ITEMS, method=method, counts=COUNTS) for method in working}
    model.cuda()
    for method in working:
        on_cuda = attribute(model, batch, ITEMS, method=method, counts=COUNTS)
        torch.testing.assert_close(on_cuda.cpu(), on_cpu[method], rtol=1e-2, atol=1e-2)
