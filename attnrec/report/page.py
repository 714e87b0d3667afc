"""One self-contained HTML file: the content as JSON, with the style sheets and scripts that show it.

The Content-Security-Policy blocks all network requests except item images, and all scripts but this one (by its hash).
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from attnrec.dataset import Vocabulary
from attnrec.report.content import UserReasons
from attnrec.report.items import ItemDetails
from attnrec.report.summary import summary_of
from attnrec.report.tables import number

STYLES = ("page.css", "summary.css", "user.css", "history.css", "recommendations.css", "technical.css", "narrow.css")
SCRIPTS = (
    "elements.js",
    "format.js",
    "summary.js",
    "values.js",
    "history.js",
    "overview.js",
    "recommendations.js",
    "sentences.js",
    "search.js",
    "technical.js",
    "page.js",
)
"""Concatenated in this order."""


@dataclass(frozen=True)
class PageFacts:
    """Content of a page that does not depend on the user.

    Attributes:
        title: heading.
        item_ids: item id <-> item row.
        details: titles, categories and images of items.
        model: description of the model.
        model_version, scored_at: as published, "" if missing.
        exact: whether scores are sums over the history.
        n_users: number of users with recommendations.
        n_items: number of candidate items.
        metrics, faithfulness: see `tables`; None if there are none.
    """

    title: str
    item_ids: Vocabulary
    details: ItemDetails = field(default_factory=ItemDetails)
    model: str = ""
    model_version: str = ""
    scored_at: str = ""
    exact: bool = True
    n_users: int = 0
    n_items: int = 0
    metrics: dict[str, Any] | None = None
    faithfulness: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Page:
    """The HTML of a page and the number of users in it."""

    text: str
    n_users: int


def build_page(facts: PageFacts, users: Iterable[UserReasons], *, max_bytes: int) -> Page:
    """Build a page with as many users as fit.

    Args:
        facts: content that does not depend on the user.
        users: consumed one by one, until the next one does not fit.
        max_bytes: maximum size of the file in UTF-8.

    Raises:
        ValueError: if the first user does not fit.
    """
    index: dict[int, int] = {}  # item row -> index in the items of the page
    items: list[str] = []
    users_json: list[str] = []
    size = _size(_html(facts, [], []))
    for user in users:
        new_rows = [row for row in dict.fromkeys([*user.events.tolist(), *user.items.tolist()]) if row not in index]
        new_index = {row: len(index) + n for n, row in enumerate(new_rows)}
        new_items = [_json(_item(facts, row)) for row in new_rows]
        user_json = _json(_user(user, index | new_index))
        size += sum(_size(part) + 1 for part in (user_json, *new_items))  # and a comma each
        if size > max_bytes:
            if not users_json:
                raise ValueError(
                    f"max_bytes must be large enough for one user, got {max_bytes:,}; set it to {size:,} or more, "
                    "or reduce max_events"
                )
            break
        index |= new_index
        items += new_items
        users_json.append(user_json)
    return Page(_html(facts, items, users_json), len(users_json))


def _html(facts: PageFacts, items: list[str], users: list[str]) -> str:
    style, script = _read(*STYLES), _read(*SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    images = " ".join(facts.details.image_sources) or "'none'"
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )
    summary = summary_of(facts.metrics, facts.faithfulness, exact=facts.exact, n_users=facts.n_users)
    content = {
        "title": facts.title,
        "model": facts.model,
        "version": facts.model_version,
        "scored_at": facts.scored_at,
        "exact": facts.exact,
        "n_users": facts.n_users,
        "n_items": facts.n_items,
        "summary": summary,
        "metrics": facts.metrics,
        "faithfulness": facts.faithfulness,
    }
    data = f'{_json(content)[:-1]},"items":[{",".join(items)}],"users":[{",".join(users)}]}}'
    return Template(_read("page.html")).substitute(
        title=html.escape(facts.title), policy=html.escape(policy, quote=False), style=style, script=script, data=data
    )


def _item(facts: PageFacts, row: int) -> list[str]:
    """Return an item as [id, title, category, image] without the empty strings at the end."""
    item_id, details = str(facts.item_ids.decode(np.array([row]))[0]), facts.details
    title = details.titles.get(item_id, "")
    item = [item_id, "" if title == item_id else title]
    item += [details.categories.get(item_id, ""), details.images.get(item_id, "")]
    while not item[-1]:
        item.pop()
    return item


def _user(user: UserReasons, index: Mapping[int, int]) -> dict[str, Any]:
    """Return a user as the scripts read it.

    Items are indices in the items of the page, `contributions` has a row per recommended item, and `ranks_without` a
    row of ranks per removed event.
    """
    removed_events = np.flatnonzero(user.ranks_without.any(1)).tolist()
    contributions, earlier = user.contributions, user.earlier_contributions
    return {
        "id": user.user_id,
        "n_events": user.n_events,
        "n_read": user.n_read,
        "events": [index[row] for row in user.events.tolist()],
        "times": None if user.times is None else user.times.tolist(),
        "event_types": user.event_types,
        "attention": None if user.attention is None else _numbers(user.attention),
        "items": [index[row] for row in user.items.tolist()],
        "published_ranks": user.published_ranks.tolist(),
        "scores": _numbers(user.scores),
        "item_bias": _numbers(user.item_bias),
        "contributions": None if contributions is None else [_numbers(of_item) for of_item in contributions.T],
        "earlier_contributions": None if earlier is None else _numbers(earlier),
        "ranks": user.ranks.tolist(),
        "ranks_without": {event: user.ranks_without[event].tolist() for event in removed_events},
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [number(value) for value in values.tolist()]


def _json(content: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    """Return the hash of a style or script for a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _size(text: str) -> int:
    return len(text.encode())


def _read(*names: str) -> str:
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)
