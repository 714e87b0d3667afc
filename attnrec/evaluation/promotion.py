"""The promotion rule: whether a newly trained model (the challenger) replaces the served model (the champion).

Both are evaluated on the same test users.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from attnrec.config import Config
from attnrec.evaluation.metrics import metric_label


class PromoteConfig(Config):
    """The promotion rule, the TOML table [promote].

    Attributes:
        metric: the metric to compare, such as "ndcg_at_10" (default). Higher is better. The challenger must reach the
            best baseline.
        tolerance: how much lower than the champion's the metric may be, as a fraction of the champion's value, [0, 1).
            Default 0.02.
        faithful: require faithful explanations: if the model has exact contributions and their faithfulness was
            measured, they must not be worse than a control that does not use the scores, by a paired test (p < .05).
            Default true.
    """

    metric: str = "ndcg_at_10"
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    faithful: bool = True


@dataclass(frozen=True)
class Candidate:
    """A model and its test metrics.

    Attributes:
        name: name in sentences and tables.
        metrics: metrics on the test users.
        unfaithful: one sentence on why its explanations are not faithful; "" if they are, or were not measured.
    """

    name: str
    metrics: dict[str, float]
    unfaithful: str = ""


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, and why.

    Attributes:
        promoted: True if the challenger becomes the champion.
        reason: one sentence for logs, the model registry and the run's description.
        values: value of the compared metric by model name.
    """

    promoted: bool
    reason: str
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the decision as a dictionary for JSON files."""
        return asdict(self)


def decide(
    challenger: Candidate, champion: Candidate | None, *, baselines: list[Candidate], rule: PromoteConfig
) -> Decision:
    """Promote the challenger unless it is clearly below the champion, below a baseline or unfaithful.

    Without a champion the challenger is always promoted, so that a model is served; the reason then lists its failures.

    Args:
        challenger: the newly trained model, evaluated before its refit on all events.
        champion: the served model, evaluated on the same test users before its own refit; None if there is none.
        baselines: baseline models, evaluated on the same test users.
        rule: metric and tolerance.
    """
    metric, label = rule.metric, metric_label(rule.metric)
    values = {c.name: c.metrics[metric] for c in [challenger, *([champion] if champion else []), *baselines]}
    value = challenger.metrics[metric]
    best = max(baselines, key=lambda baseline: baseline.metrics[metric], default=None)
    failures: list[str] = []
    if best is not None and value < best.metrics[metric]:
        failures.append(f"{label} is {value:.4f}, below the baseline {best.name} ({best.metrics[metric]:.4f})")
    if rule.faithful and challenger.unfaithful:
        failures.append(challenger.unfaithful)
    if champion is None:
        return Decision(True, f"first champion: {' and '.join(failures) or f'{label} is {value:.4f}'}", values)
    if failures:
        return Decision(False, " and ".join(failures), values)
    served = champion.metrics[metric]
    if not value >= served * (1 - rule.tolerance):
        reason = f"{label} is {value:.4f}, more than {rule.tolerance:.0%} below the champion ({served:.4f})"
        return Decision(False, reason, values)
    return Decision(True, f"{label} is {value:.4f}, the champion has {served:.4f}", values)
