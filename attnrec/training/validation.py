"""The users on which a model is validated after each epoch."""

from dataclasses import dataclass

import numpy as np

from attnrec.dataset import Holdout
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import Model
from attnrec.training.settings import TrainConfig


@dataclass(frozen=True)
class ValidationSet:
    """The validation part of a split, or a fixed sample of its users.

    Attributes:
        holdout: the validation users and their held-out events.
        filter_viewed: whether items of a user's history are excluded from the ranking.
    """

    holdout: Holdout
    filter_viewed: bool

    @classmethod
    def sample(cls, holdout: Holdout, config: TrainConfig, *, filter_viewed: bool) -> "ValidationSet":
        """Draw at most `config.validation_users` users of the holdout, with `config.seed`."""
        limit = config.validation_users
        if limit is not None and len(holdout.users) > limit:
            sampled = np.random.default_rng(config.seed).choice(len(holdout.users), limit, replace=False)
            holdout = holdout.select(np.sort(sampled))
        return cls(holdout, filter_viewed)

    def evaluate(self, model: Model, metric: str) -> dict[str, float]:
        """Return all metrics of the model at the k of `metric`, such as 10 for "ndcg_at_10"."""
        ks = (int(metric.rsplit("_", 1)[-1]),)
        return evaluate(model, self.holdout, ks=ks, filter_viewed=self.filter_viewed, intervals=False).summary
