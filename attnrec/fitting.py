"""`attnrec.fit`: train a model on a DataFrame of interactions in one call, for notebooks and scripts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attnrec.dataset import audit_split, features_from_frame, histories_from_frame, split_last
from attnrec.models import AnyModelConfig, build_model, check_max_length, model_config, observed_graphs
from attnrec.recommender import Recommender, load_folder
from attnrec.training import TrainConfig, WarmStart, train


def fit(
    interactions: pd.DataFrame,
    *,
    items: pd.DataFrame | None = None,
    init: Recommender | str | Path | None = None,
    model: str | None = None,
    settings: dict[str, Any] | None = None,
    progress_bar: bool = True,
    **training: Any,
) -> Recommender:
    """Train a model on a log. Each user's last event is held out to choose the best epoch (early stopping).

    Args:
        interactions: one row per event: user_id, item_id, datetime, optionally weight and event; see
            `attnrec.schema.check_interactions`.
        items: item_id and one column per feature; see `features_from_frame`. The model uses the columns named in its
            setting `features`; a warm start uses all columns to initialise new items.
        init: warm start from an earlier model or the folder it was saved to. Weights and optimizer moments of items
            are matched by item_id. New items are initialised from shared features, or else from the mean item; items
            that are no longer in the log are dropped. See `attnrec.training.WarmStart`.
        model: a key of `attnrec.MODELS`, such as "sasrec" or "gat". Default: the kind of `init`, or "attnrec".
        settings: model settings, such as {"dim": 32, "max_length": 100, "dropout": 0.1, "readout": "pooling"}.
            Other settings come from `init`, or are the model's defaults.
        progress_bar: whether to show a progress bar.
        **training: fields of `attnrec.training.TrainConfig`: epochs, batch_size, learning_rate, seed, patience, ...

    Returns:
        The trained model with the histories of all users of the log.

    Raises:
        ValueError: for invalid interactions, an unknown model or setting, an `init` of another kind or shape, or one
            that shares neither items nor features with the log.
        LeakageError: when the model's graph contains a held-out event.
    """
    if "kind" in (settings or {}):
        kind = (settings or {})["kind"]
        raise ValueError(f"settings must not contain 'kind', got {kind!r}; pass it as fit(..., model={kind!r})")
    previous = load_folder(init) if isinstance(init, str | Path) else init
    chosen_config = _model_config(model, settings or {}, previous)
    histories = histories_from_frame(interactions)
    features = None if items is None else features_from_frame(items, histories.item_ids)
    if "max_length" in (settings or {}):
        check_max_length(chosen_config.max_length, histories)
    split = split_last(histories)
    audit_split(split)
    train_config = TrainConfig.from_dict(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train_config.seed)
        fit_features = None if previous is None else previous.features
        new_model = build_model(chosen_config, histories.n_items, features, fit_features=fit_features)
    validation = split.test if len(split.test.users) else None
    train_histories = split.test.histories if validation is not None else histories
    if graphs := observed_graphs(new_model, train_histories):  # check for leakage before the expensive training
        audit_split(replace(split, train=train_histories, validation=split.test), **graphs)
    start = None
    if previous is not None:
        start = WarmStart(previous.model, previous.item_ids, previous.moments, previous.features, features)
    result = train(
        new_model, train_histories, validation=validation, config=train_config, init=start, progress_bar=progress_bar
    )
    metadata = {"epoch": result.best_epoch, "seed": train_config.seed, "data": histories.content_hash}
    return Recommender(new_model.cpu(), histories.item_ids, histories, metadata, result.moments or {}, features)


def _model_config(kind: str | None, settings: dict[str, Any], previous: Recommender | None) -> AnyModelConfig:
    """Return the settings of the new model; missing ones come from `previous` where it is of the same kind."""
    if previous is None or kind not in (None, previous.model.kind):
        return model_config(kind or "attnrec", settings)
    return model_config(previous.model.kind, previous.model.config.model_dump() | settings)
