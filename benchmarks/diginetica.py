"""Diginetica as GCE-GNN's authors prepared it: sessions to train on, and questions that show the start of a session.

Every prefix of a session is a question (Wang et al. 2020, arXiv:2106.05081, section 5.1), nothing is left out of the
ranking, and P@20 is what others call Recall or HR@20.
The sessions stand in the order of their dates, which the files have left out: of the test's answers 53 % occur in the
first tenth of the training sessions and 84 % in the last. So what is chosen is chosen on the last tenth, which the rest
comes before as all of it comes before the test, and sessions get times by their number, as many a day as there were in
the 152 days of the competition's log.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Histories, Holdout, Vocabulary

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "diginetica"
HELD, SESSIONS_A_DAY, DAY_SECONDS = 0.1, 186_670 / 152, 86_400

Rows = NDArray[np.int64]


class Part(NamedTuple):
    """What is trained on, and what is asked."""

    train: Histories
    holdout: Holdout


class Sessions(NamedTuple):
    """Two parts over one catalogue: `choosing` asks the last tenth of the training sessions, `final` the test's."""

    choosing: Part
    final: Part


def load_diginetica(folder: Path = FOLDER) -> Sessions:
    """Read the three files.

    Raises:
        FileNotFoundError: naming the page that says where they are from.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Diginetica must lie in {folder}, got nothing there; see data/README.md")
    train, prefixes, targets = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("train_sessions", "test_prefixes", "test_targets")
    )
    item_ids = Vocabulary(np.unique(np.concatenate([f.item_id for f in (train, prefixes, targets)])), first=1)
    items, lengths = _flat(train, item_ids)
    n_kept = len(lengths) - round(HELD * len(lengths))
    cut = lengths[:n_kept].sum()
    asked, shown = _flat(prefixes, item_ids)
    order = prefixes.session_id.drop_duplicates()
    answers = item_ids.encode(targets.set_index("session_id").item_id.loc[order].to_numpy())
    return Sessions(
        choosing=Part(
            make_histories(items[:cut], lengths[:n_kept], item_ids),
            all_prefixes(items[cut:], lengths[n_kept:], item_ids),
        ),
        final=Part(make_histories(items, lengths, item_ids), _questions(make_histories(asked, shown, item_ids), answers)),
    )


def make_histories(items: Rows, lengths: Rows, item_ids: Vocabulary) -> Histories:
    """Sessions laid end to end, (n_events,) item rows, of so many events each, a second from one to the next."""
    began = (np.arange(len(lengths)) * (DAY_SECONDS / SESSIONS_A_DAY)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(
        user_ids=Vocabulary(np.arange(len(lengths))),
        item_ids=item_ids,
        items=items.astype(np.int32),
        times=np.arange(len(items)) + np.repeat(began - offsets[:-1], lengths),
        offsets=offsets,
        lengths=lengths,
    )


def all_prefixes(items: Rows, lengths: Rows, item_ids: Vocabulary) -> Holdout:
    """Each session's prefixes, each asked for what followed it."""
    starts = np.cumsum(lengths) - lengths
    n_prefixes = np.maximum(lengths - 1, 0)
    session = np.repeat(np.arange(len(lengths)), n_prefixes)
    shown = np.arange(len(session)) - np.repeat(np.cumsum(n_prefixes) - n_prefixes, n_prefixes) + 1
    ends = np.cumsum(shown)
    places = (
        np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - shown, shown) + np.repeat(starts[session], shown)
    )
    return _questions(make_histories(items[places], shown, item_ids), items[starts[session] + shown])


def _questions(histories: Histories, answers: Rows) -> Holdout:
    """One answer for each history, an event later."""
    n = histories.n_users
    return Holdout(histories, np.arange(n), answers.astype(np.int64), histories.lengths, np.arange(n + 1))


def _flat(frame: pd.DataFrame, item_ids: Vocabulary) -> tuple[Rows, Rows]:
    """Item rows in the order of the file, and how many each session has."""
    lengths = frame.groupby("session_id", sort=False).size().to_numpy().astype(np.int64)
    return item_ids.encode(frame.item_id.to_numpy()).astype(np.int64), lengths
