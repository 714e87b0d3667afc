"""Terminal output of explanations and recommendations."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from attnrec.explanation import Explanation
from attnrec.fitting import fit
from attnrec_pipelines.cli import app as cli
from attnrec_pipelines.cli import queries
from attnrec_pipelines.cli.printing import print_explanation, print_frame


def printed(explanation: Explanation) -> list[list[str]]:
    """Return the cells of the table's rows that are not empty, and the sentence below it."""
    out = io.StringIO()
    print_explanation(Console(file=out, width=200), explanation)
    *lines, sentence = out.getvalue().splitlines()
    rows = [line.strip() for line in lines if line.strip() and "──" not in line]
    return [*(re.split(r"\s{2,}", row) for row in rows), [sentence]]


def explanation(method: str, *values: float) -> Explanation:
    frame = pd.DataFrame({"item_id": [f"item {n}" for n in range(len(values))], method: values})
    frame["datetime"] = pd.to_datetime(["2026-01-31 10:00"] * len(values), utc=True)
    frame["weight"] = 0.5 if len(values) else []
    return Explanation("hat", 0.25 + sum(values), 0.25, frame, method=method, titles={"item 0": "Tea"})


def test_contributions_are_a_column_whose_sum_is_the_score():
    assert printed(explanation("contribution", 0.5, -1.0, 2.0)) == [
        ["event", "when", "contribution", "attention"],
        ["item 2", "2026-01-31 10:00", "+2.000", "0.500"],
        ["Tea", "2026-01-31 10:00", "+0.500", "0.500"],
        ["item 1", "2026-01-31 10:00", "-1.000", "0.500"],
        ["popularity (item bias)", "+0.250"],
        [
            "hat: score 1.750 = the sum of this column; because: item 2 +2.00, Tea +0.50, other events -1.00, "
            "popularity +0.25"
        ],
    ]


def test_events_after_the_twentieth_are_summed_for_exact_methods_only():
    many = [1.0] * 20 + [0.5] * 5
    assert printed(explanation("contribution", *many))[-3] == ["5 other events", "+2.500"]
    assert printed(explanation("leave_one_out", *many))[-2] == ["5 other events"]


def test_another_attribution_method_has_its_own_column_and_no_item_bias():
    rows = printed(explanation("leave_one_out", 0.5, 2.0))
    assert rows[:2] == [
        ["event", "when", "leave one out", "attention"],
        ["item 1", "2026-01-31 10:00", "2.000", "0.500"],
    ]
    assert rows[-1] == [
        "hat: score 2.750; the column is in score units; leave-one-out: item 1 2.00, Tea 0.50 "
        "(does not sum to the score)"
    ]
    assert not any("popularity" in row[0] for row in rows)


@pytest.mark.parametrize("option", [[], ["--method", "contribution"], ["--method", "leave_one_out"]])
def test_explain_accepts_an_attribution_method(tiny_log, new_home, monkeypatch, option):
    recommender = fit(tiny_log, model="item_knn", progress_bar=False)
    monkeypatch.setattr(queries, "_recommender", lambda model, home: (recommender, {}))
    monkeypatch.setattr(queries, "out", Console(width=200))
    arguments = ["explain", "--user", "bob", "--item", "tea", "--home", str(new_home)]
    result = CliRunner().invoke(cli.app, [*arguments, *option])
    assert result.exit_code == 0, result.output
    assert (option[-1:] or ["contribution"])[0].replace("_", " ") in result.output
    assert ("= the sum of this column" in result.output) == (option != ["--method", "leave_one_out"])


def test_recommendations_show_titles_and_print_markup_as_text():
    reasons = [{"item_id": 7, "contribution": 0.5}, {"item_id": 8, "contribution": -0.25}]
    frame = pd.DataFrame(
        {"user_id": ["[bold]ann", "[bold]ann"], "rank": [1, 2], "item_id": [7, 9], "score": [1.0, 0.5]}
    )
    frame["reasons"] = [reasons, []]
    out = io.StringIO()
    print_frame(Console(file=out, width=80), frame, {"7": "Tea\x1b[31m", "8": "Cup"}, with_ids=True)
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["user", "rank", "item", "score", "largest reasons"]
    assert lines[2:] == [
        ["[bold]ann", "1", "Tea\N{REPLACEMENT CHARACTER}[31m (7)", "1.00",
         "Tea\N{REPLACEMENT CHARACTER}[31m +0.50, Cup -0.25"],
        ["2", "9", "0.50"],
    ]  # fmt: skip
