"""The training loop: reports, best weights, early stopping, resuming, and rejected inputs."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from attnrec.dataset import Histories, Holdout, split_last
from attnrec.evaluation.evaluator import Evaluation
from attnrec.models import GATConfig, ItemKNNConfig, Model, SequenceConfig, build_model
from attnrec.training import AugmentConfig, DivergenceError, TrainConfig, TrainingResult, choose_device, train
from attnrec.training.ema import ExponentialMovingAverage
from attnrec.training.progress import ProgressBar

TINY = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 8, "dropout": 0.3}
CONFIGS = {"attnrec": SequenceConfig(**TINY, layers=1), "gat": GATConfig(**TINY, edges_per_step=100)}
N_BATCHES = 5  # 72 users, 16 windows a step
EVERY_BATCH = 1e-9  # minutes between checkpoints
CONFIG = TrainConfig(
    epochs=4, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1, checkpoint_minutes=EVERY_BATCH
)


class KilledError(Exception):
    """Simulates a kill of the process."""


@pytest.fixture(params=CONFIGS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def histories(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture
def validation(histories) -> Holdout:
    return split_last(histories).validation


def untrained(kind: str = "attnrec", *, seed: int = 0, n_items: int = 12) -> Model:
    torch.manual_seed(seed)
    return build_model(CONFIGS[kind], n_items)


def raise_at(model: Model, at_step: int, error: BaseException) -> Model:
    """Make the model raise `error` in training step `at_step`, counted from 1."""
    calls, loss = iter(range(1, 10_000)), model.loss

    def raising(batch):
        if next(calls) == at_step:
            raise error
        return loss(batch)

    model.loss = raising
    return model


def count_steps(model: Model) -> list[int]:
    steps, loss = [], model.loss
    model.loss = lambda batch: (steps.append(1), loss(batch))[1]
    return steps


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(result: TrainingResult) -> list[float]:
    return [report["train/loss"] for report in result.epochs]


@pytest.fixture
def mock_validation(monkeypatch):
    """Return a function that sets the validation value of each epoch and records the validated users and weights."""

    def mock(*values: float) -> list[tuple[Holdout, dict[str, torch.Tensor]]]:
        calls, remaining = [], iter(values)

        def evaluate(model, holdout, **settings):
            calls.append((holdout, weights(model)))
            return Evaluation(None, {"ndcg_at_10": next(remaining)}, {}, None, None)

        monkeypatch.setattr("attnrec.training.validation.evaluate", evaluate)
        return calls

    return mock


# --- epochs and reports


def test_training_lowers_the_loss(histories):
    result = train(untrained(), histories, config=CONFIG, progress_bar=False)
    assert losses(result)[-1] < np.log(12) < losses(result)[0]  # log(12) is the loss of uniform predictions
    assert result.stop_reason == "all epochs done"


def test_every_epoch_reports_loss_speed_time_and_validation(histories, validation):
    result = train(untrained(), histories, validation=validation, config=CONFIG, progress_bar=False)
    assert len(result.epochs) == 4
    for report in result.epochs:
        assert {"train/loss", "train/tokens_per_second", "train/seconds", "val/ndcg_at_10"} <= report.keys()
    times = [report["train/seconds"] for report in result.epochs]
    assert 0 < times[0] < times[-1] == result.seconds


def test_the_reported_loss_is_the_mean_over_targets(histories, monkeypatch):
    # the loss of each batch is its number of targets, so the mean over targets is the sum of squares over the sum
    model = untrained()
    sizes = []

    def loss(batch):
        sizes.append(int(batch.lengths.sum()))
        return sum(parameter.sum() * 0 for parameter in model.parameters()) + sizes[-1]

    monkeypatch.setattr(model, "loss", loss)
    result = train(model, histories, config=CONFIG.model_copy(update={"epochs": 1}), progress_bar=False)
    assert losses(result) == [pytest.approx(sum(size**2 for size in sizes) / sum(sizes))]
    assert len(set(sizes)) > 1


def test_without_validation_the_weights_of_the_last_epoch_are_kept(histories):
    model, last = untrained(), {}
    config = CONFIG.model_copy(update={"ema_decay": 0.0})
    result = train(model, histories, config=config, on_epoch=lambda *_: last.update(weights(model)), progress_bar=False)
    assert result.best_epoch == 4
    assert equal(weights(model), last)


def test_the_validated_weights_of_the_best_epoch_are_kept(histories, validation, mock_validation, kind):
    calls = mock_validation(0.1, 0.3, 0.2, 0.3)  # a later equal value does not replace the best
    model = untrained(kind)
    result = train(model, histories, validation=validation, config=CONFIG, progress_bar=False)
    assert result.best_epoch == 2
    assert equal(weights(model), calls[1][1])
    assert not equal(weights(model), calls[3][1])
    assert not model.training


def test_the_moving_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    ema = ExponentialMovingAverage(model, decay=0.15)
    model.weight.data.fill_(1.0)
    ema.update(0)  # decay (1 + 0) / (10 + 0)
    assert ema.tensors()["weight"].item() == pytest.approx(0.1 * 0 + 0.9 * 1)
    model.weight.data.fill_(2.0)
    ema.update(1)  # decay 0.15, which is below (1 + 1) / (10 + 1)
    assert ema.tensors()["weight"].item() == pytest.approx(0.15 * 0.9 + 0.85 * 2)
    with ema.applied():
        assert model.weight.item() == pytest.approx(0.15 * 0.9 + 0.85 * 2)
    assert model.weight.item() == 2


def test_the_moving_average_is_updated_after_every_step(histories):
    model, history = untrained(), []
    loss = model.loss
    model.loss = lambda batch: (history.append(weights(model)), loss(batch))[1]
    config = CONFIG.model_copy(update={"ema_decay": 0.4})
    train(model, histories, config=config, on_epoch=lambda *_: history.append(weights(model)), progress_bar=False)
    name = "item_scorer.embedding.weight"
    steps = [history[number][name] for number in range(len(history)) if number % (N_BATCHES + 1)]  # after each step
    expected = history[0][name]
    for number, after in enumerate(steps):
        decay = min(0.4, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * after
    assert len(steps) == 4 * N_BATCHES
    torch.testing.assert_close(model.state_dict()[name], expected)


def test_the_moving_average_changes_the_validated_weights_and_not_the_training(histories, validation, mock_validation):
    calls = mock_validation(*range(8))
    plain, averaged = (
        train(
            untrained(),
            histories,
            validation=validation,
            config=CONFIG.model_copy(update={"ema_decay": decay}),
            progress_bar=False,
        )
        for decay in (0.0, 0.999)
    )
    assert losses(averaged) == losses(plain)
    assert not equal(calls[3][1], calls[7][1])


def test_training_stops_after_patience_epochs_without_improvement(histories, validation, mock_validation):
    mock_validation(0.1, 0.3, 0.2, 0.2, 0.2, 0.9)
    config = CONFIG.model_copy(update={"epochs": 6, "patience": 3})
    result = train(untrained(), histories, validation=validation, config=config, progress_bar=False)
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (5, 2, "no improvement")


def test_training_stops_inside_an_epoch_at_the_time_limit(histories, validation):
    model = untrained()
    steps = count_steps(model)
    config = CONFIG.model_copy(update={"max_minutes": 1e-9})
    result = train(model, histories, validation=validation, config=config, progress_bar=False)
    assert len(steps) == 1
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (1, 1, "time limit")


def test_validation_uses_the_same_sample_of_users_in_every_epoch(histories, validation, mock_validation):
    calls = mock_validation(0.1, 0.2, 0.3, 0.4)
    config = CONFIG.model_copy(update={"validation_users": 7})
    train(untrained(), histories, validation=validation, config=config, progress_bar=False)
    users = [holdout.users.tolist() for holdout, _ in calls]
    assert len(users[0]) == 7
    assert users == [users[0]] * 4
    assert users[0] != list(range(7))


def test_a_model_without_gradient_training_is_fitted_without_epochs(histories):
    model = build_model(ItemKNNConfig(), 12)
    result = train(model, histories, config=CONFIG, progress_bar=False)
    assert (result.best_epoch, result.epochs) == (0, ())
    assert model.similarities.sum() > 0


def test_training_does_not_change_the_callers_random_state(histories):
    torch.manual_seed(7)
    expected = torch.rand(3)
    model = untrained()
    torch.manual_seed(7)
    train(model, histories, config=CONFIG, progress_bar=False)
    assert torch.equal(torch.rand(3), expected)


def test_training_depends_on_the_seed_and_not_on_the_callers_random_state(histories, kind):
    models = [untrained(kind), untrained(kind), untrained(kind)]
    for number, model in enumerate(models):
        torch.manual_seed(100 + number)
        config = CONFIG.model_copy(update={"seed": number // 2})
        train(model, histories, config=config, progress_bar=False)
    assert equal(weights(models[0]), weights(models[1]))
    assert not equal(weights(models[0]), weights(models[2]))


def test_memory_mapped_histories_give_the_same_model(histories, tmp_path, kind):
    histories.save(tmp_path / "histories")
    models = [untrained(kind), untrained(kind)]
    for model, log in zip(models, [histories, Histories.load(tmp_path / "histories")], strict=True):
        train(model, log, validation=split_last(log).test, config=CONFIG, progress_bar=False)
    assert equal(weights(models[0]), weights(models[1]))


def test_progress_on_a_pipe_is_one_line_per_epoch(histories, validation, capsys):
    train(untrained(), histories, validation=validation, config=CONFIG)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    pattern = r"epoch {}/4  loss \d\.\d{{3}}  val ndcg@10 [01]\.\d{{4}}  +[\d,]+ tokens/s"
    assert len(lines) == 4
    for epoch, line in enumerate(lines, start=1):
        assert re.fullmatch(pattern.format(epoch), line), line


def test_progress_lines_are_aligned(capsys):
    with ProgressBar(12, 5, metric="ndcg_at_10", shown=True) as bar:
        bar.finish_epoch(3, {"train/loss": 4.8123, "val/ndcg_at_10": 0.0734, "train/tokens_per_second": 21_300.0})
        bar.finish_epoch(12, {"train/loss": 3.5, "val/ndcg_at_10": 0.1, "train/tokens_per_second": 900.0})
    assert capsys.readouterr().err.splitlines() == [
        "epoch  3/12  loss 4.812  val ndcg@10 0.0734   21,300 tokens/s",
        "epoch 12/12  loss 3.500  val ndcg@10 0.1000      900 tokens/s",
    ]


def test_progress_can_be_turned_off(histories, capsys):
    train(untrained(), histories, config=CONFIG, progress_bar=False)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# --- kill and resume


def interrupted(kind, histories, validation, path, *, at_step, config=CONFIG):
    """Kill a run in a step, then resume it from the checkpoint in a newly initialised model."""
    with pytest.raises(KilledError):
        train(
            raise_at(untrained(kind), at_step, KilledError()),
            histories,
            validation=validation,
            config=config,
            checkpoint=path,
            progress_bar=False,
        )
    model = untrained(kind, seed=99)
    steps = count_steps(model)
    result = train(model, histories, validation=validation, config=config, checkpoint=path, progress_bar=False)
    return model, result, len(steps)


@pytest.mark.parametrize("at_step", range(2, 2 * N_BATCHES + 1))
def test_a_run_killed_in_any_step_resumes_to_the_same_weights(histories, validation, kind, tmp_path, at_step):
    """The run uses everything that draws random numbers or depends on the step number."""
    augmentation = AugmentConfig(crop=0.5, mask=0.2, reorder=0.5)
    config = CONFIG.model_copy(update={"epochs": 2, "schedule": "cosine", "augment": augmentation})
    whole = untrained(kind)
    expected = train(whole, histories, validation=validation, config=config, progress_bar=False)
    model, result, n_steps = interrupted(
        kind, histories, validation, tmp_path / "run.safetensors", at_step=at_step, config=config
    )
    assert n_steps == 2 * N_BATCHES - (at_step - 1), "no step is repeated"
    assert equal(weights(model), weights(whole))
    assert losses(result) == losses(expected)
    assert result.best_epoch == expected.best_epoch


def test_a_run_without_a_checkpoint_inside_the_epoch_repeats_the_whole_epoch(histories, validation, tmp_path, kind):
    config = CONFIG.model_copy(update={"checkpoint_minutes": 60})
    whole = untrained(kind)
    train(whole, histories, validation=validation, config=config, progress_bar=False)
    path = tmp_path / "run.safetensors"
    model, _, n_steps = interrupted(kind, histories, validation, path, at_step=2 * N_BATCHES + 3, config=config)
    assert n_steps == 2 * N_BATCHES
    assert equal(weights(model), weights(whole))


def test_a_resumed_run_reports_the_earlier_epochs_again(histories, tmp_path):
    def stop(epoch: int, _) -> None:
        if epoch == 2:
            raise KilledError

    whole, model, reported = untrained(), untrained(seed=99), []
    train(whole, histories, config=CONFIG, progress_bar=False)
    with pytest.raises(KilledError):
        train(untrained(), histories, config=CONFIG, checkpoint=tmp_path / "run", on_epoch=stop, progress_bar=False)
    train(
        model,
        histories,
        config=CONFIG,
        checkpoint=tmp_path / "run",
        on_epoch=lambda epoch, report: reported.append(epoch),
        progress_bar=False,
    )
    assert reported == [1, 2, 3, 4]
    assert equal(weights(model), weights(whole))


def test_batch_order_and_dropout_differ_between_epochs(histories):
    # otherwise the tests above would pass without restoring the random states
    result = train(
        untrained(), histories, config=CONFIG.model_copy(update={"learning_rate": 1e-12}), progress_bar=False
    )
    assert len(set(losses(result))) == 4


def test_a_finished_run_is_not_trained_further(histories, validation, tmp_path):
    first, again = untrained(), untrained(seed=99)
    path = tmp_path / "run.safetensors"
    result = train(first, histories, validation=validation, config=CONFIG, checkpoint=path, progress_bar=False)
    steps = count_steps(again)
    repeated = train(again, histories, validation=validation, config=CONFIG, checkpoint=path, progress_bar=False)
    assert steps == []
    assert equal(weights(again), weights(first))
    assert repeated.best_epoch == result.best_epoch
    assert repeated.epochs == result.epochs
    assert repeated.stop_reason == result.stop_reason


def test_a_finished_run_resumes_with_more_epochs(histories, tmp_path):
    path = tmp_path / "run.safetensors"
    whole, model = untrained(), untrained(seed=99)
    train(whole, histories, config=CONFIG, progress_bar=False)
    train(untrained(), histories, config=CONFIG.model_copy(update={"epochs": 2}), checkpoint=path, progress_bar=False)
    result = train(model, histories, config=CONFIG, checkpoint=path, progress_bar=False)
    assert len(result.epochs) == 4
    assert equal(weights(model), weights(whole))


def test_patience_counts_epochs_before_a_restart(histories, validation, mock_validation, tmp_path):
    def stop(epoch: int, _) -> None:
        if epoch == 3:
            raise KilledError

    mock_validation(0.1, 0.3, 0.2, 0.2, 0.9)
    config = CONFIG.model_copy(update={"epochs": 9, "patience": 2})
    common = {"validation": validation, "config": config, "checkpoint": tmp_path / "run", "progress_bar": False}
    with pytest.raises(KilledError):
        train(untrained(), histories, **common, on_epoch=stop)
    result = train(untrained(seed=99), histories, **common)
    assert (len(result.epochs), result.best_epoch, result.stop_reason) == (4, 2, "no improvement")


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, {"seed": 8}, {"batch_size": 32}, {"ema_decay": 0.5}])
def test_a_checkpoint_of_other_settings_is_rejected(histories, tmp_path, change):
    train(untrained(), histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with pytest.raises(ValueError, match="must come from the same model, data and settings"):
        train(
            untrained(),
            histories,
            config=CONFIG.model_copy(update=change),
            checkpoint=tmp_path / "run",
            progress_bar=False,
        )


def test_a_checkpoint_of_another_model_or_log_is_rejected(histories, tmp_path, make_histories):
    train(untrained(), histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    shorter = histories.up_to(histories.lengths - 1)
    other = make_histories({"ann": "abcdefghijkl"})
    for model, log in [(untrained("gat"), histories), (untrained(), shorter), (untrained(), other)]:
        with pytest.raises(ValueError, match="must come from the same model, data and settings"):
            train(model, log, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)


@pytest.mark.parametrize("change", [{"patience": 3}, {"max_minutes": 60.0}, {"checkpoint_minutes": 1.0}])
def test_limits_may_change_between_restarts(histories, validation, tmp_path, change):
    common = {"validation": validation, "checkpoint": tmp_path / "run", "progress_bar": False}
    with pytest.raises(KilledError):
        train(raise_at(untrained(), 7, KilledError()), histories, config=CONFIG, **common)
    assert (
        train(untrained(), histories, config=CONFIG.model_copy(update=change), **common).stop_reason
        == "all epochs done"
    )


def test_a_checkpoint_is_one_file_without_a_pickle(histories, validation, tmp_path, contains_pickle):
    path = tmp_path / "run.safetensors"
    train(untrained(), histories, validation=validation, config=CONFIG, checkpoint=path, progress_bar=False)
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    assert not contains_pickle(path)
    with safe_open(path, framework="pt") as file:
        groups = {name.split("/")[0] for name in file.keys()}  # noqa: SIM118
    assert groups == {"model", "ema", "best", "optimizer", "random"}


def test_a_keyboard_interrupt_keeps_the_best_epoch_so_far(histories):
    model, at_epoch = untrained(), {}
    result = train(
        raise_at(model, N_BATCHES + 3, KeyboardInterrupt()),
        histories,
        config=CONFIG.model_copy(update={"ema_decay": 0.0}),
        on_epoch=lambda epoch, _: at_epoch.update({epoch: weights(model)}),
        progress_bar=False,
    )
    assert (result.stop_reason, result.best_epoch) == ("interrupted", 1)
    assert equal(weights(model), at_epoch[1])


def test_a_keyboard_interrupt_inside_an_epoch_keeps_the_best_weights_and_the_run_can_be_resumed(
    histories, validation, mock_validation, tmp_path
):
    calls = mock_validation(0.3, 0.2, 0.1, 0.4)  # two epochs, the interrupt, two more
    model, again = untrained(), untrained(seed=99)
    common = {"validation": validation, "config": CONFIG, "checkpoint": tmp_path / "run", "progress_bar": False}
    result = train(raise_at(model, 2 * N_BATCHES + 3, KeyboardInterrupt()), histories, **common)
    assert (result.stop_reason, result.best_epoch, len(result.epochs)) == ("interrupted", 1, 2)
    assert equal(weights(model), calls[0][1])
    assert not model.training
    result = train(again, histories, **common)
    assert (result.stop_reason, result.best_epoch, len(result.epochs)) == ("all epochs done", 4, 4)
    whole = untrained()
    mock_validation(0.3, 0.2, 0.1, 0.4)
    train(whole, histories, validation=validation, config=CONFIG, progress_bar=False)
    assert equal(weights(again), weights(whole))


def test_a_keyboard_interrupt_in_the_first_epoch_is_raised(histories):
    with pytest.raises(KeyboardInterrupt):
        train(raise_at(untrained(), 2, KeyboardInterrupt()), histories, config=CONFIG, progress_bar=False)


# --- rejected inputs


def test_training_stops_on_a_non_finite_loss_and_the_error_has_the_step(histories, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: loss(batch) * (float("nan") if next(calls) == N_BATCHES + 3 else 1)
    with pytest.raises(DivergenceError, match=r"non-finite loss at step 8 \(epoch 2, batch 3\), got nan; lower train"):
        train(model, histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)


def test_weights_saved_before_a_divergence_are_finite(histories, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: loss(batch) * (float("nan") if next(calls) == N_BATCHES + 3 else 1)
    with pytest.raises(DivergenceError):
        train(model, histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with safe_open(tmp_path / "run", framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys() if name.startswith("model/")]  # noqa: SIM118
    assert all(tensor.isfinite().all() for tensor in tensors)


class _NaNBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def test_a_non_finite_gradient_never_reaches_the_checkpoint(histories, tmp_path):
    model = untrained()
    calls, loss = iter(range(1, 100)), model.loss
    model.loss = lambda batch: _NaNBackward.apply(loss(batch)) if next(calls) == 3 else loss(batch)
    with pytest.raises(DivergenceError, match="epoch 1, batch 3"):
        train(model, histories, config=CONFIG, checkpoint=tmp_path / "run", progress_bar=False)
    with safe_open(tmp_path / "run", framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys() if name.startswith(("model/", "ema/"))]  # noqa: SIM118
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_a_log_without_two_events_of_a_user_is_rejected(make_histories):
    with pytest.raises(ValueError, match="needs a user with two events"):
        train(untrained(n_items=2), make_histories({"ann": "a", "bob": "b"}), config=CONFIG, progress_bar=False)


def test_a_sequence_model_rejects_a_log_without_order(histories):
    with pytest.raises(ValueError, match="needs ordered histories"):
        train(untrained(), replace(histories, time_kind="none"), config=CONFIG, progress_bar=False)


def test_cuda_without_a_gpu_is_rejected_in_one_line(histories, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' needs a CUDA GPU that torch can use, found none") as caught:
        train(untrained(), histories, config=CONFIG.model_copy(update={"device": "cuda"}), progress_bar=False)
    assert "\n" not in str(caught.value)


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


def test_an_unknown_device_is_rejected():
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda', got 'abacus'"):
        choose_device("abacus")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"learning_rate": -1.0}, {"epoch": 3}, {"precision": "float8"}])
def test_invalid_settings_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


# --- on a GPU

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CUDA = CONFIG.model_copy(update={"device": "cuda", "precision": "float32"})


@pytest.mark.gpu
@on_gpu
def test_training_on_cuda_equals_the_cpu(histories, validation):
    results = []
    for config in (CONFIG, CUDA):
        torch.manual_seed(0)
        model = build_model(CONFIGS["attnrec"].model_copy(update={"dropout": 0.0}), 12)
        result = train(model, histories, validation=validation, config=config, progress_bar=False)
        results.append((losses(result), weights(model.cpu())))
    (cpu_losses, cpu_weights), (cuda_losses, cuda_weights) = results
    assert cuda_losses == pytest.approx(cpu_losses, rel=1e-3)
    for name, tensor in cpu_weights.items():
        torch.testing.assert_close(cuda_weights[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@on_gpu
def test_a_run_killed_on_cuda_resumes_to_the_same_weights(histories, validation, tmp_path):
    whole = untrained()
    train(whole, histories, validation=validation, config=CUDA, progress_bar=False)
    model, *_ = interrupted("attnrec", histories, validation, tmp_path / "run", at_step=N_BATCHES + 3, config=CUDA)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(model)[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@on_gpu
def test_bfloat16_on_cuda_gives_losses_close_to_float32(histories):
    bfloat16, float32 = (
        losses(
            train(untrained(), histories, config=CUDA.model_copy(update={"precision": precision}), progress_bar=False)
        )
        for precision in ("auto", "float32")
    )
    assert bfloat16 == pytest.approx(float32, rel=0.05)


def test_training_time_is_measured_by_the_clock_of_the_settings(histories, monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 5.0)  # the process uses no CPU time
    for clock, is_zero in (("wall_time", False), ("cpu_time", True)):
        config = TrainConfig(epochs=1, batch_size=4, device="cpu", threads=1, clock=clock)
        seconds = train(untrained(), histories, config=config, progress_bar=False).seconds
        assert (seconds == 0) == is_zero
