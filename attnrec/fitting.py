"""`fit`: from a frame to a trained model, for notebooks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attnrec.dataset import audit_split, features_from_frame, histories_from_frame, split_last
from attnrec.models import AnyModelConfig, build_model, check_window, model_config, observed_graphs
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
    """Train a model on a frame; each user's last event chooses the epoch.

    Args:
        interactions: user_id, item_id, datetime (and weight, event); see `schema.check_interactions`.
        items: item_id and columns of features, see `features_from_frame`. The model reads those that its setting
            `features` names; a warm start reads all of them for new items.
        init: an earlier model, or the folder it was saved to: training goes on from its weights and moments, which
            follow the items by item_id. New items start from features that both models' items have, or from the mean;
            items that are gone are gone. See `attnrec.training.WarmStart`.
        model: a kind of `attnrec.MODELS`, such as "sasrec" or "gat"; default init's kind, or "attnrec".
        settings: of the model, such as {"dim": 32, "max_length": 100, "dropout": 0.1, "readout": "pooling"};
            what is not given is as init has it, or the model's default.
        progress_bar: show progress.
        **training: epochs, batch_size, learning_rate, seed, patience, max_minutes and the others of
            `attnrec.training.TrainConfig`.

    Raises:
        ValueError: for a frame that does not follow the schema, an unknown model or setting, an init of another kind
            or shape, or one that knows none of the items, neither by id nor by features.
        LeakageError: when the model's graph holds an event that it is asked about.
    """
    if "kind" in (settings or {}):
        kind = (settings or {})["kind"]
        raise ValueError(f"the kind of model is an argument of its own, got it in settings; write model={kind!r}")
    previous = load_folder(init) if isinstance(init, str | Path) else init
    chosen = _chosen(model, settings or {}, previous)
    histories = histories_from_frame(interactions)
    features = None if items is None else features_from_frame(items, histories.item_ids)
    if "max_length" in (settings or {}):
        check_window(chosen.max_length, histories)
    split = split_last(histories)
    audit_split(split)
    config = TrainConfig.from_dict(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        like = None if previous is None else previous.features
        built = build_model(chosen, histories.n_items, features, like=like)
    asked = split.test if len(split.test.users) else None
    seen = split.test.histories if asked is not None else histories
    if graphs := observed_graphs(built, seen):  # a graph that saw an answer ends here, before it costs anything
        audit_split(replace(split, train=seen, validation=split.test), **graphs)
    start = None
    if previous is not None:
        start = WarmStart(previous.model, previous.item_ids, previous.moments, previous.features, features)
    result = train(built, seen, validation=asked, config=config, init=start, progress_bar=progress_bar)
    facts = {"epoch": result.best_epoch, "seed": config.seed, "data": histories.content_hash}
    return Recommender(built.cpu(), histories.item_ids, histories, facts, result.moments or {}, features)


def _chosen(kind: str | None, settings: dict[str, Any], previous: Recommender | None) -> AnyModelConfig:
    """The model that is asked for; what is not said is as `previous` has it."""
    if previous is None or kind not in (None, previous.model.kind):
        return model_config(kind or "attnrec", settings)
    return model_config(previous.model.kind, previous.model.config.model_dump() | settings)
