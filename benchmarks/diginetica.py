"""Diginetica as prepared by the authors of GCE-GNN: training sessions, and test prefixes with their next item.

Every prefix of a session is evaluated (Wang et al. 2020, arXiv:2106.05081, section 5.1), no item is excluded from the
ranking, and P@20 equals Recall@20 and HR@20.
The files contain no dates but are ordered by date: 53 % of the test targets occur in the first tenth of the training
sessions and 84 % in the last. Settings are therefore chosen on the last tenth, which follows the rest as the test part
follows all training sessions. Sessions get times from their number, with as many sessions per day as in the 152 days of
the competition's log.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Histories, Holdout, Vocabulary

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "diginetica"
HOLDOUT_SHARE, SESSIONS_PER_DAY, DAY_SECONDS = 0.1, 186_670 / 152, 86_400

Rows = NDArray[np.int64]


class Part(NamedTuple):
    """Training sessions and the holdout to evaluate on."""

    train: Histories
    holdout: Holdout


class Sessions(NamedTuple):
    """Two parts with the same catalogue: `choosing` holds out the last tenth of the sessions, `final` the test part."""

    choosing: Part
    final: Part


def load_diginetica(folder: Path = FOLDER) -> Sessions:
    """Read the three files.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Diginetica must be in {folder}, got no such folder; see data/README.md")
    train, prefixes, targets = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("train_sessions", "test_prefixes", "test_targets")
    )
    item_ids = Vocabulary(np.unique(np.concatenate([f.item_id for f in (train, prefixes, targets)])), first=1)
    items, lengths = _flat(train, item_ids)
    n_kept = len(lengths) - round(HOLDOUT_SHARE * len(lengths))
    cut = lengths[:n_kept].sum()
    prefix_items, prefix_lengths = _flat(prefixes, item_ids)
    order = prefixes.session_id.drop_duplicates()
    target_rows = item_ids.encode(targets.set_index("session_id").item_id.loc[order].to_numpy())
    return Sessions(
        choosing=Part(
            make_histories(items[:cut], lengths[:n_kept], item_ids),
            all_prefixes(items[cut:], lengths[n_kept:], item_ids),
        ),
        final=Part(
            make_histories(items, lengths, item_ids),
            _next_item_holdout(make_histories(prefix_items, prefix_lengths, item_ids), target_rows),
        ),
    )


def make_histories(items: Rows, lengths: Rows, item_ids: Vocabulary) -> Histories:
    """Return histories of sessions that are concatenated in `items` (n_events,), with events one second apart."""
    starts = (np.arange(len(lengths)) * (DAY_SECONDS / SESSIONS_PER_DAY)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(
        user_ids=Vocabulary(np.arange(len(lengths))),
        item_ids=item_ids,
        items=items.astype(np.int32),
        times=np.arange(len(items)) + np.repeat(starts - offsets[:-1], lengths),
        offsets=offsets,
        lengths=lengths,
    )


def all_prefixes(items: Rows, lengths: Rows, item_ids: Vocabulary) -> Holdout:
    """Return every prefix of every session as a history, with the item that follows it as the target."""
    starts = np.cumsum(lengths) - lengths
    n_prefixes = np.maximum(lengths - 1, 0)
    session = np.repeat(np.arange(len(lengths)), n_prefixes)
    prefix_lengths = np.arange(len(session)) - np.repeat(np.cumsum(n_prefixes) - n_prefixes, n_prefixes) + 1
    ends = np.cumsum(prefix_lengths)
    positions = (
        np.arange(ends[-1] if len(ends) else 0)
        - np.repeat(ends - prefix_lengths, prefix_lengths)
        + np.repeat(starts[session], prefix_lengths)
    )
    return _next_item_holdout(
        make_histories(items[positions], prefix_lengths, item_ids), items[starts[session] + prefix_lengths]
    )


def _next_item_holdout(histories: Histories, targets: Rows) -> Holdout:
    """Return a holdout with one target per history, one position after its end."""
    n = histories.n_users
    return Holdout(histories, np.arange(n), targets.astype(np.int64), histories.lengths, np.arange(n + 1))


def _flat(frame: pd.DataFrame, item_ids: Vocabulary) -> tuple[Rows, Rows]:
    """Return item rows in file order, and the number of events of each session."""
    lengths = frame.groupby("session_id", sort=False).size().to_numpy().astype(np.int64)
    return item_ids.encode(frame.item_id.to_numpy()).astype(np.int64), lengths
