"""What `attnrec explain` prints of an explanation."""

import io

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from attnrec.explanation import Explanation
from attnrec.fitting import fit
from attnrec_pipelines.cli import app as cli
from attnrec_pipelines.cli import queries as questions
from attnrec_pipelines.cli.printing import print_explanation


def printed(explanation: Explanation) -> list[list[str]]:
    """The cells of the table's rows, and the last line."""
    out = io.StringIO()
    print_explanation(Console(file=out, width=200), explanation)
    lines = out.getvalue().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines if line[0] in "│┃"
    ]
    return [*rows, [lines[-1]]]


def explanation(method: str, *values: float) -> Explanation:
    frame = pd.DataFrame({"item_id": [f"item {n}" for n in range(len(values))], method: values})
    frame["datetime"] = pd.to_datetime(["2026-01-31 10:00"] * len(values), utc=True)
    frame["weight"] = 0.5 if len(values) else []
    return Explanation("hat", 0.25 + sum(values), 0.25, frame, method=method, titles={"item 0": "Tea"})


def test_contributions_are_a_column_that_adds_up():
    assert printed(explanation("contribution", 0.5, -1.0, 2.0)) == [
        ["event", "when", "contribution", "attention"],
        ["item 2", "2026-01-31 10:00", "+2.000", "0.500"],
        ["Tea", "2026-01-31 10:00", "+0.500", "0.500"],
        ["item 1", "2026-01-31 10:00", "-1.000", "0.500"],
        ["popularity (item bias)", "", "+0.250", ""],
        [
            "hat: score 1.750 = the sum of this column; because: item 2 +2.00, Tea +0.50, other events -1.00, "
            "popularity +0.25"
        ],
    ]


def test_what_is_beyond_twenty_events_is_summed_where_it_may_be():
    many = [1.0] * 20 + [0.5] * 5
    assert printed(explanation("contribution", *many))[-3] == ["5 other events", "", "+2.500", ""]
    assert printed(explanation("leave_one_out", *many))[-2] == ["5 other events", "", "", ""]


def test_another_method_has_its_own_column_and_no_own_part():
    rows = printed(explanation("leave_one_out", 0.5, 2.0))
    assert rows[:2] == [
        ["event", "when", "leave one out", "attention"],
        ["item 1", "2026-01-31 10:00", "2.000", "0.500"],
    ]
    assert rows[-1] == [
        "hat: score 2.750; the column is in score units; by leave-one-out: item 1 2.00, Tea 0.50 "
        "(does not sum to the score)"
    ]
    assert not any("everyone" in row[0] for row in rows)


@pytest.mark.parametrize("asked", [[], ["--method", "contribution"], ["--method", "leave_one_out"]])
def test_the_command_takes_a_method(tiny_log, monkeypatch, asked):
    recommender = fit(tiny_log, model="item_knn", progress_bar=False)
    monkeypatch.setattr(questions, "_recommender", lambda model, home: (recommender, {}))
    monkeypatch.setattr(questions, "out", Console(width=200))
    done = CliRunner().invoke(cli.app, ["explain", "--user", "bob", "--item", "tea", *asked])
    assert done.exit_code == 0, done.output
    assert (asked[-1:] or ["contribution"])[0].replace("_", " ") in done.output
    assert ("= the sum of this column" in done.output) == (asked != ["--method", "leave_one_out"])
