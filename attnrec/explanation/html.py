"""Explanations as HTML for a notebook: no script, no network, and colours that a light and a dark page bear.

Styles stand on the elements, since notebooks that are shown elsewhere lose style sheets.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from attnrec.explanation import sentences
from attnrec.explanation.labels import NO_HISTORY, dates_of, shortened, written
from attnrec.schema import EVENT, ITEM, WEIGHT

if TYPE_CHECKING:
    from attnrec.explanation.explanation import Explanation

ROWS = 20
TITLE = 48  # characters
BAR = 180  # pixels
POSITIVE, NEGATIVE, OWN = "#3a8fc7", "#dd7a33", "#8c8c8c"
TEXT = "padding:1px 14px 1px 0;border:0;text-align:left;vertical-align:middle;white-space:nowrap"
NUMBER = "padding:1px 14px 1px 0;border:0;text-align:right;vertical-align:middle;font-variant-numeric:tabular-nums"
BLOCK = "font-size:13px;line-height:1.45;margin:4px 0 14px"
TABLE = "font-size:inherit;border-collapse:collapse;border:0;margin:4px 0"
GROUP = "display:flex;flex-wrap:wrap;gap:0 40px"


def html_of(explanation: "Explanation") -> str:
    """One explanation: what was scored, the latest events with bars, and the reasons in a sentence."""
    title, item_id = explanation.title, str(explanation.item_id)
    known = "" if item_id == title else f" <code>{escape(item_id)}</code>"
    why = "why " if explanation.exact else ""
    heading = f"{why}<b>{_text(title)}</b>{known}: score <b>{explanation.score:z.2f}</b>"
    table = f'<table style="{TABLE}">{"".join(_rows(explanation))}</table>'
    said = f'<div style="opacity:.75;max-width:44em">{escape(_said(explanation))}</div>'
    return f'<div style="{BLOCK}"><div>{heading}</div>{table}{said}</div>'


def html_of_several(explanations: "Sequence[Explanation]") -> str:
    """One block per item, beside each other where there is room."""
    return f'<div style="{GROUP}">{"".join(html_of(each) for each in explanations)}</div>'


def _rows(explanation: "Explanation") -> Iterator[str]:
    """The events, the latest first, then what stands for several of them or for none, and the score."""
    texts, values, shares = _texts(explanation), explanation.values, _shares(explanation)
    n_older, sums = max(len(values) - ROWS, 0), _sums(explanation)
    drawn = [*values[n_older:], *(value for _, value, _ in sums if value is not None)]
    bar = partial(_bar, low=min([0.0, *drawn]), high=max([0.0, *drawn]))
    number = written(drawn, exact=explanation.exact)
    row = partial(_row, n_texts=texts.shape[1])
    if len(values):
        measure = escape(sentences.words_of(explanation.method).name)
        yield row([*texts.columns, "", measure, *(["attention"] if shares else [])], style=";opacity:.75")
    for place in range(len(values) - 1, n_older - 1, -1):
        value = float(values[place])
        numbers = [number(value), *([shares[place]] if shares else [])]
        yield row([*map(_text, texts.iloc[place]), bar(value, colour=_colour(value)), *numbers])
    ahead = [""] * (texts.shape[1] - 1)
    for name, value, colour in sums:
        yield row([*ahead, name] if value is None else [*ahead, name, bar(value, colour=colour), number(value)])
    if explanation.exact:
        yield row([*ahead, "score", "", f"{explanation.score:z.2f}"], style=";font-weight:bold")


def _sums(explanation: "Explanation") -> list[tuple[str, float | None, str]]:
    """Rows that are no event: name, value where it can be told, colour."""
    older, sums = explanation.values[:-ROWS], []
    if len(older):
        total = float(older.sum()) if sentences.words_of(explanation.method).adds else None
        sums.append((f"and {len(older)} more", total, _colour(total or 0.0)))
    if explanation.exact:
        sums.append(("popularity", explanation.item_bias, OWN))
    return sums


def _colour(value: float) -> str:
    return POSITIVE if value >= 0 else NEGATIVE


def _row(cells: Sequence[str], *, n_texts: int, style: str = "") -> str:
    """A row of HTML: texts and a bar, then numbers."""
    styles = [TEXT if place <= n_texts else NUMBER for place in range(len(cells))]
    inner = "".join(f'<td style="{own}{style}">{cell}</td>' for own, cell in zip(styles, cells, strict=True))
    return f'<tr style="background:none">{inner}</tr>'


def _bar(value: float, *, colour: str, low: float, high: float) -> str:
    """A bar from 0 to the value, where the cell goes from low to high; a thin line at 0."""
    span = (high - low) or 1.0
    start, width, zero = (100 * part / span for part in (min(value, 0) - low, abs(value), -low))
    inside = "position:absolute;top:0;bottom:0"
    return (
        f'<div style="position:relative;width:{BAR}px;height:11px">'
        f'<div style="{inside};left:{start:.1f}%;width:{width:.1f}%;background:{colour}"></div>'
        f'<div style="{inside};left:{zero:.1f}%;border-left:1px solid rgba(128,128,128,.8)"></div></div>'
    )


def _texts(explanation: "Explanation") -> pd.DataFrame:
    """When, what and which item, as far as it is known, oldest first."""
    frame, dates = explanation.frame, dates_of(explanation.frame)
    columns = {"when": dates} if any(dates) else {}
    if EVENT in frame:
        columns["event"] = frame[EVENT].astype(str).tolist()
    return pd.DataFrame(columns | {"item": [explanation.title_of(item_id) for item_id in frame[ITEM]]})


def _shares(explanation: "Explanation") -> list[str]:
    """Attention of each event in per cent; empty where there is none, or where it is told already."""
    frame = explanation.frame
    if explanation.method == WEIGHT or WEIGHT not in frame or frame[WEIGHT].isna().all():
        return []
    return [f"{share:.0%}" for share in frame[WEIGHT]]


def _said(explanation: "Explanation") -> str:
    if explanation.frame.empty:
        return NO_HISTORY
    if explanation.exact:
        return explanation.because()
    where = "it looks at no score" if explanation.control else f"after {explanation.source}"
    return f"{explanation.because()}; in {explanation.unit}; {where}"


def _text(text: str) -> str:
    return escape(shortened(text, width=TITLE))
