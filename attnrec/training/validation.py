"""What a model is asked after each epoch."""

from dataclasses import dataclass

import numpy as np

from attnrec.dataset import Holdout
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import Model
from attnrec.training.settings import TrainConfig


@dataclass(frozen=True)
class Questions:
    """The validation part, or a sample of it that stays the same."""

    holdout: Holdout
    filter_viewed: bool

    @classmethod
    def sample(cls, holdout: Holdout, config: TrainConfig, *, filter_viewed: bool) -> "ValidationSet":
        """At most `validation_users` of the holdout."""
        limit = config.validation_users
        if limit is not None and len(holdout.users) > limit:
            chosen = np.random.default_rng(config.seed).choice(len(holdout.users), limit, replace=False)
            holdout = holdout.select(np.sort(chosen))
        return cls(holdout, filter_viewed)

    def ask(self, model: Model, metric: str) -> dict[str, float]:
        """Metrics of the model as it is, at the place that `metric` looks at."""
        ks = (int(metric.rsplit("_", 1)[-1]),)
        return evaluate(model, self.holdout, ks=ks, filter_viewed=self.filter_viewed, intervals=False).summary
