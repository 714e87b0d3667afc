"""Shared fixtures: small logs with known answers, batches, and a model trained on the synthetic shop log."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on two cores are far slower when another process runs

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnrec.dataset import Histories

# --- logs, batches and a trained model --------------------------------------------------------------------

N_STEPS = 6
N_COPIES = 5
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder of public datasets next to the repository; see data/README.md."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the datasets in {REAL_DATA}, which does not exist")
    return REAL_DATA


@pytest.fixture
def tiny_log() -> pd.DataFrame:
    """Three users, rows not sorted by time: ann has 4 events, bob 2, cid 1."""
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
    """Make histories from {user: letters}: each letter is an item (row of a: 1), its index the time (s)."""
    from attnrec.dataset import Histories, histories_from_frame

    def make(logs: dict[str, str]) -> Histories:
        rows = [(user, item, second) for user, items in logs.items() for second, item in enumerate(items)]
        return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))

    return make


@pytest.fixture(scope="session")
def make_batch():
    """Make a batch from lists of item rows; `length` is the minimum padded length."""
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
    """Let a model observe a log and add N(0, 0.3) noise to its weights, so that no effect is small."""
    import torch

    def randomise(model, histories):
        torch.manual_seed(5)
        model.observe(histories)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in name else 0.3))
        model.refresh()
        return model.eval()

    return randomise


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
    """The synthetic shop log with its ground truth."""
    from attnrec.sample import sample_log

    return sample_log()


@pytest.fixture(scope="session")
def shop_recommender(shop):
    """The default model, trained on the shop log without each user's last event; its histories are complete."""
    from attnrec.fitting import fit

    settings = {"dim": 32, "max_length": 50}
    return fit(shop.interactions, settings=settings, epochs=12, seed=0, progress_bar=False)


@pytest.fixture(params=["rounding", "exact"])
def matmul_backend(request) -> Iterator[str]:
    """Emulate both kinds of CPU backend: float32 products with bfloat16 inputs requested are "rounding" or "exact"."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten, setting = torch.ops.aten, torch.backends.mkldnn.matmul
    first_factor = {
        aten.mm.default: 0,
        aten.mm.out: 0,
        aten.addmm.default: 1,
        aten.addmm.out: 1,
        aten.addmm_.default: 1,
    }

    class EmulatedBackend(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func not in first_factor or setting.fp32_precision != "bf16":
                return func(*args, **(kwargs or {}))
            if request.param == "rounding":
                factors = slice(first_factor[func], first_factor[func] + 2)
                rounded = [factor.bfloat16().to(factor.dtype) for factor in args[factors]]
                args = (*args[: factors.start], *rounded, *args[factors.stop :])
            setting.fp32_precision = "ieee"
            try:
                return func(*args, **(kwargs or {}))
            finally:
                setting.fp32_precision = "bf16"

    with EmulatedBackend():
        yield request.param


@pytest.fixture
def contains_pickle() -> Callable[[Path], bool]:
    """Return whether a file is a pickle, or a zip file as torch.save writes."""

    def search(path: Path) -> bool:
        content = path.read_bytes()
        is_pickle_header = content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        is_zip = content.startswith(b"PK\x03\x04")
        return (
            is_zip
            or (is_pickle_header and content.endswith(b"."))
            or b"_rebuild_tensor" in content
            or b"__reduce" in content
        )

    return search


# --- distribution over processes -----------------------------------------------------------------------

FIRST = ("tests/pipelines", "tests/test_notebooks.py", "tests/models")
"""The slowest tests start first, so that the processes finish together."""


def group_of(node_id: str) -> str:
    """Return the group of a test: tests of one group share fixtures and run in one process.

    All flows are a group, every execution of a notebook is one, and otherwise every file.
    """
    path, _, name = node_id.partition("::")
    if path.startswith("tests/pipelines/"):
        return "tests/pipelines"
    return name if name.startswith("test_a_notebook_runs") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute whole groups; the marks of `--dist loadgroup` have no effect with pytest 9.2 and pytest-xdist 3.8."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest tests."""

    def position(item: pytest.Item) -> int:
        return next((number for number, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST))

    items.sort(key=position)
