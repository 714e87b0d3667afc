"""Titles, categories and images of items, as a report shows them."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from attnrec.explanation.titles import TITLE, titles_of
from attnrec.recommender import Recommender
from attnrec.schema import ITEM

CATEGORY_COLUMNS = ("category", "kind")
"""Columns that may hold the category of an item; the first that exists is used."""

IMAGE = "image_url"
IMAGE_URL = re.compile(
    r"https://[\w.-]+(:\d+)?/\S*|data:image/(png|jpeg|gif|webp|avif|svg\+xml)[;,].*", re.ASCII | re.DOTALL
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemDetails:
    """What a report shows of items besides their ids; each mapping is item id (as a string) -> string.

    Attributes:
        titles, categories: without the items that have none.
        images: https or data URLs.
    """

    titles: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_sources(self) -> list[str]:
        """Sources of the images for a Content-Security-Policy: origins such as "https://shop.example", and "data:"."""
        urls = map(urlsplit, self.images.values())
        return sorted({"data:" if url.scheme == "data" else f"https://{url.netloc}" for url in urls})


def item_details(
    recommender: Recommender,
    *,
    titles: Mapping[Any, Any] | pd.DataFrame | None = None,
    items: pd.DataFrame | None = None,
) -> ItemDetails:
    """Collect titles, categories and images of the recommender's items.

    Args:
        recommender: the model's items; its column "title" is the default for titles.
        titles: item id -> title, or a frame of item_id and title. Takes precedence over `items`.
        items: item_id and any of title, category (or kind) and image_url. Other columns are ignored.

    Raises:
        ValueError: for a frame without item_id, or titles without title.
    """
    if items is not None and ITEM not in items:
        raise ValueError(f"items need the column {ITEM}, got {list(items.columns)}; rename the id column")
    given = titles if titles is not None else items if items is not None and TITLE in items else recommender.titles
    category = None if items is None else next((name for name in CATEGORY_COLUMNS if name in items), None)
    return ItemDetails(
        titles={} if given is None else _by_id(recommender, given),
        categories={} if items is None or category is None else _column(recommender, items, category),
        images={} if items is None or IMAGE not in items else _images(recommender, items),
    )


def _column(recommender: Recommender, items: pd.DataFrame, name: str) -> dict[str, str]:
    values = items[name].map(_as_text)
    return _by_id(recommender, dict(zip(items[ITEM], values.astype(object), strict=True)))


def _as_text(value: Any) -> Any:
    """Join several values of one item; Parquet lists come as arrays."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | np.ndarray) else value


def _by_id(recommender: Recommender, values: Mapping[Any, Any] | pd.DataFrame | pd.Series) -> dict[str, str]:
    return {str(item_id): value for item_id, value in titles_of(recommender.item_ids.ids, values).items()}


def _images(recommender: Recommender, items: pd.DataFrame) -> dict[str, str]:
    """Return the URLs that a report may load; others are left out and counted in the log."""
    urls = _column(recommender, items, IMAGE)
    images = {item_id: url for item_id, url in urls.items() if IMAGE_URL.fullmatch(url)}
    if len(images) < len(urls):
        logger.warning(
            "%d of %d image_url values are not shown: not https or data:image", len(urls) - len(images), len(urls)
        )
    return images
