"""Terminal output of the command."""

import json
import os
import re
import shutil
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnrec.explanation import Explanation
from attnrec.faithfulness import DIRECTIONS
from attnrec.storage import read_json
from attnrec_pipelines.settings import Home
from attnrec_pipelines.stages.evaluation_files import CHALLENGER, shorten

if TYPE_CHECKING:
    from attnrec.faithfulness import Faithfulness, Verdict
    from attnrec_pipelines.flows.daily import DailyResult

CAUTION = re.compile(" below | worse than ")
"""In the reason of a decision: the promoted model is worse in some respect."""

FAITHFULNESS_COLUMNS = {
    "pos_at_5": "POS@5",
    "neg_at_5": "NEG@5",
    "deletion": "deletion",
    "comprehensiveness": "compr.",
    "sufficiency": "suff.",
    "tau": "tau",
}
"""Measures of faithfulness that fit into 80 columns."""

SHOWN = ("ndcg_at_10", "hit_rate_at_10", "mrr_at_10", "coverage_at_10")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def plain(value: object, style: str = "") -> Text:
    """Return a cell or line with exactly this text: no markup, no control characters."""
    return Text(CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", str(value)), style=style)


def print_daily(out: Console, result: "DailyResult", home: Home) -> None:
    """Print sample recommendations, test metrics, the decision, and what to open next."""
    print_recommendations(out, result.published, home)
    print_metrics(out, result.trained, result.evaluated)
    decision = result.decision
    promoted = "promoted" if decision.promoted else "not promoted"
    caution = not decision.promoted or CAUTION.search(decision.reason)
    line = f"{promoted}: {decision.reason}; {result.model_version} is served"
    out.print(plain(line, "bold yellow" if caution else "bold"), soft_wrap=True)
    print_next(out, result, home)


def print_next(out: Console, result: "DailyResult", home: Home) -> None:
    """Print what to open next: the report, the runs, the table, and the explanation of one item."""
    from attnrec_pipelines.stages.publish import sample_of

    program = "attnrec" if shutil.which("attnrec") else os.path.relpath(sys.argv[0])
    option = "" if home.root == Path("data").absolute() else f" --home {home.root}"
    first = sample_of(result.published, n_users=1, k=1)
    lines = {"report": str(result.page)} if result.page is not None else {}
    lines["runs in MLflow"] = f"{program} ui{option}"
    lines["recommendations"] = f"pandas.read_parquet({str(result.published)!r})"
    if len(first):
        user, item = (first[name].iloc[0] for name in ("user_id", "item_id"))
        lines["one explanation"] = f"{program} explain --user {user!r} --item {item!r}{option}"
    out.print("\nopen next:")
    for name, text in lines.items():
        out.print(plain(f"  {name:<16} {text}"), soft_wrap=True)


def print_ingest(out: Console, log: Path) -> None:
    """Print how many rows were read, accepted, and rejected by reason."""
    from attnrec_pipelines.stages.ingest import ingest_summary

    out.print(plain(f"{ingest_summary(log)}; {log}"), soft_wrap=True)


def print_recommendations(out: Console, published: Path, home: Home) -> None:
    """Print the first recommendations of three users."""
    from attnrec_pipelines.stages.publish import sample_of

    print_frame(out, sample_of(published), titles_of(home))


def titles_of(home: Home) -> dict[Any, str]:
    """Return the titles of items by id, as text; empty if the last run had none."""
    from attnrec_pipelines.stages.report import read_titles

    items = read_json(home.current)["report_inputs"].get("items") if home.current.exists() else None
    frame = None if items is None else read_titles(home.root / items)
    return {} if frame is None else dict(zip(frame["item_id"].astype(str), frame["title"].astype(str), strict=True))


def print_frame(
    out: Console, frame: pd.DataFrame, titles: dict[Any, str] | None = None, *, with_ids: bool = False
) -> None:
    """Print recommendations, one row each, with their largest reasons.

    Args:
        out: the console.
        frame: rows of a table of recommendations.
        titles: titles of items by their id as text; other items are shown by their id.
        with_ids: show ids beside titles.
    """
    titles = titles or {}
    table = Table("user", "rank", "item", "score", "largest reasons", box=SIMPLE, padding=(0, 1, 0, 0))
    previous = None
    for _, row in frame.iterrows():
        user = str(row["user_id"]) if row["user_id"] != previous else ""
        previous = row["user_id"]
        item = str(row["item_id"])
        name = plain(titles.get(item, item))
        if with_ids and item in titles:
            name = Text.assemble(name, plain(f" ({item})", "dim"))
        reasons = [
            f"{titles.get(str(reason['item_id']), reason['item_id'])} {reason['contribution']:+.2f}"
            for reason in row["reasons"][:2]
        ]
        table.add_row(plain(user), str(row["rank"]), name, f"{row['score']:.2f}", plain(", ".join(reasons)))
    out.print(table)


def print_metrics(out: Console, trained: Path, evaluated: Path) -> None:
    """Print test metrics beside the baselines', and underperforming segments."""
    from attnrec_pipelines.stages.train import training_summary

    manifest, metrics = read_json(evaluated / "manifest.json"), read_json(evaluated / "metrics.json")
    names = [name for name in SHOWN if name in metrics[CHALLENGER]["metrics"]]
    table = Table("model (test part)", *(name.replace("_at_", "@") for name in names), box=SIMPLE, padding=(0, 1, 0, 0))
    for name, evaluation in metrics.items():
        values = [f"{evaluation['metrics'][metric]:.4f}" for metric in names]
        table.add_row(plain(manifest["model"] if name == CHALLENGER else name), *values)
    out.print(table)
    for line in shorten(manifest["underperforming"]):
        out.print(plain(line, "yellow"), soft_wrap=True)
    out.print(plain(f"training: {training_summary(read_json(trained / 'manifest.json'))}"), soft_wrap=True)


def print_faithfulness(out: Console, measured: "Faithfulness", verdict: "Verdict") -> None:
    """Print metrics by method, controls dimmed, and the verdict."""
    summary = measured.summary()
    names = [name for name in FAITHFULNESS_COLUMNS if name in summary]
    table = Table("method", box=SIMPLE, padding=0)
    for name in names:
        sign = {"lower": "-", "higher": "+"}[DIRECTIONS[name.partition("_at_")[0]]]
        table.add_column(f"{FAITHFULNESS_COLUMNS[name]} {sign}", justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        style = "dim" if row["control"] else ("bold" if row["exact"] else "")
        table.add_row(row["method"], *(f"{row[name]:.3f}" for name in names), style=style)
    out.print(table)
    out.print("+: higher is better; -: lower is better; bold: exact contributions; dim: controls, which use no score")
    for reason in measured.skipped_methods.values():
        out.print(plain(f"skipped: {reason}"))
    for reason, n in measured.skipped_users.items():
        if n:
            out.print(plain(f"{n} users skipped: {reason}"))
    if len(measured.permutation):
        share = measured.interchangeable_share
        out.print(f"permutation test: attention is interchangeable for {share:.0%} of the users (lower is better)")
    out.print(plain(verdict.sentence, "" if verdict.faithful else "yellow"), soft_wrap=True)


def print_comparison(out: Console, folder: Path) -> None:
    """Print the table of a comparison, the best model first."""
    from attnrec_pipelines.stages.compare import read_comparison

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("model", "test", "95 % interval", "to the best", "p", "train s", "reasons"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("model", "reasons") else "right")
    for row in read_comparison(folder).to_dict("records"):
        difference = ("best", "") if row["difference"] == 0 else (f"{row['difference']:+.4f}", f"{row['p_value']:.3f}")
        test = (f"{row['mean']:.4f}", f"{row['low']:.4f}-{row['high']:.4f}")
        reasons = "exact" if row["exact_reasons"] else "none"
        table.add_row(plain(row["model"]), *test, *difference, f"{row['seconds']:,.0f}", reasons)
    out.print(table)
    out.print(plain(f"full table and figures: {folder}"), soft_wrap=True)


def print_models(out: Console, *, n_items: int = 1000) -> None:
    """Print every kind of model with its default settings."""
    from attnrec.models import MODELS, PRESETS, build_model, model_config

    title = f"kinds of models with default settings; parameters for {n_items:,} items"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("kind", "family", "objective", "params", "reasons", "source"):
        table.add_column(name, no_wrap=True, justify="right" if name == "params" else "left")
    for kind in MODELS:
        model = build_model(model_config(kind, {}), n_items)
        family = PRESETS[kind].family if kind in PRESETS else ("graph" if model.trainable else "baseline")
        size = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
        reasons = "exact" if model.exact_reasons else "none"
        table.add_row(kind, family, model.objective, size, reasons, plain(_short_citation(model.paper)))
    out.print(table)


def _short_citation(paper: str) -> str:
    """Shorten "Brody et al. 2022, arXiv:...; ..." to authors and year; `attnrec models KIND` prints all of it."""
    return paper.partition(";")[0].partition(",")[0]


def print_model(out: Console, kind: str) -> None:
    """Print one kind: its paper, how it differs from the paper, and its settings as in a TOML file.

    Raises:
        ValueError: for an unknown kind.
    """
    from attnrec.models import PRESETS, build_model, model_config

    config = model_config(kind, {})
    out.print(plain(f"{kind}: {build_model(config, 1).paper}"))
    if kind in PRESETS and PRESETS[kind].differs:
        out.print(plain(f"differs from the paper: {PRESETS[kind].differs}"))
    preset = PRESETS[kind].settings if kind in PRESETS else {}
    table = Table("[model]", "value", "", box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[0].header = plain("[model]")
    for name, value in config.model_dump(mode="json").items():
        table.add_row(name, plain(json.dumps(value)), "preset" if name in preset else "")
    out.print(table)


def print_explanation(out: Console, explanation: Explanation) -> None:
    """Print the value of every event for the score of one item, largest first."""
    method = explanation.method
    table = Table("event", "when", method.replace("_", " "), "attention", box=SIMPLE, padding=(0, 1, 0, 0))
    frame = explanation.frame.sort_values(method, ascending=False, kind="stable")
    for event in frame.head(20).to_dict("records"):
        attention = "" if isnan(event["weight"]) else f"{event['weight']:.3f}"
        value = f"{event[method]:{'+' if explanation.exact else ''}.3f}"
        table.add_row(plain(explanation.title_of(event["item_id"])), _when(event["datetime"]), value, attention)
    if len(frame) > 20:
        other = f"{frame[method].iloc[20:].sum():+.3f}" if explanation.exact else ""
        table.add_row(f"{len(frame) - 20} other events", "", other, "")
    if explanation.exact:
        table.add_row("popularity (item bias)", "", f"{explanation.item_bias:+.3f}", "")
    out.print(table)
    unit = " = the sum of this column" if explanation.exact else f"; the column is in {explanation.unit}"
    line = f"{explanation.title}: score {explanation.score:.3f}{unit}; {explanation.because()}"
    out.print(plain(line), soft_wrap=True)


def _when(moment: pd.Timestamp) -> str:
    return "" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M}"
