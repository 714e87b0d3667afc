"""`write_report`: recommendations and their reasons as one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from attnrec.recommender import Recommender
from attnrec.report.content import Limits, user_reasons
from attnrec.report.items import item_details
from attnrec.report.page import PageFacts, build_page
from attnrec.report.selection import select_users
from attnrec.report.tables import faithfulness_rows, metric_rows
from attnrec.storage import write_text


@dataclass(frozen=True)
class Report:
    """The written file.

    Attributes:
        path: the file.
        n_users: number of users in it.
        n_published: number of users with recommendations.
        n_bytes: size of the file.
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
    items: pd.DataFrame | None = None,
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
    """Write one HTML file with a summary of the metrics and, for each user, recommendations and their reasons.

    The file is self-contained; only images with an https URL are loaded. Contributions and ranks are recomputed by the
    model and compared with the published scores.

    Args:
        path: target file; an existing file is replaced.
        recommender: the model and the histories that the recommendations were computed from.
        recommendations: the published table (see `scoring.tables.to_table`), or the frame of `recommend()`.
        titles: item id -> title, or a frame of item_id and title; default the column title of `items`, then the
            recommender's own.
        items: item_id and any of title, category (or kind) and image_url (https or data:image URLs).
        metrics: model -> metric -> value, or what the evaluate stage writes. The first model is the evaluated one, the
            others are baselines: the summary compares it with the best of them.
        faithfulness: one row per method (method, exact, control, pos_at_5, neg_at_5, comprehensiveness, sufficiency,
            tau, pos_at_5_low, pos_at_5_high).
        users: user ids to show; default the `n_users` with the lowest hash of the id, the same in every run.
        n_users: number of users if `users` is None.
        max_events: number of latest events shown per user.
        max_counterfactual: number of events to remove one at a time for each recommended item, and of the latest
            events; 0 for none.
        filter_viewed: whether the recommendations exclude items of the history.
        max_bytes: maximum size of the file; users are added until the next one does not fit. The page shows how many
            users it contains.
        title: heading of the page.

    Raises:
        ValueError: for recommendations of another model or other histories, tables without the required columns,
            unknown users, or a maximum size too small for one user.
    """
    if max_events < 1 or max_counterfactual < 0:
        raise ValueError(
            f"max_events must be at least 1 and max_counterfactual at least 0, got {max_events} and "
            f"{max_counterfactual}; raise them"
        )
    selected = select_users(recommendations, users=users, n_users=n_users)
    facts = PageFacts(
        title=title,
        item_ids=recommender.item_ids,
        details=item_details(recommender, titles=titles, items=items),
        model=recommender.model.description,
        model_version=selected.model_version,
        scored_at=selected.scored_at,
        exact=recommender.model.exact_reasons,
        n_users=selected.n_users,
        n_items=int(recommender.model.rankable.sum()),
        metrics=metric_rows(metrics),
        faithfulness=faithfulness_rows(faithfulness),
    )
    limits = Limits(events=max_events, counterfactual=max_counterfactual, filter_viewed=filter_viewed)
    page = build_page(facts, user_reasons(recommender, selected, limits=limits), max_bytes=max_bytes)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.text)
    return Report(path, page.n_users, selected.n_users, len(page.text.encode()))
