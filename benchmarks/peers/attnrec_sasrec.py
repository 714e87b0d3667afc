"""attnrec's SASRec, timed by the library's own clock (training steps only)."""

import os
from contextlib import suppress

import world

OPTIONS = world.options(__doc__)
os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from attnrec.dataset import Histories, Holdout, histories_from_frame  # noqa: E402
from attnrec.models import Model, build_model, model_config  # noqa: E402
from attnrec.scoring.recommendations import ScoreConfig, recommend  # noqa: E402
from attnrec.scoring.tables import recommendations_frame  # noqa: E402
from attnrec.training import TrainConfig, train  # noqa: E402

MODEL_KEYS = ("readout", "dim", "layers", "heads", "max_length", "dropout", "expansion", "pooling_heads")


class LimitReached(Exception):  # noqa: N818  not an error
    """Training reached a limit of the comparison."""


def main() -> None:
    """Run attnrec for bench_peers.py."""
    torch.set_num_threads(OPTIONS.threads)
    shape: dict[str, object] = {"readout": "last"} | world.shape(OPTIONS)
    train_events, targets = world.read(OPTIONS.data)
    train_events["datetime"] = pd.to_datetime(np.arange(len(train_events)), unit="s", utc=True)
    histories = histories_from_frame(train_events)
    del train_events
    settings = {key: value for key, value in shape.items() if key in MODEL_KEYS}
    torch.manual_seed(0)
    model = build_model(model_config("sasrec", settings), histories.n_items)
    config = TrainConfig.from_dict(
        {key: value for key, value in shape.items() if key in TrainConfig.model_fields}
        | {"epochs": OPTIONS.epochs, "patience": 1000, "validation_users": None, "device": "cpu"}
    )
    recorder = world.Recorder(OPTIONS, {"side": "attnrec", "shape": shape})
    total = {"tokens": 0.0}

    def on_epoch(epoch: int, report: dict[str, float]) -> None:
        total["tokens"] += report["train/tokens_per_second"] * report["train/epoch_seconds"]
        running = recorder.record(
            epochs=epoch,
            seconds=report["train/seconds"],
            tokens=round(total["tokens"]),
            ndcg=report["val/ndcg_at_10"],
            padding=round(report["train/padding"], 4),
        )
        if not running:
            raise LimitReached

    validation = make_holdout(histories, targets)
    with suppress(LimitReached):
        train(model, histories, validation=validation, config=config, on_epoch=on_epoch, progress_bar=False)
    measure_recommending(recorder, model, histories)


def measure_recommending(recorder: world.Recorder, model: Model, histories: Histories) -> None:
    """Measure recommending without reasons and, for a model with exact reasons, with them."""
    users = np.arange(histories.n_users)

    def run(**settings: object) -> pd.DataFrame:
        recommendations = recommend(model, histories, users, config=ScoreConfig.from_dict({"k": 10} | settings))
        return recommendations_frame(recommendations, histories)

    ways: dict[str, dict[str, object]] = {"recommend_seconds": {"n_reasons": 0}}
    if model.exact_reasons:
        ways["recommend_with_reasons_seconds"] = {}
    line: dict[str, object] = {
        name: round(world.recommend_seconds(lambda settings=settings: run(**settings))[0], 3)
        for name, settings in ways.items()
    }
    recorder.write(line | {"n_users": len(users), "peak_mb": world.peak_mb()})


def make_holdout(histories: Histories, targets: pd.Series) -> Holdout:
    """Return a holdout with one target per user; a target without a training event counts as a miss."""
    target_ids = targets.loc[histories.user_ids.ids].to_numpy()
    rows = np.maximum(histories.item_ids.encode(target_ids.tolist()), 0)
    users = np.arange(histories.n_users)
    times = np.zeros(len(users), np.int64)
    return Holdout(histories, users, targets=rows, target_times=times, offsets=np.arange(len(users) + 1))


if __name__ == "__main__":
    main()
