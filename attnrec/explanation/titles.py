"""Item titles by item id."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pandas as pd

from attnrec.schema import ITEM

TITLE = "title"

Titles: TypeAlias = Mapping[Any, str] | pd.Series | pd.DataFrame
"""Item id -> title: a mapping, a series indexed by item_id, or a frame with the columns item_id and title."""


def titles_of(item_ids: Iterable[Any], titles: Titles) -> dict[Any, str]:
    """Return the titles of these items; items with a missing or empty title are left out.

    Raises:
        ValueError: if a frame lacks one of the two columns.
    """
    if isinstance(titles, pd.DataFrame):
        if any(name not in titles for name in (ITEM, TITLE)):
            rule = f"titles need the columns {ITEM} and {TITLE}"
            raise ValueError(f"{rule}, got {list(titles.columns)}; rename your columns or pass a mapping")
        titles = dict(zip(titles[ITEM], titles[TITLE], strict=True))
    if isinstance(titles, pd.Series) and not titles.index.is_unique:
        titles = titles[~titles.index.duplicated()]
    title_by_id = {item_id: _find_title(item_id, titles) for item_id in item_ids}
    return {item_id: title for item_id, title in title_by_id.items() if title}


def _find_title(item_id: Any, titles: "Mapping[Any, str] | pd.Series") -> str:
    """Return the title, or ""; the id is tried as a string and as an integer, because JSON keys are strings."""
    text = str(item_id)
    for key in (item_id, text, *([int(text)] if text.isdecimal() else [])):
        title = titles.get(key)
        if title is not None and not pd.isna(title):
            return str(title).strip()
    return ""
