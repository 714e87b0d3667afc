"""What sequence models promise beyond the contract in test_models: presets, objectives, context, bad settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnrec.config import SettingsError
from attnrec.dataset import Windows, last_events
from attnrec.models import PRESETS, SequenceConfig, build_model, check_window, model_config
from attnrec.models.sequence.objectives import ask_next, last_items, masked_items

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8}


def shaken(n_items: int = 12, **settings):
    torch.manual_seed(5)
    model = build_model(model_config(settings.pop("kind", "attnrec"), SMALL | settings), n_items)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in name else 0.3))
    return model.eval()


@pytest.fixture
def windows(make_histories):
    """One batch with a user of 7 events, one of 3 and one of 2, each event but the last with what followed it."""
    histories = make_histories({"ann": "abcdefg", "bob": "hij", "cid": "kl"})
    (batch,) = Windows(histories, max_length=8, batch_size=8).epoch(0)
    return batch


# --- presets


def test_a_preset_is_a_start_and_every_setting_can_be_changed():
    config = model_config("bert4rec", {"dim": 32})
    assert (config.objective, config.readout, config.dim) == ("masked_items", "last", 32)
    assert model_config("sasrec", {"readout": "pooling"}).readout == "pooling"
    assert model_config("attnrec", {}).readout == "pooling"
    again = SequenceConfig(**config.model_dump())
    assert again == config


@pytest.mark.parametrize("kind", PRESETS)
def test_every_preset_takes_exact_reasons_where_its_objective_allows(kind):
    if PRESETS[kind].settings.get("objective") == "masked_items":
        pytest.skip("a masked item is seen from both sides")
    assert build_model(model_config(kind, {"readout": "pooling"}), 5).exact_reasons


def test_a_model_is_named_by_what_it_is_and_what_was_changed():
    named = {
        "sasrec-last-d64-L200": model_config("sasrec", {}),
        "sasrec-cosine-last-d64-L200": model_config("sasrec", {"attention": "cosine"}),
        "attnrec-gru-pooling-d32-L50": model_config("attnrec", {"encoder": "gru", "dim": 32, "max_length": 50}),
    }
    for name, config in named.items():
        assert build_model(config, 3).description == name


# --- last items of prefixes


def test_every_prefix_is_a_beginning_of_its_window_and_asks_for_what_followed(windows):
    torch.manual_seed(0)
    asked = last_items(windows, n_prefixes=3)
    whole = {
        tuple(row[:n].tolist()): row_targets
        for row, n, row_targets in zip(windows.items, windows.lengths.tolist(), windows.targets, strict=True)
    }
    for items, length, targets in zip(asked.items, asked.lengths.tolist(), asked.targets, strict=True):
        prefix = tuple(items[:length].tolist())
        (followed,) = [row_targets for window, row_targets in whole.items() if window[:length] == prefix]
        assert targets[length - 1] == followed[length - 1] > 0
        assert targets.count_nonzero() == 1
        assert not items[length:].any()


def test_windows_give_different_prefixes_and_short_ones_all_they_have(windows):
    # windows of 6, 2 and 1 events with a target
    torch.manual_seed(0)
    for _ in range(20):
        asked = last_items(windows, n_prefixes=3)
        lengths = {first: sorted(asked.lengths[asked.items[:, 0] == first].tolist()) for first in (1, 8, 11)}
        assert lengths[8] == [1, 2]
        assert lengths[11] == [1]
        assert [
            low <= length <= high for length, (low, high) in zip(lengths[1], [(1, 2), (3, 4), (5, 6)], strict=True)
        ] == [True] * 3
        assert asked.lengths.tolist() == sorted(asked.lengths.tolist(), reverse=True)


def test_over_the_epochs_every_event_is_asked_for(windows):
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        seen |= set(last_items(windows, n_prefixes=2).targets.flatten().tolist())
    assert seen == set(windows.targets.flatten().tolist())


# --- masked items


def masks_of(batch, *, share: float, times: int):
    torch.manual_seed(0)
    return [masked_items(batch, share=share) for _ in range(times)]


def test_masked_items_are_hidden_and_asked_for_at_their_places(windows):
    for asked in masks_of(windows, share=0.4, times=20):
        hidden = (asked.items == 0) & asked.real
        assert torch.equal(asked.targets, windows.items * hidden)
        assert torch.equal(asked.items, windows.items * ~hidden)
        assert hidden.any(1).all()


def test_the_share_of_masked_items_is_what_was_asked_for(make_histories):
    histories = make_histories({f"u{n}": "abcdefghijabcdefghij" for n in range(200)})
    (batch,) = Windows(histories, max_length=20, batch_size=200, next_item=False).epoch(0)
    found = torch.stack([(asked.targets > 0).float().mean() for asked in masks_of(batch, share=0.3, times=10)])
    # a fifth of the windows hide their last event alone, the others 30 % of 20
    assert found.mean().item() == pytest.approx(0.8 * 0.3 + 0.2 * 0.05, abs=0.01)
    last_only = [((a.targets > 0).sum(1) == 1) & (a.targets[:, -1] > 0) for a in masks_of(batch, share=0.3, times=10)]
    assert torch.stack(last_only).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_windows_of_masked_items_hold_every_event_once(make_histories):
    model = build_model(model_config("bert4rec", SMALL | {"max_length": 3}), 7)
    assert not model.next_item_objective
    histories = make_histories({"ann": "abcdefg"})
    batches = list(Windows(histories, max_length=3, batch_size=1, next_item=model.next_item_objective).epoch(0))
    assert sorted(item for batch in batches for item in batch.items.flatten().tolist() if item) == list(range(1, 8))


def test_asking_for_the_next_item_is_one_hidden_event_behind_the_history(make_batch):
    asked = ask_next(make_batch([3, 1], [], [4, 5, 6, 7]), max_length=4)
    assert asked.items.tolist() == [[3, 1, 0, 0], [0, 0, 0, 0], [5, 6, 7, 0]]
    assert asked.lengths.tolist() == [3, 1, 4]
    assert asked.times[0, 2] == asked.times[0, 1], "the time of what is asked for is not known"


def test_bert4rec_is_trained_on_what_it_is_asked(make_batch):
    model = shaken(kind="bert4rec")
    history, answer = [3, 1, 7, 2], 5
    window = make_batch([*history, answer])
    hidden = window.real & (torch.arange(5) == 4)
    asked = replace(window, items=window.items.masked_fill(hidden, 0), targets=window.items * hidden)
    # the hidden event's time is the one thing that differs, and this model does not look at it
    expected = F.cross_entropy(model.score(make_batch(history))[:, 1:], torch.tensor([answer - 1]))
    torch.testing.assert_close(model.loss(asked), expected)


def test_a_hidden_event_is_seen_from_both_sides(make_batch):
    model = shaken(kind="bert4rec")
    window = make_batch([3, 1, 7, 2, 5])
    asked = replace(window, items=torch.tensor([[3, 1, 0, 2, 5]]), targets=torch.tensor([[0, 0, 7, 0, 0]]))
    loss = model.loss(asked).item()
    for place in (0, 1, 3, 4):
        items = asked.items.clone()
        items[0, place] = 9
        assert model.loss(replace(asked, items=items)).item() != pytest.approx(loss, abs=1e-4)


# --- context


def test_time_gaps_are_known_and_absolute_times_are_not(make_batch):
    model = shaken(time_gaps=True)
    batch = make_batch([3, 1, 7])
    early = replace(batch, times=torch.tensor([[0, 60, 4000]]))
    late = replace(batch, times=early.times + 10_000_000)
    slow = replace(batch, times=torch.tensor([[0, 60, 900_000]]))
    torch.testing.assert_close(model.score(early), model.score(late))
    assert not torch.allclose(model.score(early), model.score(slow))


def test_types_of_events_are_known_where_the_log_has_them(make_batch, make_histories):
    model = shaken(event_types=True)
    batch = make_batch([3, 1, 7])
    views, mixed = (replace(batch, events=torch.tensor([types])) for types in ([1, 1, 1], [1, 2, 1]))
    assert not torch.allclose(model.score(views), model.score(mixed))
    with pytest.raises(ValueError, match="event_types = true needs a log with types of events"):
        model.observe(make_histories({"ann": "abc"}))


@pytest.mark.parametrize("settings", [{"time_gaps": True}, {"event_types": True}])
def test_context_shapes_the_weights_and_scores_stay_additive(settings, make_batch):
    model = shaken(**settings)
    batch = replace(make_batch([3, 1, 7], [2]), events=torch.tensor([[1, 2, 3], [2, 0, 0]]))
    items = torch.arange(13).expand(2, -1)
    parts = model.contributions(batch, items)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), model.score(batch), rtol=1e-4, atol=1e-4)


# --- readouts


def test_core_weighs_the_item_vectors_themselves(make_batch):
    # Hou et al. 2022, eq. 4 and 7: the user is a convex combination of item vectors, scores are cosines / temperature
    model = shaken(kind="core", item_bias=False)
    batch = make_batch([3, 1, 7])
    encoded = model.encode(batch)
    vectors = model.item_scorer.embedding.weight
    user = (encoded.weights[0, :, None] * vectors[[3, 1, 7]]).sum(0)
    expected = F.cosine_similarity(user[None], vectors[1:]) / model.config.temperature
    torch.testing.assert_close(model.score(batch)[0, 1:], expected, rtol=1e-4, atol=1e-4)
    assert encoded.weights.sum().item() == pytest.approx(1)


def test_everywhere_and_at_end_agree_for_every_readout(make_batch):
    for kind, objective in (("attnrec", "next_item"), ("core", "next_item"), ("narm", "next_item")):
        model = shaken(kind=kind, objective=objective)
        batch = make_batch([3, 1, 7, 2])
        vectors = model.item_scorer(batch.items)
        states = model.states(vectors, batch, model.item_vectors())
        values = model.readout.values(vectors)
        users = model.readout.everywhere(states, values)
        for n in (1, 2, 4):
            lengths = torch.tensor([n])
            ended = model.readout.at_end(states[:, :n], values[:, :n], lengths=lengths)
            torch.testing.assert_close(ended.users, users[:, n - 1], rtol=1e-4, atol=1e-5)


# --- bad input


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("attnrec", {"heads": 3}, "dim must be a multiple of heads, got 64 and 3"),
        ("attnrec", {"attention": "psychic"}, "attention must be one of adaptive_span, additive, .*, got 'psychic'"),
        ("attnrec", {"encoder": "lstm"}, "encoder must be one of attention, .*, got 'lstm'"),
        ("attnrec", {"attention": "linformer"}, "can't be causal"),
        ("attnrec", {"attention": "local_global", "attention_settings": {"windw": 3}}, "windw: unknown key; did you mean window"),
        (
            "attnrec",
            {"attention": "local_global", "attention_settings": {"window": 300}},
            "window must fit into max_length, got 300 and 200",
        ),
        ("attnrec", {"objective": "masked_items"}, "needs an encoder that attends both ways and readout = 'last'"),
        ("gru4rec", {"attention": "cosine"}, "attention is a setting of encoders that attend, got attention = 'cosine'"),
        ("gru4rec", {"layers": 3}, "layers is a setting of encoders that attend, .*set encoder_settings"),
        ("sasrec", {"encoder_settings": {"layers": 3}}, "encoder_settings are for encoders without attention"),
        ("gru4rec", {"encoder_settings": {"hiden": 3}}, r"hiden: unknown key; did you mean hidden\?"),
        ("sasrec", {"objective": "last"}, "objective: Input should be 'next_item', 'last_item' or 'masked_items'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(kind, settings, said):
    with pytest.raises(SettingsError, match=said) as caught:
        model_config(kind, settings)
    assert "\n" not in str(caught.value)


def test_a_window_that_the_log_cannot_fill_is_refused_and_a_generous_one_is_not(make_histories):
    histories = make_histories({"ann": "abcde" * 50, "bob": "ab"})
    check_window(500, histories)
    with pytest.raises(ValueError, match="twice the longest history, got 501 and 250 events; set max_length = 250"):
        check_window(501, histories)
    check_window(200, make_histories({"ann": "ab"}))  # the default is never refused


def test_a_core_that_cannot_be_causal_is_welcome_where_nothing_has_to_be():
    for kind in ("bert4rec", "core"):
        assert build_model(model_config(kind, SMALL | {"attention": "linformer"}), 5).score is not None


# --- older events


def remembering(**settings):
    return shaken(**{"max_length": 4, "memory_events": 6, "memory_block": 2, "layers": 2} | settings)


@pytest.fixture
def long_histories(make_histories):
    return make_histories({"ann": "abcdefghijkl", "bob": "cdefg", "cid": "ab"})


def last_of(histories, model):
    users = np.arange(histories.n_users)
    return last_events(histories, users, max_length=model.max_length, memory_events=model.memory_events)


def test_a_batch_holds_the_events_before_its_window(long_histories):
    batch = last_of(long_histories, remembering())
    assert batch.items.tolist() == [[9, 10, 11, 12], [4, 5, 6, 7], [1, 2, 0, 0]]
    assert batch.memory_items.tolist() == [[3, 4, 5, 6, 7, 8], [3, 0, 0, 0, 0, 0], [0] * 6]
    assert batch.memory_lengths.tolist() == [6, 1, 0]
    assert batch.slice(1, 3).memory_items.tolist() == [[3], [0]]


@pytest.mark.parametrize("encoder", ["self_attention", "hstu", "gru"])
def test_older_events_shape_the_weights_and_add_nothing(encoder, long_histories):
    model = remembering(encoder=encoder)
    batch = last_of(long_histories, model)
    other = replace(batch, memory_items=torch.where(batch.memory_items > 0, 13 - batch.memory_items, 0))
    items = torch.arange(13).expand(3, -1)
    parts = model.contributions(batch, items)
    assert parts.shape == (3, 4, 13)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), model.score(batch), rtol=1e-4, atol=1e-4)
    changed = (model.score(other) - model.score(batch)).abs().amax(1)
    assert (changed[:2] > 1e-4).all()
    assert (changed[2:] == 0).all()


@pytest.mark.parametrize("kind", ["attnrec", "sasrec", "bert4rec"])
def test_company_never_changes_a_score_of_somebody_with_older_events(kind, long_histories):
    model = remembering(kind=kind)
    together = model.score(last_of(long_histories, model))
    for user in range(3):
        alone = last_events(long_histories, np.array([user]), max_length=4, memory_events=6)
        torch.testing.assert_close(model.score(alone)[0], together[user], rtol=1e-4, atol=1e-4)


def test_a_user_without_older_events_is_read_as_by_the_window_alone(long_histories):
    model = remembering()
    batch = last_of(long_histories, model)
    without = replace(batch, memory_items=None, memory_lengths=None)
    torch.testing.assert_close(model.score(batch)[2:], model.score(without)[2:], rtol=1e-4, atol=1e-4)


def test_training_with_older_events_never_sees_what_comes_later(long_histories):
    model = remembering()
    windows = Windows(long_histories, max_length=4, batch_size=9, memory_events=model.memory_events)
    (batch,) = windows.epoch(0)
    assert sorted(batch.memory_lengths.tolist()) == [0, 0, 0, 3, 6]  # of 11 events to ask for: 3 and 4 and 4
    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        later = batch.items.clone()
        later[:, position + 1 :] = later[:, position + 1 :] % 12 + 1
        loss = model.loss(replace(batch, targets=only))
        torch.testing.assert_close(model.loss(replace(batch, targets=only, items=later)), loss)
        other = replace(batch, targets=only, memory_items=batch.memory_items % 12 + (batch.memory_items > 0))
        # the first event of a window has all the attention, whatever came before
        assert (model.loss(other).item() == pytest.approx(loss.item(), abs=1e-4)) == (position == 0)


def test_prefixes_keep_their_older_events(long_histories):
    model = remembering(kind="core")
    (batch,) = Windows(long_histories, max_length=4, batch_size=9, memory_events=6).epoch(0)
    asked = model.make_targets(batch)
    before = {tuple(row[:1].tolist()): older.tolist() for row, older in zip(batch.items, batch.memory_items, strict=True)}
    for row, older in zip(asked.items, asked.memory_items, strict=True):
        assert before[tuple(row[:1].tolist())] == older.tolist()
    assert model.loss(asked).isfinite()
