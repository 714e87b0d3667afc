"""Whether a challenger takes the champion's place: both judged on the same test users."""

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from attnrec.config import Config


class PromoteConfig(Config):
    """The rule.

    Attributes:
        metric: may be lower than the champion's by at most `tolerance` (relative), and must reach the best baseline's.
        faithful: the model's own reasons, where it has exact ones and they were measured, must not be worse than a
            control that looks at no score, by a paired test (p < .05).
    """

    metric: str = "ndcg_at_10"
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    faithful: bool = True


@dataclass(frozen=True)
class Candidate:
    """A model and its test metrics.

    Attributes:
        name: in sentences and tables.
        metrics: on the test users.
        unfaithful: what is wrong with its reasons, a sentence; "" where nothing is, or nothing was measured.
    """

    name: str
    metrics: dict[str, float]
    unfaithful: str = ""


@dataclass(frozen=True)
class Decision:
    """What was decided and why, in one sentence.

    Attributes:
        promoted: the challenger is to be served.
        reason: said in logs, in the registry and on the run's page.
        numbers: the values of the metric compared, by model.
    """

    promoted: bool
    reason: str
    numbers: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """For files and tags."""
        return asdict(self)


def decide(
    challenger: Candidate, champion: Candidate | None, *, baselines: list[Candidate], rule: PromoteConfig
) -> Decision:
    """Promote the challenger unless it is clearly worse than the champion, worse than a baseline, or unfaithful.

    Without a champion it is promoted in any case, so that something is served; the reason then says what speaks
    against it.

    Args:
        challenger: the model just trained, judged before it is refitted.
        champion: the model served now, judged on the same test users before its own refit; None if there is none.
        baselines: judged on the same test users.
        rule: what is compared, and the tolerance.
    """
    metric = rule.metric
    numbers = {c.name: c.metrics[metric] for c in [challenger, *([champion] if champion else []), *baselines]}
    value = challenger.metrics[metric]
    best = max(baselines, key=lambda baseline: baseline.metrics[metric], default=None)
    below = best is not None and value < best.metrics[metric]
    against = [f"{metric} {value:.4f} is below {best.name}'s {best.metrics[metric]:.4f}"] if best and below else []
    against += [challenger.unfaithful] if rule.faithful and challenger.unfaithful else []
    if champion is None:
        return Decision(True, f"the first champion; {' and '.join(against) or f'{metric} {value:.4f}'}", numbers)
    if against:
        return Decision(False, " and ".join(against), numbers)
    floor = champion.metrics[metric] * (1 - rule.tolerance)
    if not value >= floor:
        served = champion.metrics[metric]
        reason = f"{metric} {value:.4f} is more than {rule.tolerance:.0%} below the champion's {served:.4f}"
        return Decision(False, reason, numbers)
    return Decision(True, f"{metric} {value:.4f} against the champion's {champion.metrics[metric]:.4f}", numbers)
