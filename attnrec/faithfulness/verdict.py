"""Whether a model's own reasons are better than orders of events that look at no score."""

from dataclasses import asdict, dataclass
from typing import Any

from attnrec.faithfulness.result import Faithfulness

OWN = "contribution"


@dataclass(frozen=True)
class Verdict:
    """What was found, and why, in one sentence.

    Attributes:
        faithful: contributions beat every control that was measured.
        sentence: said in logs, in the registry and on the run's page.
        numbers: by control: the metric's mean of contributions, that of the control, and the p-value.
    """

    faithful: bool
    sentence: str
    numbers: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """For files and tags."""
        return asdict(self)


def faithfulness_verdict(measured: Faithfulness, *, metric: str = "pos_at_5", level: float = 0.01) -> Verdict:
    """Say whether the model's own reasons, its contributions, beat every control that was measured.

    A control is beaten where the mean of contributions is better in the metric's direction and the paired test's
    p-value is below the level. A model without contributions is not faithful by them, however true other reasons are.

    Args:
        measured: contributions and one control at least.
        metric: a column of `Faithfulness.per_user`.
        level: of each two-sided test.

    Raises:
        ValueError: for a metric that was not measured, or when contributions or controls were not asked for.
    """
    if OWN in measured.skipped_methods:
        return Verdict(False, f"{measured.model} has no exact reasons: {measured.skipped_methods[OWN]}", {})
    table = measured.compare_method(metric, method=OWN)
    controls = table[table["control"]].set_index("other") if len(table) else table
    if controls.empty:
        raise ValueError(
            f"a verdict needs a control to beat, got {', '.join(measured.methods)}; measure one such as random too"
        )
    beaten = (controls["better"] == OWN) & (controls["p_value"] < level)
    numbers = {
        str(name): {column: float(row[column]) for column in ("mean", "other_mean", "p_value")}
        for name, row in controls.iterrows()
    }
    shown = controls if beaten.all() else controls[~beaten]
    values = ", ".join(f"{name} {row['other_mean']:.3f} (p = {row['p_value']:.2g})" for name, row in shown.iterrows())
    said = f"{metric} {controls['mean'].iloc[0]:.3f} against {values}; {controls['n_users'].iloc[0]} users"
    verb = "beat every control" if beaten.all() else f"do not beat {' and '.join(shown.index)} at level {level:g}"
    return Verdict(bool(beaten.all()), f"contributions {verb}: {said}", numbers)
