"""One step: micro-batches, out-of-memory handling, learning rates, and the reports of epochs."""

import logging
import shutil
from functools import partial
from math import ceil, cos, pi

import pytest
import torch

from attnrec.dataset import Histories, Windows
from attnrec.models import GATConfig, Model, SequenceConfig, build_model
from attnrec.training import TrainConfig, train
from attnrec.training.processes import ProcessGroup
from attnrec.training.step import CPU_MICROBATCH_TOKENS, Stepper, learning_rate, make_optimizer

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", precision="float32", seed=1
)
UNLIMITED = 10**9  # tokens per micro-batch
N_BATCHES = 5  # 72 users, 16 windows a step
EVERY_BATCH = 1e-9  # minutes between checkpoints
CPU_OUT_OF_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "7516192768 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {"cpu": CPU_OUT_OF_MEMORY, "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB.")}


class KilledError(Exception):
    """Simulates a kill of the process."""


def config_of(**changes: object) -> TrainConfig:
    return CONFIG.model_copy(update=changes)


def untrained(config=SequenceConfig, *, dropout: float = 0.0, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build_model(config(dim=8, heads=2, pooling_heads=2, max_length=8, dropout=dropout), 12)


def stepper_of(model: Model, **changes: object) -> Stepper:
    return Stepper(model, config_of(**changes), n_steps=N_BATCHES, device=CPU, processes=ProcessGroup())


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def record_shapes(model: Model) -> list[tuple[int, int]]:
    """Return a list to which every call of the loss appends the shape of its batch."""
    shapes, loss = [], model.loss
    model.loss = lambda batch: (shapes.append(tuple(batch.items.shape)), loss(batch))[1]
    return shapes


def limit_memory(model: Model, n_windows: int, error: RuntimeError = CPU_OUT_OF_MEMORY) -> Model:
    """Make the loss raise `error` for more than `n_windows` windows."""
    loss = model.loss

    def limited(batch):
        if len(batch.lengths) > n_windows:
            torch.rand(7)  # random numbers were drawn before memory ran out
            raise error
        return loss(batch)

    model.loss = limited
    return model


@pytest.fixture
def large_epsilon(monkeypatch) -> None:
    """Use a large epsilon in Adam, so that gradients that are only rounding errors, as of key biases, stay small."""

    def make_optimizer_with_epsilon(model, config):
        optimizer = make_optimizer(model, config)
        for group in optimizer.param_groups:
            group["eps"] = 0.1
        return optimizer

    monkeypatch.setattr("attnrec.training.step.make_optimizer", make_optimizer_with_epsilon)


@pytest.fixture
def histories(checkerboard) -> Histories:
    return checkerboard.histories


@pytest.fixture
def uneven(make_histories) -> Histories:
    """Windows of 1 to 6 targets."""
    return make_histories({f"user-{n}": "abcdefghijkl"[n % 6 : n % 6 + 2 + n % 6] for n in range(24)})


# --- micro-batches


def test_learning_rate_multipliers_of_the_model_are_applied(checkerboard, monkeypatch):
    model = untrained()
    monkeypatch.setattr(type(model), "lr_multipliers", {"encoder": 5.0})
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=16).epoch(0)
    before = weights(model)
    stepper_of(model, weight_decay=0.0).step(0, batch)
    rate = learning_rate(CONFIG, 0, total_steps=N_BATCHES * CONFIG.epochs)
    matrices = {name: x for name, x in model.named_parameters() if x.ndim == 2}
    assert 0 < sum(name.startswith("encoder.") for name in matrices) < len(matrices)
    for name, after in matrices.items():  # the first step of Adam has the size of the learning rate
        moved = (after - before[name]).abs().max().item()
        assert moved == pytest.approx(rate * (5 if name.startswith("encoder.") else 1), rel=0.02), name


@pytest.mark.parametrize("tokens", [1, 12, 40])
def test_gradients_and_weights_do_not_depend_on_the_micro_batch_size(uneven, tokens, large_epsilon):
    (batch,) = Windows(uneven, max_length=8, batch_size=24).epoch(0)
    results = []
    for limit in (UNLIMITED, tokens):
        model = untrained().train()
        shapes = record_shapes(model)
        report = stepper_of(model, microbatch_tokens=limit, batch_size=24).step(0, batch)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((report, gradients, weights(model), shapes))
    whole, split = results
    assert len(whole[3]) == 1
    assert sum(n_windows for n_windows, _ in split[3]) == 24
    assert all(n_windows * width <= max(tokens, width) for n_windows, width in split[3])
    torch.testing.assert_close(split[0].loss, whole[0].loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(split[0].grad_norm, whole[0].grad_norm, rtol=1e-5, atol=0)
    for kind in (1, 2):
        for name, tensor in whole[kind].items():
            torch.testing.assert_close(split[kind][name], tensor, rtol=1e-5, atol=1e-6)


def test_a_micro_batch_is_trimmed_to_its_longest_window(make_histories):
    histories = make_histories({"ann": "abc", "bob": "abcdefg"})
    model = untrained()
    shapes = record_shapes(model)
    (batch,) = Windows(histories, max_length=8, batch_size=2).epoch(0)
    stepper_of(model, microbatch_tokens=1).step(0, batch)
    assert sorted(shapes) == [(1, 2), (1, 6)]


def test_the_loss_of_a_step_is_the_mean_over_targets_of_all_micro_batches(uneven):
    # the loss of each micro-batch is its number of windows; the mean weights it by its number of targets
    (batch,) = Windows(uneven, max_length=8, batch_size=24).epoch(0)
    model = untrained()
    model.loss = lambda microbatch: (
        len(microbatch.lengths) + 0 * sum(parameter.sum() for parameter in model.parameters())
    )
    stepper = stepper_of(model, microbatch_tokens=12, batch_size=24)
    width = batch.items.shape[1]
    microbatches = [batch.lengths[first : first + 12 // width] for first in range(0, 24, 12 // width)]
    expected = sum(len(lengths) * int(lengths.sum()) for lengths in microbatches) / int(batch.lengths.sum())
    assert stepper.step(0, batch).loss.item() == pytest.approx(expected)


def test_the_default_micro_batch_on_the_cpu_has_a_fixed_size(histories):
    model = untrained()
    shapes = record_shapes(model)
    batch = next(Windows(histories, max_length=8, batch_size=16).epoch(0))
    n_repeats = 1280 // len(batch.lengths)
    many = batch._map(lambda column: column.repeat(n_repeats, *[1] * (column.ndim - 1)))
    stepper_of(model, batch_size=1280).step(0, many)
    n_parts = ceil(1280 * batch.items.shape[1] / CPU_MICROBATCH_TOKENS)
    assert n_parts == 2
    assert [n_windows for n_windows, _ in shapes] == [640, 640], "equal parts"


def test_graph_attention_is_never_split(histories):
    model = untrained(GATConfig)
    shapes = record_shapes(model)
    train(model, histories, config=config_of(epochs=1, microbatch_tokens=1), progress_bar=False)
    assert sorted(n_windows for n_windows, _ in shapes) == [8, 16, 16, 16, 16]


# --- out of memory


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_batch_that_does_not_fit_is_split_once_and_gives_the_same_weights(histories, caplog, error, large_epsilon):
    whole, split = untrained(), limit_memory(untrained(), 8, error)
    train(whole, histories, config=config_of(microbatch_tokens=UNLIMITED), progress_bar=False)
    shapes = record_shapes(split)
    with caplog.at_level(logging.WARNING):
        train(split, histories, config=config_of(microbatch_tokens=UNLIMITED), progress_bar=False)
    assert [record.message for record in caplog.records] == [
        "a step ran out of memory: from now on each step is split into twice as many micro-batches"
    ]
    assert [n_windows for n_windows, _ in shapes].count(16) == 1, "the first attempt"
    assert len(shapes) == 1 + 2 * 2 * N_BATCHES
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_split_step_uses_the_same_dropout_as_micro_batches_of_that_size(histories):
    """The random state is restored after the failed attempt."""
    models = [limit_memory(untrained(dropout=0.3), 8), untrained(dropout=0.3)]
    (batch,) = Windows(histories, max_length=8, batch_size=16).epoch(0, first_batch=N_BATCHES - 1)
    half = batch.items.shape[1] * -(-len(batch.lengths) // 2)
    for model, tokens in zip(models, (UNLIMITED, half), strict=True):
        torch.manual_seed(5)
        stepper_of(model.train(), microbatch_tokens=tokens).step(0, batch)
    assert equal(weights(models[0]), weights(models[1]))


def test_a_resumed_run_keeps_the_split(histories, tmp_path, caplog):
    common = {"config": config_of(microbatch_tokens=UNLIMITED, checkpoint_minutes=EVERY_BATCH), "progress_bar": False}
    killed = limit_memory(untrained(dropout=0.3), 8)
    shapes, loss = record_shapes(killed), killed.loss

    def raising(batch):
        if len(shapes) == 9:
            raise KilledError
        return loss(batch)

    killed.loss = raising
    with pytest.raises(KilledError):
        train(killed, histories, checkpoint=tmp_path / "run", **common)
    assert "ran out of memory" in caplog.text
    caplog.clear()
    resumed, undisturbed = (limit_memory(untrained(dropout=0.3), 8) for _ in range(2))
    shapes = record_shapes(resumed)
    train(resumed, histories, checkpoint=tmp_path / "run", **common)
    assert max(n_windows for n_windows, _ in shapes) == 8
    assert "ran out of memory" not in caplog.text
    train(undisturbed, histories, **common)
    assert equal(weights(resumed), weights(undisturbed))


def test_the_memory_error_has_the_sizes_and_the_settings_to_lower(histories):
    model = limit_memory(untrained(), 7)
    width = next(Windows(histories, max_length=8, batch_size=16, seed=CONFIG.seed).epoch(0)).items.shape[1]
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(MemoryError) as caught:
        train(model, histories, config=config_of(microbatch_tokens=UNLIMITED), progress_bar=False)
    message = str(caught.value)
    assert f"got a micro-batch of 8 windows x {width} positions = {8 * width} tokens" in message
    assert f"{n_parameters:,} parameters x 5" in message
    assert "lower train.microbatch_tokens, train.batch_size (now 16), model.max_length or model.dim" in message
    assert "nan" not in message
    assert caught.value.__cause__ is None
    assert "\n" not in message


@pytest.mark.parametrize(("config", "tokens"), [(GATConfig, UNLIMITED), (SequenceConfig, 1)])
def test_a_step_that_cannot_be_split_is_not_retried(histories, caplog, config, tokens):
    model = limit_memory(untrained(config), 0)
    shapes = record_shapes(model)
    with pytest.raises(MemoryError, match="a step must fit into memory"):
        train(model, histories, config=config_of(microbatch_tokens=tokens), progress_bar=False)
    assert len(shapes) == 1
    assert caplog.text == ""


def test_other_runtime_errors_are_raised_unchanged(histories):
    model = limit_memory(untrained(), 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(model, histories, config=CONFIG, progress_bar=False)


# --- learning rates


def test_the_learning_rate_warms_up_and_stays_constant():
    config = config_of(learning_rate=0.4, warmup_steps=4)
    rates = [learning_rate(config, step, total_steps=10) for step in range(10)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, *[0.4] * 7])


def test_the_cosine_schedule_ends_at_zero():
    config = config_of(learning_rate=0.4, warmup_steps=2, schedule="cosine")
    rates = [learning_rate(config, step, total_steps=4) for step in range(5)]
    expected = [0.2 * 1, 0.4 * (1 + cos(pi / 4)) / 2, 0.4 / 2, 0.4 * (1 + cos(3 * pi / 4)) / 2, 0]
    assert rates == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_full_learning_rate():
    assert learning_rate(config_of(learning_rate=0.4, warmup_steps=0), 0, total_steps=10) == 0.4


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_step_uses_the_learning_rate_of_the_schedule(histories, monkeypatch, schedule):
    config, used = config_of(schedule=schedule, warmup_steps=4), []
    step = torch.optim.AdamW.step

    def recording_step(self, *arguments):
        used.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording_step)
    train(untrained(), histories, config=config, progress_bar=False)
    rates = [learning_rate(config, number, total_steps=2 * N_BATCHES) for number in range(2 * N_BATCHES)]
    assert used == [[rate, rate] for rate in rates]


def test_a_killed_run_with_a_cosine_schedule_resumes_at_its_learning_rate(histories, tmp_path):
    config = config_of(schedule="cosine", checkpoint_minutes=EVERY_BATCH)
    whole, killed, resumed = (untrained(dropout=0.3) for _ in range(3))
    train(whole, histories, config=config, progress_bar=False)
    shapes, loss = record_shapes(killed), killed.loss
    killed.loss = lambda batch: loss(batch) if len(shapes) < N_BATCHES + 2 else (_ for _ in ()).throw(KilledError())
    with pytest.raises(KilledError):
        train(killed, histories, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    train(resumed, histories, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    assert equal(weights(resumed), weights(whole))


def test_a_run_with_a_cosine_schedule_cannot_resume_with_more_epochs(histories, tmp_path):
    """Its learning rates depend on the number of epochs; a constant schedule allows it (see test_loop)."""
    common = {"checkpoint": tmp_path / "run", "progress_bar": False}
    train(untrained(), histories, config=config_of(schedule="cosine"), **common)
    with pytest.raises(ValueError, match="must come from the same model, data and settings"):
        train(untrained(), histories, config=config_of(schedule="cosine", epochs=3), **common)


# --- reports


def test_every_epoch_reports_time_padding_and_memory(uneven):
    result = train(untrained(), uneven, config=config_of(epochs=3, batch_size=7), progress_bar=False)
    windows = Windows(uneven, max_length=8, batch_size=7, seed=CONFIG.seed)
    for number, report in enumerate(result.epochs):
        batches = list(windows.epoch(number))
        n_tokens = sum(int(batch.lengths.sum()) for batch in batches)
        assert report["train/padding"] == pytest.approx(1 - n_tokens / sum(batch.items.numel() for batch in batches))
        assert 0 < report["train/padding"] < 1
        assert 50 < report["train/peak_mb"] < 10_000
        assert report["train/tokens_per_second"] == pytest.approx(n_tokens / report["train/epoch_seconds"])
    assert sum(report["train/epoch_seconds"] for report in result.epochs) == pytest.approx(result.seconds)
    assert result.device == "cpu"


def test_epoch_times_and_padding_are_correct_after_a_restart(uneven, tmp_path):
    killed = untrained()
    shapes, loss = record_shapes(killed), killed.loss
    killed.loss = lambda batch: loss(batch) if len(shapes) < 6 else (_ for _ in ()).throw(KilledError())
    config = config_of(epochs=3, batch_size=7, checkpoint_minutes=EVERY_BATCH)
    with pytest.raises(KilledError):
        train(killed, uneven, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    result = train(untrained(), uneven, config=config, checkpoint=tmp_path / "run", progress_bar=False)
    undisturbed = train(untrained(), uneven, config=config, progress_bar=False)
    assert sum(report["train/epoch_seconds"] for report in result.epochs) == pytest.approx(result.seconds)
    padding = [[report["train/padding"] for report in run.epochs] for run in (result, undisturbed)]
    assert padding[0] == padding[1]


def test_the_result_has_the_optimizer_moments_by_parameter(histories):
    model = untrained()
    result = train(model, histories, config=CONFIG, progress_bar=False)
    assert result.moments is not None
    for name, parameter in model.named_parameters():
        assert result.moments[f"{name}/exp_avg"].shape == parameter.shape
        assert (result.moments[f"{name}/exp_avg_sq"] >= 0).all()
        assert result.moments[f"{name}/step"].item() == 2 * N_BATCHES


def test_flops_share_counts_all_matrix_operations(histories, monkeypatch):
    monkeypatch.setattr("attnrec.training.step.peak_flops", lambda device: 1e9)
    model = untrained()
    config = config_of(epochs=1, precision="float32")
    (report,) = train(model, histories, config=config, progress_bar=False).epochs
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "position_embedding" not in name)
    weights -= model.config.dim  # the padding row
    # forward, and backward to both factors: 3 products of 2 operations per weight and position. The item embedding
    # is one of the weights; the products of attention are added if the counter supports their kernel.
    least = 6 * weights * report["train/tokens_per_second"] / 1e9
    assert 0.99 * least <= report["train/flops_share"] <= 1.5 * least


def test_flops_share_is_not_reported_on_a_cpu(histories):
    (report,) = train(untrained(), histories, config=config_of(epochs=1), progress_bar=False).epochs
    assert "train/flops_share" not in report


@pytest.mark.filterwarnings("ignore")  # warnings of torch.compile itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_has_the_same_loss(histories, monkeypatch):
    """With the backend aot_eager, which captures the same graphs as inductor but needs no C++ compiler and a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = untrained(), untrained()
    expected = train(plain, histories, config=config_of(epochs=1), progress_bar=False)
    result = train(compiled, histories, config=config_of(epochs=1, compile=True), progress_bar=False)
    assert result.epochs[0]["train/loss"] == pytest.approx(expected.epochs[0]["train/loss"], rel=1e-5)
