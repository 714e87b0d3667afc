"""Faithfulness: whether an attribution shows which events the recommendation depends on, measured by removing events.

Events are removed in the order of an attribution. For a faithful attribution, the score of the recommended item falls
early when the highest-ranked events are removed, changes little when the lowest-ranked ones are removed, and falls
earlier than for controls, which do not use the scores. `measure` computes these metrics for users and methods;
`faithfulness_verdict` tests whether the model's contributions outperform the controls.
"""

from attnrec.faithfulness.measurement import DEFAULT_METHODS, NothingToMeasureError, measure
from attnrec.faithfulness.permutation import permutation_test
from attnrec.faithfulness.rank_correlation import kendall_tau
from attnrec.faithfulness.result import DIRECTIONS, Faithfulness
from attnrec.faithfulness.verdict import Verdict, faithfulness_verdict

__all__ = [
    "DEFAULT_METHODS",
    "DIRECTIONS",
    "Faithfulness",
    "NothingToMeasureError",
    "Verdict",
    "faithfulness_verdict",
    "kendall_tau",
    "measure",
    "permutation_test",
]
