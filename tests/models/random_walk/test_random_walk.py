"""Random walk: scores, cross-fitted graphs, losses, settings."""

from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.config import SettingsError
from attnrec.dataset import Windows, histories_from_frame, last_events, split_last
from attnrec.models import build_model, model_config, observed_graphs
from attnrec.models.random_walk.neighbour_tables import build_neighbour_tables, fold_of
from attnrec.training import TrainConfig, train

PLAIN = {"neighbours": 4, "dim": 4, "channels": 4, "folds": 2, "max_length": 8, "dropout": 0.0}
NEXT = PLAIN | {"relation": "transitions"}


def build_walk(histories, *, even=True, **settings):
    """A walk on these histories; `even`: uniform attention and a popularity weight of 0."""
    torch.manual_seed(3)
    model = build_model(model_config("random_walk", PLAIN | settings), histories.n_items)
    model.observe(histories)
    if even:
        with torch.no_grad():
            for parameter in (*model.step_attention.parameters(), *model.start_attention.parameters()):
                parameter.zero_()
            if model.start_attention.ordered:
                model.start_attention.logit.bias[-1] = -torch.inf  # no walks that stay
            model.log_popularity_weight.fill_(-torch.inf)
    model.refresh()
    return model.eval()


def probabilities(model, batch):
    with torch.inference_mode():
        return model.score(batch)[:, 1:] / model.n_items


# --- scores


def test_a_score_is_the_probability_to_start_at_an_event_and_step_to_the_item(make_histories, make_batch):
    # a co-occurs with b (ann) and c (bob); d with nothing
    model = build_walk(make_histories({"ann": "ab", "bob": "ac", "cid": "d"}))
    assert probabilities(model, make_batch([1])).tolist() == [[0, 0.5, 0.5, 0]]
    # start at a: 1/2, then b or c; start at b: 1/2, then a
    assert probabilities(model, make_batch([1, 2])).tolist() == [[0.5, 0.25, 0.25, 0]]


def test_probabilities_of_all_items_sum_to_one_plus_the_popularity_weight(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "abc", "bob": "acd", "cid": "bd"}), even=False, heads=2)
    total = probabilities(model, make_batch([1, 2], [4], [3, 2, 1])).sum(1)
    torch.testing.assert_close(total, (1 + model.log_popularity_weight.exp()).expand(3).detach())


def test_scores_are_probabilities_times_the_number_of_items(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "ac"}))
    with torch.inference_mode():
        assert model.score(make_batch([2])).tolist() == [[0, 3, 0, 0]]  # probability 1 for a, of three items


def test_sets_count_each_item_once_and_sequences_every_event(make_histories, make_batch):
    world = make_histories({"ann": "ab", "bob": "ac"})
    assert probabilities(build_walk(world), make_batch([1, 1, 2])).tolist() == [[0.5, 0.25, 0.25]]
    ordered = build_walk(world, relation="transitions")
    # the neighbours of a are b and c, and both have the neighbour a
    assert probabilities(ordered, make_batch([1, 1, 2]))[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_initial_step_probabilities_are_those_of_the_edge_weights(make_histories, make_batch):
    # a and b share ann (2 items); a and c share bob (2 items) and cid (3 items); users: b 1, c 2, d 1
    model = build_walk(make_histories({"ann": "ab", "bob": "ac", "cid": "acd"}), even=False)
    with torch.no_grad():
        model.step_attention.attention.attention.zero_()
        model.log_popularity_weight.fill_(-torch.inf)
    model.refresh()
    strong = {2: 2**-0.75, 3: 2**-0.75 + 3**-0.75, 4: 3**-0.75}
    degree = {2: 1, 3: 2, 4: 1}
    filtered = {item: weight / degree[item] ** 0.3 for item, weight in strong.items()}
    expected = [0, *(weight / sum(filtered.values()) for weight in filtered.values())]
    assert probabilities(model, make_batch([1]))[0].tolist() == pytest.approx(
        expected, rel=2e-3
    )  # features are float16


def test_steps_lead_to_the_strongest_neighbours_only(make_histories, make_batch):
    world = make_histories({"ann": "ab", "bob": "ab", "cid": "ac", "dan": "bc", "eve": "ad"})
    assert probabilities(build_walk(world, neighbours=1), make_batch([1])).tolist() == [[0, 1, 0, 0]]


def test_items_without_neighbours_leave_the_score_to_popularity(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "c", "cid": "abc"}).up_to(np.array([2, 1, 2])))
    with torch.no_grad():
        model.log_popularity_weight.fill_(log(0.5))
    # a and b have two of 5 events each, c one; add-one smoothing
    assert probabilities(model, make_batch([3]))[0].tolist() == pytest.approx([0.5 * 3 / 8, 0.5 * 3 / 8, 0.5 * 2 / 8])


def test_transitions_lead_to_successors_and_predecessors(make_histories):
    model = build_walk(make_histories({"ann": "abc"}), relation="transitions")
    assert {item: set(model.neighbours[item].tolist()) - {4} for item in (1, 2, 3)} == {1: {2}, 2: {1, 3}, 3: {2}}


def test_an_item_can_follow_itself(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "aab"}), relation="transitions")
    assert probabilities(model, make_batch([1]))[0].tolist() == [0.5, 0.5]


def test_walks_may_stay_at_their_first_item(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "ac"}), relation="transitions")
    with torch.no_grad():
        model.start_attention.logit.bias[-1] = log(3)  # three of four walks stay
    batch = make_batch([2, 1])  # the neighbours of b are a, those of a are b and c
    found = probabilities(model, batch)[0].tolist()
    assert found == pytest.approx([3 / 8 + 1 / 8, 3 / 8 + 1 / 16, 1 / 16])
    with torch.inference_mode():
        parts = model.encode(batch).contributions(torch.tensor([[1, 2]]))[0] / model.n_items
    assert parts.flatten().tolist() == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 16])
    probability = torch.stack(
        [model.probabilities_at(batch, torch.tensor([1]), torch.tensor([item])) for item in (1, 3)], 1
    )
    assert probability[0].tolist() == pytest.approx([1 / 2, 1 / 16])


def test_two_hops_lead_to_neighbours_of_neighbours(make_histories, make_batch):
    # edges a-b and b-c: over two edges a leads to c, and to itself, which is excluded for sets
    world = make_histories({"ann": "ab", "bob": "bc"})
    assert probabilities(build_walk(world), make_batch([1])).tolist() == [[0, 1, 0]]
    assert probabilities(build_walk(world, hops=2), make_batch([1])).tolist() == [[0, 0.5, 0.5]]
    ordered = build_walk(world, hops=2, relation="transitions")
    assert (probabilities(ordered, make_batch([1]))[0] > 0).all()


def test_initial_probabilities_with_two_hops_are_those_of_one_and_two_steps(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "bc"}), even=False, hops=2)
    with torch.no_grad():
        model.step_attention.attention.attention.zero_()
        model.log_popularity_weight.fill_(-torch.inf)
    model.refresh()
    # walks from a: 3 of 10 stop at b, 7 of 10 take a second step, half of them back to a
    expected = [0, 0.3 / (0.3 + 0.35), 0.35 / (0.3 + 0.35)]
    assert probabilities(model, make_batch([1]))[0].tolist() == pytest.approx(
        expected, rel=2e-3
    )  # features are float16


# --- cross-fitted graphs


def test_the_graph_of_a_fold_excludes_its_users(make_histories):
    world = make_histories({"ann": "ab", "bob": "ab", "cid": "cd", "dan": "ac"})
    folds = fold_of(torch.arange(4), 2).tolist()
    tables = build_neighbour_tables(world, model_config("random_walk", PLAIN))
    for fold in range(2):
        expected = {(1, 2) for user in (0, 1) if folds[user] != fold} | {(3, 4) for user in (2,) if folds[user] != fold}
        expected |= {(1, 3) for user in (3,) if folds[user] != fold}
        table = tables.neighbours[1 + fold]
        found = {(item, int(other)) for item in range(1, 5) for other in table[item] if item < other < 5}
        assert found == expected


def test_a_users_own_co_occurrences_do_not_help_in_training(make_histories):
    # only ann connects a and b, so on her graph they are not connected; c and d are connected by users of both folds
    world = make_histories({"ann": "ab", "bob": "cd", "cid": "cd", "dan": "cd", "eve": "cd"})
    model = build_walk(world)
    with torch.no_grad():
        model.log_popularity_weight.fill_(log(1e-6))
    batch = last_events(world, np.array([0, 1]), max_length=8)
    including, excluding = (
        model.loss(replace(batch.slice(0, 1), users=users)).item() for users in (None, torch.tensor([0]))
    )
    assert including == pytest.approx(0, abs=1e-3)
    assert excluding > 1
    assert model.loss(replace(batch.slice(1, 2), users=torch.tensor([1]))).item() == pytest.approx(0, abs=1e-3)


def test_windows_have_the_rows_of_their_users(make_histories):
    world = make_histories({"ann": "abc", "bob": "d", "cid": "abcde"})
    batches = list(Windows(world, max_length=2, batch_size=2, next_item=True).epoch(0))
    found = {
        (int(user), int(items[0])) for batch in batches for user, items in zip(batch.users, batch.items, strict=True)
    }
    assert found == {(0, 1), (2, 3), (2, 1)}


def test_folds_are_even_and_the_same_in_every_run():
    folds = fold_of(torch.arange(10_000), 5)
    assert folds.bincount().tolist() == pytest.approx([2000] * 5, rel=0.05)
    assert fold_of(torch.tensor([0, 1, 2, 3]), 5).tolist() == [
        n * 2_654_435_761 % 2**32 // 65_536 % 5 for n in range(4)
    ]
    for n in (2, 4):  # also for every second user
        assert fold_of(2 * torch.arange(10_000), n).bincount().tolist() == pytest.approx([10_000 / n] * n, rel=0.05)


# --- losses


def test_the_loss_of_a_set_predicts_each_item_among_those_outside_the_rest_of_the_set(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "bc", "cid": "cd"}))
    # {a, b}: a given b, which leads to a or c; b given a, which leads to b only
    assert model.loss(make_batch([1, 2])).item() == pytest.approx((log(2) + 0) / 2, abs=1e-5)
    # {a, b, c}: a given b (a, or c in the set) or c (b in the set, or d): a has 1/4 of the remaining 1/4 + 1/4
    # b given a (b) or c (b or d): 3/4 of 1; c given a (b in the set) or b (a in the set, or c): all of 1/4
    expected = (log(2) + log(4 / 3) + 0) / 3
    assert model.loss(make_batch([1, 2, 3])).item() == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_a_sequence_predicts_each_item_from_the_previous_ones(make_histories):
    world = make_histories({"ann": "abc", "bob": "ac"})
    model = build_walk(world, relation="transitions")
    (batch, *_) = Windows(world, max_length=8, batch_size=4).epoch(0)
    # given a, b and c have 1/2 each; given a, b: c has 1/2 from a and 1/2 from b
    assert model.loss(replace(batch, users=None)).item() == pytest.approx(log(2), abs=1e-5)


@pytest.mark.parametrize("relation", ["transitions", "items"])
def test_the_loss_at_a_position_does_not_depend_on_later_events(relation, checkerboard, with_random_weights):
    model = build_model(model_config("random_walk", PLAIN | {"relation": relation, "ordered": True}), 12)
    model = with_random_weights(model, checkerboard.histories)
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=4).epoch(0)
    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        later, now = batch.items.clone(), batch.items.clone()
        later[:, position + 1 :] = batch.items[:, position + 1 :] % 12 + 1
        now[:, position] = batch.items[:, position] % 12 + 1
        loss = model.loss(replace(batch, targets=only)).item()
        assert model.loss(replace(batch, targets=only, items=later)).item() == pytest.approx(loss, abs=1e-6)
        assert model.loss(replace(batch, targets=only, items=now)).item() != pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"hops": 2}, {"window": 1}, {"window": 2}], ids=str)
def test_training_and_scoring_compute_the_same_probability(settings, checkerboard, with_random_weights):
    config = model_config("random_walk", NEXT | {"heads": 2} | settings)
    model = with_random_weights(build_model(config, 12), checkerboard.histories)
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=4).epoch(0)
    only = torch.zeros_like(batch.targets)
    only[:, -1] = batch.targets[:, -1]
    scores = model.score(batch).gather(1, batch.targets[:, -1:]) / 12 / (1 + model.log_popularity_weight.exp())
    expected = -scores.log().mean()
    torch.testing.assert_close(model.loss(replace(batch, targets=only, users=None)), expected)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 50])
def test_probabilities_of_split_histories_equal_those_of_whole_histories(window, make_histories, with_random_weights):
    items = "abcdefgh"
    world = make_histories({"ann": items * 2, "bob": "hgfe", "cid": "c", "dan": items[::2] * 3})
    model = build_model(model_config("random_walk", NEXT | {"heads": 2, "window": window, "max_length": 16}), 8)
    model = with_random_weights(model, world)
    (batch,) = Windows(world, max_length=16, batch_size=8, next_item=True).epoch(0)
    found = model.probabilities(batch, batch.targets)
    for position in range(batch.items.shape[1]):
        has_target, at = batch.targets[:, position] > 0, torch.full_like(batch.lengths, position)
        alone = model.probabilities_at(batch, at, batch.targets[:, position])
        torch.testing.assert_close(found[has_target, position], alone[has_target])


def test_walks_start_within_the_window(make_histories, make_batch):
    model = build_walk(make_histories({"ann": "ab", "bob": "cd"}), relation="transitions", window=1)
    batch = make_batch([1, 3], [1, 3, 3])  # c leads to d; a, which leads to b, is outside the window
    assert probabilities(model, batch).tolist() == [[0, 0, 0, 1]] * 2
    with torch.inference_mode():
        assert model.encode(batch).contributions(torch.tensor([[2], [4]]))[:, 0].tolist() == [[0], [0]]


def test_training_learns_which_events_matter(make_histories):
    # the first item determines the third (a -> x, b -> y, ...); c between them is followed by all four
    paths = ("acx", "bcy", "dcz", "ecw")
    histories = make_histories({f"u{n:02}": paths[n % 4] for n in range(40)})
    model = build_model(model_config("random_walk", NEXT | {"reach": 2}), histories.n_items)
    config = TrainConfig(epochs=30, batch_size=8, learning_rate=3e-2, warmup_steps=0, device="cpu", ema_decay=0)
    train(model, histories, config=config, progress_bar=False)
    ids, shown = histories.item_ids.ids.tolist(), histories.up_to(np.full(40, 2))
    with torch.inference_mode():
        encoded = model.eval().encode(last_events(shown, np.arange(4), max_length=8))
    assert (encoded.weights[:, 0] > 0.5).all()
    unseen = encoded.scores().clone()
    unseen[:, [0, ids.index("c") + 1]] = 0
    assert [ids[int(row) - 1] for row in unseen.argmax(1)] == [path[2] for path in paths]


# --- graph, popularity, settings


def test_the_leakage_audit_gets_the_graph(make_histories):
    split = split_last(make_histories({"ann": "abcde", "bob": "edcba"}))
    sets, ordered = (build_model(model_config("random_walk", settings), 5) for settings in (PLAIN, NEXT))
    assert observed_graphs(sets, split.train)["edges"].items.tolist() == [1, 2, 3, 3, 4, 5]
    transitions = observed_graphs(ordered, split.train)["transitions"]
    assert set(zip(transitions.sources.tolist(), transitions.targets.tolist(), strict=True)) == {
        (1, 2),
        (2, 3),
        (5, 4),
        (4, 3),
    }


def test_the_graph_is_built_once_for_the_same_histories(make_histories, monkeypatch):
    world = make_histories({"ann": "abc", "bob": "ab"})
    model = build_model(model_config("random_walk", PLAIN), 3)
    model.observe(world)
    monkeypatch.setattr("attnrec.models.random_walk.model.build_neighbour_tables", None)
    model.observe(world)
    with pytest.raises(TypeError, match="not callable"):
        model.observe(make_histories({"ann": "abc", "bob": "ac"}))


def test_half_life_weighs_recent_pairs_and_events_more():
    # a was followed by b a week ago and by c today
    rows = [
        (f"{item}{n}", x, day)
        for item, day in (("b", "2026-01-01"), ("c", "2026-01-08"))
        for n in range(4)
        for x in ("a", item)
    ]
    world = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    plain, recent = (
        build_neighbour_tables(world, model_config("random_walk", NEXT | settings))
        for settings in ({}, {"half_life_days": 1})
    )

    def of_a(tables):
        return dict(zip(tables.neighbours[0, 1].tolist(), tables.features[0, 1, :, 0].tolist(), strict=True))

    assert of_a(plain)[2] == of_a(plain)[3]
    # half of the weight of 8 pairs is equal for all pairs, half is by age
    old, new = 4 + 4 / 128 * 8 / (4 + 4 / 128), 4 + 4 * 8 / (4 + 4 / 128)
    assert of_a(recent)[3] - of_a(recent)[2] == pytest.approx(log(new / old), abs=5e-3)
    assert plain.popularity[0, 2] == plain.popularity[0, 3]
    assert recent.popularity[0, 3] > 3 * recent.popularity[0, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reach": 3}, "reach is a setting of relation = 'transitions', got reach = 3"),
        (
            {"relation": "transitions", "ordered": False},
            "relation = 'transitions' needs ordered events, got ordered = false",
        ),
        ({"relation": "bipartite"}, "relation: Input should be 'items' or 'transitions'"),
        ({"half_life_days": 3}, "half_life_days is a setting of relation = 'transitions', got half_life_days = 3.0"),
        ({"window": 5}, "window needs ordered events, got window = 5"),
        ({"relation": "transitions", "window": 0}, "window: Input should be greater than 0"),
        ({"hops": 3}, "hops: Input should be 1 or 2"),
        ({"neighbours": 0}, "neighbours: Input should be greater than 0"),
        ({"folds": 1}, "folds: Input should be greater than or equal to 2"),
    ],
)
def test_settings_that_do_not_apply_are_rejected(settings, message):
    with pytest.raises(SettingsError, match=message):
        model_config("random_walk", settings)
