"""The verdict of faithfulness: whether a model's contributions outperform every control."""

from dataclasses import asdict, dataclass
from typing import Any

from attnrec.faithfulness.result import DIRECTIONS, Faithfulness

CONTRIBUTION = "contribution"


@dataclass(frozen=True)
class Verdict:
    """Result of the comparison of contributions with controls.

    Attributes:
        faithful: contributions outperform every measured control.
        sentence: the result in one sentence, for logs, the model registry and the run page.
        numbers: by control: mean of the metric for contributions, mean for the control, and p-value.
    """

    faithful: bool
    sentence: str
    numbers: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict for JSON files."""
        return asdict(self)


def faithfulness_verdict(measured: Faithfulness, *, metric: str = "pos_at_5", level: float = 0.01) -> Verdict:
    """Test whether a model's contributions outperform every measured control.

    Contributions outperform a control if their mean is better in the metric's direction and the p-value of the paired
    test is below the level. A model without contributions is not faithful, regardless of its other attributions.

    Args:
        measured: with contributions and at least one control.
        metric: a column of `Faithfulness.per_user`.
        level: significance level of each two-sided test.

    Raises:
        ValueError: for a metric that was not measured, or a measurement without contributions or controls.
    """
    if CONTRIBUTION in measured.skipped_methods:
        reason = measured.skipped_methods[CONTRIBUTION]
        return Verdict(False, f"{measured.model} has no exact contributions: {reason}", {})
    table = measured.compare_method(metric, method=CONTRIBUTION)
    controls = table[table["control"]].set_index("other") if len(table) else table
    if controls.empty:
        raise ValueError(
            f"a verdict needs at least one control, got {', '.join(measured.methods)}; also measure random, for example"
        )
    outperformed = (controls["better"] == CONTRIBUTION) & (controls["p_value"] < level)
    numbers = {
        str(name): {column: float(row[column]) for column in ("mean", "other_mean", "p_value")}
        for name, row in controls.iterrows()
    }
    shown = controls if outperformed.all() else controls[~outperformed]
    values = ", ".join(f"{name} {row['other_mean']:.3f} (p = {row['p_value']:.2g})" for name, row in shown.iterrows())
    names = "every control" if outperformed.all() else " and ".join(str(name) for name in shown.index)
    sentence = (
        f"contributions {'outperform' if outperformed.all() else 'do not outperform'} {names} in "
        f"{metric.replace('_at_', '@')} ({DIRECTIONS[metric.partition('_at_')[0]]} is better): "
        f"{controls['mean'].iloc[0]:.3f}, {values}; {controls['n_users'].iloc[0]} users, level {level:g}"
    )
    return Verdict(bool(outperformed.all()), sentence, numbers)
