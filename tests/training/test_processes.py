"""Data-parallel training: two CPU processes started by torchrun take the same steps as one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attnrec.dataset import Windows
from attnrec.models import SequenceConfig, build_model
from attnrec.training import TrainConfig, train
from attnrec.training.processes import ProcessGroup, join_process_group

ROOT = Path(__file__).parents[2]
CASES = '''
"""Train every case, in the processes that torchrun started or in one process: cases.py HISTORIES OUT."""
import json
import os
import sys
from math import nan
from pathlib import Path

import torch
from safetensors.torch import save_file

from attnrec.dataset import Histories, split_last
from attnrec.models import GATConfig, SequenceConfig, build_model
from attnrec.training import DivergenceError, TrainConfig, loop, step, train

rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
histories, out = Histories.load(Path(sys.argv[1])), Path(sys.argv[2])
saves, save_checkpoint, make_optimizer = [], loop.save_checkpoint, step.make_optimizer


class KilledError(Exception):
    """Simulates a kill of the process."""


def make_optimizer_with_epsilon(model, config):
    """Use a large epsilon in Adam, so that gradients that are only rounding errors stay small."""
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["eps"] = 0.1
    return optimizer


step.make_optimizer = make_optimizer_with_epsilon
loop.save_checkpoint = lambda *args, **kwargs: (saves.append(1), save_checkpoint(*args, **kwargs))


def run(name, *, kind=SequenceConfig, dropout=0.0, at_step=None, factor=None, resume="", **changes):
    """Train one case; in step `at_step` raise KilledError or multiply the loss of the last process by `factor`."""
    torch.manual_seed(rank)  # all processes must end with the weights of the main process
    model = build_model(kind(dim=8, heads=2, pooling_heads=2, max_length=8, dropout=dropout), 12)
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=0.05, warmup_steps=3, device="cpu", processes=size)
    config = config.model_copy(update={"precision": "float32"} | changes)
    calls, loss, reported = iter(range(1, 10_000)), model.loss, []
    saves.clear()

    def disturbed(batch):
        if next(calls) != at_step:
            return loss(batch)
        if factor is None:
            raise KilledError
        return loss(batch) * (factor if rank == size - 1 else 1)

    model.loss = disturbed
    outcome = {}
    try:
        result = train(
            model,
            histories,
            validation=split_last(histories).validation,
            config=config,
            checkpoint=out / f"{resume or name}-checkpoint" / "run",
            on_epoch=lambda epoch, report: reported.append(epoch),
            progress_bar=False,
        )
        reports = [{key: report[key] for key in ("train/loss", "val/ndcg_at_10")} for report in result.epochs]
        outcome = {"reports": reports, "stop_reason": result.stop_reason, "best_epoch": result.best_epoch}
        outcome["padding"] = [report["train/padding"] for report in result.epochs]
    except (KilledError, DivergenceError) as error:
        outcome = {"error": str(error)}
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out / f"{name}-{rank}")
    (out / f"{name}-{rank}.json").write_text(json.dumps(outcome | {"on_epoch": reported, "saves": len(saves)}))


for name in ("plain", "graph", "uneven", "microbatches", "dropout", "killed", "time_limit", "diverged"):
    (out / f"{name}-checkpoint").mkdir(exist_ok=True)
run("plain")
run("graph", kind=GATConfig)
run("uneven", batch_size=71)
run("microbatches", microbatch_tokens=12)
run("dropout", dropout=0.3)
run("killed", dropout=0.3, at_step=8, checkpoint_minutes=1e-9)
run("resumed", dropout=0.3, resume="killed", checkpoint_minutes=1e-9)
run("time_limit", max_minutes=1e-9)
run("diverged", at_step=8, factor=nan)
'''


@pytest.fixture(scope="module")
def one_and_two(checkerboard, tmp_path_factory) -> tuple[Path, Path]:
    """Output folders of the cases, of one process and of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    checkerboard.histories.save(folder / "histories")
    (folder / "cases.py").write_text(CASES)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = []
    for name, launcher in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        (folder / name).mkdir()
        command = [sys.executable, *launcher, str(folder / "cases.py"), str(folder / "histories"), str(folder / name)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True))
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    return folder / "one", folder / "two"


def outcome(folder: Path, case: str, rank: int = 0) -> dict:
    return json.loads((folder / f"{case}-{rank}.json").read_text())


def assert_same_weights(one: Path, other: Path, *, atol: float) -> None:
    weights, expected = load_file(one), load_file(other)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize("case", ["plain", "graph", "uneven", "microbatches"])
def test_two_processes_take_the_same_steps_as_one(one_and_two, case):
    """`uneven` has a batch of a single window: the second process gets none."""
    one, two = one_and_two
    assert_same_weights(two / f"{case}-0", one / f"{case}-0", atol=1e-5)
    assert outcome(two, case)["padding"] == pytest.approx(outcome(one, case)["padding"], abs=0.2)
    for report, expected in zip(outcome(two, case)["reports"], outcome(one, case)["reports"], strict=True):
        assert report == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", ["plain", "graph", "uneven", "microbatches", "dropout", "resumed"])
def test_all_processes_end_with_the_same_weights_and_reports(one_and_two, case):
    _, two = one_and_two
    assert_same_weights(two / f"{case}-1", two / f"{case}-0", atol=0)
    for key in ("reports", "best_epoch", "stop_reason"):
        assert outcome(two, case, 1)[key] == outcome(two, case, 0)[key]


def test_only_the_main_process_reports_and_saves(one_and_two):
    _, two = one_and_two
    assert (outcome(two, "plain", 0)["on_epoch"], outcome(two, "plain", 1)["on_epoch"]) == ([1, 2], [])
    assert (outcome(two, "plain", 0)["saves"], outcome(two, "plain", 1)["saves"]) == (2, 0)


def test_processes_draw_different_dropout(one_and_two):
    one, two = one_and_two
    losses = [outcome(folder, "dropout")["reports"][0]["train/loss"] for folder in (one, two)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_killed_processes_resume_to_the_same_weights(one_and_two):
    """The case has dropout: each process must draw the same random numbers as without the kill."""
    for folder, size in zip(one_and_two, (1, 2), strict=True):
        assert "error" in outcome(folder, "killed")
        for rank in range(size):
            assert_same_weights(folder / f"resumed-{rank}", folder / f"dropout-{rank}", atol=0)
        assert outcome(folder, "resumed")["reports"] == outcome(folder, "dropout")["reports"]


def test_all_processes_stop_at_the_time_limit(one_and_two):
    _, two = one_and_two
    assert [outcome(two, "time_limit", rank)["stop_reason"] for rank in (0, 1)] == ["time limit", "time limit"]
    assert_same_weights(two / "time_limit-0", two / "time_limit-1", atol=0)


def test_all_processes_raise_the_divergence_of_one_and_save_the_whole_batch(one_and_two, checkerboard):
    _, two = one_and_two
    errors = [outcome(two, "diverged", rank)["error"] for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "(epoch 2, batch 3), got nan" in errors[0]
    saved = json.loads((two / "diverged-checkpoint" / "diverged.json").read_text())
    windows = Windows(checkerboard.histories, max_length=8, batch_size=16, seed=0)
    assert saved["items"] == list(windows.epoch(1))[2].items.tolist()


def test_every_window_of_a_batch_belongs_to_one_process(checkerboard):
    whole = Windows(checkerboard.histories, max_length=8, batch_size=16)
    parts = [Windows(checkerboard.histories, max_length=8, batch_size=16, process=n, n_processes=3) for n in range(3)]
    for batch, *shares in zip(whole.epoch(0), *(part.epoch(0) for part in parts), strict=True):
        rows = [row for share in shares for row in share.items[:, : batch.items.shape[1]].tolist()]
        assert len(rows) == len(batch.items)
        assert [sum(map(sum, share.items.tolist())) > 0 for share in shares] == [True] * 3
        assert sum(map(sum, rows)) == int(batch.items.sum())


# --- one process


def test_a_number_of_processes_that_differs_from_torchruns_is_rejected(checkerboard, monkeypatch):
    model = build_model(SequenceConfig(dim=8, heads=2, pooling_heads=2), 12)
    with pytest.raises(ValueError, match=r"got train\.processes = 2 and 1 started"):
        train(model, checkerboard.histories, config=TrainConfig(processes=2, device="cpu"), progress_bar=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"got train\.processes = 1 and 4 started; .* or set train\.processes = 4"):
        train(model, checkerboard.histories, config=TrainConfig(device="cpu"), progress_bar=False)


def test_more_processes_than_gpus_are_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="got local rank 1 on a machine with 1 GPUs"):
        join_process_group(torch.device("cuda"), n_processes=2)


def test_one_process_needs_no_communication():
    group, device = join_process_group(torch.device("cpu"), n_processes=1)
    assert (group, device, group.is_main) == (ProcessGroup(0, 1), torch.device("cpu"), True)
    assert group.sum([1.0, 2.0], device) == [1.0, 2.0]
    assert group.broadcast_values({"ndcg": 0.5}, device) == {"ndcg": 0.5}
    loss = torch.tensor(3.0)
    assert group.sum_gradients([], loss) is loss
