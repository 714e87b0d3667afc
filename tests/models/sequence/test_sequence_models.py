"""Tests of sequence models in addition to test_models: presets, objectives, context, memory, invalid settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnrec.config import SettingsError
from attnrec.dataset import Windows, last_events
from attnrec.models import PRESETS, SequenceConfig, build_model, check_max_length, model_config
from attnrec.models.sequence.objectives import append_masked_event, mask_items, sample_prefixes

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8}


def randomised(n_items: int = 12, **settings):
    torch.manual_seed(5)
    model = build_model(model_config(settings.pop("kind", "attnrec"), SMALL | settings), n_items)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in name else 0.3))
    return model.eval()


@pytest.fixture
def windows(make_histories):
    """One batch with a user of 7 events, one of 3 and one of 2, each with the next item as target."""
    histories = make_histories({"ann": "abcdefg", "bob": "hij", "cid": "kl"})
    (batch,) = Windows(histories, max_length=8, batch_size=8).epoch(0)
    return batch


# --- presets


def test_every_setting_of_a_preset_can_be_changed():
    config = model_config("bert4rec", {"dim": 32})
    assert (config.objective, config.readout, config.dim) == ("masked_items", "last", 32)
    assert model_config("sasrec", {"readout": "pooling"}).readout == "pooling"
    assert model_config("attnrec", {}).readout == "pooling"
    copy = SequenceConfig(**config.model_dump())
    assert copy == config


@pytest.mark.parametrize("kind", PRESETS)
def test_every_preset_with_pooling_has_exact_contributions(kind):
    if PRESETS[kind].settings.get("objective") == "masked_items":
        pytest.skip("masked_items needs the readout last")
    assert build_model(model_config(kind, {"readout": "pooling"}), 5).exact_reasons


def test_the_description_names_the_kind_and_the_changed_settings():
    expected = {
        "sasrec-last-d64-L200": model_config("sasrec", {}),
        "sasrec-cosine-last-d64-L200": model_config("sasrec", {"attention": "cosine"}),
        "attnrec-gru-pooling-d32-L50": model_config("attnrec", {"encoder": "gru", "dim": 32, "max_length": 50}),
    }
    for name, config in expected.items():
        assert build_model(config, 3).description == name


# --- last items of prefixes


def test_the_target_of_a_prefix_is_the_item_that_follows_it(windows):
    torch.manual_seed(0)
    prefixes = sample_prefixes(windows, n_prefixes=3)
    window_targets = {
        tuple(row[:n].tolist()): row_targets
        for row, n, row_targets in zip(windows.items, windows.lengths.tolist(), windows.targets, strict=True)
    }
    for items, length, targets in zip(prefixes.items, prefixes.lengths.tolist(), prefixes.targets, strict=True):
        prefix = tuple(items[:length].tolist())
        (expected,) = [row_targets for window, row_targets in window_targets.items() if window[:length] == prefix]
        assert targets[length - 1] == expected[length - 1] > 0
        assert targets.count_nonzero() == 1
        assert not items[length:].any()


def test_prefixes_of_a_window_differ_and_short_windows_give_all_of_theirs(windows):
    # windows of 6, 2 and 1 events with a target
    torch.manual_seed(0)
    for _ in range(20):
        prefixes = sample_prefixes(windows, n_prefixes=3)
        lengths = {first: sorted(prefixes.lengths[prefixes.items[:, 0] == first].tolist()) for first in (1, 8, 11)}
        assert lengths[8] == [1, 2]
        assert lengths[11] == [1]
        assert [
            low <= length <= high for length, (low, high) in zip(lengths[1], [(1, 2), (3, 4), (5, 6)], strict=True)
        ] == [True] * 3
        assert prefixes.lengths.tolist() == sorted(prefixes.lengths.tolist(), reverse=True)


def test_every_event_becomes_a_target_over_the_epochs(windows):
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        seen |= set(sample_prefixes(windows, n_prefixes=2).targets.flatten().tolist())
    assert seen == set(windows.targets.flatten().tolist())


# --- masked items


def repeated_masks(batch, *, share: float, times: int):
    torch.manual_seed(0)
    return [mask_items(batch, share=share) for _ in range(times)]


def test_masked_items_are_the_targets_at_their_positions(windows):
    for masked in repeated_masks(windows, share=0.4, times=20):
        is_masked = (masked.items == 0) & masked.real
        assert torch.equal(masked.targets, windows.items * is_masked)
        assert torch.equal(masked.items, windows.items * ~is_masked)
        assert is_masked.any(1).all()


def test_the_share_of_masked_items_follows_mask_share(make_histories):
    histories = make_histories({f"u{n}": "abcdefghijabcdefghij" for n in range(200)})
    (batch,) = Windows(histories, max_length=20, batch_size=200, next_item=False).epoch(0)
    shares = torch.stack([(masked.targets > 0).float().mean() for masked in repeated_masks(batch, share=0.3, times=10)])
    # a fifth of the windows mask only their last event, the others 30 % of 20
    assert shares.mean().item() == pytest.approx(0.8 * 0.3 + 0.2 * 0.05, abs=0.01)
    last_only = [
        ((a.targets > 0).sum(1) == 1) & (a.targets[:, -1] > 0) for a in repeated_masks(batch, share=0.3, times=10)
    ]
    assert torch.stack(last_only).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_training_windows_for_masked_items_contain_every_event_once(make_histories):
    model = build_model(model_config("bert4rec", SMALL | {"max_length": 3}), 7)
    assert not model.next_item_objective
    histories = make_histories({"ann": "abcdefg"})
    batches = list(Windows(histories, max_length=3, batch_size=1, next_item=model.next_item_objective).epoch(0))
    assert sorted(item for batch in batches for item in batch.items.flatten().tolist() if item) == list(range(1, 8))


def test_a_masked_event_is_appended_for_inference(make_batch):
    masked = append_masked_event(make_batch([3, 1], [], [4, 5, 6, 7]), max_length=4)
    assert masked.items.tolist() == [[3, 1, 0, 0], [0, 0, 0, 0], [5, 6, 7, 0]]
    assert masked.lengths.tolist() == [3, 1, 4]
    assert masked.times[0, 2] == masked.times[0, 1], "the time of the next event is unknown"


def test_the_loss_of_a_masked_last_item_equals_the_cross_entropy_of_the_scores(make_batch):
    model = randomised(kind="bert4rec")
    history, answer = [3, 1, 7, 2], 5
    window = make_batch([*history, answer])
    is_masked = window.real & (torch.arange(5) == 4)
    masked = replace(window, items=window.items.masked_fill(is_masked, 0), targets=window.items * is_masked)
    # only the time of the masked event differs, and this model does not use times
    expected = F.cross_entropy(model.score(make_batch(history))[:, 1:], torch.tensor([answer - 1]))
    torch.testing.assert_close(model.loss(masked), expected)


def test_a_masked_event_depends_on_events_of_both_sides(make_batch):
    model = randomised(kind="bert4rec")
    window = make_batch([3, 1, 7, 2, 5])
    masked = replace(window, items=torch.tensor([[3, 1, 0, 2, 5]]), targets=torch.tensor([[0, 0, 7, 0, 0]]))
    loss = model.loss(masked).item()
    for position in (0, 1, 3, 4):
        items = masked.items.clone()
        items[0, position] = 9
        assert model.loss(replace(masked, items=items)).item() != pytest.approx(loss, abs=1e-4)


# --- context


def test_scores_depend_on_time_gaps_and_not_on_absolute_times(make_batch):
    model = randomised(time_gaps=True)
    batch = make_batch([3, 1, 7])
    early = replace(batch, times=torch.tensor([[0, 60, 4000]]))
    late = replace(batch, times=early.times + 10_000_000)
    slow = replace(batch, times=torch.tensor([[0, 60, 900_000]]))
    torch.testing.assert_close(model.score(early), model.score(late))
    assert not torch.allclose(model.score(early), model.score(slow))


def test_scores_depend_on_event_types_which_the_log_must_have(make_batch, make_histories):
    model = randomised(event_types=True)
    batch = make_batch([3, 1, 7])
    views, mixed = (replace(batch, events=torch.tensor([types])) for types in ([1, 1, 1], [1, 2, 1]))
    assert not torch.allclose(model.score(views), model.score(mixed))
    with pytest.raises(ValueError, match="event_types = true needs a log with event types"):
        model.observe(make_histories({"ann": "abc"}))


@pytest.mark.parametrize("settings", [{"time_gaps": True}, {"event_types": True}])
def test_scores_with_context_stay_additive(settings, make_batch):
    model = randomised(**settings)
    batch = replace(make_batch([3, 1, 7], [2]), events=torch.tensor([[1, 2, 3], [2, 0, 0]]))
    items = torch.arange(13).expand(2, -1)
    parts = model.contributions(batch, items)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), model.score(batch), rtol=1e-4, atol=1e-4)


# --- readouts


def test_the_user_vector_of_core_is_a_weighted_sum_of_item_vectors(make_batch):
    # Hou et al. 2022, eq. 4 and 7: the user is a convex combination of item vectors, scores are cosines / temperature
    model = randomised(kind="core", item_bias=False)
    batch = make_batch([3, 1, 7])
    encoded = model.encode(batch)
    vectors = model.item_scorer.embedding.weight
    user = (encoded.weights[0, :, None] * vectors[[3, 1, 7]]).sum(0)
    expected = F.cosine_similarity(user[None], vectors[1:]) / model.config.temperature
    torch.testing.assert_close(model.score(batch)[0, 1:], expected, rtol=1e-4, atol=1e-4)
    assert encoded.weights.sum().item() == pytest.approx(1)


def test_user_vectors_at_all_positions_equal_those_at_the_last_position(make_batch):
    for kind, objective in (("attnrec", "next_item"), ("core", "next_item"), ("narm", "next_item")):
        model = randomised(kind=kind, objective=objective)
        batch = make_batch([3, 1, 7, 2])
        vectors = model.item_scorer(batch.items)
        states = model.states(vectors, batch, model.item_vectors())
        values = model.readout.values(vectors)
        users = model.readout.at_all_positions(states, values)
        for n in (1, 2, 4):
            lengths = torch.tensor([n])
            ended = model.readout.at_last_position(states[:, :n], values[:, :n], lengths=lengths)
            torch.testing.assert_close(ended.users, users[:, n - 1], rtol=1e-4, atol=1e-5)


# --- invalid settings


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("attnrec", {"heads": 3}, "heads must divide dim, got heads=3 and dim=64"),
        ("attnrec", {"attention": "psychic"}, "attention must be one of adaptive_span, additive, .*, got 'psychic'"),
        ("attnrec", {"encoder": "lstm"}, "encoder must be one of dilated_conv, .*, got 'lstm'"),
        ("attnrec", {"attention": "linformer"}, "can't be causal"),
        (
            "attnrec",
            {"attention": "local_global", "attention_settings": {"windw": 3}},
            "windw: unknown key; did you mean window",
        ),
        (
            "attnrec",
            {"attention": "local_global", "attention_settings": {"window": 300}},
            "window must be at most max_length, got 300 and 200",
        ),
        ("attnrec", {"objective": "masked_items"}, "needs a bidirectional encoder, such as 'self_attention'"),
        (
            "gru4rec",
            {"attention": "cosine"},
            "attention is a setting of encoders with attention kernels, got attention = 'cosine'",
        ),
        ("gru4rec", {"layers": 3}, "layers is a setting of encoders with attention kernels, .*use encoder_settings"),
        ("sasrec", {"encoder_settings": {"layers": 3}}, "encoder_settings are for encoders without attention kernels"),
        ("gru4rec", {"encoder_settings": {"hiden": 3}}, r"hiden: unknown key; did you mean hidden\?"),
        ("sasrec", {"objective": "last"}, "objective: Input should be 'next_item', 'last_item' or 'masked_items'"),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(kind, settings, message):
    with pytest.raises(SettingsError, match=message) as caught:
        model_config(kind, settings)
    assert "\n" not in str(caught.value)


def test_max_length_beyond_twice_the_longest_history_is_rejected(make_histories):
    histories = make_histories({"ann": "abcde" * 50, "bob": "ab"})
    check_max_length(500, histories)
    with pytest.raises(ValueError, match="twice the longest history, got 501 and 250 events; set max_length = 250"):
        check_max_length(501, histories)
    check_max_length(200, make_histories({"ann": "ab"}))  # the default is always accepted


def test_kernels_without_a_causal_form_are_accepted_for_bidirectional_encoders():
    for kind in ("bert4rec", "core"):
        assert build_model(model_config(kind, SMALL | {"attention": "linformer"}), 5).score is not None


# --- memory of earlier events


def with_memory(**settings):
    return randomised(**{"max_length": 4, "memory_events": 6, "memory_block": 2, "layers": 2} | settings)


@pytest.fixture
def long_histories(make_histories):
    return make_histories({"ann": "abcdefghijkl", "bob": "cdefg", "cid": "ab"})


def last_windows(histories, model):
    users = np.arange(histories.n_users)
    return last_events(histories, users, max_length=model.max_length, memory_events=model.memory_events)


def test_a_batch_contains_the_events_before_its_window(long_histories):
    batch = last_windows(long_histories, with_memory())
    assert batch.items.tolist() == [[9, 10, 11, 12], [4, 5, 6, 7], [1, 2, 0, 0]]
    assert batch.memory_items.tolist() == [[3, 4, 5, 6, 7, 8], [3, 0, 0, 0, 0, 0], [0] * 6]
    assert batch.memory_lengths.tolist() == [6, 1, 0]
    assert batch.slice(1, 3).memory_items.tolist() == [[3], [0]]


@pytest.mark.parametrize("encoder", ["self_attention", "hstu", "gru"])
def test_memory_events_change_scores_and_have_no_contribution(encoder, long_histories):
    model = with_memory(encoder=encoder)
    batch = last_windows(long_histories, model)
    other = replace(batch, memory_items=torch.where(batch.memory_items > 0, 13 - batch.memory_items, 0))
    items = torch.arange(13).expand(3, -1)
    parts = model.contributions(batch, items)
    assert parts.shape == (3, 4, 13)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), model.score(batch), rtol=1e-4, atol=1e-4)
    changed = (model.score(other) - model.score(batch)).abs().amax(1)
    assert (changed[:2] > 1e-4).all()
    assert (changed[2:] == 0).all()


@pytest.mark.parametrize("kind", ["attnrec", "sasrec", "bert4rec"])
def test_scores_with_memory_do_not_depend_on_the_other_users_of_the_batch(kind, long_histories):
    model = with_memory(kind=kind)
    together = model.score(last_windows(long_histories, model))
    for user in range(3):
        alone = last_events(long_histories, np.array([user]), max_length=4, memory_events=6)
        torch.testing.assert_close(model.score(alone)[0], together[user], rtol=1e-4, atol=1e-4)


def test_users_without_memory_events_have_the_scores_of_the_window(long_histories):
    model = with_memory()
    batch = last_windows(long_histories, model)
    without = replace(batch, memory_items=None, memory_lengths=None)
    torch.testing.assert_close(model.score(batch)[2:], model.score(without)[2:], rtol=1e-4, atol=1e-4)


def test_the_loss_with_memory_does_not_depend_on_later_events(long_histories):
    model = with_memory()
    windows = Windows(long_histories, max_length=4, batch_size=9, memory_events=model.memory_events)
    (batch,) = windows.epoch(0)
    assert sorted(batch.memory_lengths.tolist()) == [0, 0, 0, 3, 6]  # 11 targets of ann in windows of 3, 4 and 4
    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        later = batch.items.clone()
        later[:, position + 1 :] = later[:, position + 1 :] % 12 + 1
        loss = model.loss(replace(batch, targets=only))
        torch.testing.assert_close(model.loss(replace(batch, targets=only, items=later)), loss)
        other = replace(batch, targets=only, memory_items=batch.memory_items % 12 + (batch.memory_items > 0))
        # at the first event of a window the readout has one event, so memory cannot change its weight
        assert (model.loss(other).item() == pytest.approx(loss.item(), abs=1e-4)) == (position == 0)


def test_prefixes_keep_their_memory_events(long_histories):
    model = with_memory(kind="core")
    (batch,) = Windows(long_histories, max_length=4, batch_size=9, memory_events=6).epoch(0)
    prefixes = model.make_targets(batch)
    rows = zip(batch.items, batch.memory_items, strict=True)
    before = {tuple(row[:1].tolist()): memory.tolist() for row, memory in rows}
    for row, memory in zip(prefixes.items, prefixes.memory_items, strict=True):
        assert before[tuple(row[:1].tolist())] == memory.tolist()
    assert model.loss(prefixes).isfinite()
