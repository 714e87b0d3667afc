"""The divergence guard: which step it names, what it keeps, and what it keeps out of the checkpoint."""

import json
from math import inf, nan

import pytest
import torch
from safetensors import safe_open

from attnrec.dataset import Histories, Windows, split_last
from attnrec.models import Model, SequenceConfig, build_model
from attnrec.training import DivergenceError, TrainConfig, train
from attnrec.training.checkpoint import Progress
from attnrec.training.divergence import DivergenceCheck
from attnrec.training.step import StepReport

N_BATCHES = 5  # 72 users, 16 windows a step
CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1)


@pytest.fixture
def seen(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture(params=[1, 4], ids=["every step", "every fourth step"])
def every(request, monkeypatch) -> int:
    """Make the loop look this often, as it does on a GPU."""
    monkeypatch.setattr(
        "attnrec.training.loop.DivergenceCheck", lambda windows, path, every: DivergenceCheck(windows, path, every=request.param)
    )
    return request.param


def untrained(*, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(SequenceConfig(dim=8, heads=2, pooling_heads=2, max_length=8), 12)


def diverging(at_step: int) -> Model:
    """A model whose loss is not a number in this step, counted from 1."""
    model = untrained()
    calls, loss = iter(range(1, 10_000)), model.loss
    model.loss = lambda batch: loss(batch) * (nan if next(calls) == at_step else 1)
    return model


def report_of(loss: float, *, norm: float = 1.0, n_targets: int = 10) -> StepReport:
    return StepReport(
        torch.tensor(loss), torch.tensor(norm), n_targets, n_tokens=n_targets, n_positions=2 * n_targets, stop=False
    )


def take_all(guard: DivergenceCheck, *reports: StepReport) -> list[float]:
    return [guard.take(report, Progress(epoch=1, batch=number)) for number, report in enumerate(reports)]


# --- the guard alone


@pytest.fixture
def windows(seen) -> Windows:
    return Windows(seen, max_length=8, batch_size=16, seed=1)


def test_losses_are_summed_over_targets_when_they_are_looked_at(windows):
    guard = DivergenceCheck(windows, None, every=3)
    reports = [report_of(2.0, n_targets=1), report_of(3.0, n_targets=10), report_of(5.0, n_targets=100)]
    assert take_all(guard, *reports, report_of(7.0)) == [0, 0, 2 * 1 + 3 * 10 + 5 * 100, 0]
    assert guard.n_waiting == 10
    assert guard.flush() == 7 * 10
    assert (guard.flush(), guard.n_waiting) == (0, 0)


@pytest.mark.parametrize(("loss", "norm", "said"), [(nan, 1.0, "nan"), (-inf, nan, "-inf"), (1.0, inf, "inf")])
def test_the_first_step_that_is_not_finite_is_named(windows, loss, norm, said):
    guard = DivergenceCheck(windows, None, every=4)
    with pytest.raises(
        DivergenceError, match=rf"got {said} in epoch 2, batch 3; lower train\.learning_rate$"
    ) as caught:
        take_all(guard, report_of(1.0), report_of(2.0), report_of(loss, norm=norm), report_of(nan, norm=nan))
    assert (caught.value.epoch, caught.value.batch, caught.value.kept) == (2, 3, None)


# --- in a run


@pytest.mark.parametrize("at_step", [1, 2, N_BATCHES, N_BATCHES + 1, 3 * N_BATCHES + 2])
def test_the_step_and_its_very_batch_are_kept_beside_the_checkpoint(seen, windows, tmp_path, every, at_step):
    with pytest.raises(DivergenceError) as caught:
        train(diverging(at_step), seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    epoch, batch = divmod(at_step - 1, N_BATCHES)
    assert (caught.value.epoch, caught.value.batch) == (epoch + 1, batch + 1)
    assert caught.value.kept == tmp_path / "diverged.json"
    assert f"epoch {epoch + 1}, batch {batch + 1}" in str(caught.value)
    assert str(tmp_path / "diverged.json") in str(caught.value)
    kept = json.loads((tmp_path / "diverged.json").read_text())
    expected = list(windows.epoch(epoch))[batch]
    for name in ("items", "times", "targets"):
        assert kept[name] == getattr(expected, name).tolist()
    assert (kept["epoch"], kept["batch"], kept["loss"]) == (epoch + 1, batch + 1, "nan")


def test_all_processes_windows_of_the_batch_are_kept(seen, windows, tmp_path):
    half = Windows(seen, max_length=8, batch_size=16, seed=1, process=1, n_processes=2)
    with pytest.raises(DivergenceError):
        take_all(DivergenceCheck(half, tmp_path / "run", every=1), report_of(nan))
    assert json.loads((tmp_path / "diverged.json").read_text())["items"] == next(windows.epoch(1)).items.tolist()


def test_without_a_folder_nothing_is_written(seen, tmp_path, monkeypatch, every):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DivergenceError) as caught:
        train(diverging(3), seen, config=CONFIG, progress_bar=False)
    assert caught.value.kept is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved at every step", "saved at the end of epochs"])
def test_the_checkpoint_of_a_diverged_run_has_the_best_weights_and_no_others(seen, tmp_path, every, minutes):
    config, path = CONFIG.model_copy(update={"checkpoint_minutes": minutes}), tmp_path / "run"
    common = {"validation": split_last(seen).validation, "checkpoint": path, "progress_bar": False}
    best = {}
    with pytest.raises(DivergenceError):
        train(diverging(2 * N_BATCHES + 2), seen, config=config, **common, on_epoch=lambda *_: best.update(read(path)))
    left = read(path)
    assert all(tensor.isfinite().all() for tensor in left.values())
    names = [name for name in best if name.startswith("best/")]
    assert names
    assert all(torch.equal(left[name], best[name]) for name in names)


def test_a_diverged_run_can_be_tried_again_and_goes_on(seen, tmp_path, every):
    """Bad luck with a machine is not in the weights: a second try ends as a run without it."""
    with pytest.raises(DivergenceError):
        train(diverging(2 * N_BATCHES + 2), seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    again, straight = untrained(seed=9), untrained()
    train(again, seen, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    train(straight, seen, config=CONFIG, progress_bar=False)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_how_often_is_looked_changes_no_loss_and_no_weight(seen, every):
    looked, plain = untrained(), untrained()
    found = train(looked, seen, config=CONFIG, progress_bar=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnrec.training.loop.DivergenceCheck", DivergenceCheck)
        expected = train(plain, seen, config=CONFIG, progress_bar=False)
    assert [report["train/loss"] for report in found.epochs] == pytest.approx(
        [report["train/loss"] for report in expected.epochs], rel=1e-12
    )
    assert all(torch.equal(one, other) for one, other in zip(looked.parameters(), plain.parameters(), strict=True))


def read(path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith("random/")}  # noqa: SIM118
