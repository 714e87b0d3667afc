"""The report in a browser: what it shows, and how it reacts to mouse, keyboard and touch."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.models import build_model, model_config
from attnrec.recommender import Recommender
from attnrec.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the dev extra brings")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium, which is not on this machine")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
USERS = ["user-0001", "user-0002", "user-0003", "user-0004"]

CONTRAST = """() => {
  // the lowest contrast (WCAG 2.1, 1.4.3) of any visible text with the background behind it
  const numbers = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((part, i) => a * part + (1 - a) * below[i]);
  const light = (rgb) => rgb.map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + [0.2126, 0.7152, 0.0722][i] * part, 0);
  const background = (at) => numbers(getComputedStyle(at).backgroundColor);
  const behind = (at) => (at ? over(background(at), behind(at.parentElement)) : [255, 255, 255]);
  let [lowest, where] = [99, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const at = walk.currentNode.parentElement;
    const box = at.getBoundingClientRect();
    if (!walk.currentNode.data.trim() || !at.checkVisibility({ visibilityProperty: true }) || box.width < 2) continue;
    const [one, other] = [light(over(numbers(getComputedStyle(at).color), behind(at))), light(behind(at))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < lowest) [lowest, where] = [contrast, `${at.className || at.id}: ${walk.currentNode.data}`];
  }
  return [lowest, where];
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser):
    """Open a file in a new tab, which must request only the file and log no error."""
    opened, problems = [], []

    def make(path, *, part: str = "", size=WIDE, **context):
        tab = browser.new_context(viewport=size, offline=True, **context).new_page()
        opened.append((tab, path))
        tab.set_default_timeout(5_000)
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: request.url.split("#")[0] == path.as_uri() or problems.append(request.url))
        tab.goto(path.as_uri() + part)
        return tab

    yield make
    for tab, _ in opened:
        tab.context.close()
    assert problems == []


@pytest.fixture(scope="module")
def report(shop, shop_recommender, tmp_path_factory):
    """The report of four users of the shop."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    faithfulness = pd.DataFrame(
        {
            "method": ["random", "contribution"],
            "exact": [False, True],
            "control": [True, False],
            "pos_at_5": [0.6, 0.25],
            "pos_at_5_low": [0.55, 0.2],
            "pos_at_5_high": [0.65, 0.3],
            "tau": [0.0, 0.875],
        }
    )
    metrics = {
        "challenger": {"metrics": {"ndcg_at_10": 0.3125}, "intervals": {"ndcg_at_10": (0.25, 0.375)}, "n_users": 120},
        "item_knn": {"metrics": {"ndcg_at_10": 0.125}, "intervals": {"ndcg_at_10": (0.1, 0.15)}},
    }
    shown = shop_recommender.recommend(k=5)
    write_report(
        path, shop_recommender, shown, users=USERS, metrics=metrics, faithfulness=faithfulness, title="The shop"
    )
    return path


@pytest.fixture(scope="module")
def best(shop_recommender):
    """The five best items of each of the four users."""
    return {user: list(shop_recommender.recommend([user], k=5).item_id) for user in USERS}


def history_of(recommender, user: str) -> list[str]:
    histories = recommender.histories
    return histories.item_ids.decode(histories.items_of(histories.user_ids.row(user))).tolist()


def ranking_without(recommender, user: str, event: int) -> list[str]:
    """All items ranked without one event; items of the history are left out."""
    history = history_of(recommender, user)
    remaining = history[:event] + history[event + 1 :]
    ranked = recommender.recommend(history=remaining, k=1000, filter_viewed=False)
    return [item for item in ranked.item_id if item not in set(history)]


def text_of(locator) -> str:
    return " ".join(locator.text_content().replace("\u2212", "-").split())


def signed(value: float) -> str:
    return f"{value:+.2f}" if round(abs(value), 2) else "0.00"


def numbers_in(tab) -> list[float]:
    return [float(text.replace("\u2212", "-")) for text in tab.locator("#timeline .number").all_text_contents()]


def items(tab):
    return tab.locator("#items button")


def events(tab):
    return tab.locator("#timeline button")


def choose_mode(tab, name: str) -> None:
    tab.locator("#modes label", has_text=name).click()


# --- the selected user


def test_the_page_shows_the_model_and_the_number_of_users(report, show, shop_recommender):
    tab = show(report)
    assert text_of(tab.locator("h1")) == "The shop"
    assert "4 of 1,200 users" in text_of(tab.locator("#facts"))
    assert text_of(tab.locator("#user")) == "User user-0001"
    assert f"{len(history_of(shop_recommender, 'user-0001'))} events" in text_of(tab.locator("#user-summary"))
    assert text_of(tab.locator("#position")) == "1 of 4"


def test_next_and_previous_wrap_around_and_change_the_address(report, show):
    tab = show(report)
    tab.get_by_label("Previous user").click()
    playwright.expect(tab.locator("#user")).to_have_text("User user-0004")
    assert tab.url.endswith("#user=user-0004")
    tab.get_by_label("Next user").click()
    playwright.expect(tab.locator("#user")).to_have_text("User user-0001")
    tab.go_back()
    playwright.expect(tab.locator("#user")).to_have_text("User user-0004")


def test_a_link_shows_its_user_or_an_error(report, show):
    assert text_of(show(report, part="#user=user-0003").locator("#user")) == "User user-0003"
    tab = show(report, part="#user=somebody%20else")
    assert text_of(tab.locator("#problem")) == "User somebody else is not on this page. It shows 4 of 1,200 users."


def test_search_finds_a_user_by_id(report, show):
    tab = show(report)
    tab.keyboard.press("/")
    tab.keyboard.type("USER-000")
    playwright.expect(tab.get_by_role("option")).to_have_count(4)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowUp")
    playwright.expect(tab.locator("[role=option][aria-selected=true]")).to_contain_text("user-0002")
    assert tab.locator("#search").get_attribute("aria-activedescendant") == "match-1"
    tab.keyboard.press("Enter")
    playwright.expect(tab.locator("#user")).to_have_text("User user-0002")
    playwright.expect(tab.locator("#matches")).to_be_hidden()


def test_search_finds_a_user_by_an_item_of_the_history(report, show, shop_recommender):
    histories = {user: set(history_of(shop_recommender, user)) for user in USERS}
    only = next(iter(histories["user-0003"] - histories["user-0001"] - histories["user-0002"] - histories["user-0004"]))
    tab = show(report)
    tab.locator("#search").fill(only)
    playwright.expect(tab.get_by_role("option")).to_have_count(1)
    playwright.expect(tab.get_by_role("option")).to_contain_text(f"has {only}")
    tab.get_by_role("option").click()
    playwright.expect(tab.locator("#user")).to_have_text("User user-0003")
    assert only in tab.locator("#timeline .name").all_text_contents()
    tab.locator("#search").fill("no such item")
    playwright.expect(tab.locator("#matches")).to_have_text("no matching user on this page")


# --- reasons


def test_the_history_is_in_time_order_with_dates_and_attention_weights(report, show, shop, shop_recommender):
    tab = show(report)
    log = shop.interactions[shop.interactions.user_id == "user-0001"]
    assert tab.locator("#timeline .name").all_text_contents() == log.item_id.tolist()
    dates = [f"{moment.day} {moment:%b} {moment.year}" for moment in log.datetime]
    assert [text_of(date) for date in tab.locator("#timeline .date").all()] == dates
    weights = shop_recommender.explain("user-0001", log.item_id.iloc[0]).frame.weight
    shown = [float(text_of(cell).removeprefix("attention ").strip("<% ")) for cell in tab.locator(".weight").all()]
    assert shown == pytest.approx(100 * weights.to_numpy(), abs=0.51)


def test_the_overview_is_by_time_and_evenly_spaced_if_many_events_share_a_moment(
    report, show, shop, shop_recommender, tmp_path
):
    positions = "ticks => ticks.map(tick => parseFloat(tick.style.left))"
    times = shop.interactions.datetime[shop.interactions.user_id == "user-0001"]
    shares = (times - times.iloc[0]) / (times.iloc[-1] - times.iloc[0])
    assert show(report).locator(".tick").evaluate_all(positions) == pytest.approx(100 * shares.to_numpy(), abs=0.01)
    ids = shop_recommender.item_ids.ids[:4]
    basket = pd.DataFrame({"user_id": "me", "item_id": ids, "datetime": [1_600_000_000] * 3 + [1_700_000_000]})
    known = shop_recommender.with_histories(basket)
    path = write_report(tmp_path / "basket.html", known, known.recommend(k=2)).path
    tab = show(path)
    assert tab.locator(".tick").evaluate_all(positions) == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.01)
    assert tab.locator("#overview small").all_text_contents() == ["Sep 2020"]


def test_hovering_an_item_shows_the_contributions_of_its_events(report, show, shop_recommender, best):
    tab = show(report)
    item = best["user-0001"][2]
    items(tab).nth(2).hover()
    explained = shop_recommender.explain("user-0001", item)
    contributions = explained.frame.contribution.to_numpy()
    assert numbers_in(tab) == pytest.approx(contributions, abs=0.0051)
    tones = [event.get_attribute("data-tone") for event in events(tab).all()]
    assert tones == ["raises" if value > 0 else "lowers" for value in contributions]
    assert "large" in events(tab).nth(int(np.abs(contributions).argmax())).get_attribute("class").split()
    assert "large" not in events(tab).nth(int(np.abs(contributions).argmin())).get_attribute("class").split()
    heights = tab.locator("#timeline .bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().height)")
    assert np.argmax(heights) == np.abs(contributions).argmax()
    assert np.corrcoef(heights, np.abs(contributions))[0, 1] > 0.99


def test_the_sentence_matches_explain(report, show, shop_recommender, best):
    tab = show(report)
    items(tab).nth(3).hover()
    item = best["user-0001"][3]
    frame = shop_recommender.explain("user-0001", item).frame
    reasons = frame.groupby("item_id").contribution.sum().nlargest(3)
    n_events = frame.item_id.value_counts()
    row = shop_recommender.recommend(["user-0001"], k=5).iloc[3]
    other_events = row.score - row.item_bias - reasons.sum()
    named = [(f"{of} ({n_events[of]} events)" if n_events[of] > 1 else of, value) for of, value in reasons.items()]
    parts = [*named, ("other events", other_events), ("popularity", row.item_bias)]
    expected = ", ".join(f"{name} {signed(value)}" for name, value in parts)
    assert text_of(tab.locator("#sentence")) == f"{item} because: {expected}"
    short = ", ".join(f"{name} {signed(value)}" for name, value in named)
    assert text_of(items(tab).nth(3).locator(".reasons")) == f"because of {short}"
    score, history, popularity = (
        text_of(items(tab).nth(3).locator(part)) for part in (".score", ".part >> nth=0", ".part >> nth=1")
    )
    assert float(score.removeprefix("score ")) == pytest.approx(row.score, abs=0.0051)
    assert float(history.split()[-1]) == pytest.approx(row.score - row.item_bias, abs=0.0051)
    assert float(popularity.split()[-1]) == pytest.approx(row.item_bias, abs=0.0051)


def test_a_pinned_item_stays_until_escape(report, show, best):
    tab = show(report)
    first = numbers_in(tab)
    items(tab).nth(1).click()
    assert items(tab).nth(1).get_attribute("aria-pressed") == "true"
    tab.mouse.move(2, 2)
    pinned = numbers_in(tab)
    assert text_of(tab.locator("#sentence b").first) == best["user-0001"][1]
    items(tab).nth(2).hover()
    assert numbers_in(tab) != pinned
    tab.mouse.move(2, 2)
    assert numbers_in(tab) == pinned
    tab.keyboard.press("Escape")
    assert items(tab).nth(1).get_attribute("aria-pressed") == "false"
    assert numbers_in(tab) == first


def test_hovering_an_event_shows_its_contribution_to_each_item(report, show, shop_recommender, best):
    tab = show(report)
    events(tab).last.hover()
    expected = [shop_recommender.explain("user-0001", item).frame.contribution.iloc[-1] for item in best["user-0001"]]
    shown = [float(text_of(detail)) for detail in items(tab).locator(".detail").all()]
    assert shown == pytest.approx(expected, abs=0.0051)


def test_the_attention_mode_shows_attention_weights(report, show, shop_recommender):
    tab = show(report)
    choose_mode(tab, "attention")
    frame = shop_recommender.explain("user-0001", history_of(shop_recommender, "user-0001")[0]).frame
    shown = [float(text.strip("<% ")) for text in tab.locator("#timeline .number").all_text_contents()]
    assert shown == pytest.approx(100 * frame.weight.to_numpy(), abs=0.51)
    assert text_of(tab.locator("#sentence b").first) == frame.item_id[frame.weight.idxmax()]


# --- what if an event is removed


def test_ranks_without_an_event_are_those_of_the_shortened_history(report, show, shop_recommender, best):
    tab = show(report)
    choose_mode(tab, "what if")
    n_events, ranked = len(history_of(shop_recommender, "user-0001")), best["user-0001"]
    details = []
    for event in range(n_events - 6, n_events):
        events(tab).nth(event).hover()
        ranking = ranking_without(shop_recommender, "user-0001", event)
        for rank, item in enumerate(ranked, start=1):
            to = 1 + ranking.index(item)
            details.append(f"{rank} \u2192 {to}" if to != rank else f"stays {rank}")
            assert text_of(items(tab).nth(rank - 1).locator(".detail")) == details[-1]
    assert {text.startswith("stays") for text in details} == {True, False}, "some ranks must change for this test"


def test_events_show_the_rank_of_a_pinned_item_without_them(report, show, shop_recommender, best):
    tab = show(report, part="#user=user-0002")
    choose_mode(tab, "what if")
    items(tab).first.click()
    item, falls = best["user-0002"][0], 0
    texts = tab.locator("#timeline .number").all_text_contents()
    for event, text in enumerate(texts):
        if text == "not computed":
            continue
        to = 1 + ranking_without(shop_recommender, "user-0002", event).index(item)
        assert text == (f"falls from 1 to {to}" if to > 1 else "stays at 1")
        falls += to > 1
    assert falls, "some rank must fall for this test"
    assert "not computed" in texts, "only ten events per item and the ten latest are removed"
    assert "depends most on" in text_of(tab.locator("#sentence"))


def test_an_event_that_was_not_removed_is_not_computed(report, show):
    tab = show(report, part="#user=user-0002")
    choose_mode(tab, "what if")
    not_computed = tab.locator("#timeline button", has_text="not computed").first
    not_computed.scroll_into_view_if_needed()
    not_computed.hover()
    assert "not computed" in text_of(tab.locator("#sentence"))
    assert set(items(tab).locator(".detail").all_text_contents()) == {"not computed"}


# --- keyboard, themes, phone


def test_everything_is_reachable_by_keyboard(report, show, best):
    tab = show(report)

    def focused(selector: str) -> bool:
        return tab.evaluate("selector => document.activeElement.matches(selector)", selector)

    tab.keyboard.press("Tab")
    assert focused("#theme")
    for selector in ("#search", "#previous", "#next", "#modes input[value=contribution]"):
        tab.keyboard.press("Tab")
        assert focused(selector), selector
    tab.keyboard.press("Tab")
    assert focused("#timeline li:last-child button")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    assert focused("#timeline li:nth-last-child(3) button")
    tab.keyboard.press("Home")
    assert focused("#timeline li:first-child button")
    box, strip = events(tab).first.bounding_box(), tab.locator("#timeline").bounding_box()
    assert box["x"] >= strip["x"] - 1, "the focused event is visible"
    tab.keyboard.press("Tab")
    assert focused("#items li:first-child button")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert items(tab).nth(1).get_attribute("aria-pressed") == "true"
    assert text_of(tab.locator("#sentence b").first) == best["user-0001"][1]
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Escape")
    assert items(tab).nth(1).get_attribute("aria-pressed") == "false"
    tab.keyboard.press("Shift+Tab")
    assert focused("#timeline li:first-child button"), "a list remembers its focused button"
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert focused("#modes input[value=what_if]")
    assert "What if" in text_of(tab.locator("#meaning"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast_in_both_themes(report, show, scheme):
    tab = show(report, color_scheme=scheme, reduced_motion="reduce")
    background = [
        int(part)
        for part in tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")[4:-1].split(",")
    ]
    assert (sum(background) > 3 * 200) == (scheme == "light")
    tab.locator("#technical > summary").click()
    items(tab).nth(1).click()
    for mode in ("contribution", "attention", "what if"):
        choose_mode(tab, mode)
        events(tab).last.hover()
        lowest, where = tab.evaluate(CONTRAST)
        assert lowest >= 4.5, where
    tab.locator("#search").fill("user")
    lowest, where = tab.evaluate(CONTRAST)
    assert lowest >= 4.5, where


def test_the_button_changes_the_theme(report, show):
    tab = show(report, color_scheme="dark")
    dark = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    tab.get_by_role("button", name="Light theme").click()
    light = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert light != dark
    assert light == show(report, color_scheme="light").evaluate(
        "getComputedStyle(document.documentElement).backgroundColor"
    )
    assert tab.get_by_role("button", name="Dark theme").is_visible()


def test_a_phone_does_not_scroll_sideways(report, show, best):
    tab = show(report, size=PHONE, has_touch=True, is_mobile=True)
    for mode in ("contribution", "attention", "what if"):
        choose_mode(tab, mode)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.locator("#technical > summary").tap()
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    choose_mode(tab, "contribution")
    items(tab).nth(4).tap()
    assert items(tab).nth(4).get_attribute("aria-pressed") == "true"
    assert text_of(tab.locator("#sentence b").first) == best["user-0001"][4]
    assert tab.locator("#timeline").bounding_box()["y"] >= -1, "the history stays visible above the list"
    assert tab.locator("#sentence").is_visible()


def test_reduced_motion_turns_transitions_off(report, show):
    duration = "getComputedStyle(document.querySelector('#timeline .bar')).transitionDuration"
    assert show(report).evaluate(duration) == "0.15s"
    assert show(report, reduced_motion="reduce").evaluate(duration) == "0s"


# --- summary and tables, other models, special characters


def test_the_summary_compares_with_the_best_baseline(report, show):
    tab = show(report)
    assert text_of(tab.locator("#headline")) == "2.5 \u00d7 item-kNN on NDCG@10, 120 users"  # 0.3125 / 0.125
    assert text_of(tab.locator("#headline-detail")).startswith("Better than item-kNN, the best baseline: NDCG@10 0.31")
    figures = [text_of(figure) for figure in tab.locator("#figures li").all()]
    assert figures[0] == "Ranking quality0.312\u25b2 better than item-kNN (0.125)NDCG@10, higher is better"
    assert figures[1].startswith("ReasonsExact, faithful\u25b2 better than random, the best control (0.600)")
    assert figures[2] == "Users with recommendations1,200120 users in the evaluation"


def test_items_have_titles_categories_and_lazy_images(shop_recommender, show, best, tmp_path):
    first, second = best["user-0001"][:2]
    image = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
    frame = pd.DataFrame({"item_id": [first, second], "title": ["A desk", None], "kind": ["desks", "gardens"]})
    shown = shop_recommender.recommend(["user-0001"], k=2)
    tab = show(
        write_report(tmp_path / "items.html", shop_recommender, shown, items=frame.assign(image_url=[image, None])).path
    )
    names = [text_of(name.locator(".title")) for name in items(tab).all()]
    assert names == ["A desk", second]
    assert text_of(items(tab).first.locator("small").first) == f"desks \u00b7 {first}"
    assert items(tab).first.locator("img").get_attribute("src") == image
    assert items(tab).first.locator("img").get_attribute("loading") == "lazy"
    assert items(tab).nth(1).locator("img").count() == 0
    assert items(tab).nth(1).locator(".picture").count() == 1, "a placeholder keeps rows aligned"


def test_events_of_one_item_are_counted_by_type(shop_recommender, show, tmp_path):
    a, b = shop_recommender.item_ids.ids[:2]
    log = pd.DataFrame({"user_id": "me", "item_id": [a, b, a, a], "datetime": [1, 2, 3, 4]})
    known = shop_recommender.with_histories(log.assign(event=["purchase", "view", "purchase", "view"]))
    tab = show(write_report(tmp_path / "typed.html", known, known.recommend(k=5)).path)
    assert "(2 purchases, 1 view)" in text_of(tab.locator("#items"))


def test_metrics_and_faithfulness_are_tables(report, show):
    tab = show(report)
    assert not tab.locator("#metrics").is_visible(), "technical details are folded"
    tab.locator("#technical > summary").click()
    lines = [text_of(line) for line in tab.locator("#metrics tbody tr").all()]
    assert lines == ["NDCG@10higher is better0.3130.250 to 0.3750.1250.100 to 0.150"]
    rows = tab.locator("#faithfulness tbody tr").all()
    assert [text_of(row.locator("th")) for row in rows] == ["contribution exact", "random control"]
    assert [text_of(row.locator("td").first) for row in rows] == ["0.250", "0.600"]
    dots = [row.locator(".dot").bounding_box()["x"] for row in rows]
    assert dots[0] < dots[1]


@pytest.fixture
def small(make_histories, tmp_path):
    """Write the report of an untrained model on a few letters."""

    def make(kind: str, world: dict[str, str], **more):
        histories = make_histories(world)
        torch.manual_seed(1)
        settings = {} if kind == "item_knn" else {"dim": 8, "max_length": 20}
        model = build_model(model_config(kind, settings), histories.n_items)
        model.observe(histories)
        recommender = Recommender(model.eval(), histories.item_ids, histories)
        shown = recommender.recommend(k=3)
        nobody = shown.head(1).assign(
            user_id="nobody", score=float(model.item_bias().detach()[recommender.item_ids.row(shown.item_id[0])])
        )
        shown = pd.concat([shown, nobody.assign(rank=1)])
        return write_report(tmp_path / "small.html", recommender, shown, users=[*world, "nobody"], **more).path

    return make


def test_a_model_without_exact_reasons_says_so_and_shows_the_what_if_mode(small, show):
    tab = show(small("narm", {"ann": "abc", "bob": "cdefg"}))
    assert text_of(tab.locator("#meaning")).startswith("This model has no exact reasons")
    assert tab.locator("input[value=contribution]").is_disabled()
    assert tab.locator("input[value=what_if]").is_checked()
    assert tab.locator(".weight").count() == 3
    choose_mode(tab, "attention")
    assert "Attention:" in text_of(tab.locator("#sentence"))
    assert tab.locator("#metrics").is_hidden()
    assert tab.locator("#faithfulness").is_hidden()


def test_a_model_without_attention_has_no_attention_mode(small, show):
    tab = show(small("item_knn", {"ann": "abc", "bob": "cde"}))
    assert tab.locator("input[value=attention]").is_disabled()
    assert tab.locator(".weight").count() == 0
    assert tab.locator("input[value=contribution]").is_checked()


def test_a_user_without_history_gets_popular_items(small, show):
    tab = show(small("item_knn", {"ann": "abc", "bob": "cde"}), part="#user=nobody")
    assert "popular" in text_of(tab.locator("#empty"))
    assert tab.locator("#timeline").is_hidden()
    assert "because: popularity 0.00" in text_of(tab.locator("#sentence"))
    tab.get_by_label("Next user").click()
    playwright.expect(tab.locator("#empty")).to_be_hidden()
    assert events(tab).count() == 3


def test_events_that_are_not_shown_are_summed(small, show):
    tab = show(small("item_knn", {"ann": "abcd", "bob": "dcax"}, max_events=1))
    assert "3 earlier events" in text_of(tab.locator("#timeline"))
    total = sum(numbers_in(tab))
    assert total == pytest.approx(float(text_of(items(tab).first.locator(".score")).split()[-1]), abs=0.011)


def test_special_characters_are_text(small, show):
    name = "<img src=x onerror=alert(1)> & \"b\" 'c'"
    tab = show(small("item_knn", {"ann": "ab", name: "bc"}, titles=dict.fromkeys("abc", name), title=name))
    assert tab.title() == f"ann \u00b7 {name}"
    assert text_of(tab.locator("h1")) == name
    assert tab.locator("#timeline .name").all_text_contents() == [name, name]
    tab.locator("#search").fill("onerror")
    tab.keyboard.press("Enter")
    playwright.expect(tab.locator("#user")).to_have_text(f"User {name}")
    assert tab.locator("img").count() == 0
    link = tab.url.split("#")[1]
    assert (
        text_of(show(small("item_knn", {"ann": "ab", name: "bc"}), part=f"#{link}").locator("#user")) == f"User {name}"
    )


def test_a_page_without_images_can_load_nothing(report, browser):
    tab = browser.new_page()
    tab.goto(report.as_uri())
    refused = tab.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          new Image().src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
        })"""
    )
    tab.close()
    assert refused == "img-src"
