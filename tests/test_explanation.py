import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import last_events
from attnrec.explanation import Explanation, because, explain
from attnrec.models import ItemKNNConfig, ReasonsError, SequenceConfig, build_model

SMALL = {"dim": 16, "heads": 2, "layers": 1, "pooling_heads": 2}


def shaken(config, histories):
    torch.manual_seed(2)
    model = build_model(config, histories.n_items)
    model.observe(histories)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def explanation(*rows: tuple[str, float], item_bias: float = 0.1) -> Explanation:
    frame = pd.DataFrame(rows, columns=["item_id", "contribution"])
    return Explanation("hat", item_bias + frame["contribution"].sum(), item_bias, frame)


@pytest.mark.parametrize("max_length", [3, 10])
def test_the_score_is_the_bias_and_the_sum_of_the_frame(histories_of, max_length):
    histories = histories_of({"ann": "abcab", "bob": "ad"})
    model = shaken(SequenceConfig(**SMALL, max_length=max_length), histories)
    found = explain(model, histories, user=0, item=4)
    assert found.item_id == "d"
    assert found.score == found.item_bias + found.frame["contribution"].sum()
    batch = last_events(histories, np.array([0]), max_length=max_length)
    assert found.score == pytest.approx(model.score(batch)[0, 4].item(), abs=1e-4)
    assert found.item_bias == pytest.approx(model.item_bias()[4].item())


def test_the_frame_is_the_history_the_model_read_oldest_first(histories_of):
    histories = histories_of({"ann": "abcab", "bob": "ad"})
    found = explain(shaken(SequenceConfig(**SMALL, max_length=3), histories), histories, user=0, item=4)
    assert found.frame["item_id"].tolist() == ["c", "a", "b"]
    assert [int(moment.timestamp()) for moment in found.frame["datetime"]] == [2, 3, 4]
    assert str(found.frame["datetime"].dt.tz) == "UTC"
    assert found.frame["weight"].sum() == pytest.approx(1)


def test_a_model_without_attention_has_no_shares(histories_of):
    histories = histories_of({"ann": "ab", "bob": "abc"})
    found = explain(shaken(ItemKNNConfig(), histories), histories, user=0, item=3)
    assert found.frame["weight"].isna().all()
    assert (found.frame["contribution"] > 0).all()


def test_an_empty_history_leaves_the_item_bias(histories_of):
    view = histories_of({"ann": "ab", "bob": "abc"}).up_to(np.array([0, 3]))
    found = explain(shaken(SequenceConfig(**SMALL), view), view, user=0, item=2)
    assert found.score == found.item_bias != 0
    assert found.frame.empty
    assert found.because() == f"because of: everyone likes it {found.item_bias:+.2f}"


def test_the_last_state_has_no_explanation(histories_of):
    histories = histories_of({"ann": "ab"})
    with pytest.raises(ReasonsError):
        explain(shaken(SequenceConfig(**SMALL, readout="last"), histories), histories, user=0, item=1)


def test_the_sentence_names_the_largest_reasons_of_items_joined():
    found = explanation(("tea", 0.5), ("cup", 0.875), ("tea", 0.75), ("pan", -2.0), ("jar", 0.25), ("pot", 0.125))
    assert found.because() == "because of: tea +1.25, cup +0.88, jar +0.25, the rest -1.88, everyone likes it +0.10"
    # .125 + .875 + .25 - 2 = -.75
    assert found.because(1) == "because of: tea +1.25, the rest -0.75, everyone likes it +0.10"


def test_what_takes_away_is_no_reason():
    assert explanation(("tea", -0.5), item_bias=-1).because() == "because of: the rest -0.50, everyone likes it -1.00"


def test_a_sentence_from_published_reasons():
    assert because([("tea", 1.5)], score=1.75, item_bias=0.25) == "because of: tea +1.50, everyone likes it +0.25"


def test_the_picture_shows_the_latest_events_and_sums_the_older(histories_of):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    histories = histories_of({"ann": "abcab", "bob": "ad"})
    found = explain(shaken(SequenceConfig(**SMALL), histories), histories, user=0, item=4)
    axes = found.plot(n=2)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["everyone (item bias)", "3 older events", "a", "b"]
    widths = [bar.get_width() for bar in axes.patches]
    assert sum(widths) == pytest.approx(found.score)
    assert widths[-1] == pytest.approx(found.frame["contribution"].iloc[-1])
    pyplot.close("all")


def test_a_short_history_and_none_at_all_are_drawn_too():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots()
    assert explanation(("tea", 1.0)).plot(ax=axes) is axes
    assert len(explanation().plot().patches) == 1
    pyplot.close("all")
