"""Entropy of attention, for weights with known entropy."""

from math import exp, log

import numpy as np
import pytest
import torch

from attnrec.analysis.attention_spread import attention_spread, entropy_of
from attnrec.models import build_model, model_config
from attnrec.tracking.figures.attention_spread import attention_spread_figure

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8}


@pytest.fixture
def histories(make_histories):
    return make_histories({"ann": "abcdefg", "bob": "hij", "cid": "kl", "dan": "m"})


def spread_of(kind: str, histories, **settings):
    torch.manual_seed(0)
    model = build_model(model_config(kind, SMALL | settings), histories.n_items)
    model.observe(histories)
    return attention_spread(model, histories, np.arange(histories.n_users))


def test_entropy_of_uniform_and_one_hot_weights():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.1, 0, 0]])
    assert entropy_of(weights).tolist() == pytest.approx([log(4), 0, log(2), log(2)])


def test_uniform_attention_counts_every_event(histories):
    # a zero query weights all events equally
    model = build_model(model_config("core", SMALL), histories.n_items)
    with torch.no_grad():
        model.readout.logits.weight.zero_()
    spread = attention_spread(model, histories, np.arange(4)).query("layer == 'readout'")
    assert spread["length"].tolist() == [1, 2.5, 7]
    assert spread["n_users"].tolist() == [1, 2, 1]
    assert spread["effective_events"].tolist() == pytest.approx([1, 2.5, 7])
    assert spread["normalised_entropy"].iloc[1:].tolist() == pytest.approx([1, 1])
    assert spread["entropy"].iloc[2] == pytest.approx(log(7))


def test_every_layer_has_rows_with_at_most_as_many_effective_events_as_positions(histories):
    for kind in ("attnrec", "bert4rec"):
        spread = spread_of(kind, histories, layers=3)
        layers = ["layer 1", "layer 2", "layer 3"] + (["readout"] if kind == "attnrec" else [])
        assert spread["layer"].unique().tolist() == layers
        n_masked = kind == "bert4rec"  # the masked position is attended to as well
        assert (spread["effective_events"] <= spread["length"] + n_masked + 1e-6).all()
        assert (spread["effective_events"] >= 1 - 1e-6).all()


def test_attention_whose_weights_are_not_probabilities_is_left_out(histories):
    assert spread_of("gru4rec", histories).empty
    assert spread_of("linrec", histories).empty
    assert spread_of("narm", histories)["layer"].unique().tolist() == ["readout"]


def test_users_without_events_are_skipped(make_histories):
    view = make_histories({"ann": "ab", "bob": "ab"}).up_to(np.array([2, 0]))
    spread = spread_of("attnrec", view)
    assert spread["n_users"].unique().tolist() == [1]


def test_the_figure_has_a_line_for_every_layer(histories):
    figure = attention_spread_figure(spread_of("attnrec", histories))
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["uniform attention", "layer 1", "layer 2", "readout"]
    assert len(right.lines) == len(left.lines), "a reference line and a line for every layer"
    assert exp(0) == left.lines[1].get_ydata()[0]
