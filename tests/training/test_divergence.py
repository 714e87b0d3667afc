"""The divergence check: the step in its error, the saved batch, and checkpoints of a diverged run."""

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
from attnrec.training.step import StepResult

N_BATCHES = 5  # 72 users, 16 windows a step
CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1)


@pytest.fixture
def histories(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture(params=[1, 4], ids=["every step", "every fourth step"])
def every(request, monkeypatch) -> int:
    """Make the loop check every n-th step, as on a GPU."""
    monkeypatch.setattr(
        "attnrec.training.loop.DivergenceCheck",
        lambda windows, path, every: DivergenceCheck(windows, path, every=request.param),
    )
    return request.param


def untrained(*, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(SequenceConfig(dim=8, heads=2, pooling_heads=2, max_length=8), 12)


def diverging(at_step: int) -> Model:
    """A model whose loss is NaN in step `at_step`, counted from 1."""
    model = untrained()
    calls, loss = iter(range(1, 10_000)), model.loss
    model.loss = lambda batch: loss(batch) * (nan if next(calls) == at_step else 1)
    return model


def step_result(loss: float, *, grad_norm: float = 1.0, n_targets: int = 10) -> StepResult:
    return StepResult(
        torch.tensor(loss),
        torch.tensor(grad_norm),
        n_targets,
        n_tokens=n_targets,
        n_positions=2 * n_targets,
        stop=False,
    )


def add_all(check: DivergenceCheck, *steps: StepResult) -> list[float]:
    return [check.add(step, Progress(epoch=1, batch=number)) for number, step in enumerate(steps)]


# --- the check alone


@pytest.fixture
def windows(histories) -> Windows:
    return Windows(histories, max_length=8, batch_size=16, seed=1)


def test_losses_are_summed_over_targets_at_each_check(windows):
    check = DivergenceCheck(windows, None, every=3)
    steps = [step_result(2.0, n_targets=1), step_result(3.0, n_targets=10), step_result(5.0, n_targets=100)]
    assert add_all(check, *steps, step_result(7.0)) == [0, 0, 2 * 1 + 3 * 10 + 5 * 100, 0]
    assert check.n_pending_targets == 10
    assert check.flush() == 7 * 10
    assert (check.flush(), check.n_pending_targets) == (0, 0)


@pytest.mark.parametrize(
    ("loss", "grad_norm", "message"),
    [(nan, 1.0, "loss .* got nan"), (-inf, nan, "loss .* got -inf"), (1.0, inf, "gradient norm .* got inf")],
)
def test_the_error_has_the_first_non_finite_step(windows, loss, grad_norm, message):
    check = DivergenceCheck(windows, None, every=4)
    with pytest.raises(DivergenceError, match=rf"non-finite {message}; lower train\.learning_rate$") as caught:
        add_all(
            check,
            step_result(1.0),
            step_result(2.0),
            step_result(loss, grad_norm=grad_norm),
            step_result(nan, grad_norm=nan),
        )
    assert f"at step {N_BATCHES + 3} (epoch 2, batch 3)" in str(caught.value)
    assert (caught.value.epoch, caught.value.batch, caught.value.dump_path) == (2, 3, None)


# --- in a run


@pytest.mark.parametrize("at_step", [1, 2, N_BATCHES, N_BATCHES + 1, 3 * N_BATCHES + 2])
def test_the_diverged_step_and_its_batch_are_saved_beside_the_checkpoint(histories, windows, tmp_path, every, at_step):
    with pytest.raises(DivergenceError) as caught:
        train(diverging(at_step), histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    epoch, batch = divmod(at_step - 1, N_BATCHES)
    assert (caught.value.epoch, caught.value.batch) == (epoch + 1, batch + 1)
    assert caught.value.dump_path == tmp_path / "diverged.json"
    assert f"epoch {epoch + 1}, batch {batch + 1}" in str(caught.value)
    assert str(tmp_path / "diverged.json") in str(caught.value)
    saved = json.loads((tmp_path / "diverged.json").read_text())
    expected = list(windows.epoch(epoch))[batch]
    for name in ("items", "times", "targets"):
        assert saved[name] == getattr(expected, name).tolist()
    assert (saved["epoch"], saved["batch"], saved["loss"]) == (epoch + 1, batch + 1, "nan")


def test_the_saved_batch_has_the_windows_of_all_processes(histories, windows, tmp_path):
    half = Windows(histories, max_length=8, batch_size=16, seed=1, process=1, n_processes=2)
    with pytest.raises(DivergenceError):
        add_all(DivergenceCheck(half, tmp_path / "run", every=1), step_result(nan))
    assert json.loads((tmp_path / "diverged.json").read_text())["items"] == next(windows.epoch(1)).items.tolist()


def test_nothing_is_written_without_a_checkpoint_path(histories, tmp_path, monkeypatch, every):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DivergenceError) as caught:
        train(diverging(3), histories, config=CONFIG, progress_bar=False)
    assert caught.value.dump_path is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved at every step", "saved at the end of epochs"])
def test_the_checkpoint_of_a_diverged_run_has_finite_tensors_and_the_best_weights(histories, tmp_path, every, minutes):
    config, path = CONFIG.model_copy(update={"checkpoint_minutes": minutes}), tmp_path / "run"
    common = {"validation": split_last(histories).validation, "checkpoint": path, "progress_bar": False}
    at_epoch_end = {}
    with pytest.raises(DivergenceError):
        train(
            diverging(2 * N_BATCHES + 2),
            histories,
            config=config,
            **common,
            on_epoch=lambda *_: at_epoch_end.update(read(path)),
        )
    saved = read(path)
    assert all(tensor.isfinite().all() for tensor in saved.values())
    names = [name for name in at_epoch_end if name.startswith("best/")]
    assert names
    assert all(torch.equal(saved[name], at_epoch_end[name]) for name in names)


def test_a_diverged_run_can_be_resumed(histories, tmp_path, every):
    """A transient fault leaves no trace in the checkpoint: the resumed run ends like an undisturbed one."""
    with pytest.raises(DivergenceError):
        train(diverging(2 * N_BATCHES + 2), histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    resumed, undisturbed = untrained(seed=9), untrained()
    train(resumed, histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    train(undisturbed, histories, config=CONFIG, progress_bar=False)
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_the_check_interval_changes_neither_losses_nor_weights(histories, every):
    model, reference = untrained(), untrained()
    result = train(model, histories, config=CONFIG, progress_bar=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnrec.training.loop.DivergenceCheck", DivergenceCheck)
        expected = train(reference, histories, config=CONFIG, progress_bar=False)
    assert [report["train/loss"] for report in result.epochs] == pytest.approx(
        [report["train/loss"] for report in expected.epochs], rel=1e-12
    )
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), reference.parameters(), strict=True))


def read(path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith("random/")}  # noqa: SIM118
