"""Explanations as HTML for a notebook: no script, no network, readable on light and dark backgrounds.

Styles are inline, because notebooks shown elsewhere lose style sheets.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

import pandas as pd

from attnrec.explanation.labels import NO_HISTORY, event_dates, number_format, shorten
from attnrec.explanation.method_texts import method_text
from attnrec.explanation.score_attribution import ScoreAttribution
from attnrec.explanation.sentences import reasons_text
from attnrec.schema import EVENT, ITEM, WEIGHT

MAX_ROWS = 20
TITLE_WIDTH = 48  # characters
BAR_WIDTH = 180  # pixels
POSITIVE, NEGATIVE, ITEM_BIAS = "#3a8fc7", "#dd7a33", "#8c8c8c"
TEXT_STYLE = "padding:1px 14px 1px 0;border:0;text-align:left;vertical-align:middle;white-space:nowrap"
NUMBER_STYLE = (
    "padding:1px 14px 1px 0;border:0;text-align:right;vertical-align:middle;font-variant-numeric:tabular-nums"
)
BLOCK_STYLE = "font-size:13px;line-height:1.45;margin:4px 0 14px"
TABLE_STYLE = "font-size:inherit;border-collapse:collapse;border:0;margin:4px 0"
GROUP_STYLE = "display:flex;flex-wrap:wrap;gap:0 40px"


def html_of(attribution: ScoreAttribution) -> str:
    """Return one explanation: the scored item, the latest events with bars, and the reasons as a sentence."""
    title, item_id = attribution.title, str(attribution.item_id)
    shown_id = "" if item_id == title else f" <code>{escape(item_id)}</code>"
    why = "why " if attribution.exact else ""
    heading = f"{why}<b>{_escaped(title)}</b>{shown_id}: score <b>{attribution.score:z.2f}</b>"
    table = f'<table style="{TABLE_STYLE}">{"".join(_rows(attribution))}</table>'
    summary = f'<div style="opacity:.75;max-width:44em">{escape(_summary(attribution))}</div>'
    return f'<div style="{BLOCK_STYLE}"><div>{heading}</div>{table}{summary}</div>'


def html_of_several(attributions: Sequence[ScoreAttribution]) -> str:
    """Return one block per item, side by side if there is room."""
    return f'<div style="{GROUP_STYLE}">{"".join(html_of(each) for each in attributions)}</div>'


def _rows(attribution: ScoreAttribution) -> Iterator[str]:
    """Yield the table rows: header, events (latest first), sums, score."""
    texts, values, weights = _text_columns(attribution), attribution.values, _weight_cells(attribution)
    n_older, sums = max(len(values) - MAX_ROWS, 0), _sum_rows(attribution)
    bar_values = [*values[n_older:], *(value for _, value, _ in sums if value is not None)]
    bar = partial(_bar, low=min([0.0, *bar_values]), high=max([0.0, *bar_values]))
    number = number_format(bar_values, exact=attribution.exact)
    row = partial(_row, n_texts=texts.shape[1])
    if len(values):
        label = escape(method_text(attribution.method).label)
        yield row([*texts.columns, "", label, *(["attention"] if weights else [])], style=";opacity:.75")
    for event in range(len(values) - 1, n_older - 1, -1):
        value = float(values[event])
        numbers = [number(value), *([weights[event]] if weights else [])]
        yield row([*map(_escaped, texts.iloc[event]), bar(value, colour=_colour(value)), *numbers])
    padding = [""] * (texts.shape[1] - 1)
    for name, value, colour in sums:
        yield row([*padding, name] if value is None else [*padding, name, bar(value, colour=colour), number(value)])
    if attribution.exact:
        yield row([*padding, "score", "", f"{attribution.score:z.2f}"], style=";font-weight:bold")


def _sum_rows(attribution: ScoreAttribution) -> list[tuple[str, float | None, str]]:
    """Return the rows that are not events: name, value (None if the method is not additive), colour."""
    older, sums = attribution.values[:-MAX_ROWS], []
    if len(older):
        total = float(older.sum()) if method_text(attribution.method).additive else None
        sums.append((f"and {len(older)} more", total, _colour(total or 0.0)))
    if attribution.exact:
        sums.append(("popularity", attribution.item_bias, ITEM_BIAS))
    return sums


def _colour(value: float) -> str:
    return POSITIVE if value >= 0 else NEGATIVE


def _row(cells: Sequence[str], *, n_texts: int, style: str = "") -> str:
    """Return a table row: text cells and a bar, then numbers."""
    styles = [TEXT_STYLE if column <= n_texts else NUMBER_STYLE for column in range(len(cells))]
    inner = "".join(f'<td style="{base}{style}">{cell}</td>' for base, cell in zip(styles, cells, strict=True))
    return f'<tr style="background:none">{inner}</tr>'


def _bar(value: float, *, colour: str, low: float, high: float) -> str:
    """Return a bar from 0 to the value in a cell that spans low to high, with a thin line at 0."""
    span = (high - low) or 1.0
    start, width, zero = (100 * part / span for part in (min(value, 0) - low, abs(value), -low))
    inside = "position:absolute;top:0;bottom:0"
    return (
        f'<div style="position:relative;width:{BAR_WIDTH}px;height:11px">'
        f'<div style="{inside};left:{start:.1f}%;width:{width:.1f}%;background:{colour}"></div>'
        f'<div style="{inside};left:{zero:.1f}%;border-left:1px solid rgba(128,128,128,.8)"></div></div>'
    )


def _text_columns(attribution: ScoreAttribution) -> pd.DataFrame:
    """Return the date, event type (each if the log has it) and item title of each event, oldest first."""
    frame, dates = attribution.frame, event_dates(attribution.frame)
    columns = {"when": dates} if any(dates) else {}
    if EVENT in frame:
        columns["event"] = frame[EVENT].astype(str).tolist()
    return pd.DataFrame(columns | {"item": [attribution.title_of(item_id) for item_id in frame[ITEM]]})


def _weight_cells(attribution: ScoreAttribution) -> list[str]:
    """Return attention weights in per cent; empty if there are none or they are already the values."""
    frame = attribution.frame
    if attribution.method == WEIGHT or WEIGHT not in frame or frame[WEIGHT].isna().all():
        return []
    return [f"{weight:.0%}" for weight in frame[WEIGHT]]


def _summary(attribution: ScoreAttribution) -> str:
    if attribution.frame.empty:
        return NO_HISTORY
    reasons = reasons_text(attribution, n=3)
    if attribution.exact:
        return reasons
    origin = "control: does not use the score" if attribution.control else f"method: {attribution.source}"
    return f"{reasons}; unit: {attribution.unit}; {origin}"


def _escaped(text: str) -> str:
    return escape(shorten(text, width=TITLE_WIDTH))
