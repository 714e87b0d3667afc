"""Worlds small enough to check by eye, shared by the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on two cores collapse when anything else runs

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnrec.dataset import Histories

# --- the library core: worlds, batches, a trained shop -------------------------------------------------

N_STEPS = 6
N_COPIES = 5
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder of real logs beside the project; see data/README.md."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the real logs in {REAL_DATA}, which is not on this machine")
    return REAL_DATA


@pytest.fixture
def tiny_log() -> pd.DataFrame:
    """Three users of a tea shop, out of order on purpose: ann 4 events, bob 2, cid 1."""
    rows = [
        ("bob", "cup", 10),
        ("ann", "tea", 1),
        ("ann", "cup", 2),
        ("cid", "tea", 5),
        ("ann", "spoon", 4),
        ("ann", "tea", 3),
        ("bob", "pan", 20),
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


@pytest.fixture(scope="session")
def make_histories():
    """Histories from {user: letters}: each letter an item, its place the time in seconds; rows a = 1, b = 2, ..."""
    from attnrec.dataset import Histories, histories_from_frame

    def make(world: dict[str, str]) -> Histories:
        rows = [(user, item, second) for user, items in world.items() for second, item in enumerate(items)]
        return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))

    return make


@pytest.fixture(scope="session")
def make_batch():
    """A batch from lists of item rows; `length` pads further than needed."""
    import torch

    from attnrec.dataset import Batch

    def make(*rows: list[int], length: int = 1) -> Batch:
        lengths = [len(row) for row in rows]
        width = max(length, *lengths)
        items = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        real = torch.arange(width) < torch.tensor(lengths)[:, None]
        return Batch(items, torch.tensor(lengths), torch.arange(width).expand_as(items) * real)

    return make


@pytest.fixture(scope="session")
def with_random_weights():
    """Lets a model observe a log, and adds large random numbers to its weights: nothing is small by training."""
    import torch

    def shaken(model, histories):
        torch.manual_seed(5)
        model.observe(histories)
        with torch.no_grad():
            for part, parameter in model.named_parameters():
                parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in part else 0.3))
        model.refresh()
        return model.eval()

    return shaken


@dataclass(frozen=True, eq=False)
class Checkerboard:
    """A log with one rule: an even item is followed by the next even item, an odd one by the next odd one, cyclically.

    Attributes:
        histories: 12 items, 72 users. Each of the first 60 users has five of the six items of one parity, in order;
            the other 12 users have all six.
        targets: item rows (60,): for each of the first 60 users the next item, which is also the only item of that
            parity missing from the history.
    """

    histories: "Histories"
    targets: "NDArray[np.int64]"

    @property
    def users(self) -> "NDArray[np.int64]":
        """Row numbers of the 60 users that have a target, (60,)."""
        return np.arange(len(self.targets))


@pytest.fixture(scope="session")
def checkerboard() -> Checkerboard:
    from attnrec.dataset import histories_from_frame

    users = [f"target-{copy}" for copy in range(N_COPIES)] + ["without-target"]  # sorted after the others
    rows = [
        (f"{user}-{parity}-{start}", 2 * ((start + step) % N_STEPS) + parity, step)
        for user in users
        for parity in range(2)
        for start in range(N_STEPS)
        for step in range(N_STEPS)
    ]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    n_targets = N_COPIES * 2 * N_STEPS
    targets = histories.items[histories.offsets[1 : n_targets + 1] - 1].astype(np.int64)
    return Checkerboard(histories.up_to(histories.lengths - (np.arange(histories.n_users) < n_targets)), targets)


@pytest.fixture(scope="session")
def shop():
    """The synthetic shop log with its truth."""
    from attnrec.sample import sample_log

    return sample_log()


@pytest.fixture(scope="session")
def shop_recommender(shop):
    """SASRec with pooling, fitted on the shop without each user's last event; it knows the whole log."""
    from attnrec.fitting import fit

    settings = {"dim": 32, "max_length": 50}
    return fit(shop.interactions, settings=settings, epochs=12, seed=0, progress_bar=False)


@pytest.fixture
def contains_pickle() -> Callable[[Path], bool]:
    """Whether a file is a pickle, or a zip of pickles as torch.save writes."""

    def search(path: Path) -> bool:
        content = path.read_bytes()
        opens = content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        zipped = content.startswith(b"PK\x03\x04")
        return zipped or (opens and content.endswith(b".")) or b"_rebuild_tensor" in content or b"__reduce" in content

    return search


# --- end of the library core ---------------------------------------------------------------------------
