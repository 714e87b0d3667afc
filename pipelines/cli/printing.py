"""What the command prints for people."""

import json
import re
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from attnrec.explanation import Explanation
from attnrec.faithfulness import DIRECTIONS
from attnrec.storage import read_json
from attnrec.tracking.examples import because_row
from attnrec_pipelines.settings import Home
from attnrec_pipelines.stages.segments import shortened

if TYPE_CHECKING:
    from attnrec.faithfulness import Faithfulness, Verdict
    from attnrec_pipelines.flows.daily import DailyResult

AGAINST = re.compile(" below | worse than ")
"""In the reason of a decision: something spoke against what was promoted."""

TOLD = {
    "pos_at_5": "POS@5",
    "neg_at_5": "NEG@5",
    "deletion": "deletion",
    "comprehensiveness": "compr.",
    "sufficiency": "suff.",
    "tau": "tau",
}
"""Measures of faithfulness, as many as a terminal is wide."""

METRICS = ("pos_at_5", "neg_at_5", "deletion", "insertion", "comprehensiveness", "sufficiency", "tau", "stability")
SHOWN = ("ndcg_at_10", "hit_rate_at_10", "mrr_at_10", "coverage_at_10")


def print_daily(out: Console, result: "DailyResult", home: Home) -> None:
    """Recommendations of three users, metrics, where things are."""
    print_ingest(out, result.log)
    print_recommendations(out, result.published)
    print_metrics(out, result.trained, result.evaluated)
    promoted = "promoted" if result.decision.promoted else "not promoted"
    warned = "[bold yellow]" if not result.decision.promoted or AGAINST.search(result.decision.reason) else ""
    out.print(f"\n{warned}{promoted}: {result.decision.reason}; serving {result.model_version}", soft_wrap=True)
    out.print(f"recommendations: {result.published}", soft_wrap=True)
    if result.page is not None:
        out.print(f"why, as a page:  {result.page}", soft_wrap=True)
    out.print(f"runs in MLflow:  attnrec ui --home {home.root}", soft_wrap=True)


def print_ingest(out: Console, log: Path) -> None:
    """How many rows came in, and what became of them."""
    manifest = read_json(log / "manifest.json")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest["rejected_by_reason"].items())
    counts = f"{manifest['read']:,} rows read = {manifest['accepted']:,} accepted + {manifest['rejected']:,} rejected"
    out.print(f"{counts}{f' ({reasons})' if reasons else ''}; {log}", soft_wrap=True)


def print_recommendations(out: Console, published: Path) -> None:
    """The first places of three users."""
    from attnrec_pipelines.stages.score import sample_of

    print_frame(out, sample_of(published))


def print_frame(out: Console, frame: pd.DataFrame) -> None:
    """Recommendations, one line each with their reasons."""
    table = Table("user", "rank", "item", "score", "because")
    previous = None
    for _, row in frame.iterrows():
        user = str(row["user_id"]) if row["user_id"] != previous else ""
        previous = row["user_id"]
        reasons = because_row(row).removeprefix("because: ")
        table.add_row(user, str(row["rank"]), str(row["item_id"]), f"{row['score']:.2f}", reasons)
    out.print(table)


def print_metrics(out: Console, trained: Path, evaluated: Path) -> None:
    """Test metrics beside the baselines', and the groups of users that are far behind."""
    fitted, found = read_json(trained / "manifest.json"), read_json(evaluated / "metrics.json")
    judged = read_json(evaluated / "manifest.json")
    model = judged["model"]
    names = [name for name in SHOWN if name in found["challenger"]["metrics"]]
    table = Table("test", *(name.replace("_at_", "@") for name in names))
    for name, evaluation in found.items():
        values = [f"{evaluation['metrics'][metric]:.4f}" for metric in names]
        table.add_row(model if name == "challenger" else name, *values)
    out.print(table)
    for line in shortened(judged["underperforming"]):
        out.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    out.print(training_line(fitted))


def training_line(fitted: Mapping[str, Any]) -> str:
    """How training went, from its manifest: epochs, time, speed, memory."""
    where = fitted["device"] if fitted["processes"] == 1 else f"{fitted['processes']} x {fitted['device']}"
    return (
        f"best epoch {fitted['best_epoch']} of {fitted['n_epochs']}, {fitted['seconds']:.0f} s of training, "
        f"{fitted['tokens_per_second']:,.0f} tokens/s on {where}, {fitted['threads']} threads, "
        f"{fitted['padding']:.0%} padding, {fitted['peak_mb']:,.0f} MB"
    )


def print_faithfulness(out: Console, measured: "Faithfulness", verdict: "Verdict") -> None:
    """Metrics by method, controls in grey, and what follows."""
    summary = measured.summary()
    names = [name for name in TOLD if name in summary]
    table = Table("method", box=SIMPLE, padding=0)
    for name in names:
        sign = {"lower": "-", "higher": "+"}[DIRECTIONS[name.partition("_at_")[0]]]
        table.add_column(f"{TOLD[name]} {sign}", justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        style = "dim" if row["control"] else ("bold" if row["exact"] else "")
        table.add_row(row["method"], *(f"{row[name]:.3f}" for name in names), style=style)
    out.print(table)
    out.print(
        "+ higher is better, - lower is better; bold: exact contributions; grey: controls, which do not use the scores"
    )
    for why in measured.skipped_methods.values():
        out.print(f"left out: {why}", highlight=False)
    for why, n in measured.skipped_users.items():
        if n:
            out.print(f"{n} users left out: {why}", highlight=False)
    if len(measured.permutation):
        share = measured.interchangeable_share
        out.print(f"attention is interchangeable for {share:.0%} of users (permutation test)")
    out.print(verdict.sentence, style="" if verdict.faithful else "yellow", highlight=False, soft_wrap=True)


def print_comparison(out: Console, folder: Path) -> None:
    """The table of a comparison, the best model first."""
    from attnrec_pipelines.stages.compare import read_comparison

    table = Table()
    for name in ("model", "test", "(95 %)", "to the best", "p", "train s", "reasons"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("model", "reasons") else "right")
    for row in read_comparison(folder).to_dict("records"):
        apart = ("best", "") if row["difference"] == 0 else (f"{row['difference']:+.4f}", f"{row['p_value']:.3f}")
        test = (f"{row['mean']:.4f}", f"{row['low']:.4f}-{row['high']:.4f}")
        reasons = "exact" if row["exact_reasons"] else "none"
        table.add_row(row["model"], *test, *apart, f"{row['seconds']:,.0f}", reasons)
    out.print(table)
    out.print(f"the whole table, figures: {folder}", soft_wrap=True)


def print_models(out: Console, *, n_items: int = 1000) -> None:
    """Every kind of model as it is without further settings."""
    from attnrec.models import MODELS, PRESETS, build_model, model_config

    table = Table(title=f"models as they are without settings; parameters for {n_items:,} items")
    for name in ("kind", "what it is", "trained on", "parameters", "reasons"):
        table.add_column(name, no_wrap=True, justify="right" if name == "parameters" else "left")
    table.add_column("paper", overflow="fold")
    for kind in MODELS:
        model = build_model(model_config(kind, {}), n_items)
        family = PRESETS[kind].family if kind in PRESETS else ("graph" if model.learns else "baseline")
        size = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
        reasons = "exact" if model.exact_reasons else "none"
        table.add_row(kind, family, model.objective, size, reasons, model.paper)
    out.print(table)


def print_model(out: Console, kind: str) -> None:
    """One kind: its paper, what is done otherwise than there, and its settings as they stand in a TOML.

    Raises:
        ValueError: for an unknown kind.
    """
    from attnrec.models import PRESETS, build_model, model_config

    config = model_config(kind, {})
    out.print(f"{kind}: {build_model(config, 1).paper}", highlight=False)
    if kind in PRESETS and PRESETS[kind].differs:
        out.print(f"otherwise than there: {PRESETS[kind].differs}", highlight=False)
    preset = PRESETS[kind].settings if kind in PRESETS else {}
    table = Table("[model]", "value", "")
    for name, value in config.model_dump(mode="json").items():
        table.add_row(name, json.dumps(value), "of this kind" if name in preset else "")
    out.print(table)


def print_explanation(out: Console, explanation: Explanation) -> None:
    """Every event's part of a score, or what another method says of the events, largest first."""
    method = explanation.method
    table = Table("event", "when", method.replace("_", " "), "attention")
    frame = explanation.frame.sort_values(method, ascending=False, kind="stable")
    for event in frame.head(20).to_dict("records"):
        attention = "" if isnan(event["weight"]) else f"{event['weight']:.3f}"
        value = f"{event[method]:{'+' if explanation.exact else ''}.3f}"
        table.add_row(explanation.title_of(event["item_id"]), _when(event["datetime"]), value, attention)
    if len(frame) > 20:
        rest = f"{frame[method].iloc[20:].sum():+.3f}" if explanation.exact else ""
        table.add_row(f"{len(frame) - 20} others", "", rest, "")
    if explanation.exact:
        table.add_row("popularity (item bias)", "", f"{explanation.item_bias:+.3f}", "")
    out.print(table)
    of_column = " = the sum of this column" if explanation.exact else f"; the column is in {explanation.unit}"
    out.print(f"{explanation.item_id}: score {explanation.score:.3f}{of_column}; {explanation.because()}")


def _when(moment: pd.Timestamp) -> str:
    return "" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M}"
