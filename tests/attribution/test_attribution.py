"""Attribution methods: the contract of all methods, then each method on examples with known values."""

from dataclasses import replace
from itertools import combinations
from math import exp, factorial

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from attnrec.attribution import METHODS, attribute, removal, remove_events, score_without_events
from attnrec.attribution.gradients import integrated_gradients
from attnrec.attribution.lime import _samples, lime, sample_weights
from attnrec.attribution.shapley import shapley
from attnrec.dataset import Batch
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8}
N_ITEMS = 12
SETTINGS = {
    "attnrec": SMALL,
    "attnrec_with_context": SMALL | {"kind": "attnrec", "time_gaps": True, "event_types": True, "positions": "rotary"},
    "attnrec_with_memory": SMALL | {"kind": "attnrec", "memory_events": 6, "memory_block": 2},
    "sasrec": SMALL,
    "sasrec_with_memory": SMALL | {"kind": "sasrec", "attention": "memory", "memory_events": 6, "memory_block": 2},
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
COUNT_MODELS = {"item_knn", "ease", "v_sknn", "popularity"}
MODEL_AGNOSTIC = {"leave_one_out", "shapley", "lime", "random", "recency", "popularity"}
GRADIENTS = {"gradient_x_input", "integrated_gradients"}
COUNTS = torch.arange(N_ITEMS + 1) * 10


@pytest.fixture(scope="module")
def log(make_histories):
    return make_histories({"ann": "abcdef", "bob": "ghijkl", "cid": "acegik", "dan": "abgh", "eve": "ll", "fay": "bdf"})


@pytest.fixture(scope="module")
def model_of(log, with_random_weights):
    """Return a model with large random weights, or counts of the log, so that no value is small by chance."""

    def make(name: str, **settings):
        settings = SETTINGS.get(name, SMALL) | settings
        model = build_model(model_config(settings.pop("kind", name), settings), N_ITEMS)
        return with_random_weights(model, replace(log, events=torch.zeros(len(log.items), dtype=torch.uint8).numpy()))

    return make


@pytest.fixture
def full_batch_of(make_batch):
    """Return a batch with all columns; time, type and weight of an event depend on its item and position."""

    def make(*rows: list[int], length: int = 1) -> Batch:
        batch = make_batch(*rows, length=length)
        positions = torch.arange(batch.items.shape[1]) + 1
        memory_items = torch.tensor([[3, 1, 2, 0]]).expand(len(rows), -1)
        return replace(
            batch,
            times=(batch.items * 1000 + positions * 100_000) * batch.real,
            events=(batch.items % 3 + 1) * batch.real,
            weights=(batch.items / 2 + positions) * batch.real,
            memory_items=memory_items,
            memory_lengths=(memory_items > 0).sum(1),
        )

    return make


HISTORIES = [[1, 3, 5, 5], [2], [], [7, 6, 5, 4, 3, 2, 1, 9], [4, 4, 4], [0, 3]]
"""Several events, one event, none, the full window, one repeated item, an item outside the catalogue."""
ITEMS = torch.tensor([[2, 7, 12], [1, 2, 3], [1, 2, 3], [11, 7, 1], [4, 5, 6], [3, 8, 9]])


def with_uniform_attention(model):
    """Set queries to zero: attention is uniform over all allowed positions."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "project_in" in name:
                parameter[: len(parameter) // 3] = 0
            if "pooling.query" in name or name.endswith("readout.logits.weight"):
                parameter.zero_()
    return model


def zero_vector_scores(model, batch, items):
    """Scores of a history whose item vectors are zeros."""
    with torch.no_grad():
        return model.encode_vectors(batch, torch.zeros(*batch.items.shape, 16)).scores(items)


# --- the contract of every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_meets_the_contract(name, method, model_of, full_batch_of):
    model = model_of(name)
    if not METHODS[method].works_for(model):
        pytest.skip("the model does not support the method")
    batch = full_batch_of(*HISTORIES, length=8)
    result = attribute(model, batch, ITEMS, method=method, seed=3, counts=COUNTS)
    assert result.shape == (6, 8, 3)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert result.isfinite().all()
    assert (result[~batch.real] == 0).all()
    assert torch.equal(attribute(model, batch, ITEMS, method=method, seed=3, counts=COUNTS), result)
    for user in (0, 2, 5):  # one user, without padding, one item
        history = HISTORIES[user]
        one = attribute(model, full_batch_of(history), ITEMS[user : user + 1, :1], method=method, seed=3, counts=COUNTS)
        torch.testing.assert_close(one[0, :, 0], result[user, : one.shape[1], 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_supported_methods_of_each_model(name, model_of):
    encoder_attention = {"attention_rollout", "value_norm"}
    model_specific = (
        {"contribution"} if name in COUNT_MODELS else {"contribution", "renormalized", "weight", "value_norm"}
    )
    if name in ("sasrec", "sasrec_with_memory", "bert4rec", "hstu", "gru4rec", "narm"):
        model_specific = {"narm": {"weight"}, "hstu": set(), "gru4rec": set()}.get(name, encoder_attention)
    elif name not in COUNT_MODELS and name != "gat":
        model_specific |= encoder_attention
    vectors = set() if name in COUNT_MODELS else GRADIENTS | {"item_cosine"}
    assert {
        method for method in METHODS if METHODS[method].works_for(model_of(name))
    } == MODEL_AGNOSTIC | vectors | model_specific


def test_unknown_and_unsupported_methods_raise_an_error(model_of, make_batch):
    batch, items = make_batch([1, 2]), torch.tensor([[3]])
    with pytest.raises(
        ValueError, match=r"method must be one of attention_rollout, contribution, .*weight, got 'magic'"
    ):
        attribute(model_of("attnrec"), batch, items, method="magic")
    with pytest.raises(
        ValueError, match=r"needs scores that are sums .*, got sasrec-last-d16-L8; choose one of leave_"
    ):
        attribute(model_of("sasrec"), batch, items, method="contribution")


def test_one_method_is_exact_and_four_are_controls():
    assert [name for name, method in METHODS.items() if method.exact] == ["contribution"]
    controls = [name for name, method in METHODS.items() if method.control]
    assert controls == ["random", "recency", "item_cosine", "popularity"]
    assert all(method.source for method in METHODS.values())


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_no_side_effects(method, model_of, make_batch):
    # also in inference mode and for a model in training mode: no gradient, random state or hook changes
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


def test_remaining_events_close_the_gap_in_all_columns(full_batch_of):
    batch = full_batch_of([7, 8, 9], [5], [4, 6])
    batch = replace(batch, targets=torch.tensor([[8, 9, 1], [2, 0, 0], [6, 3, 0]]))
    removed = torch.tensor([[False, True, False], [True, False, False], [False, False, True]])
    shortened = remove_events(batch, removed)
    assert shortened.items.tolist() == [[7, 9, 0], [0, 0, 0], [4, 6, 0]]
    assert shortened.lengths.tolist() == [2, 0, 2]
    assert shortened.times.tolist() == [[107_000, 309_000, 0], [0, 0, 0], [104_000, 206_000, 0]]
    assert shortened.events.tolist() == [[2, 1, 0], [0, 0, 0], [2, 1, 0]]
    assert shortened.weights.tolist() == [[4.5, 7.5, 0], [0, 0, 0], [3, 5, 0]]
    assert shortened.targets.tolist() == [[8, 1, 0], [0, 0, 0], [6, 3, 0]]
    assert shortened.memory_items.tolist() == batch.memory_items.tolist()
    assert shortened.memory_lengths.tolist() == [3, 3, 3]


def test_removal_of_no_events_and_of_all_events(full_batch_of):
    batch = full_batch_of([7, 8, 9], [], [4, 0])  # item row 0 within the length is an event
    nothing, everything = torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    same, empty = remove_events(batch, nothing), remove_events(batch, everything)
    for name in ("items", "lengths", "times", "events", "weights"):
        assert torch.equal(getattr(same, name), getattr(batch, name))
        assert not getattr(empty, name).any()


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_of_shortened_histories_equal_those_of_separate_histories(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of([1, 3, 5, 7], [2, 4])
    rows, items = torch.tensor([0, 1, 0, 0]), torch.tensor([[2, 9], [3, 8]])
    removed = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]]).bool()
    result = score_without_events(model, batch, items, rows=rows, removed=removed)
    assert result.shape == (4, 2)
    for row, removed_events, scores in zip(rows.tolist(), removed, result, strict=True):
        kept = batch.real[row] & ~removed_events
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


def test_shortened_histories_are_scored_in_chunks_of_bounded_size(model_of, make_batch, monkeypatch):
    model, batch, items = model_of("sasrec"), make_batch([1, 2, 3, 4, 5], [6, 7], [8]), torch.ones(3, 1).long()
    whole = attribute(model, batch, items, method="leave_one_out")
    sizes, score = [], type(model).score
    monkeypatch.setattr(removal, "MAX_POSITIONS", 11)
    monkeypatch.setattr(type(model), "score", lambda self, b, i: sizes.append(b.items.numel()) or score(self, b, i))
    torch.testing.assert_close(attribute(model, batch, items, method="leave_one_out"), whole)
    assert len(sizes) == 1 + 4, "the full histories, then 8 shortened ones in pairs"
    assert max(sizes[1:]) <= 11


# --- where contribution, leave-one-out, Shapley values and LIME agree, and where they differ


@pytest.mark.parametrize("method", ["leave_one_out", "shapley"])
def test_for_plain_sums_the_effect_of_an_event_is_its_contribution(method, model_of, make_batch):
    model, batch = model_of("item_knn"), make_batch([1, 3, 5, 5, 2, 4], [7], [])
    items = torch.tensor([[6, 7, 2], [8, 9, 1], [1, 2, 3]])
    exact = attribute(model, batch, items, method="contribution")
    assert exact[0].count_nonzero() >= 5
    torch.testing.assert_close(attribute(model, batch, items, method=method), exact)


def test_lime_without_penalty_returns_the_terms_of_a_plain_sum(model_of, make_batch):
    model, batch = model_of("item_knn"), make_batch([1, 3, 5, 5, 2, 4], [1, 2])
    items = torch.tensor([[6, 7, 2], [8, 9, 1]])
    exact = attribute(model, batch, items, method="contribution")
    torch.testing.assert_close(lime(model, batch, items, ridge=1e-9), exact, rtol=1e-4, atol=1e-5)


def test_a_repeated_item_has_no_leave_one_out_effect_and_half_of_the_shapley_value(model_of, make_batch):
    # EASE counts the last event of an item; without that event it counts the earlier one
    model, batch, items = model_of("ease"), make_batch([1, 3, 1]), torch.tensor([[5]])
    contributions = attribute(model, batch, items, method="contribution")[0, :, 0].tolist()
    assert contributions[0] == 0 != contributions[2]
    effects = attribute(model, batch, items, method="leave_one_out")[0, :, 0].tolist()
    assert effects == pytest.approx([0, contributions[1], 0], abs=1e-6)
    values = attribute(model, batch, items, method="shapley")[0, :, 0].tolist()
    assert values == pytest.approx([contributions[2] / 2, contributions[1], contributions[2] / 2])


@pytest.mark.parametrize("name", ["attnrec", "gat", "core"])
def test_contributions_of_pooling_sum_to_the_score_minus_the_bias(name, model_of, make_batch):
    model, batch = model_of(name), make_batch(*HISTORIES)
    with torch.no_grad():
        expected = model.score(batch, ITEMS) - model.item_bias()[ITEMS]
    result = attribute(model, batch, ITEMS, method="contribution").sum(1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(attribute(model, batch, ITEMS, method="leave_one_out").sum(1), expected, atol=0.1)


@pytest.mark.parametrize("name", ["attnrec_with_context", "bert4rec", "gru4rec"])
def test_leave_one_out_is_the_score_minus_that_of_the_history_without_the_event(name, model_of, full_batch_of):
    model, items = model_of(name), torch.tensor([[6, 7]])
    whole = full_batch_of([1, 3, 5])
    shorter = replace(
        full_batch_of([1, 5]),
        **{column: getattr(whole, column)[:, [0, 2]] for column in ("items", "times", "events", "weights")},
    )
    with torch.no_grad():
        expected = model.score(whole, items) - model.score(shorter, items)
        alone = model.score(full_batch_of([4]), items) - model.item_bias()[items]
    result = attribute(model, whole, items, method="leave_one_out")
    torch.testing.assert_close(result[:, 1], expected, rtol=1e-4, atol=1e-5)
    single = attribute(model, full_batch_of([4]), items, method="leave_one_out")
    torch.testing.assert_close(single[:, 0], alone, rtol=1e-4, atol=1e-5)


# --- renormalised attention


def test_for_attention_from_single_events_renormalisation_equals_leave_one_out(model_of, make_batch):
    # GAT's weights are a softmax of logits of single events: without an event the others are rescaled
    model, batch = model_of("gat"), make_batch([1, 3, 5, 5, 2, 4], [7], [], [2, 9])
    items = torch.tensor([[6, 7, 2], [8, 9, 1], [1, 2, 3], [4, 5, 6]])
    exact = attribute(model, batch, items, method="leave_one_out")
    assert exact.count_nonzero() > 20
    torch.testing.assert_close(attribute(model, batch, items, method="renormalized"), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"pooling_projection": True}, {"scores": "dot"}])
def test_renormalisation_keeps_values_and_the_ratios_of_the_other_weights(settings, model_of, make_batch):
    model, batch, items = model_of("attnrec", **settings), make_batch([1, 3, 5]), torch.tensor([[6, 7]])
    with torch.no_grad():
        readout = model.readout_weights(batch)
        weights = readout.weights.clone()
        weights[:, :, 1] = 0
        weights /= weights.sum(-1, keepdim=True)
        users = torch.stack([readout.parts(readout.weights).sum(1), readout.parts(weights).sum(1)])[:, 0]
        vectors = model.item_scorer.scaled(model.item_vectors()[items[0]])
        scores = users * model.item_scorer.user_scale(users) @ vectors.mT
    result = attribute(model, batch, items, method="renormalized")[0, 1]
    torch.testing.assert_close(result, scores[0] - scores[1], rtol=1e-4, atol=1e-5)


def test_a_history_without_its_only_event_is_scored_by_the_item_bias(model_of, make_batch):
    model, items = model_of("attnrec"), torch.tensor([[6, 7]])
    with torch.no_grad():
        expected = model.score(make_batch([3]), items) - model.item_bias()[items]
    result = attribute(model, make_batch([3]), items, method="renormalized")
    torch.testing.assert_close(result[:, 0], expected, rtol=1e-4, atol=1e-5)


# --- Shapley values


def test_shapley_values_of_short_histories_are_exact(model_of, make_batch):
    model, history, items = model_of("attnrec"), [1, 3, 5, 7], torch.tensor([[6, 8]])

    def coalition_score(positions) -> torch.Tensor:
        with torch.no_grad():
            return model.score(make_batch([history[position] for position in sorted(positions)]), items)[0]

    expected = torch.zeros(4, 2)
    for event in range(4):
        others = [position for position in range(4) if position != event]
        for size in range(4):
            coefficient = factorial(size) * factorial(3 - size) / factorial(4)
            for coalition in combinations(others, size):
                gain = coalition_score({*coalition, event}) - coalition_score(coalition)
                expected[event] += coefficient * gain
    result = attribute(model, make_batch(history), items, method="shapley", seed=1)[0]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(attribute(model, make_batch(history), items, method="shapley", seed=2)[0], result)


@pytest.mark.parametrize("name", ["sasrec", "attnrec", "v_sknn", "bert4rec"])
@pytest.mark.parametrize("n_permutations", [1, 3])
def test_shapley_values_sum_to_the_score_for_any_number_of_orders(name, n_permutations, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES)
    with torch.no_grad():
        expected = model.score(batch, ITEMS) - model.score(full_batch_of(*[[]] * 6), ITEMS)
    result = shapley(model, batch, ITEMS, n_permutations=n_permutations)
    torch.testing.assert_close(result.sum(1), expected, rtol=1e-4, atol=1e-4)


def test_gains_of_one_order_are_differences_of_growing_coalitions(model_of, make_batch):
    # one order of five events: each gain is the difference of two coalitions that differ by one event
    model, history, items = model_of("attnrec"), [1, 3, 5, 7, 9], torch.tensor([[6]])
    result = shapley(model, make_batch(history), items, seed=4, n_permutations=1)[0, :, 0]
    kept = torch.cat([torch.tensor(list(combinations([False, True] * 5, 5))).unique(dim=0)])
    scores = score_without_events(model, make_batch(history), items, rows=torch.zeros(32).long(), removed=~kept)[:, 0]
    value = {tuple(row.tolist()): score for row, score in zip(kept, scores, strict=True)}
    coalition, rest = [False] * 5, set(range(5))
    for _ in range(5):
        gains = {
            event: value[(*coalition[:event], True, *coalition[event + 1 :])] - value[tuple(coalition)]
            for event in rest
        }
        (joined,) = [event for event, gain in gains.items() if torch.isclose(gain, result[event], atol=1e-5)]
        coalition[joined] = True
        rest.remove(joined)
    assert all(coalition)


def test_error_of_shapley_values_decreases_with_more_orders(model_of, make_batch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5, 7, 9]), torch.tensor([[6, 8, 10]])
    exact = shapley(model, batch, items, n_permutations=120)
    errors = [(shapley(model, batch, items, n_permutations=n) - exact).abs().mean() for n in (1, 8, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_random_methods_depend_on_the_seed_and_the_history(model_of, make_batch):
    model, batch = model_of("attnrec"), make_batch([1, 3, 5, 7, 9], [2, 4, 6, 8, 10], [1, 3, 5, 7, 9])
    items = torch.tensor([[6, 8]] * 3)
    for method in ("shapley", "lime", "random"):
        one, two = (attribute(model, batch, items, method=method, seed=seed) for seed in (1, 2))
        assert not torch.allclose(one, two)
        assert torch.allclose(one[0], one[2], atol=1e-4), "the same history"


# --- LIME


def test_lime_is_a_weighted_ridge_regression(model_of, make_batch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5, 7, 9], [2, 4]), torch.tensor([[6, 8], [1, 3]])
    result = attribute(model, batch, items, method="lime", seed=1)
    kept = _samples(batch, 256, seed=1)
    weights = sample_weights(kept, batch)
    for user, length in enumerate([5, 2]):
        rows = torch.full((256,), user)
        scores = score_without_events(model, batch, items, rows=rows, removed=~kept[user])
        regression = Ridge(alpha=1.0).fit(kept[user, :, :length], scores, sample_weight=weights[user].numpy())
        torch.testing.assert_close(
            result[user, :length], torch.tensor(regression.coef_.T).float(), rtol=1e-4, atol=1e-4
        )


def test_lime_samples_start_with_the_full_history_and_are_weighted_by_cosine(make_batch):
    batch = make_batch([1, 2, 3, 4], [5], [])
    kept = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    # the cosine of one event of four to all four is 1/2
    assert sample_weights(kept[None], batch.slice(0, 1))[0].tolist() == pytest.approx(
        [1, exp(-((0.5 / 0.25) ** 2)), exp(-16)]
    )
    samples = _samples(batch, 400, seed=0)
    assert samples[:, 0].tolist() == batch.real.tolist()
    assert not samples[0, 1:].all(1).any()
    sizes = torch.bincount(samples[0, 1:].sum(1), minlength=5) / 399
    assert sizes.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0], abs=0.07)


# --- gradients


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in COUNT_MODELS])
def test_encoding_of_item_vectors_equals_encoding_of_the_items(name, model_of, full_batch_of):
    model = model_of(name)
    for batch in (full_batch_of(*HISTORIES), full_batch_of([3, 1])):  # more events than items, and fewer
        others = replace(batch, items=batch.items * 5 % 13)
        for items in (batch.items, others.items):
            with torch.no_grad():
                result = model.encode_vectors(batch, model.item_vectors()[items])
                expected = model.encode(replace(batch, items=items))
            torch.testing.assert_close(result.users, expected.users)
            if expected.parts is not None:
                torch.testing.assert_close(result.parts, expected.parts)


def test_in_a_linear_model_gradients_equal_contributions(model_of, make_batch):
    # the user is the mean of the item vectors, scores are dot products
    model = with_uniform_attention(model_of("core", encoder="none", scores="dot"))
    batch, items = make_batch([1, 3, 5], [2]), torch.tensor([[4, 6], [7, 8]])
    vectors = model.item_vectors().detach()
    expected = torch.stack([vectors[[1, 3, 5]] @ vectors[[4, 6]].mT / 3, vectors[[2, 0, 0]] @ vectors[[7, 8]].mT])
    expected[1, 1:] = 0
    for method in ("contribution", "gradient_x_input", "integrated_gradients"):
        result = attribute(model, batch, items, method=method)
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["attnrec", "sasrec", "bert4rec", "gru4rec", "gat", "attnrec_with_memory"])
def test_gradient_x_input_equals_a_finite_difference_along_the_vector(name, model_of, full_batch_of):
    model, items, step = model_of(name).double(), torch.tensor([[6, 7]]), 1e-6
    batch = full_batch_of([1, 3, 5])
    vectors = model.item_vectors()[batch.items].detach()
    result = attribute(model, batch, items, method="gradient_x_input")
    for position in range(3):
        plus, minus = (vectors.index_fill(1, torch.tensor(position), 0) for _ in range(2))
        plus[:, position], minus[:, position] = vectors[:, position] * (1 + step), vectors[:, position] * (1 - step)
        with torch.no_grad():
            slope = model.encode_vectors(batch, plus).scores(items) - model.encode_vectors(batch, minus).scores(items)
        torch.testing.assert_close(result[0, position], slope[0] / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["attnrec", "attnrec_with_context", "attnrec_with_memory", "sasrec", "bert4rec", "gru4rec", "gat"]
)
def test_integrated_gradients_sum_to_the_score_minus_that_of_zero_vectors(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES[:5])
    items = ITEMS[:5]
    result = attribute(model, batch, items, method="integrated_gradients").sum(1)
    with torch.no_grad():
        expected = model.score(batch, items) - zero_vector_scores(model, batch, items)
    assert expected.abs().max() > 0.2
    torch.testing.assert_close(result, expected, rtol=0.01, atol=0.02)


def test_uniform_steps_are_inaccurate_for_models_with_norms(model_of, make_batch, monkeypatch):
    model, batch, items = model_of("attnrec"), make_batch([1, 3, 5]), torch.tensor([[6, 7]])
    with torch.no_grad():
        expected = model.score(batch, items) - zero_vector_scores(model, batch, items)
    errors = {}
    for power in (1, 3):
        monkeypatch.setattr("attnrec.attribution.gradients.POWER", power)
        errors[power] = (integrated_gradients(model, batch, items).sum(1) - expected).abs().max().item()
    assert errors[3] < 0.02
    assert errors[1] > 0.2 * expected.abs().max()


def test_gradients_of_cosines_of_a_plain_sum_add_up_to_zero(model_of, make_batch):
    # Euler: the score does not depend on the norm of the user vector (see the docstrings)
    model = with_uniform_attention(model_of("core", encoder="none"))
    batch, items = make_batch([1, 3, 5]), torch.tensor([[4, 6]])
    for method in GRADIENTS:
        result = attribute(model, batch, items, method=method)
        assert result.abs().max() > 0.1
        assert result.sum(1).abs().max() < 1e-3


# --- attention


def test_rollout_of_uniform_attention_through_two_layers(model_of, make_batch):
    # a layer with its residual: the first event has weight 1 on itself, the second 1/4 on the first
    batch, items = make_batch([1, 2], [3], []), torch.tensor([[4, 5]] * 3)
    last = attribute(with_uniform_attention(model_of("sasrec", layers=2)), batch, items, method="attention_rollout")
    assert last[:, :, 0].tolist() == [pytest.approx([1 / 4 + 3 / 4 / 4, 9 / 16]), pytest.approx([1, 0]), [0, 0]]
    assert torch.equal(last[..., 0], last[..., 1])
    # the readout weights both states by 1/2
    pooled = attribute(with_uniform_attention(model_of("attnrec", layers=1)), batch, items, method="attention_rollout")
    assert pooled[:, :, 0].tolist() == [pytest.approx([1 / 2 + 1 / 8, 3 / 8]), pytest.approx([1, 0]), [0, 0]]


@pytest.mark.parametrize("attention", ["scaled_dot", "memory"])
def test_rollout_multiplies_from_the_last_layer_to_the_first_and_sums_to_one(attention, model_of, make_batch):
    # the memory's slots get a part of the attention, so the rest is normalised to sum to 1 first
    model, batch = model_of("sasrec", layers=2, attention=attention), make_batch([1, 2, 3])
    result = attribute(model, batch, torch.tensor([[5]]), method="attention_rollout")[0, :, 0]
    with torch.no_grad():
        weights = [
            each[0].mean(0)
            for each in model.encoder.attention_weights(model.item_scorer(batch.items), lengths=batch.lengths)
        ]
    first, second = ((each + torch.eye(3)) / (1 + each.sum(1, keepdim=True)) for each in weights)
    torch.testing.assert_close(result, (second @ first)[2])
    assert not torch.allclose(result, (first @ second)[2], atol=1e-3)
    assert result.sum().item() == pytest.approx(1)


def test_rollout_leaves_out_attention_to_the_masked_position(model_of, make_batch):
    model = with_uniform_attention(model_of("bert4rec", layers=1, max_length=3))
    result = attribute(model, make_batch([1, 2], [5, 6, 7]), torch.tensor([[4]] * 2), method="attention_rollout")
    # the masked position attends to 3: two events and itself; in a full window the oldest event is dropped
    assert result[:, :, 0].tolist() == [pytest.approx([1 / 6, 1 / 6, 0]), pytest.approx([0, 1 / 6, 1 / 6])]


@pytest.mark.parametrize(("kind", "expected"), [("sasrec", [1 / 6, 2 / 3]), ("attnrec", [3 / 8 + 1 / 12, 1 / 3])])
def test_rollout_leaves_out_attention_to_memory_events(kind, expected, model_of, make_batch):
    # one memory vector: the first event attends to 2 positions, the second to 3
    model = with_uniform_attention(model_of(kind, layers=1, memory_events=2, memory_block=2))
    batch = replace(make_batch([1, 2]), memory_items=torch.tensor([[7, 8]]), memory_lengths=torch.tensor([2]))
    result = attribute(model, batch, torch.tensor([[4]]), method="attention_rollout")
    assert result[0, :, 0].tolist() == pytest.approx(expected)


def test_readout_weights_sum_to_one_and_are_the_same_for_every_item(model_of, make_batch):
    batch, items = make_batch([1, 2, 3], [4]), torch.tensor([[5, 6]] * 2)
    assert attribute(with_uniform_attention(model_of("attnrec")), batch, items, method="weight")[:, :, 1].tolist() == [
        pytest.approx([1 / 3] * 3),
        [1, 0, 0],
    ]
    result = attribute(model_of("attnrec"), batch, items, method="weight")
    assert result[0, :, 0].std() > 0.01
    assert result.sum(1).flatten().tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("name", ["attnrec", "core"])
def test_value_norms_of_uniform_pooling(name, model_of, make_batch):
    model, batch = with_uniform_attention(model_of(name)), make_batch([1, 2, 3], [4])
    result = attribute(model, batch, torch.tensor([[5, 6]] * 2), method="value_norm")
    with torch.no_grad():
        norms = model.readout.values(model.item_vectors()).norm(dim=-1)
    assert result[0, :, 1].tolist() == pytest.approx((norms[1:4] / 3).tolist())
    assert result[1, :, 0].tolist() == pytest.approx([norms[4].item(), 0, 0])


def test_value_norms_of_the_last_layer_under_uniform_attention(model_of, make_batch):
    model, batch = with_uniform_attention(model_of("sasrec", layers=1, positions="none")), make_batch([1, 2, 3], [4])
    result = attribute(model, batch, torch.tensor([[5]] * 2), method="value_norm")[..., 0]
    block = model.encoder.blocks[0]
    with torch.no_grad():
        values = block.attention.project_in(block.norm_attention(model.item_vectors()))[:, 32:]
        norms = (values @ block.attention.project_out.weight.mT).norm(dim=-1)
    assert result[0].tolist() == pytest.approx((norms[1:4] / 3).tolist())
    assert result[1].tolist() == pytest.approx([norms[4].item(), 0, 0])


def test_value_norms_are_of_the_layer_before_the_readout(model_of, make_batch):
    # zero output of the last layer gives zero norms, whatever the first layer adds
    model, batch, items = model_of("sasrec", layers=2), make_batch([1, 2, 3]), torch.tensor([[5]])
    with torch.no_grad():
        model.encoder.blocks[0].attention.project_out.weight.zero_()
        assert (attribute(model, batch, items, method="value_norm") > 0).all()
        model.encoder.blocks[1].attention.project_out.weight.zero_()
        assert not attribute(model, batch, items, method="value_norm").any()


# --- controls


def test_recency_increases_with_the_position(model_of, make_batch):
    result = attribute(
        model_of("popularity"), make_batch([1, 2, 3], [4], []), torch.tensor([[5]] * 3), method="recency"
    )
    assert result[..., 0].tolist() == [pytest.approx([1 / 3, 2 / 3, 1]), [1, 0, 0], [0, 0, 0]]


def test_item_cosine_is_the_cosine_of_item_vectors(model_of, make_batch):
    model = model_of("attnrec")
    with torch.no_grad():
        model.item_scorer.embedding.weight[[1, 2, 3]] = torch.eye(16)[:3] * torch.tensor([[2.0], [3.0], [4.0]])
        model.item_scorer.embedding.weight[4] = torch.eye(16)[0] - torch.eye(16)[1]
        model.item_scorer.embedding.weight[0] = 0
    result = attribute(model, make_batch([1, 2, 4, 0], [3]), torch.tensor([[1, 4]] * 2), method="item_cosine")
    half = 0.5**0.5
    assert result[0].flatten().tolist() == pytest.approx([1, half, 0, -half, half, 1, 0, 0])
    assert not result[1].any()


def test_popularity_is_the_count_of_the_item_in_training(model_of, make_batch):
    batch, items = make_batch([1, 12], [2, 2]), torch.tensor([[5, 6]] * 2)
    result = attribute(model_of("sasrec"), batch, items, method="popularity", counts=COUNTS)
    assert result[..., 1].tolist() == [[10, 120], [20, 20]]
    with pytest.raises(ValueError, match=r"number of training events of each item row, \(13,\), got none"):
        attribute(model_of("sasrec"), batch, items, method="popularity")
    with pytest.raises(ValueError, match=r"got shape \(12,\)"):
        attribute(model_of("sasrec"), batch, items, method="popularity", counts=COUNTS[1:])


def test_the_random_control_is_uniform_over_positions_and_items(model_of, make_batch):
    # same length, other items: each position is the largest equally often
    rows = [[a, b, c] for a in range(1, 13) for b in range(1, 13) for c in range(1, 4)]
    result = attribute(model_of("popularity"), make_batch(*rows), torch.tensor([[5, 6]] * len(rows)), method="random")
    firsts = torch.bincount(result[..., 0].argmax(1), minlength=3) / len(rows)
    assert firsts.tolist() == pytest.approx([1 / 3] * 3, abs=0.08)
    assert 0 < result.min() < 0.05
    assert 0.95 < result.max() < 1
    assert torch.corrcoef(result.flatten(0, 1).mT)[0, 1].abs() < 0.1, "items have independent random numbers"


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_cuda_equals_cpu(name, model_of, full_batch_of):
    model, batch = model_of(name), full_batch_of(*HISTORIES)
    working = [method for method in METHODS if METHODS[method].works_for(model)]
    on_cpu = {method: attribute(model, batch, ITEMS, method=method, counts=COUNTS) for method in working}
    model.cuda()
    for method in working:
        on_cuda = attribute(model, batch, ITEMS, method=method, counts=COUNTS)
        torch.testing.assert_close(on_cuda.cpu(), on_cpu[method], rtol=1e-2, atol=1e-2)
