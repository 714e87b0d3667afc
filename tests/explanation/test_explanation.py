from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.attribution import METHODS, attribute
from attnrec.dataset import histories_from_frame, last_events
from attnrec.explanation import Explanation, Explanations, because, explain_items, one_history
from attnrec.explanation.method_texts import METHOD_TEXTS
from attnrec.models import MODELS, ItemKNNConfig, ReasonsError, SequenceConfig, build_model, model_config

SMALL = {"dim": 16, "heads": 2, "layers": 1, "pooling_heads": 2}


def randomised(config, histories):
    torch.manual_seed(2)
    model = build_model(config, histories.n_items)
    model.observe(histories)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.refresh()
    return model


def explain_one(config, histories, *, user=0, item=4, method="contribution", **more):
    found = explain_items(randomised(config, histories), histories, user=user, items=[item], method=method, **more)
    assert len(found) == 1
    return found[0]


def explanation(*rows: tuple, item_bias: float = 0.1, columns=("item_id", "contribution"), **more) -> Explanation:
    frame = pd.DataFrame(rows, columns=list(columns))
    values = frame[more.get("method", "contribution")]
    return Explanation("hat", item_bias + values.sum(), item_bias, frame, **more)


@pytest.fixture
def timed() -> Explanation:
    """Tea bought 10 days before the end and at the end; a cup viewed 2 days and added to the cart 3 hours before it.

    Contributions: tea 0.5 and 0.25, cup 1 (cart) and 0.125 (view), a pan with -2.
    """
    rows = [
        ("tea", "2026-01-21 12:00", "purchase", 0.5),
        ("cup", "2026-01-29 11:59", "view", 0.125),
        ("cup", "2026-01-31 09:00", "cart", 1.0),
        ("pan", "2026-01-31 10:00", "wish", -2.0),
        ("tea", "2026-01-31 12:00", "purchase", 0.25),
    ]
    found = explanation(*rows, columns=("item_id", "datetime", "event", "contribution"))
    found.frame["datetime"] = pd.to_datetime(found.frame["datetime"], utc=True)
    return found


# --- the exact split


@pytest.mark.parametrize("max_length", [3, 10])
def test_the_score_is_the_bias_and_the_sum_of_the_frame(make_histories, max_length):
    histories = make_histories({"ann": "abcab", "bob": "ad"})
    model = randomised(SequenceConfig(**SMALL, max_length=max_length), histories)
    found = explain_items(model, histories, user=0, items=[4])[0]
    assert found.item_id == "d"
    assert found.score == found.item_bias + found.frame["contribution"].sum()
    batch = last_events(histories, np.array([0]), max_length=max_length)
    assert found.score == pytest.approx(model.score(batch)[0, 4].item(), abs=1e-4)
    assert found.item_bias == pytest.approx(model.item_bias()[4].item())
    assert found.exact
    assert not found.control
    assert (found.source, found.unit) == ("this project", "score units")


def test_the_frame_has_the_events_the_model_reads_oldest_first(make_histories):
    histories = make_histories({"ann": "abcab", "bob": "ad"})
    found = explain_one(SequenceConfig(**SMALL, max_length=3), histories)
    assert list(found.frame.columns) == ["item_id", "datetime", "contribution", "weight"]
    assert found.frame["item_id"].tolist() == ["c", "a", "b"]
    assert [int(moment.timestamp()) for moment in found.frame["datetime"]] == [2, 3, 4]
    assert str(found.frame["datetime"].dt.tz) == "UTC"
    assert found.frame["weight"].sum() == pytest.approx(1)


def test_the_frame_has_event_types_if_the_log_has_them():
    rows = [("ann", "a", 1, "view"), ("ann", "b", 2, "cart"), ("ann", "a", 3, "purchase"), ("bob", "c", 1, "view")]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"]))
    found = explain_one(SequenceConfig(**SMALL), histories, item=3)
    assert found.frame["event"].tolist() == ["view", "cart", "purchase"]


def test_the_history_is_encoded_once_for_several_items(make_histories):
    histories = make_histories({"ann": "abcab", "bob": "ad"})
    model = randomised(SequenceConfig(**SMALL), histories)
    separate = [explain_items(model, histories, user=0, items=[item])[0] for item in (4, 1, 2)]
    with mock.patch.object(type(model), "encode", autospec=True, side_effect=type(model).encode) as encode:
        together = explain_items(model, histories, user=0, items=[4, 1, 2])
    assert encode.call_count == 1
    assert [each.item_id for each in together] == ["d", "a", "b"]
    for one, other in zip(together, separate, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        np.testing.assert_allclose(one.frame["contribution"], other.frame["contribution"], atol=1e-5)


def test_explanations_are_a_sequence_with_one_frame(make_histories):
    histories = make_histories({"ann": "ab", "bob": "ad", "cid": "c"})
    found = explain_items(randomised(SequenceConfig(**SMALL), histories), histories, user=0, items=[4, 3])
    assert [each.item_id for each in found] == ["d", "c"]
    assert found[-1].item_id == "c"
    assert [each.item_id for each in found[:1]] == ["d"]
    with pytest.raises(IndexError):
        found[2]
    assert found.frame.columns[0] == "explained_item_id"
    assert found.frame["explained_item_id"].tolist() == ["d", "d", "c", "c"]
    assert found.frame["item_id"].tolist() == ["a", "b", "a", "b"]
    assert found.frame["contribution"].tolist() == [*found[0].values, *found[1].values]
    assert repr(found) == f"Explanations(d {found[0].score:.2f}, c {found[1].score:.2f})"


def test_a_model_without_attention_has_no_weights(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"})
    found = explain_one(ItemKNNConfig(), histories, item=3)
    assert found.frame["weight"].isna().all()
    assert (found.frame["contribution"] > 0).all()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "contribution"])
def test_the_score_of_an_empty_history_is_the_item_bias_for_every_method(make_histories, method):
    view = make_histories({"ann": "ab", "bob": "abc"}).up_to(np.array([0, 3]))
    found = explain_one(SequenceConfig(**SMALL), view, item=2, method=method, log=view)
    assert found.frame.empty
    assert found.score == pytest.approx(found.item_bias)
    assert "no event has a positive value" in found.because()
    assert found.sentences() == []


def test_the_score_of_an_empty_history_is_the_item_bias(make_histories):
    view = make_histories({"ann": "ab", "bob": "abc"}).up_to(np.array([0, 3]))
    found = explain_one(SequenceConfig(**SMALL), view, item=2)
    assert found.score == found.item_bias != 0
    assert found.frame.empty
    assert found.because() == f"because: popularity {found.item_bias:+.2f}"


def test_repeated_events_of_an_item_are_several_rows_and_one_reason(make_histories):
    histories = make_histories({"ann": "aaa", "bob": "ab"})
    found = explain_one(SequenceConfig(**SMALL), histories, item=2)
    assert found.frame["item_id"].tolist() == ["a", "a", "a"]
    assert found.score == found.item_bias + found.frame["contribution"].sum()
    added = found.score - found.item_bias
    reason = f"a {added:+.2f}, " if added > 0 else f"other events {added:+.2f}, "
    assert found.because() == f"because: {reason}popularity {found.item_bias:+.2f}"


# --- other methods


def test_every_method_has_a_label():
    assert METHOD_TEXTS.keys() == METHODS.keys()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "contribution"])
def test_the_values_of_other_methods_are_in_a_column_with_their_name(make_histories, method):
    histories = make_histories({"ann": "abcab", "bob": "ad"})
    model = randomised(SequenceConfig(**SMALL), histories)
    found = explain_items(model, histories, user=0, items=[4, 3], method=method, log=histories)
    batch = last_events(histories, np.array([0]), max_length=model.max_length)
    counts = torch.tensor([0, 3, 2, 1, 1])  # padding, a, b, c, d
    expected = attribute(model, batch, torch.tensor([[4, 3]]), method=method, counts=counts)[0].numpy()
    for column, each in enumerate(found):
        assert "contribution" not in each.frame
        np.testing.assert_allclose(each.frame[method], expected[:, column], atol=1e-6)
        np.testing.assert_array_equal(each.values, each.frame[method])
        assert each.frame["weight"].sum() == pytest.approx(1)
        assert each.score == pytest.approx(model.score(batch)[0, [4, 3][column]].item(), abs=1e-5)
        assert (each.method, each.exact) == (method, False)
        assert each.control == METHODS[method].control
        assert each.source == METHODS[method].source
        assert each.because().endswith("(does not sum to the score)")


def test_a_method_that_is_not_exact_says_that_it_does_not_sum_to_the_score():
    rows = [("tea", 0.5), ("cup", 1.324), ("tea", 0.87), ("pan", -2.0)]
    found = explanation(*rows, columns=("item_id", "leave_one_out"), method="leave_one_out")
    # not additive: tea has its largest value, not .5 + .87
    assert found.because() == "leave-one-out: cup 1.32, tea 0.87 (does not sum to the score)"
    assert found.because(1) == "leave-one-out: cup 1.32 (does not sum to the score)"
    assert found.sentences(1) == ["leave-one-out: you interacted with cup 2 events earlier (1.32)"]


def test_values_of_an_additive_method_are_summed_by_item():
    found = explanation(("tea", 0.5), ("tea", 0.75), columns=("item_id", "shapley"), method="shapley")
    assert found.because() == "Shapley value: tea 1.25 (does not sum to the score)"


def test_a_control_is_labelled():
    found = explanation(("tea", 0.5), ("cup", 1.0), columns=("item_id", "recency"), method="recency")
    assert found.because() == "recency (control): cup 1.00, tea 0.50 (does not sum to the score)"
    assert (found.control, found.source, found.unit) == (
        True,
        "control",
        "relative position in the history, 1 is the latest event",
    )


def test_contributions_of_the_last_state_raise_an_error_that_lists_other_methods(make_histories):
    histories = make_histories({"ann": "ab"})
    config = SequenceConfig(**SMALL, readout="last")
    with pytest.raises(ReasonsError, match="readout = 'pooling', or choose another method: leave_one_out, ") as caught:
        explain_one(config, histories, item=1)
    offered = str(caught.value).split("method: ")[1].split(", ")
    assert "attention_rollout" in offered
    assert "weight" not in offered  # the readout has no attention weights
    assert "recency" not in offered  # controls are not suggested
    for method in offered:
        assert len(explain_one(config, histories, item=1, method=method).frame) == 2


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_has_leave_one_out_values(make_histories, kind):
    histories = make_histories({"ann": "abcab", "bob": "adb", "cid": "bca"})
    settings = {"dim": 16} if "dim" in MODELS[kind][1].model_fields else {}
    found = explain_one(model_config(kind, settings), histories, method="leave_one_out")
    assert found.frame["item_id"].tolist() == list("abcab")
    assert np.isfinite(found.values).all()


# --- sentences


def test_because_lists_the_largest_reasons_summed_by_item():
    found = explanation(("tea", 0.5), ("cup", 0.875), ("tea", 0.75), ("pan", -2.0), ("jar", 0.25), ("pot", 0.125))
    assert found.because() == "because: tea +1.25, cup +0.88, jar +0.25, other events -1.88, popularity +0.10"
    # .125 + .875 + .25 - 2 = -.75
    assert found.because(1) == "because: tea +1.25, other events -0.75, popularity +0.10"
    assert repr(found).startswith("Explanation(hat, score 0.60, because: tea +1.25")


def test_equal_reasons_are_in_history_order():
    found = explanation(("cup", 0.5), ("tea", 0.5), ("pan", 0.5), item_bias=0)
    assert found.because(2) == "because: cup +0.50, tea +0.50, other events +0.50, popularity +0.00"
    many = explanation(*[(f"item {number}", 1.0 + number % 3) for number in range(60)], item_bias=0)
    assert many.because(3).startswith("because: item 2 +3.00, item 5 +3.00, item 8 +3.00, ")


def test_a_negative_contribution_is_not_a_reason():
    found = explanation(("tea", -0.5), item_bias=-1)
    assert found.because() == "because: other events -0.50, popularity -1.00"
    assert found.sentences() == []


def test_because_of_published_reasons():
    assert because([("tea", 1.5)], score=1.75, item_bias=0.25) == "because: tea +1.50, popularity +0.25"


def test_sentences_give_the_action_and_the_time_before_the_last_event(timed):
    assert timed.sentences(9) == [
        "because you added cup to the cart 3 hours ago (+1.00)",
        "because you bought tea twice, last just now (+0.75)",  # .5 + .25
        "because you viewed cup 2 days ago (+0.12)",
    ]
    assert timed.sentences(1) == timed.sentences(9)[:1]


@pytest.mark.parametrize(
    "now", ["2026-02-03 09:00", "2026-02-03 12:00+03:00", pd.Timestamp("2026-02-03 09:00", tz="UTC")]
)
def test_sentences_give_the_time_before_now(timed, now):
    # from January 31, 9:00 to February 3, 9:00
    assert timed.sentences(1, now=now) == ["because you added cup to the cart 3 days ago (+1.00)"]


def test_now_before_the_last_event_is_refused(timed):
    with pytest.raises(ValueError, match=r"now must not be before the last event \(2026-01-31 12.*got 2026-01-31 11"):
        timed.sentences(now="2026-01-31 11:00")


def test_an_event_type_without_a_verb_is_an_interaction(timed):
    timed.frame["contribution"] = [0.0, 0.0, 0.0, 1.0, 0.0]
    assert timed.sentences() == ["because you interacted with pan 2 hours ago (+1.00)"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (86_399, "23 hours ago"),
        (86_400, "1 day ago"),
        (13.9 * 86_400, "13 days ago"),
        (14 * 86_400, "2 weeks ago"),
        (60 * 86_400, "2 months ago"),
        (729 * 86_400, "24 months ago"),
        (730 * 86_400, "2 years ago"),
    ],
)
def test_times_are_in_the_largest_unit_that_fits(seconds, expected):
    rows = [("tea", 1.0), ("cup", 0.0)]
    found = explanation(*rows)
    last = pd.Timestamp("2026-01-31", tz="UTC")
    found.frame["datetime"] = [last - pd.Timedelta(seconds=seconds), last]
    assert found.sentences() == [f"because you interacted with tea {expected} (+1.00)"]


def test_without_a_clock_sentences_count_events():
    found = explanation(("tea", 0.5), ("cup", 1.0), ("tea", 0.25), ("pan", 0.125), ("jar", 0.0))
    assert found.sentences(4) == [
        "because you interacted with cup 3 events earlier (+1.00)",
        "because you interacted with tea twice, last 2 events earlier (+0.75)",
        "because you interacted with pan 1 event earlier (+0.12)",
    ]
    assert explanation(("tea", 1.0)).sentences() == ["because you interacted with tea just now (+1.00)"]


def test_without_an_order_sentences_have_no_time():
    rows = [("tea", 0.5), ("cup", 1.0), ("tea", 0.25), ("tea", 0.25)]
    assert explanation(*rows, ordered=False).sentences() == [
        "because you interacted with tea 3 times (+1.00)",
        "because you interacted with cup (+1.00)",
    ]


def test_titles_replace_ids(timed):
    titled = explanation(("tea", 0.5), ("cup", 0.25), titles={"tea": "Green {tea}", "hat": "Top hat"})
    assert titled.title == "Top hat"
    assert titled.because() == "because: Green {tea} +0.50, cup +0.25, popularity +0.10"
    assert titled.sentences(1) == ["because you interacted with Green {tea} 1 event earlier (+0.50)"]


# --- titles


TITLES = {1: "one", 2: "  two \n", 3: "", 4: None}


@pytest.mark.parametrize(
    "titles",
    [
        TITLES,
        {str(item_id): title for item_id, title in TITLES.items()},
        pd.Series(TITLES),
        pd.DataFrame({"item_id": list(TITLES), "title": list(TITLES.values()), "price": 1.0}),
        pd.Series(["one", "another", "two"], index=[1, 1, 2]),
    ],
    ids=["mapping", "strings for integer ids", "series", "frame", "series with a duplicate id"],
)
def test_titles_can_be_a_mapping_a_series_or_a_frame(titles):
    rows = [("a", 1, 1), ("a", 2, 2), ("a", 3, 3), ("a", 4, 4), ("b", 5, 1)]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    found = explain_items(randomised(SequenceConfig(**SMALL), histories), histories, user=0, items=[2, 5])
    assert dict(found.with_titles(titles)[0].titles) == {1: "one", 2: "two"}
    assert [each.title for each in found.with_titles(titles)] == ["two", "5"]


def test_integer_keys_match_string_ids(make_histories):
    histories = make_histories({"ann": "12", "bob": "13"})
    found = explain_one(SequenceConfig(**SMALL), histories, item=3)
    assert found.item_id == "3"
    assert Explanations([found]).with_titles({3: "three"})[0].title == "three"


def test_a_frame_of_titles_without_the_columns_is_refused(make_histories):
    histories = make_histories({"ann": "ab"})
    found = explain_items(randomised(SequenceConfig(**SMALL), histories), histories, user=0, items=[1])
    with pytest.raises(ValueError, match=r"columns item_id and title, got \['item_id', 'name'\]; rename"):
        found.with_titles(pd.DataFrame({"item_id": ["a"], "name": ["A"]}))


# --- histories


def test_a_history_can_be_a_list_or_a_frame_in_any_order(make_histories):
    item_ids = make_histories({"ann": "abc"}).item_ids
    listed = one_history(["c", "?", "a"], item_ids)
    framed = one_history(pd.DataFrame({"item_id": ["a", "?", "c"], "datetime": [9, 5, 1]}), item_ids)
    with_user = one_history(pd.DataFrame({"user_id": 7, "item_id": ["a", "c"], "timestamp": [9, 1]}), item_ids)
    for histories in (listed, framed, with_user):
        assert histories.n_users == 1
        assert item_ids.decode(histories.items_of(0)).tolist() == ["c", "a"]
    assert listed.time_kind == "order"
    assert framed.times.tolist() == [1, 9]


@pytest.mark.parametrize(
    "history",
    [[], ["?"], pd.DataFrame({"item_id": [], "datetime": []}), pd.DataFrame({"item_id": ["?"], "datetime": 1})],
)
def test_a_history_of_unknown_items_is_empty(make_histories, history):
    histories = one_history(history, make_histories({"ann": "abc"}).item_ids)
    assert (histories.n_users, histories.n_events) == (1, 0)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("abc", r"got the string 'abc'; write \['abc'\]"),
        (pd.DataFrame({"user_id": ["x", "y"], "item_id": "a"}), r"got 2 users; select one, such as .*user_id == 'x'"),
        (pd.DataFrame({"item": ["a"]}), "interactions need the columns user_id and item_id"),
    ],
)
def test_an_invalid_history_is_refused(make_histories, history, message):
    with pytest.raises(ValueError, match=message):
        one_history(history, make_histories({"ann": "abc"}).item_ids)


def test_no_item_and_an_unknown_method_are_refused(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"})
    model = randomised(SequenceConfig(**SMALL), histories)
    with pytest.raises(ValueError, match="at least one item, got none; pass an item_id"):
        explain_items(model, histories, user=0, items=[])
    with pytest.raises(ValueError, match=r"method must be one of .*contribution.*got 'guess'"):
        explain_items(model, histories, user=0, items=[1], method="guess")
    with pytest.raises(ValueError, match="item_cosine needs a model with item vectors, got item_knn"):
        explain_one(ItemKNNConfig(), histories, item=1, method="item_cosine")
    with pytest.raises(ValueError, match="popularity needs item counts of the log, got no log"):
        explain_one(SequenceConfig(**SMALL), histories, item=1, method="popularity")


def test_a_model_that_needs_an_order_refuses_an_unordered_history(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"})
    unordered = one_history(pd.DataFrame({"item_id": ["a", "b"]}), histories.item_ids)
    with pytest.raises(ValueError, match="attnrec needs an ordered history, got a frame without datetime"):
        explain_items(randomised(SequenceConfig(**SMALL), histories), unordered, user=0, items=[1])
    assert not explain_items(randomised(ItemKNNConfig(), histories), unordered, user=0, items=[1])[0].ordered


# --- event types


@pytest.fixture
def typed():
    rows = [("ann", "a", 1, "cart"), ("ann", "b", 2, "view"), ("bob", "c", 1, "purchase"), ("bob", "a", 2, "view")]
    return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"]))


def test_event_types_have_the_numbers_of_the_training_log(typed):
    model = randomised(SequenceConfig(**SMALL, event_types=True), typed)
    # numbered alone, "view" would be the second type and not the third
    single = one_history(
        pd.DataFrame({"item_id": ["a", "b"], "datetime": [1, 2], "event": ["cart", "view"]}), typed.item_ids
    )
    assert single.event_names != typed.event_names
    found = explain_items(model, single, user=0, items=[3], log=typed)[0]
    ann = explain_items(model, typed, user=0, items=[3])[0]
    assert found.frame["event"].tolist() == ["cart", "view"]
    assert found.score == pytest.approx(ann.score, abs=1e-6)
    pd.testing.assert_frame_equal(found.frame, ann.frame)


def test_a_model_that_reads_event_types_refuses_a_history_without(typed):
    model = randomised(SequenceConfig(**SMALL, event_types=True), typed)
    with pytest.raises(
        ValueError, match="reads event types, got a history without; pass a frame with the column event"
    ):
        explain_items(model, one_history(["a", "b"], typed.item_ids), user=0, items=[3], log=typed)
    assert explain_items(model, one_history([], typed.item_ids), user=0, items=[3], log=typed)[0].frame.empty
    unknown_type = one_history(pd.DataFrame({"item_id": ["a"], "datetime": 1, "event": "wish"}), typed.item_ids)
    with pytest.raises(ValueError, match=r"event must be a type of the log \(cart, purchase, view\), got \['wish'\]"):
        explain_items(model, unknown_type, user=0, items=[3], log=typed)
