"""What explanations know of heads and of attention: exact parts by head, shares by layer and head."""

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import histories_from_frame, last_events
from attnrec.explanation import explain_items
from attnrec.models import build_model, model_config

SMALL = {"dim": 16, "heads": 2, "layers": 2, "pooling_heads": 4}


def shaken(kind, histories, **settings):
    torch.manual_seed(2)
    model = build_model(model_config(kind, settings), histories.n_items)
    model.observe(histories)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.refresh()
    return model.eval()


def explained(kind, histories, *, method="contribution", items=(4,), **settings):
    return explain_items(shaken(kind, histories, **settings), histories, user=0, items=list(items), method=method)


@pytest.fixture
def world(make_histories):
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
    ids=["pooling", "projected", "behind a memory", "over a GRU", "gat"],
)
def test_the_heads_of_an_event_add_up_to_its_contribution(world, kind, settings):
    for found in explained(kind, world, items=(4, 2), **settings):
        assert found.heads.shape == (len(found.frame), settings["pooling_heads"])
        np.testing.assert_allclose(found.heads.sum(1), found.frame["contribution"], atol=1e-5)
        assert (np.abs(found.heads).max(0) > 1e-4).all()  # every head has its part
        assert found.heads.std(axis=1).max() > 1e-3  # and not all the same one


def test_a_head_is_its_own_channels_of_the_user_where_nothing_mixes_them(world):
    model = shaken("attnrec", world, **SMALL)
    encoded = model.encode(last_events(world, np.array([0]), max_length=model.max_length))
    item = model.item_scorer.scaled(encoded.table[4])
    # head 2 of 4 owns channels 4 to 8 of 16
    expected = (encoded.parts[0, :, 4:8] / encoded.users[0].norm()) @ item[4:8]
    found = explain_items(model, world, user=0, items=[4])[0]
    np.testing.assert_allclose(found.heads[:, 1], expected.detach(), atol=1e-5)


def test_a_mixed_head_is_what_is_left_when_the_others_say_nothing(world):
    model = shaken("attnrec", world, **SMALL | {"pooling_projection": True, "scores": "dot"})
    found = explain_items(model, world, user=0, items=[4])[0]
    with torch.no_grad():
        model.readout.pooling.project_out.weight[:, 4:] = 0  # what heads 2 to 4 speak through
    alone = explain_items(model, world, user=0, items=[4])[0]
    np.testing.assert_allclose(alone.frame["contribution"], found.heads[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("attnrec", SMALL | {"pooling_heads": 1}, "needs a readout with several heads, got .* with 1; leave"),
        ("core", {"dim": 16}, "got core-item_sum-d16-L200 with 1; leave heads=True out"),
        ("item_knn", {}, "got item_knn with none"),
    ],
)
def test_one_head_or_none_cannot_be_stacked(world, kind, settings, words):
    found = explained(kind, world, **settings)[0]
    with pytest.raises(ValueError, match=words):
        found.plot(heads=True)


def test_only_contributions_have_heads(world):
    found = explained("attnrec", world, method="leave_one_out", **SMALL)[0]
    assert found.heads is None
    with pytest.raises(ValueError, match="heads split contributions, got method = 'leave_one_out'; explain with"):
        found.figure(heads=True)


# --- attention


def test_attention_has_a_row_for_each_head_of_each_layer_and_of_the_readout(world):
    model = shaken("attnrec", world, **SMALL)
    found = explain_items(model, world, user=0, items=[4])[0].attention
    layers = [f"layer {layer} head {head}" for layer in (1, 2) for head in (1, 2)]
    assert list(found.rows) == [*layers, *(f"readout head {head}" for head in (1, 2, 3, 4))]
    assert found.shares.shape == (8, 5)
    np.testing.assert_allclose(found.shares.sum(1), 1, atol=1e-6)
    batch = last_events(world, np.array([0]), max_length=model.max_length)
    first, second = model.shares(batch)
    np.testing.assert_allclose(found.shares[:2], first[0].detach(), atol=1e-6)
    np.testing.assert_allclose(found.shares[2:4], second[0].detach(), atol=1e-6)
    weights = model.encode(batch).weights[0].detach()
    np.testing.assert_allclose(found.shares[4:].mean(0), weights, atol=1e-6)  # which are the mean over the heads


def test_all_items_share_one_attention(world):
    one, other = explained("attnrec", world, items=(4, 1), **SMALL)
    assert one.attention is other.attention


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
def test_only_what_are_shares_has_rows(world, kind, settings, rows):
    found = explained(kind, world, method="leave_one_out", **settings)[0]
    assert list(found.attention.rows) == rows
    np.testing.assert_allclose(found.attention.shares.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("gru4rec", "got gru4rec-last-d16-L200, which has no attention"),
        ("hstu", r"got hstu-last-d16-L200, whose attention \(HSTU\) weighs events by numbers that are no shares"),
        ("linrec", r"whose attention \(LinRec\)"),
        ("item_knn", "got item_knn, which has no attention"),
    ],
)
def test_a_model_without_shares_says_why_there_is_no_heatmap(world, kind, why):
    settings = {} if kind == "item_knn" else {"dim": 16}
    found = explained(kind, world, method="leave_one_out", **settings)[0]
    with pytest.raises(ValueError, match=rf"a heatmap needs shares of attention, .*{why}.*; take plot\(\)"):
        found.heatmap()


def test_what_goes_to_a_hidden_event_or_a_memory_goes_to_no_event_of_the_history(world):
    bert = shaken("bert4rec", world, dim=16, layers=1, max_length=4)
    found = explain_items(bert, world, user=0, items=[4], method="leave_one_out")[0].attention
    batch = last_events(world, np.array([0]), max_length=4)
    seen = bert.shares(batch)[0][0].detach().numpy()  # b, c, a, b: the first made room, the hidden one is the last
    assert seen.shape == found.shares.shape == (2, 4)
    np.testing.assert_allclose(found.shares[:, 0], 0)
    np.testing.assert_allclose(found.shares[:, 1:], seen[:, :3], atol=1e-6)

    settings = SMALL | {"layers": 1, "max_length": 3, "memory_events": 4, "memory_block": 2}
    remembering = shaken("attnrec", world, **settings)
    found = explain_items(remembering, world, user=0, items=[4])[0].attention
    batch = last_events(world, np.array([0]), max_length=3, memory_events=4)
    seen = remembering.shares(batch)[0][0].detach().numpy()  # one vector of the memory, then three events
    assert seen.shape == (2, 4)
    np.testing.assert_allclose(found.shares[:2], seen[:, 1:], atol=1e-6)
    assert (found.shares[:2].sum(1) < 0.999).all()
    np.testing.assert_allclose(found.shares[2:].sum(1), 1, atol=1e-6)  # the readout sees events alone


def test_a_history_without_events_has_no_attention(world):
    empty = world.up_to(np.array([0, 2, 3]))
    found = explained("attnrec", empty, **SMALL)[0]
    with pytest.raises(ValueError, match="needs shares of attention, got a history without events"):
        found.heatmap()
    with pytest.raises(ValueError, match="several heads, got a history without events"):
        found.plot(heads=True)


def test_a_single_event_has_all_of_the_attention():
    rows = [("ann", "a", 1), ("bob", "a", 1), ("bob", "b", 2)]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    found = explained("attnrec", histories, items=(2,), **SMALL)[0]
    np.testing.assert_allclose(found.attention.shares, np.ones((8, 1)), atol=1e-6)
