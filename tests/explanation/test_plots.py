"""Bar charts, heatmaps and HTML of explanations."""

import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from attnrec.explanation import AttentionMaps, Explanation, Explanations

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.colors import to_hex

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"
EVENTS = [("tea", 0.5, 0.25), ("cup", -1.0, 0.25), ("tea", 2.0, 0.5)]


def explanation(*rows, item_id="hat", item_bias=0.25, times=None, score=None, **more) -> Explanation:
    """Build an explanation from rows of item_id, value and attention weight."""
    method = more.get("method", "contribution")
    frame = pd.DataFrame(rows, columns=["item_id", method, "weight"])
    frame["datetime"] = pd.to_datetime(times or [None] * len(rows), utc=True)
    score = item_bias + frame[method].sum() if score is None else score
    return Explanation(item_id, score, item_bias, frame, **more)


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def names_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def bars_of(axes) -> list[tuple[float, str]]:
    return [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]


def texts_of(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def png_of(figure, tmp_path) -> bytes:
    figure.savefig(tmp_path / "picture.png")
    return (tmp_path / "picture.png").read_bytes()


# --- bars


def test_bars_are_in_time_order_above_the_item_bias():
    axes = explanation(*EVENTS).plot()
    assert names_of(axes) == ["popularity (item bias)", "tea", "cup", "tea"]
    assert bars_of(axes) == [(0.25, GREY), (0.5, BLUE), (-1.0, ORANGE), (2.0, BLUE)]
    assert texts_of(axes) == ["+0.25", "+0.50", "-1.00", "+2.00"]
    assert axes.get_title(loc="left") == "why hat: score 1.75"  # .25 + .5 - 1 + 2
    assert axes.get_xlabel() == "contribution to the score (latest event on top)"
    heights = [bar.get_y() for bar in axes.patches]
    assert np.diff(heights).tolist() == pytest.approx([1.6, 1, 1])  # a gap separates the item bias


def test_older_events_are_summed_in_one_bar():
    axes = explanation(*EVENTS).plot(n=1)
    assert names_of(axes) == ["popularity (item bias)", "2 older events", "tea"]
    assert [width for width, _ in bars_of(axes)] == [0.25, 0.5 - 1.0, 2.0]
    assert names_of(explanation(*EVENTS).plot(n=2))[1] == "1 older event"
    with pytest.raises(ValueError, match="n must be 1 or more events, got 0"):
        explanation(*EVENTS).plot(n=0)


def test_dates_are_on_the_right_if_there_are_any():
    axes = explanation(*EVENTS, times=["2026-01-01", "2026-01-02", "2026-02-01"]).plot(n=2)
    (right,) = axes.child_axes
    assert names_of(right) == ["", "", "2026-01-02", "2026-02-01"]
    within = explanation(*EVENTS, times=["2026-01-01 10:00", "2026-01-01 10:05", "2026-01-02 09:59"]).plot()
    assert names_of(within.child_axes[0])[1:] == ["01-01 10:00", "01-01 10:05", "01-02 09:59"]
    assert not explanation(*EVENTS).plot().child_axes


def test_long_titles_are_cut_and_dollar_signs_are_literal(tmp_path):
    titles = {"tea": "a tea\nfor $5 and $6", "cup": "c" * 60, "hat": "h" * 90}
    found = explanation(*EVENTS, titles=titles)
    axes = found.plot()
    assert names_of(axes)[1:3] == [r"a tea for \$5 and \$6", "c" * 33 + "…"]
    assert axes.get_title(loc="left") == f"why {'h' * 39}…: score 1.75"
    assert png_of(axes.figure, tmp_path)


def test_numbers_near_0_have_no_sign():
    assert texts_of(explanation(("tea", -0.001, 1.0), item_bias=0.0049).plot()) == ["0.00", "0.00"]


def test_axes_may_be_given():
    _, axes = pyplot.subplots()
    assert explanation(("tea", 1.0, 1.0)).plot(ax=axes) is axes
    assert len(axes.patches) == 2
    assert len(pyplot.get_fignums()) == 1


def test_an_empty_history_shows_only_the_item_bias():
    axes = explanation(score=0.25).plot()
    assert bars_of(axes) == [(0.25, GREY)]
    assert axes.get_xlabel() == "no history: ranked by popularity"


def test_a_figure_for_saving_is_not_registered_with_pyplot(tmp_path):
    figure = explanation(*EVENTS).figure(n=2)
    assert png_of(figure, tmp_path)[:4] == b"\x89PNG"
    assert pyplot.get_fignums() == []
    assert len(figure.axes[0].patches) == 4


def test_other_methods_show_their_unit_and_no_item_bias():
    axes = explanation(*EVENTS, method="leave_one_out", score=9.0).plot()
    assert names_of(axes) == ["tea", "cup", "tea"]
    assert axes.get_title(loc="left") == "hat: score 9.00"
    assert axes.get_xlabel() == "leave-one-out (score units), does not sum to the score (latest event on top)"
    # not additive, so there is no sum of older events
    two = explanation(*EVENTS, method="leave_one_out").plot(n=1)
    assert names_of(two) == ["tea"]
    assert two.get_xlabel().endswith("(latest event on top; 2 older events not shown)")
    assert names_of(explanation(*EVENTS, method="shapley").plot(n=1)) == ["2 older events", "tea"]
    control = explanation(*EVENTS, method="random").plot()
    assert "control: does not use the score" in control.get_xlabel()
    counted = explanation(("tea", 1200.0, 0.5), ("cup", 3.0, 0.5), method="popularity").plot()
    assert texts_of(counted) == ["1,200", "3"]
    assert names_of(explanation(method="shapley", score=0.25).plot()) == []


# --- heads


HEADS = np.array([[1.0, -0.5], [-0.75, -0.25], [0.5, 1.5]])


def test_heads_are_stacked_to_both_sides_of_0():
    axes = explanation(*EVENTS, head_contributions=HEADS).plot(heads=True)
    first, second = axes.containers[0], axes.containers[1]
    assert [(bar.get_x(), bar.get_width()) for bar in first][1:] == [(0, 1.0), (0, -0.75), (0, 0.5)]
    # negative parts continue negative parts, positive parts continue positive ones
    assert [(bar.get_x(), bar.get_width()) for bar in second][1:] == [(0, -0.5), (-0.75, -0.25), (0.5, 1.5)]
    assert to_hex(first[0].get_facecolor()) == GREY
    assert first[0].get_width() + second[0].get_width() == 0.25
    assert {to_hex(bar.get_facecolor()) for bar in list(first)[1:]} == {BLUE}
    assert {to_hex(bar.get_facecolor()) for bar in list(second)[1:]} == {"#e69f00"}
    assert texts_of(axes) == ["+0.25", "+0.50", "-1.00", "+2.00"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["head 1", "head 2"]


def test_older_events_are_summed_by_head():
    axes = explanation(*EVENTS, head_contributions=HEADS).plot(n=1, heads=True)
    assert [bars[1].get_width() for bars in axes.containers] == [0.25, -0.75]  # 1 - .75 and -.5 - .25


def test_each_of_many_heads_has_its_own_colour():
    heads = np.full((3, 12), 1 / 12)
    axes = explanation(*EVENTS, head_contributions=heads).plot(heads=True)
    assert len({to_hex(bars[1].get_facecolor()) for bars in axes.containers}) == 12


# --- several items


def test_panels_of_several_items_share_both_axes():
    biases = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}
    found = Explanations(explanation(*EVENTS, item_id=item_id, item_bias=biases[item_id]) for item_id in biases)
    panels = found.plot(n=2)
    scores = ["1.50", "2.50", "3.50", "4.50"]
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"why {item_id}: score {score}" for item_id, score in zip(biases, scores, strict=True)
    ]
    assert len({axes.get_xlim() for axes in panels}) == len({axes.get_ylim() for axes in panels}) == 1
    assert len(panels[0].figure.axes) == 4  # three in the first row, one in the second, no empty panels
    assert [len(names_of(axes)) > 0 for axes in panels] == [True, False, False, True]
    assert len(pyplot.get_fignums()) == 1


def test_a_figure_of_several_items_can_be_saved(tmp_path):
    found = Explanations(
        [explanation(*EVENTS, head_contributions=HEADS), explanation(*EVENTS, head_contributions=HEADS)]
    )
    figure = found.figure(heads=True)
    assert png_of(figure, tmp_path)[:4] == b"\x89PNG"
    assert [axes.get_legend() is not None for axes in figure.axes] == [True, False]
    assert pyplot.get_fignums() == []


# --- heatmap


WEIGHTS = np.array([[0.1, 0.2, 0.7], [0.25, 0.25, 0.5], [0.0, 0.5, 0.5]])
ROWS = ("layer 1 head 1", "layer 1 head 2", "readout")


def cells_of(axes) -> np.ndarray:
    sums, events = (image.get_array() for image in axes.images)
    return np.where(np.ma.getmaskarray(np.ma.masked_invalid(events)), sums, events)


def test_a_heatmap_has_a_row_per_head_and_a_column_per_event(tmp_path):
    found = explanation(
        *EVENTS, attention_maps=AttentionMaps(ROWS, WEIGHTS), titles={"tea": "Tea $1 $2"}, model_description="m"
    )
    axes = found.heatmap()
    assert names_of(axes) == list(ROWS)
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"Tea \$1 \$2", "cup", r"Tea \$1 \$2"]
    np.testing.assert_allclose(cells_of(axes), WEIGHTS)
    assert texts_of(axes) == ["10", "20", "70", "25", "25", "50", "50", "50"]
    assert axes.get_title(loc="left") == "attention of m over this history, per cent"
    assert png_of(axes.figure, tmp_path)


def test_older_events_and_other_positions_have_their_own_columns():
    attention = AttentionMaps(ROWS, WEIGHTS * [[1], [1], [0.6]])
    axes = explanation(*EVENTS, attention_maps=attention).heatmap(n=1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["other positions", "2 older events", "tea"]
    np.testing.assert_allclose(cells_of(axes), [[0, 0.3, 0.7], [0, 0.5, 0.5], [0.4, 0.3, 0.3]], atol=1e-12)
    # the colour scale is that of single events
    assert axes.images[1].get_clim() == (0, 0.7)
    with pytest.raises(ValueError, match="n must be 1 or more"):
        explanation(*EVENTS, attention_maps=attention).heatmap(n=0)


def test_a_heatmap_can_be_drawn_on_given_axes():
    _, axes = pyplot.subplots()
    assert explanation(*EVENTS, attention_maps=AttentionMaps(ROWS, WEIGHTS)).heatmap(ax=axes) is axes


# --- html


class Parsed(HTMLParser):
    """The tags, table cells, styles and text of an HTML fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.rows, self.styles, self.open, self.text = set(), [], [], [], ""
        self.feed(html)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style"}
        self.styles += [value for _, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open:
            self.rows[-1][-1] += data

    @property
    def bars(self) -> list[tuple[float, float, str]]:
        """Left end and width in per cent, and colour, of each bar."""
        found = [re.search(r"left:([\d.]+)%;width:([\d.]+)%;background:(.*)", style) for style in self.styles]
        return [(float(bar[1]), float(bar[2]), bar[3]) for bar in found if bar]


def test_the_html_lists_the_latest_event_first_and_sums_to_the_score():
    found = explanation(
        *EVENTS, times=["2026-01-01", "2026-01-02", "2026-02-01"], titles={"cup": "A cup", "hat": "A hat"}
    )
    page = Parsed(found._repr_html_())
    assert page.tags == {"div", "b", "code", "table", "tr", "td"}  # no script, no picture, no link
    assert page.rows == [
        ["when", "item", "", "contribution", "attention"],
        ["2026-02-01", "tea", "", "+2.00", "50%"],
        ["2026-01-02", "A cup", "", "-1.00", "25%"],
        ["2026-01-01", "tea", "", "+0.50", "25%"],
        ["", "popularity", "", "+0.25"],
        ["", "score", "", "1.75"],
    ]
    assert page.text.startswith("why A hat hat: score 1.75")
    assert page.text.endswith(found.because())
    # from -1 to 2: 0 is at a third
    blue, orange, grey = "#3a8fc7", "#dd7a33", "#8c8c8c"
    assert page.bars == [(33.3, 66.7, blue), (0.0, 33.3, orange), (33.3, 16.7, blue), (33.3, 8.3, grey)]


def test_the_html_shows_twenty_events_and_sums_the_older_ones():
    page = Parsed(explanation(*[(f"item {number}", 1.0, 0.04) for number in range(25)])._repr_html_())
    assert [row[0] for row in page.rows] == [
        "item",
        *(f"item {n}" for n in range(24, 4, -1)),
        "and 5 more",
        "popularity",
        "score",
    ]
    assert page.rows[-3] == ["and 5 more", "", "+5.00"]
    effects = [(f"item {number}", 1.0, 0.04) for number in range(25)]
    assert Parsed(explanation(*effects, method="leave_one_out")._repr_html_()).rows[-1] == ["and 5 more"]
    assert len(Parsed(explanation(*effects[:20])._repr_html_()).rows) == 1 + 20 + 2


def test_ids_titles_and_events_are_escaped():
    special = '<b>"x"&'
    found = explanation(
        (special, 1.0, 1.0), ("cup", 1.0, 0.0), item_id=special, titles={"cup": "<script>alert(1)</script>"}
    )
    found.frame["event"] = "<i>"
    html = found._repr_html_()
    page = Parsed(html)  # the parser sees no tags of ids or titles
    assert page.tags <= {"div", "b", "code", "table", "tr", "td"}
    assert [row[:2] for row in page.rows[1:3]] == [["<i>", "<script>alert(1)</script>"], ["<i>", special]]
    assert "&lt;b&gt;&quot;x&quot;&amp;" in html
    titled = explanation((special, 1.0, 1.0), item_id=special, titles={special: "plain"})
    assert Parsed(titled._repr_html_()).text.startswith(f"why plain {special}: score")


def test_the_html_of_an_empty_history_says_so():
    page = Parsed(explanation(score=0.25)._repr_html_())
    assert page.rows == [["popularity", "", "+0.25"], ["score", "", "0.25"]]
    assert page.text.endswith("no history: ranked by popularity")
    assert Parsed(explanation(score=0.25, method="lime")._repr_html_()).rows == []


def test_the_html_of_another_method_names_its_unit_and_source():
    page = Parsed(explanation(*EVENTS, method="leave_one_out", score=9.0)._repr_html_())
    assert page.text.startswith("hat: score 9.00")
    assert [row[2] for row in page.rows] == ["leave-one-out", "2.00", "-1.00", "0.50"]
    assert "popularity" not in page.text
    assert page.text.endswith(
        "(does not sum to the score); unit: score units; method: Ghazimatin et al. 2020, arXiv:1911.08378"
    )
    control = Parsed(explanation(*EVENTS, method="recency")._repr_html_())
    assert control.text.endswith("control: does not use the score")
    integers = Parsed(explanation(("tea", 1.0, 1.0), method="lime")._repr_html_())
    assert integers.rows == [["item", "", "LIME", "attention"], ["tea", "", "1", "100%"]]


def test_attention_is_shown_once_and_only_if_there_is_some():
    frame = pd.DataFrame({"item_id": ["tea"], "weight": [0.25]})
    found = Explanation("hat", 1.0, 0.0, frame, method="weight")
    assert Parsed(found._repr_html_()).rows == [["item", "", "attention weight"], ["tea", "", "0.250"]]
    none = explanation(("tea", 1.0, float("nan")))
    assert Parsed(none._repr_html_()).rows[0] == ["item", "", "contribution"]


def test_the_html_of_several_items_has_a_block_for_each():
    found = Explanations([explanation(*EVENTS), explanation(*EVENTS, item_id="cap")])
    page = Parsed(found._repr_html_())
    assert page.text.count("popularity") == 2 * 2  # in the table and in the sentence
    assert "why hat: score 1.75" in page.text
    assert "why cap: score 1.75" in page.text


def test_a_score_that_is_0_has_no_sign():
    assert "score 0.00" in Parsed(explanation(item_bias=-0.001)._repr_html_()).text
