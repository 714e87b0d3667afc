"""`write_report`: what was recommended and why, as one page that can be sent to somebody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from attnrec.recommender import Recommender
from attnrec.report.content import Limits, user_reasons
from attnrec.report.page import Facts, build_page
from attnrec.report.selection import published
from attnrec.report.tables import faithfulness_rows, metric_rows, titles_of
from attnrec.storage import write_text


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: the file.
        n_users: users in it.
        n_published: users that there are recommendations for.
        n_bytes: its size.
    """

    path: Path
    n_users: int
    n_published: int
    n_bytes: int


def write_report(
    path: str | Path,
    recommender: Recommender,
    recommendations: pd.DataFrame | pa.Table,
    *,
    titles: Mapping[Any, Any] | pd.DataFrame | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    faithfulness: pd.DataFrame | None = None,
    users: Sequence[Any] | None = None,
    n_users: int = 100,
    max_events: int = 100,
    max_counterfactual: int = 10,
    filter_viewed: bool = True,
    max_bytes: int = 5_000_000,
    title: str = "Recommendations and their reasons",
) -> Report:
    """Write one HTML file that shows users, their recommendations and the reasons; it loads nothing from anywhere.

    Contributions and ranks are computed again by the model, and the published scores held against them.

    Args:
        path: of the file; what was there is replaced.
        recommender: the model, with the histories that the recommendations were made from.
        recommendations: what scoring published (see `recommendation_tables.to_table`), or a frame of `recommend()`.
        titles: item id -> title, or a frame of item_id and title; default the recommender's own, if it has any.
        metrics: model -> metric -> value, or what the evaluate stage writes.
        faithfulness: one row per method (method, exact, control, pos_at_5, neg_at_5, comprehensiveness, sufficiency,
            tau, pos_at_5_low, pos_at_5_high).
        users: user ids to show; default those `n_users` whose ids hash lowest, the same in every run.
        n_users: how many of the latter, as far as they fit.
        max_events: events shown of a user, the latest.
        max_counterfactual: events tried without for each recommended item, and of the latest; 0 tries none.
        filter_viewed: whether the recommendations leave out what a user has seen, as they were made.
        max_bytes: of the file; users are added until the next one does not fit, and the page says how many it holds.
        title: heading of the page.

    Raises:
        ValueError: for recommendations that another model or other histories made, for tables without the columns
            they need, unknown users, or a page too small for one user.
    """
    if max_events < 1 or max_counterfactual < 0:
        raise ValueError(
            f"max_events must be at least 1 and max_counterfactual at least 0, got {max_events} and "
            f"{max_counterfactual}; raise them"
        )
    table = published(recommendations, users=users, n_users=n_users)
    facts = Facts(
        title=title,
        item_ids=recommender.item_ids,
        titles=titles_of(titles, recommender),
        model=recommender.model.description,
        model_version=table.model_version,
        scored_at=table.scored_at,
        exact=recommender.model.exact_reasons,
        n_users=table.n_users,
        n_items=int(recommender.model.rankable.sum()),
        metrics=metric_rows(metrics),
        faithfulness=faithfulness_rows(faithfulness),
    )
    limits = Limits(events=max_events, counterfactual=max_counterfactual, filter_viewed=filter_viewed)
    page = build_page(facts, user_reasons(recommender, table, limits=limits), max_bytes=max_bytes)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.text)
    return Report(path, page.n_users, table.n_users, len(page.text.encode()))
