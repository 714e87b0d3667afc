"""Contributions by readout head, and attention weights by layer and head."""

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import histories_from_frame, last_events
from attnrec.explanation import explain_items
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "heads": 2, "layers": 2, "pooling_heads": 4}


def randomised(kind, histories, **settings):
    torch.manual_seed(2)
    model = build_model(model_config(kind, settings), histories.n_items)
    model.observe(histories)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.refresh()
    return model.eval()


def explain_letters(kind, histories, *, method="contribution", items=(4,), **settings):
    return explain_items(randomised(kind, histories, **settings), histories, user=0, items=list(items), method=method)


@pytest.fixture
def histories(make_histories):
    return make_histories({"ann": "abcab", "bob": "ad", "cid": "bdc"})


# --- heads of the readout


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("attnrec", SMALL),
        ("attnrec", SMALL | {"pooling_projection": True}),
        ("attnrec", SMALL | {"max_length": 3, "memory_events": 4, "memory_block": 2}),
        ("gru4rec", {"dim": 16, "readout": "pooling", "pooling_heads": 2}),
        ("gat", {"dim": 16, "heads": 2, "pooling_heads": 4}),
    ],
    ids=["pooling", "projected", "with a memory", "over a GRU", "gat"],
)
def test_head_contributions_sum_to_the_contribution(histories, kind, settings):
    for found in explain_letters(kind, histories, items=(4, 2), **settings):
        assert found.head_contributions.shape == (len(found.frame), settings["pooling_heads"])
        np.testing.assert_allclose(found.head_contributions.sum(1), found.frame["contribution"], atol=1e-5)
        assert (np.abs(found.head_contributions).max(0) > 1e-4).all()  # every head contributes
        assert found.head_contributions.std(axis=1).max() > 1e-3  # heads differ


def test_without_a_projection_a_head_is_its_channels_of_the_user_vector(histories):
    model = randomised("attnrec", histories, **SMALL)
    encoded = model.encode(last_events(histories, np.array([0]), max_length=model.max_length))
    item = model.item_scorer.scaled(encoded.table[4])
    # head 2 of 4 owns channels 4 to 8 of 16
    expected = (encoded.parts[0, :, 4:8] / encoded.users[0].norm()) @ item[4:8]
    found = explain_items(model, histories, user=0, items=[4])[0]
    np.testing.assert_allclose(found.head_contributions[:, 1], expected.detach(), atol=1e-5)


def test_with_a_projection_a_head_is_the_contribution_with_all_other_heads_zeroed(histories):
    model = randomised("attnrec", histories, **SMALL | {"pooling_projection": True, "scores": "dot"})
    found = explain_items(model, histories, user=0, items=[4])[0]
    with torch.no_grad():
        model.readout.pooling.project_out.weight[:, 4:] = 0  # the inputs of heads 2 to 4
    first_head = explain_items(model, histories, user=0, items=[4])[0]
    np.testing.assert_allclose(first_head.frame["contribution"], found.head_contributions[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("attnrec", SMALL | {"pooling_heads": 1}, "needs a readout with several heads, got .* with 1; leave"),
        ("core", {"dim": 16}, "got core-item_sum-d16-L200 with 1; leave heads=True out"),
        ("item_knn", {}, "got item_knn with none"),
    ],
)
def test_stacking_needs_several_heads(histories, kind, settings, message):
    found = explain_letters(kind, histories, **settings)[0]
    with pytest.raises(ValueError, match=message):
        found.plot(heads=True)


def test_only_contributions_have_heads(histories):
    found = explain_letters("attnrec", histories, method="leave_one_out", **SMALL)[0]
    assert found.head_contributions is None
    with pytest.raises(ValueError, match="heads split contributions, got method = 'leave_one_out'; explain with"):
        found.figure(heads=True)


# --- attention


def test_there_is_a_map_for_each_head_of_each_layer_and_of_the_readout(histories):
    model = randomised("attnrec", histories, **SMALL)
    found = explain_items(model, histories, user=0, items=[4])[0].attention_maps
    layers = [f"layer {layer} head {head}" for layer in (1, 2) for head in (1, 2)]
    assert list(found.names) == [*layers, *(f"readout head {head}" for head in (1, 2, 3, 4))]
    assert found.weights.shape == (8, 5)
    np.testing.assert_allclose(found.weights.sum(1), 1, atol=1e-6)
    batch = last_events(histories, np.array([0]), max_length=model.max_length)
    first, second = model.attention_layers(batch).from_last_state()
    np.testing.assert_allclose(found.weights[:2], first[0].detach(), atol=1e-6)
    np.testing.assert_allclose(found.weights[2:4], second[0].detach(), atol=1e-6)
    weights = model.encode(batch).weights[0].detach()
    np.testing.assert_allclose(found.weights[4:].mean(0), weights, atol=1e-6)  # the mean over heads


def test_items_share_the_attention_maps(histories):
    one, other = explain_letters("attnrec", histories, items=(4, 1), **SMALL)
    assert one.attention_maps is other.attention_maps


@pytest.mark.parametrize(
    ("kind", "settings", "rows"),
    [
        ("gat", {"dim": 16, "pooling_heads": 2}, ["readout head 1", "readout head 2"]),
        ("core", {"dim": 16, "layers": 1, "heads": 1}, ["layer 1", "readout"]),
        ("sasrec", {"dim": 16, "layers": 1}, ["layer 1 head 1", "layer 1 head 2"]),
        ("narm", {"dim": 16}, ["readout"]),
        ("hstu", {"dim": 16, "readout": "pooling", "pooling_heads": 1}, ["readout"]),
    ],
)
def test_only_weights_that_sum_to_1_have_maps(histories, kind, settings, rows):
    found = explain_letters(kind, histories, method="leave_one_out", **settings)[0]
    assert list(found.attention_maps.names) == rows
    np.testing.assert_allclose(found.attention_maps.weights.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gru4rec", "got gru4rec-last-d16-L200, which has no attention"),
        ("hstu", r"got hstu-last-d16-L200, whose attention \(HSTU\) has weights that do not sum to 1"),
        ("linrec", r"whose attention \(LinRec\)"),
        ("item_knn", "got item_knn, which has no attention"),
    ],
)
def test_a_heatmap_without_attention_weights_raises_an_error_with_the_reason(histories, kind, reason):
    settings = {} if kind == "item_knn" else {"dim": 16}
    found = explain_letters(kind, histories, method="leave_one_out", **settings)[0]
    with pytest.raises(
        ValueError, match=rf"a heatmap needs attention weights that sum to 1, .*{reason}.*; use plot\(\)"
    ):
        found.heatmap()


def test_weights_on_a_mask_token_or_a_memory_belong_to_no_history_event(histories):
    bert = randomised("bert4rec", histories, dim=16, layers=1, max_length=4)
    found = explain_items(bert, histories, user=0, items=[4], method="leave_one_out")[0].attention_maps
    batch = last_events(histories, np.array([0]), max_length=4)
    seen = (
        bert.attention_layers(batch).from_last_state()[0][0].detach().numpy()
    )  # b, c, a, b: the oldest event is dropped for the mask token at the end
    assert seen.shape == found.weights.shape == (2, 4)
    np.testing.assert_allclose(found.weights[:, 0], 0)
    np.testing.assert_allclose(found.weights[:, 1:], seen[:, :3], atol=1e-6)

    settings = SMALL | {"layers": 1, "max_length": 3, "memory_events": 4, "memory_block": 2}
    with_memory = randomised("attnrec", histories, **settings)
    found = explain_items(with_memory, histories, user=0, items=[4])[0].attention_maps
    batch = last_events(histories, np.array([0]), max_length=3, memory_events=4)
    seen = (
        with_memory.attention_layers(batch).from_last_state()[0][0].detach().numpy()
    )  # one memory vector, then three events
    assert seen.shape == (2, 4)
    np.testing.assert_allclose(found.weights[:2], seen[:, 1:], atol=1e-6)
    assert (found.weights[:2].sum(1) < 0.999).all()
    np.testing.assert_allclose(found.weights[2:].sum(1), 1, atol=1e-6)  # the readout attends to events only


def test_a_history_without_events_has_no_attention_maps(histories):
    empty = histories.up_to(np.array([0, 2, 3]))
    found = explain_letters("attnrec", empty, **SMALL)[0]
    with pytest.raises(ValueError, match="needs attention weights that sum to 1, got a history without events"):
        found.heatmap()
    with pytest.raises(ValueError, match="several heads, got a history without events"):
        found.plot(heads=True)


def test_a_single_event_has_all_attention():
    rows = [("ann", "a", 1), ("bob", "a", 1), ("bob", "b", 2)]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    found = explain_letters("attnrec", histories, items=(2,), **SMALL)[0]
    np.testing.assert_allclose(found.attention_maps.weights, np.ones((8, 1)), atol=1e-6)
