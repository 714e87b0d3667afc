"""RecTools' SASRec (github.com/MobileTeleSystems/RecTools), trained as in its documentation, timed outside the library.

Runs in a separate environment: pip install torch==2.13.0 "rectools[torch]==0.19.0" (it pins numpy 1.26).
"""

import logging
import os
import time
import warnings
from typing import Any

import world

OPTIONS = world.options(__doc__)
os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)
warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

import torch  # noqa: E402
from pytorch_lightning import Trainer, seed_everything  # noqa: E402
from rectools.columns import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402
from rectools.models.nn.item_net import IdEmbeddingsItemNet  # noqa: E402


def trainer() -> Any:
    """Return a trainer without progress bar, logs and checkpoints, so that only training is timed."""
    return Trainer(
        accelerator="cpu",
        min_epochs=1,
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )


def main() -> None:
    """Run RecTools for bench_peers.py."""
    torch.set_num_threads(OPTIONS.threads)
    seed_everything(0)
    shape = world.shape(OPTIONS)
    train, targets = world.read(OPTIONS.data)
    length = int(shape["max_length"])
    tokens = int((train.groupby("user_id").size() - 1).clip(upper=length).sum())
    frame = train.assign(**{Columns.Weight: 1.0, Columns.Datetime: range(len(train))})
    frame[Columns.Datetime] = frame[Columns.Datetime].astype("datetime64[s]")
    dataset = Dataset.construct(frame)
    model = SASRecModel(
        n_factors=int(shape["dim"]),
        n_blocks=int(shape["layers"]),
        n_heads=int(shape["heads"]),
        session_max_len=length,
        batch_size=int(shape["batch_size"]),
        dropout_rate=float(shape["dropout"]),
        lr=float(shape["learning_rate"]),
        loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer,
        dataloader_num_workers=0,
        verbose=0,
    )

    users = targets.index.to_numpy()
    recorder = world.Recorder(OPTIONS, {"side": "rectools", "shape": shape})
    seconds, epochs, running = 0.0, 0, True
    while running:
        started = time.perf_counter()
        model.fit_partial(dataset, min_epochs=OPTIONS.validate_every, max_epochs=OPTIONS.validate_every)
        seconds += time.perf_counter() - started
        epochs += OPTIONS.validate_every
        recommendations = model.recommend(users, dataset, k=10, filter_viewed=True)
        running = recorder.record(
            epochs=epochs, seconds=seconds, tokens=epochs * tokens, ndcg=world.ndcg_at_10(recommendations, targets)
        )
    recommend_seconds, _ = world.recommend_seconds(lambda: model.recommend(users, dataset, k=10, filter_viewed=True))
    recorder.write(
        {"recommend_seconds": round(recommend_seconds, 3), "n_users": len(users), "peak_mb": world.peak_mb()}
    )


if __name__ == "__main__":
    main()
