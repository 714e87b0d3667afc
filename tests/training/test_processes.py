"""Two processes on the CPU, started by torchrun, against one: they take the same steps."""

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
from attnrec.training.processes import Processes, join_processes

ROOT = Path(__file__).parents[2]
CASES = '''
"""Train every case with the others that torchrun started, or alone: cases.py HISTORIES OUT."""
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
seen, out = Histories.load(Path(sys.argv[1])), Path(sys.argv[2])
saves, save_checkpoint, make_optimizer = [], loop.save_checkpoint, step.make_optimizer


class KilledError(Exception):
    """The machine is gone."""


def optimizer(model, config):
    """Adam divides gradients by their size, also those that are rounding errors around 0: not here."""
    made = make_optimizer(model, config)
    for group in made.param_groups:
        group["eps"] = 0.1
    return made


step.make_optimizer = optimizer
loop.save_checkpoint = lambda *given, **more: (saves.append(1), save_checkpoint(*given, **more))


def run(name, *, kind=SequenceConfig, dropout=0.0, at_step=None, wrong=None, saved="", **changes):
    torch.manual_seed(rank)  # the first one's weights are everybody's
    model = build_model(kind(dim=8, heads=2, pooling_heads=2, max_length=8, dropout=dropout), 12)
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=0.05, warmup_steps=3, device="cpu", processes=size)
    config = config.model_copy(update={"precision": "float32"} | changes)
    calls, loss, told = iter(range(1, 10_000)), model.loss, []
    saves.clear()

    def disturbed(batch):
        if next(calls) != at_step:
            return loss(batch)
        if wrong is None:
            raise KilledError
        return loss(batch) * (wrong if rank == size - 1 else 1)

    model.loss = disturbed
    found = {}
    try:
        result = train(
            model,
            seen,
            validation=split_last(seen).validation,
            config=config,
            checkpoint=out / f"{saved or name}-checkpoint" / "run",
            on_epoch=lambda epoch, report: told.append(epoch),
            progress_bar=False,
        )
        reports = [{key: report[key] for key in ("train/loss", "val/ndcg_at_10")} for report in result.epochs]
        found = {"reports": reports, "stop_reason": result.stop_reason, "best_epoch": result.best_epoch}
        found["padding"] = [report["train/padding"] for report in result.epochs]
    except (KilledError, DivergenceError) as error:
        found = {"error": str(error)}
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out / f"{name}-{rank}")
    (out / f"{name}-{rank}.json").write_text(json.dumps(found | {"told": told, "saves": len(saves)}))


for name in ("alike", "graph", "few", "sliced", "straight", "killed", "late", "wrong"):
    (out / f"{name}-checkpoint").mkdir(exist_ok=True)
run("alike")
run("graph", kind=GATConfig)
run("few", batch_size=71)
run("sliced", microbatch_tokens=12)
run("straight", dropout=0.3)
run("killed", dropout=0.3, at_step=8, checkpoint_minutes=1e-9)
run("again", dropout=0.3, saved="killed", checkpoint_minutes=1e-9)
run("late", max_minutes=1e-9)
run("wrong", at_step=8, wrong=nan)
'''


@pytest.fixture(scope="module")
def one_and_two(checkerboard, tmp_path_factory) -> tuple[Path, Path]:
    """What one process and what two left of the cases."""
    folder = tmp_path_factory.mktemp("processes")
    checkerboard.histories.save(folder / "histories")
    (folder / "cases.py").write_text(CASES)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = []
    for name, how in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        (folder / name).mkdir()
        command = [sys.executable, *how, str(folder / "cases.py"), str(folder / "histories"), str(folder / name)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True))
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return folder / "one", folder / "two"


def told(folder: Path, case: str, rank: int = 0) -> dict:
    return json.loads((folder / f"{case}-{rank}.json").read_text())


def assert_same_weights(one: Path, other: Path, *, atol: float) -> None:
    found, expected = load_file(one), load_file(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize("case", ["alike", "graph", "few", "sliced"])
def test_two_processes_take_the_steps_of_one(one_and_two, case):
    """`few` has a batch of a single window, of which the second process gets none."""
    one, two = one_and_two
    assert_same_weights(two / f"{case}-0", one / f"{case}-0", atol=1e-5)
    assert told(two, case)["padding"] == pytest.approx(told(one, case)["padding"], abs=0.2)
    for found, expected in zip(told(two, case)["reports"], told(one, case)["reports"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", ["alike", "graph", "few", "sliced", "straight", "again"])
def test_all_processes_end_with_the_same_weights_and_reports(one_and_two, case):
    _, two = one_and_two
    assert_same_weights(two / f"{case}-1", two / f"{case}-0", atol=0)
    for fact in ("reports", "best_epoch", "stop_reason"):
        assert told(two, case, 1)[fact] == told(two, case, 0)[fact]


def test_only_the_first_process_tells_and_saves(one_and_two):
    _, two = one_and_two
    assert (told(two, "alike", 0)["told"], told(two, "alike", 1)["told"]) == ([1, 2], [])
    assert (told(two, "alike", 0)["saves"], told(two, "alike", 1)["saves"]) == (2, 0)


def test_processes_drop_different_elements(one_and_two):
    one, two = one_and_two
    losses = [told(folder, "straight")["reports"][0]["train/loss"] for folder in (one, two)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_processes_that_were_killed_go_on_to_the_same_weights(one_and_two):
    """With dropout: each process draws what it would have drawn."""
    for folder, size in zip(one_and_two, (1, 2), strict=True):
        assert "error" in told(folder, "killed")
        for rank in range(size):
            assert_same_weights(folder / f"again-{rank}", folder / f"straight-{rank}", atol=0)
        assert told(folder, "again")["reports"] == told(folder, "straight")["reports"]


def test_processes_stop_together_when_time_is_up(one_and_two):
    _, two = one_and_two
    assert [told(two, "late", rank)["stop_reason"] for rank in (0, 1)] == ["time", "time"]
    assert_same_weights(two / "late-0", two / "late-1", atol=0)


def test_all_processes_say_where_one_of_them_diverged_and_keep_the_whole_batch(one_and_two, checkerboard):
    _, two = one_and_two
    said = [told(two, "wrong", rank)["error"] for rank in (0, 1)]
    assert said[0] == said[1]
    assert "got nan in epoch 2, batch 3" in said[0]
    kept = json.loads((two / "wrong-checkpoint" / "diverged.json").read_text())
    windows = Windows(checkerboard.histories, max_length=8, batch_size=16, seed=0)
    assert kept["items"] == list(windows.epoch(1))[2].items.tolist()


def test_every_window_of_a_batch_goes_to_one_process(checkerboard):
    whole = Windows(checkerboard.histories, max_length=8, batch_size=16)
    parts = [Windows(checkerboard.histories, max_length=8, batch_size=16, process=n, n_processes=3) for n in range(3)]
    for batch, *shares in zip(whole.epoch(0), *(part.epoch(0) for part in parts), strict=True):
        rows = [row for share in shares for row in share.items[:, : batch.items.shape[1]].tolist()]
        assert len(rows) == len(batch.items)
        assert [sum(map(sum, share.items.tolist())) > 0 for share in shares] == [True] * 3
        assert sum(map(sum, rows)) == int(batch.items.sum())


# --- alone


def test_a_number_of_processes_that_torchrun_did_not_start_is_refused(checkerboard, monkeypatch):
    model = build_model(SequenceConfig(dim=8, heads=2, pooling_heads=2), 12)
    with pytest.raises(ValueError, match="must be how many torchrun started, got 2 and 1"):
        train(model, checkerboard.histories, config=TrainConfig(processes=2, device="cpu"), progress_bar=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"got 1 and 4; .* or set train\.processes = 4"):
        train(model, checkerboard.histories, config=TrainConfig(device="cpu"), progress_bar=False)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="no more than the GPUs of a machine, got 2 for 1"):
        join_processes(torch.device("cuda"), n_processes=2)


def test_one_process_alone_sends_nothing():
    alone, device = join_processes(torch.device("cpu"), n_processes=1)
    assert (alone, device, alone.first) == (Processes(0, 1), torch.device("cpu"), True)
    assert alone.sum([1.0, 2.0], device) == [1.0, 2.0]
    assert alone.share_values({"ndcg": 0.5}, device) == {"ndcg": 0.5}
    loss = torch.tensor(3.0)
    assert alone.sum_gradients([], loss) is loss
